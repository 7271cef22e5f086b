"""Pages of text: where each character is, against the ink that it adds."""

import numpy as np
import pytest
from illava_lab.real.data import pages, rendering
from illava_lab.real.data.pages import characters, page
from PIL import Image


def ink(text, name, size):
    picture = Image.new("RGB", (900, 120), (255, 255, 255))
    written = rendering.Pen(picture).write(text, (30, 20), name, size, (0, 0, 0))
    return written, np.asarray(picture, int).sum(-1)


@pytest.mark.parametrize("name", ["DejaVuSans", "DejaVuSansMono", "cmr10", "Aileron"])
def test_a_character_is_where_it_adds_ink(name):
    for text, size in (("Total: $12.50", 30), ("quay", 18), ("River Deli", 40)):
        written, _ = ink(text, name, size)
        found = characters(written, name, size)
        assert [one.text for one in found] == list(text.replace(" ", ""))
        places = [number for number, letter in enumerate(text) if letter != " "]
        for number, one in zip(places, found, strict=True):
            (_, before), (_, after) = (
                ink(text[:number] or " ", name, size),
                ink(text[: number + 1], name, size),
            )
            rows, columns = np.nonzero(np.abs(after - before) > 150)
            left, top, right, bottom = one.box
            overhang = 1 + size / 8
            assert left - overhang <= columns.min() <= columns.max() <= right + overhang
            assert abs(rows.min() - top) <= 2
            assert abs(rows.max() + 1 - bottom) <= 2


def test_pages_depend_on_the_generator_alone_and_hold_their_characters(folder):
    count = 0
    for number in range(40):
        first, again = (page(np.random.default_rng(number), "train", folder, 224) for _ in range(2))
        assert np.array_equal(np.asarray(first.picture), np.asarray(again.picture))
        assert first.characters == again.characters
        assert first.picture.size == (224, 224)
        for one in first.characters:
            left, top, right, bottom = one.box
            assert -2 <= left < right <= 226
            assert -2 <= top < bottom <= 226
        count += len(first.characters)
    assert count > 40 * 8


def test_texts_of_a_page_do_not_overlap(folder):
    for number in range(30):
        rng = np.random.default_rng(number)
        picture = Image.new("RGB", (448, 448), (200, 200, 200))
        boxes = [written.box for written, *_ in pages.scattered(rng, picture, "train")]
        for i, (a, b, c, d) in enumerate(boxes):
            for e, f, g, h in boxes[:i]:
                assert c <= e or g <= a or d <= f or h <= b


def test_every_kind_of_text_occurs():
    rng = np.random.default_rng(0)
    texts = [pages.any_text(rng, "train") for _ in range(400)]
    assert sum(text.isdigit() for text in texts) > 30
    assert sum("." in text and text.lstrip("$").replace(".", "").isdigit() for text in texts) > 20
    assert sum(" " in text for text in texts) > 20
    assert pytest.approx(1) == sum(share for share, _ in pages.TEXTS)
