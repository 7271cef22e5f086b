"""Rendered text: boxes against the ink, and answers against what is printed where."""

import re
from collections import Counter

import numpy as np
import pytest
from illava_lab.real.data import STREAMS, forms, receipts, rendering, signs, words
from illava_lab.real.data import vocabulary as vb
from PIL import Image

SMALL = 0.03


def check_box(picture, box, margin=3):
    """``box`` holds the ink there, and is no larger but for the spaces that a font leaves beside letters."""
    left, top, right, bottom = (round(edge) for edge in box)
    across, down = slice(left - margin, right + margin), slice(top - margin, bottom + margin)
    part = np.asarray(picture.convert("RGB"), int)[down, across]
    inked = np.abs(part - part[0, 0]).sum(-1) > 40
    rows, columns = np.nonzero(inked.any(1))[0], np.nonzero(inked.any(0))[0]
    beside = 3 + (bottom - top) / 5
    assert abs(rows[0] - margin) <= 2
    assert abs(len(part) - margin - 1 - rows[-1]) <= 2
    assert -1 <= columns[0] - margin <= beside
    assert -1 <= part.shape[1] - margin - 1 - columns[-1] <= beside


def covers(boxes, size):
    return sum((box[2] - box[0]) * (box[3] - box[1]) for box in boxes) / (size[0] * size[1])


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_box_of_a_text_is_the_box_of_its_ink(split):
    rng = np.random.default_rng(0)
    for _ in range(60):
        picture = Image.new("RGB", (800, 120), (255, 255, 255))
        text = str(rng.choice(["Total", "12.50", "quay", "A", "Gift wrap:"]))
        anchor = str(rng.choice(["l", "m", "r"]))
        name, size = rendering.font(rng, split), int(rng.integers(10, 34))
        written = rendering.Pen(picture).write(text, (400, 40), name, size, (0, 0, 0), anchor)
        check_box(picture, written.box)
        left, _, right, _ = written.box
        end = {"l": left, "m": (left + right) / 2, "r": right}[anchor]
        assert abs(end - 400) <= size / 3


def test_text_is_made_to_fit():
    for text in ("a", "Northern Orchard Kitchen", "12.50"):
        size = rendering.fitting(text, "DejaVuSans", 60, 100)
        wide = rendering.extent(text, "DejaVuSans", size)[2]
        assert wide <= 100
        assert size >= 58 or rendering.extent(text, "DejaVuSans", size + 2)[2] > 96


def drawn(module, folder, count=60, split="test"):
    """What a module writes on plain ground, the picture, and its questions, for several scenes."""
    for number in range(count):
        rng = np.random.default_rng([number, 7])
        picture = Image.new("RGB", (448, 448), (150, 190, 170))
        yield rng, picture


def test_receipts_add_up_and_print_what_they_say(folder):
    for rng, picture in drawn(receipts, folder):
        receipt = receipts.invent(rng, "test")
        printed = receipts.write(rng, picture, receipt, "test")
        text = {key: written.text for key, written in printed.places.items()}
        cents = {
            key: round(100 * float(value.strip("$")))
            for key, value in text.items()
            if re.match(r"\$?\d+\.\d\d$", value)
        }
        prices = [cents[f"price {i}"] for i in range(len(receipt.items))]
        assert cents["total"] == sum(prices) + cents.get("tax", 0)
        if "cash" in cents:
            assert cents["change"] == cents["cash"] - cents["total"] >= 0
        rows = [written.box for key, written in printed.places.items() if key.startswith(("item", "price"))]
        for one, other in zip(rows, rows[2:], strict=False):
            assert one[3] <= other[1] + 3  # one row above the next
        for key in ("shop", "total", "price 0", "date"):
            check_box(picture, printed.places[key].box, 2)


def test_receipt_answers(folder):
    kinds = Counter()
    for rng, picture in drawn(receipts, folder, 120):
        printed = receipts.write(rng, picture, receipts.invent(rng, "test"), "test")
        text = {key: written.text.strip("$") for key, written in printed.places.items()}
        items = [text[f"item {i}"] for i in range(6) if f"item {i}" in text]
        prices = [text[f"price {i}"] for i in range(len(items))]
        for make in receipts.QUESTIONS:
            ask = make(rng, printed)
            if ask is None:
                continue
            kind, question = ask.kind.removeprefix("receipt-"), ask.wordings[0]
            kinds[kind, ask.answer if kind == "exists" else ""] += 1
            if kind == "price":
                place = items.index(re.search(r"price of (.+)\?", question)[1])
                expected, keys = prices[place], [f"item {place}", f"price {place}"]
            elif kind == "item":
                place = prices.index(re.search(r"costs (.+)\?", question)[1])
                assert prices.count(prices[place]) == 1
                expected, keys = items[place], [f"item {place}", f"price {place}"]
            elif kind == "dearest":
                expected = items[max(range(len(items)), key=lambda i: float(prices[i]))]
                keys = [f"price {i}" for i in range(len(items))]
            elif kind in ("count", "exists"):
                named = re.search(r"Is (.+) on the receipt", question)
                expected = str(len(items)) if not named else "yes" if named[1] in items else "no"
                keys = [f"item {i}" for i in range(len(items))]
            else:
                key = {"cashier": "Cashier", "table": "Table", "receipt": "Receipt"}.get(kind, kind)
                expected, keys = text[key], [key]
            assert ask.answer == expected, question
            assert ask.small == (covers([printed.places[key].box for key in keys], picture.size) < SMALL)
            assert (f"${expected}" in ask.also) == (kind in ("total", "price", "change"))
    assert len(kinds) == 13
    assert 0.35 < kinds["exists", "yes"] / (kinds["exists", "yes"] + kinds["exists", "no"]) < 0.65


def test_form_answers(folder):
    ticked = Counter()
    for rng, picture in drawn(forms, folder, 80):
        form = forms.write(rng, picture, "test")
        labels = [field.label for field in (*form.fields, *form.checks)]
        assert len(set(labels)) == len(labels)
        for field in form.fields:
            ask = forms.ask_field(rng, form, field)
            assert (ask.answer, ask.small) == (field.value, covers([field.box], picture.size) < SMALL)
        for field in form.checks:
            ask = forms.ask_check(rng, form, field)
            ticked[ask.answer] += 1
            # The crossed box holds more ink than the empty one; "yes" is the left one.
            left, top, right, bottom = (round(edge) for edge in field.box)
            side = round((bottom - top) * 0.7)
            grey = np.asarray(picture.convert("L"), float)[top:bottom, left:right]
            dark = (grey < np.median(grey) - 60).sum(0)
            start = next(
                x for x in range(side + 6, len(dark)) if dark[x] >= side * 0.75 and x > len(dark) * 0.4
            )
            assert (dark[2:side].sum() > dark[start + 2 : start + side].sum()) == (ask.answer == "yes")
        whose = forms.ask_whose(rng, form)
        if whose:
            value = re.search(r'"(.+)"', whose.wordings[0])[1]
            assert [field.label for field in form.fields if field.value == value] == [whose.answer]
        exists = forms.ask_checked(rng, form)
        asked = re.search(r'"(.+)"', exists.wordings[0])[1]
        assert (exists.answer == "yes") == (asked in labels)
    assert min(ticked["yes"], ticked["no"]) > 10


def test_a_name_that_is_part_of_a_field_is_not_denied():
    box, rng = (0, 0, 9, 9), np.random.default_rng(0)
    title = rendering.Written("Survey", box)
    fields = (forms.Field("Member No.", "12345", box), forms.Field("Name", "Clara Reed", box))
    denied = Counter()
    for _ in range(400):
        ask = forms.ask_checked(rng, forms.Form(title, fields, (), (300, 448)))
        if ask.answer == "no":
            denied[re.search(r'"(.+)"', ask.wordings[0])[1]] += 1
    assert len(denied) == len(forms.FIELDS) + len(forms.CHECKS) - 3
    assert not [name for name in denied if name.lower() in "member no. name"]


def test_sign_answers(folder):
    ways = Counter()
    for rng, picture in drawn(signs, folder, 80):
        rows = signs.write(rng, picture, "test")
        by_place = {row.place: row for row in rows}
        for row in rows:
            ways[row.way] += 1
            assert arrow(picture, row.arrow_box) == row.way
            check_box(picture, row.name_box, 1)
        for ask in (signs.ask_way(rng, rows), signs.ask_place(rng, rows), signs.ask_distance(rng, rows)):
            if ask is None:
                continue
            if ask.kind == "sign-place":
                way = re.search(r"straight ahead|left|right", ask.wordings[0])[0]
                assert [row.place for row in rows if row.way == way] == [ask.answer]
                continue
            row = by_place[re.search(r"is the (.+)\?", ask.wordings[0])[1]]
            assert ask.answer == (row.way if ask.kind == "sign-way" else row.distance)
            boxes = [row.name_box, row.arrow_box if ask.kind == "sign-way" else row.distance_box]
            assert ask.small == (covers(boxes, picture.size) < SMALL)
        exists = signs.ask_exists(rng, rows)
        assert (exists.answer == "yes") == (re.search(r"name the (.+)\?", exists.wordings[0])[1] in by_place)
        ordered = sorted(rows, key=lambda row: row.name_box[1])
        assert signs.ask_row(rng, rows).answer in (ordered[0].place, ordered[-1].place)
    assert min(ways.values()) > 30


def arrow(picture, box):
    """Where an arrow points: away from the end of its shaft, which holds the most ink of the four edges."""
    left, top, right, bottom = (round(edge) for edge in box)
    part = np.asarray(picture.convert("L"), float)[top:bottom, left:right]
    ink = np.abs(part - part[0, 0]) > 60
    band = round(len(ink) * 0.15)
    edges = {
        "right": ink[:, :band],
        "left": ink[:, -band:],
        "behind": ink[:band],
        "straight ahead": ink[-band:],
    }
    return max(edges, key=lambda name: edges[name].sum())


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_word_answers(folder, split):
    kinds = Counter()
    for rng, picture in drawn(words, folder, 150):
        texts = words.write(rng, picture, split)
        by_text = {text.text.lower(): text for text in texts}
        assert len(by_text) == len(texts)
        for text in texts:
            check_box(picture, text.box)
            assert text.number == text.text.isdigit()
            assert text.new == (text.text.lower() in vb.NEW_WORDS)
            assert text.number or text.new or text.text.lower() in vb.WORDS
        for make in (words.read, words.exists, words.where, words.order):
            ask = make(rng, texts)
            if ask is None:
                continue
            kinds[ask.kind] += 1
            question = ask.wordings[0]
            if make is words.exists:
                word = re.search(r'"(.+)"', question)[1]
                assert (ask.answer == "yes") == (word in by_text)
                kinds[ask.answer, word in vb.NEW_WORDS] += 1
                continue
            if make is words.where:
                text = by_text[re.search(r'"(.+)"', question)[1].lower()]
                x, y = (text.box[0] + text.box[2]) / 2, (text.box[1] + text.box[3]) / 2
                assert ask.answer == f"{'top' if y < 224 else 'bottom'} {'left' if x < 224 else 'right'}"
            else:
                text = by_text[ask.answer.lower()]
                some = [
                    t for t in texts if make is words.order or "read" in question or t.number == text.number
                ]
                low = "bottom" in question
                assert text == max(some, key=lambda t: t.box[3] if low else -t.box[1])
                assert make is words.order or len(some) == 1
            assert ask.small == (covers([text.box], picture.size) < SMALL)
    assert (kinds["words-read-new"] > 0) == (split == "test")
    for new in (False, True) if split == "test" else (False,):
        yes, no = kinds["yes", new], kinds["no", new]
        assert 0.3 < yes / (yes + no) < 0.7  # a word's being new tells nothing


def test_scenes_hold_these_questions(folder):
    for name, least in (("words", 1), ("receipts", 6), ("forms", 4), ("signs", 3)):
        for split in ("train", "val", "test"):
            draw = STREAMS[name].draw(split, folder)
            counts = [len(draw(np.random.default_rng(number)).asks) for number in range(20)]
            assert np.median(counts) >= least
            assert max(counts) <= 6
