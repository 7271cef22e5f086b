"""Answers about photographs, collages and boards against what the pixels show."""

import re
from collections import Counter

import numpy as np
import pytest
from illava_lab.real import data
from illava_lab.real.data import photographs as ph
from illava_lab.real.data import several

from .made_up import CLOTHING, COLOUR, DIGITS, GROCERY, blobs

SMALL = 0.03
PLACES = ("top left", "top middle", "top right", "middle left", "center", "middle right")
PLACES += ("bottom left", "bottom middle", "bottom right")


def label_at(picture, x, y):
    return {colour: label for label, colour in COLOUR.items()}[picture.getpixel((int(x), int(y)))]


def noun(label):
    return "hand sign" if label in DIGITS else label


def named(question):
    """The noun that a question about several photographs is about."""
    return re.search(
        r"(?:the picture of the|picture of an?|picture of|show an?|show) ([a-z -]+?)[?.]", question
    )[1]


def test_photo_answers(folder):
    scene, kinds = data.stream("photo", "test", 0, folder), Counter()
    for some in (scene(number) for number in range(400)):
        label = label_at(some.picture, 9, 9)
        for turn in some.turns:
            kinds[turn.kind] += 1
            assert not turn.small
            if turn.kind == "photo-exists":
                asked = re.search(
                    r"(?:Is this the sign of|Is this|Are these|show) (?:an? )?(.+)\?", turn.question
                )[1]
                assert (asked == label) == (turn.answer == "yes"), turn
                assert asked == label or not ph.alike(asked, label)
                kinds[turn.answer] += 1
            elif turn.kind == "grocery-fine":
                assert label == "apple"
                assert turn.answer == "Pink Lady"
            else:
                assert turn.answer == label
                assert turn.kind != "photo-choice" or re.search(rf"\b{label}\b", turn.question)
    own = [kinds[name] for name in ("clothing", "grocery", "digits-sign")]
    assert sum(own) == 400
    assert min(own) > 100
    assert 0.4 < kinds["yes"] / (kinds["yes"] + kinds["no"]) < 0.6


def test_classes_are_balanced_even_if_their_pictures_are_not(folder):
    rng, chosen = np.random.default_rng(0), Counter()
    for _ in range(3000):
        chosen[ph.choose(rng, "train", folder).label] += 1
    for labels in (CLOTHING, GROCERY, DIGITS):
        counts = [chosen[label] for label in labels]
        assert 0.85 < sum(counts) / 1000 < 1.15
        assert max(counts) < 2 * min(counts)


def test_words_for_things():
    assert [ph.a(name) for name in ("apple", "shirt", "milk", "pants")] == [
        "an apple",
        "a shirt",
        "milk",
        "pants",
    ]
    assert ph.alike("shirt", "t-shirt")
    assert ph.alike("milk", "oat milk")
    assert ph.alike("orange", "satsumas")
    assert not ph.alike("apple", "pineapple")
    assert not ph.alike("lemon", "lime")


def test_only_training_varies_pictures_and_never_mirrors_writing(folder):
    from PIL import Image

    ramp = Image.linear_gradient("L").rotate(90).convert("RGB")
    photo = ph.photographs("grocery", "train", folder)
    rng = np.random.default_rng(0)

    def mirrored(label):
        pixels = np.asarray(ph.varied(photo[label][0], ramp, rng).convert("L"), float)
        return pixels[:, 0].mean() > pixels[:, -1].mean()

    plain = np.asarray(ramp.convert("L"), float)
    backwards = plain[:, 0].mean() > plain[:, -1].mean()
    assert {mirrored("apple") for _ in range(40)} == {True, False}
    assert {mirrored("milk") for _ in range(40)} == {backwards}
    test = data.stream("photo", "test", 0, folder)
    assert all(test(number).picture.size == (40, 48) for number in range(30))


def test_collage_answers(folder):
    scene, answers = data.stream("collage", "test", 0, folder), Counter()
    for number in range(150):
        picture, turns = scene(number)
        rows = rows_of(picture)
        grid = [
            [
                label_at(picture, (column + 0.5) * 448 / rows, (row + 0.5) * 448 / rows)
                for column in range(rows)
            ]
            for row in range(rows)
        ]
        nouns = [noun(label) for row in grid for label in row]
        for turn in turns:
            check_collage(turn, grid, nouns, rows)
            answers[turn.kind, turn.answer] += 1
            assert not turn.small
        # Every photograph is asked about, and nothing twice.
        places = {place_of(turn.question, rows) for turn in turns if turn.kind == "collage-place"}
        assert len(places) == rows**2
        assert len(set(turns)) == len(turns)
    yes, no = answers["collage-exists", "yes"], answers["collage-exists", "no"]
    assert 0.37 < yes / (yes + no) < 0.63
    assert {str(n) for n in range(1, 6)} <= {answer for kind, answer in answers if kind == "collage-count"}


def rows_of(picture):
    """The number of rows, from the grey lines between photographs."""
    column = np.asarray(picture)[:, 20].astype(int)
    gaps = (np.ptp(column, axis=1) == 0).astype(int)
    return 1 + int((np.diff(gaps) == 1).sum())


def place_of(question, rows):
    """The row and column that a question asks about, from 0."""
    found = re.search(r"row (\d), column (\d)", question)
    if found:
        return int(found[1]) - 1, int(found[2]) - 1
    place = next(p for p in PLACES if p in question)
    return divmod(PLACES.index(place), 3) if rows == 3 else (int("bottom" in place), int("right" in place))


def check_collage(turn, grid, nouns, rows):
    if turn.kind == "collage-place":
        row, column = place_of(turn.question, rows)
        assert turn.answer == noun(grid[row][column])
        return
    if turn.kind == "collage-digit":
        assert [label for row in grid for label in row if label in DIGITS] == [turn.answer]
        return
    if turn.kind == "collage-all":
        assert turn.answer == ", ".join(nouns)
        return
    name = named(turn.question)
    if turn.kind == "collage-count":
        assert turn.answer == str(nouns.count(name))
    elif turn.kind == "collage-exists":
        assert (turn.answer == "yes") == (name in nouns)
        assert name in nouns or not any(ph.alike(name, other) for other in nouns)
    else:
        assert nouns.count(name) == 1
        row, column = divmod(nouns.index(name), rows)
        if turn.kind == "collage-where":
            corner = f"{'top' if row == 0 else 'bottom'} {'left' if column == 0 else 'right'}"
            names = {
                2: corner,
                3: PLACES[row * 3 + column] if rows == 3 else "",
                4: f"row {row + 1}, column {column + 1}",
            }
            assert turn.answer == names[rows]
        else:
            down, right = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}[
                re.search(r"directly (left of|right of|above|below)", turn.question)[1]
            ]
            assert min(row + down, column + right) >= 0
            assert turn.answer == noun(grid[row + down][column + right])


def test_board_answers(folder):
    scene, answers = data.stream("board", "test", 0, folder), Counter()
    for number in range(100):
        picture, turns = scene(number)
        area = picture.width * picture.height
        things = [(label, box) for label, box, pixels in blobs(picture, COLOUR) if pixels < 0.2 * area]
        assert 1 <= len(things) <= 9
        for label, (left, top, right, bottom) in things:
            assert 0.009 < (right - left) * (bottom - top) / area < SMALL, label
        for turn in turns:
            answers[turn.kind, turn.answer] += 1
            check_board(turn, [(label, noun(label), box) for label, box in things], area)
    yes, no = answers["board-exists", "yes"], answers["board-exists", "no"]
    assert 0.37 < yes / (yes + no) < 0.63
    assert len({answer for kind, answer in answers if kind == "board-where"}) == 4


def centre(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def check_board(turn, things, area):
    def covered(some):
        return sum((box[2] - box[0]) * (box[3] - box[1]) for *_, box in some) / area

    if turn.kind == "board-only":
        used = things
        assert [name for _, name, _ in things] == [turn.answer]
    elif turn.kind == "board-digit":
        used = [thing for thing in things if thing[1] == "hand sign"]
        assert [label for label, *_ in used] == [turn.answer]
    elif turn.kind == "board-nearest":
        x, y = (448 * ("right" in turn.question), 448 * ("bottom" in turn.question))
        used = [min(things, key=lambda thing: np.hypot(centre(thing[2])[0] - x, centre(thing[2])[1] - y))]
        assert used[0][1] == turn.answer
    elif turn.kind == "board-sides":
        one, other = re.findall(
            r"the picture of the ([a-z -]+?)(?= left| right| above| below|\?)", turn.question
        )
        used = [next(thing for thing in things if thing[1] == name) for name in (one, other)]
        (x, y), (a, b) = (centre(thing[2]) for thing in used)
        assert {"left": x < a, "right": x > a, "above": y < b, "below": y > b}[turn.answer]
    else:
        name = named(turn.question)
        used = [thing for thing in things if thing[1] == name]
        if turn.kind == "board-count":
            assert turn.answer == str(len(used))
        elif turn.kind == "board-exists":
            assert (turn.answer == "yes") == bool(used)
            assert turn.small
            return
        else:
            x, y = centre(used[0][2])
            assert len(used) == 1
            assert turn.answer == f"{'top' if y < 224 else 'bottom'} {'left' if x < 224 else 'right'}"
    assert turn.small == (covered(used) < SMALL)


def test_no_photograph_occurs_twice_while_there_is_another(folder):
    """Three photographs a label, and 30 hand signs, so that nouns that occur up to three times suffice."""
    repeated = Counter()
    for number in range(300):
        some = several.choose_several(np.random.default_rng(number), "test", folder, 9, 3)
        assert len({photo.path for photo in some}) == 9
        repeated.update(name for name, often in Counter(photo.noun for photo in some).items() if often > 1)
    assert repeated["hand sign"] > 10
    assert len(repeated) > 10
    some = several.choose_several(np.random.default_rng(0), "test", folder, 60, 8)
    assert len(some) == 60  # where the photographs of a label do not suffice, they repeat


@pytest.mark.parametrize("split", ["train", "val"])
def test_other_splits_ask_the_same_kinds(folder, split):
    for name in ("collage", "board"):
        some, test = (data.stream(name, part, 0, folder) for part in (split, "test"))
        kinds = [
            {turn.kind for number in range(60) for turn in scene(number).turns} for scene in (some, test)
        ]
        assert kinds[0] == kinds[1]
