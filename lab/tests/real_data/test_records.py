"""Questions about cards and drawn shapes against what the pixels show."""

import re
from collections import Counter

import numpy as np
import pytest
from illava_lab.real import data
from illava_lab.real.data import cards, nlvr, sets
from illava_lab.real.data import photographs as ph

from illava.errors import InputError

from .made_up import GROUND, RANK_COLOUR, RANKS, SHAPE_COLOUR, blobs

SMALL = 0.03
CLEAR = 5  # pixels that an eye tells apart in a box of 100
BOXES = ("left", "middle", "right")


def centre(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def share(boxes, picture):
    area = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    return area / (picture.width * picture.height)


@pytest.mark.parametrize("split", ["test", "train"])
def test_card_answers(folder, split, monkeypatch):
    monkeypatch.setattr(ph, "recoloured", lambda image, rng: image)  # the pixels name the ranks
    scene, seen = data.stream("cards", split, 0, folder), Counter()
    for number in range(300):
        picture, turns = scene(number)
        table = [(rank, box) for rank, box, _ in blobs(picture, RANK_COLOUR)]
        for turn in turns:
            used = cards_used(turn, table, picture)
            seen[turn.kind, turn.small] += 1
            assert turn.small == (share(used, picture) < SMALL) or turn.kind == "card-exists", turn
    kinds = {"card-rank", "card-count", "card-where", "card-outermost", "card-sides"}
    assert all(seen[kind, False] for kind in kinds)
    assert seen["card-where", True]


def cards_used(turn, table, picture):
    """Check the answer; returns the boxes of the cards that it depends on."""
    ranks = [rank for rank, _ in table]
    asked = [rank for rank in RANKS if re.search(rf"\b{rank}\b", turn.question)]
    mid = [centre(box) for _, box in table]
    if turn.kind == "card-rank":
        assert turn.answer == ", ".join(sorted(set(ranks)))
        return [box for _, box in table]
    if turn.kind == "card-count":
        assert turn.answer == str(len(table))
        return [box for _, box in table]
    if turn.kind == "card-exists":
        assert (turn.answer == "yes") == (asked[0] in ranks)
        assert turn.small == all(share([box], picture) < SMALL for _, box in table)
        return []
    if turn.kind == "card-outermost":
        key, end = {"leftmost": (0, min), "rightmost": (0, max), "top": (1, min), "bottom": (1, max)}[
            re.search("leftmost|rightmost|top|bottom", turn.question)[0]
        ]
        place = end(range(len(table)), key=lambda i: mid[i][key])
        assert turn.answer == ranks[place]
        return [table[place][1]]
    places = [ranks.index(rank) for rank in asked]
    assert all(ranks.count(rank) == 1 for rank in asked)
    if turn.kind == "card-sides":
        one, other = re.search(r"Is the (\w+) \w+ or \w+ of the (\w+)", turn.question).groups()
        left = mid[ranks.index(one)][0] < mid[ranks.index(other)][0]
        assert turn.answer == ("left" if left else "right")
    else:
        x, y = mid[places[0]]
        down, across = (
            "bottom" if y > picture.height / 2 else "top",
            "right" if x > picture.width / 2 else "left",
        )
        assert turn.answer == f"{down} {across}"
    return [table[place][1] for place in places]


def test_cropping_moves_the_boxes_with_the_cards(folder, monkeypatch):
    monkeypatch.setattr(ph, "recoloured", lambda image, rng: image)
    sizes, rng = set(), np.random.default_rng(0)
    for table in cards.tables("train", folder):
        picture, moved = cards.cropped(ph.load(table.path), table, rng)
        sizes.add(picture.size)
        assert sorted(moved.cards) == sorted((rank, box) for rank, box, _ in blobs(picture, RANK_COLOUR))
    assert len(sizes) > 20


def shapes_of(picture):
    """(box, colour, shape, place) of every shape, from the pixels alone."""
    found = []
    for colour, place, pixels in blobs(picture, SHAPE_COLOUR):
        left, top, right, bottom = place
        full = pixels / ((right - left) * (bottom - top))
        shape = "square" if full > 0.95 else "circle" if full > 0.66 else "triangle"
        found.append((BOXES[left // 150], colour, shape, place))
    return found


def test_nlvr_answers(folder):
    scene, seen = data.stream("nlvr", "test", 0, folder), Counter()
    for number in range(300):
        picture, turns = scene(number)
        assert picture.getpixel((0, 50)) in (GROUND, *SHAPE_COLOUR.values())
        shapes = shapes_of(picture)
        for turn in turns:
            used = shapes_used(turn, shapes)
            seen[turn.kind] += 1
            seen[turn.kind, turn.answer] += 1
            if used is not None:
                assert turn.small == (share([shape[3] for shape in used], picture) < SMALL), turn
    assert (
        min(seen[f"nlvr-{kind}"] for kind in ("count", "exists", "box", "color", "shape", "above", "most"))
        > 20
    )
    yes, no = seen["nlvr-exists", "yes"], seen["nlvr-exists", "no"]
    assert 0.35 < yes / (yes + no) < 0.65


def shapes_used(turn, shapes):
    """Check the answer; returns the shapes that it depends on, None where all are small or not."""
    if turn.kind == "nlvr-sentence":
        assert turn.answer == "yes"
        return shapes
    if turn.kind == "nlvr-most":
        often = Counter(box for box, *_ in shapes)
        assert often[turn.answer] > max([often[box] for box in BOXES if box != turn.answer])
        return shapes
    within = re.search(r"in the (left|middle|right) box", turn.question)
    some = [shape for shape in shapes if not within or shape[0] == within[1]]
    words = set(
        re.findall(r"[a-z]+", turn.question.replace("circles", "circle").replace("squares", "square"))
    )
    words |= {"triangle"} if "triangles" in words else set()
    named = words & {"yellow", "black", "blue", "circle", "square", "triangle"}
    match = [shape for shape in some if named <= {shape[1], shape[2]}]
    if turn.kind == "nlvr-count":
        assert turn.answer == str(len(match))
        return match
    if turn.kind == "nlvr-exists":
        assert (turn.answer == "yes") == bool(match)
        return None
    if turn.kind == "nlvr-box":
        assert {shape[0] for shape in match} == {turn.answer}
        return match
    if turn.kind == "nlvr-above":
        ((_, _, _, place),) = match
        beside = [other for other in some if other[0] == match[0][0]]
        overlap = [min(other[3][2], place[2]) > max(other[3][0], place[0]) for other in beside]
        over = [
            other for other, both in zip(beside, overlap, strict=True) if both and other[3][3] <= place[1]
        ]
        nearest = max(over, key=lambda other: other[3][3])
        assert min(nearest[3][2], place[2]) - max(nearest[3][0], place[0]) >= CLEAR
        assert all(nearest[3][3] - other[3][3] >= CLEAR for other in over if other != nearest)
        assert turn.answer == f"{nearest[1]} {nearest[2]}"
        return [match[0], nearest]
    low = "lowest" in turn.question
    first, *others = sorted((shape[3][3] if low else -shape[3][1] for shape in some), reverse=True)
    assert not others or first - others[0] >= CLEAR
    end = max(some, key=lambda shape: shape[3][3] if low else -shape[3][1])
    assert turn.answer == end[1 if turn.kind == "nlvr-color" else 2]
    return [end]


def test_nlvr_orders_only_what_is_clearly_apart():
    def shape(x, y, size=20, box=0):
        return nlvr.Shape(box, "square", "blue", size, x, y)

    for y, top in ((14, False), (15, True)):
        some = [shape(0, 10), shape(50, y, 30)]
        assert nlvr.outermost(some, "highest") == (some[0] if top else None)
    assert nlvr.outermost([shape(0, 10, 30), shape(50, 24, 20)], "lowest") is None
    below = shape(40, 70)
    for others, answer in (
        ([shape(24, 30)], None),  # 4 columns in common
        ([shape(25, 30)], 0),
        ([shape(25, 30), shape(45, 9)], 0),
        ([shape(25, 30), shape(45, 26)], None),  # which is nearer?
        ([shape(25, 10), shape(16, 40)], None),  # is the one that misses it by 4 columns above it?
        ([shape(25, 10), shape(15, 40)], 0),
        ([shape(25, 10), shape(40, 40, box=1)], 0),
        ([shape(40, 60)], None),  # it begins higher, but does not end higher
    ):
        expected = None if answer is None else others[answer]
        assert nlvr.directly_above(below, (below, *others)) == expected, others


def test_a_picture_without_a_record_is_named(folder, tmp_path):
    (tmp_path / "nlvr").mkdir()
    (tmp_path / "nlvr" / "train.jsonl").write_text((folder / "nlvr" / "train.jsonl").read_text())
    with pytest.raises(InputError, match=r"no file .*scenes.jsonl"):
        nlvr.pictures("train", tmp_path)
    (tmp_path / "nlvr" / "scenes.jsonl").write_text('{"image": "pictures/other.png", "boxes": []}\n')
    with pytest.raises(InputError, match=r"scenes.jsonl: no record of dev-"):
        nlvr.pictures("train", tmp_path)
    (tmp_path / "nlvr" / "scenes.jsonl").write_text("[]\n")
    nlvr.records.cache_clear()
    with pytest.raises(InputError, match=r"scenes.jsonl, line 1: not an object"):
        nlvr.pictures("train", tmp_path)


def test_parts_that_are_all_asked_for_are_joined(folder):
    line = sets.lines("cards", "test", folder)[0]
    assert line.all
    assert cards.answer(line) == ", ".join(line.answers)
    assert np.all([box[2] > box[0] and box[3] > box[1] for _, box in line.boxes])
