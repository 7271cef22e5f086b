"""Reading tasks: the pixels give the answer, and splits share no handwriting, words or families of fonts."""

import re

import eyes
import numpy as np
import pytest
from illava_lab.drawing.glyphs import handwriting_ids, handwritten_mask
from illava_lab.drawing.lettering import FONTS, LETTERS, TEST_WORDS, printed
from illava_lab.drawing.streams import SPLITS
from illava_lab.tasks import load, reading
from scipy import ndimage

N = 48


def samples(name):
    task = load(name)
    return [task[number] for number in range(N)]


def columns(picture):
    """What is written, cut where columns are empty, as comparable vectors."""
    written = eyes.ink(picture).astype(np.float32)
    labels, n = ndimage.label(written.any(0))
    cut = [written[:, labels == i] for i in range(1, n + 1)]
    return [eyes.squared(piece) for piece in cut if piece.sum() > 20]


def test_numbers_are_read_by_a_reader_taught_on_other_samples():
    known = [handwritten_mask(int(i), 40, 0) for i in handwriting_ids("train")]
    vectors = np.stack([eyes.squared(mask) for mask, _ in known])
    right = total = lengths = 0
    for sample in samples("digits"):
        read = [str(known[int(np.argmax(vectors @ piece))][1]) for piece in columns(sample.pictures[0])]
        if len(read) == len(sample.answers[0]):
            lengths += 1
            right += sum(a == b for a, b in zip(read, sample.answers[0], strict=True))
            total += len(read)
        assert sample.kind == f"{len(sample.answers[0])} digits"
        assert sample.answers[0][0] != "0"
    assert lengths > 0.9 * N
    assert right > 0.85 * total


def test_words_are_told_apart_by_other_fonts():
    box, fonts = (20, 60), ("DejaVuSans", "DejaVuSans-BoldOblique", "cmr10", "cmti10")
    known = [[eyes.squared(printed(word, font, 40), box) for font in fonts] for word in TEST_WORDS]
    right = 0
    for sample in samples("words"):
        found = eyes.squared(eyes.ink(sample.pictures[0]), box)
        right += TEST_WORDS[int(np.argmax((np.array(known) @ found).max(1)))] == sample.answers[0]
    assert right > 0.9 * N


def record(monkeypatch, function, split, name):
    """Draw with ``reading``'s ``function`` replaced by one that notes its arguments."""
    calls, original = [], getattr(reading, function)
    monkeypatch.setattr(reading, function, lambda *args: calls.append(args) or original(*args))
    task = load(name, split)
    return [task[number] for number in range(40)], calls


@pytest.mark.parametrize("split", SPLITS)
def test_handwriting_is_split_apart(monkeypatch, split):
    _, calls = record(monkeypatch, "handwritten_mask", split, "digits")
    used = {sample for sample, *_ in calls}
    assert len(used) > 30
    assert used <= set(handwriting_ids(split).tolist())


def test_words_and_families_of_fonts_are_split_apart(monkeypatch):
    words, fonts = {}, {}
    for split in SPLITS:
        drawn, calls = record(monkeypatch, "printed", split, "words")
        words[split] = {sample.answers[0] for sample in drawn}
        # The family: what comes before the face's name; Computer Modern's families go by their stems.
        fonts[split] = {re.sub(r"(-.*|Bol|Italic|BolIta)+$", "", font) for _, font, _ in calls}
    assert words["test"] <= set(TEST_WORDS)
    assert fonts["test"] == {"STIXGeneral", "DejaVuSerif", "cmss10"}
    for a, b in (("train", "test"), ("train", "val"), ("val", "test")):
        assert not words[a] & words[b]
        assert not fonts[a] & fonts[b]


def test_the_widest_words_fit_and_every_font_has_every_letter(monkeypatch):
    monkeypatch.setattr(reading, "random_word", lambda rng, split: "WWWW")
    assert {load("words", "train")[number].answers for number in range(30)} == {("WWWW",)}
    for font in {font for fonts in FONTS.values() for font in fonts}:
        assert len({printed(letter, font, 22).tobytes() for letter in LETTERS}) == len(LETTERS)
