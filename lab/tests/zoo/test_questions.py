"""The training's questions have one right answer, and dense labels lie where the items are."""

import re
from collections import Counter

import numpy as np
import pytest
from illava_lab.drawing.canvas import COLOURS
from illava_lab.drawing.glyphs import SHAPES
from illava_lab.drawing.streams import scene_rng
from illava_lab.tasks.counting import PLURALS
from illava_lab.zoo.questions import CLASSES, IGNORE, ask, dense_labels, mention, refer
from illava_lab.zoo.scenes import KINDS, Item, Scene, draw_scene

SINGULAR = {plural: shape for shape, plural in PLURALS.items()}


def scene_of(*items: Item, kind: str = "crowd") -> Scene:
    return Scene(np.zeros((96, 96, 3), np.uint8), np.zeros((96, 96), np.float32), items, kind)


RED_STAR = Item("star", (0, 0, 32, 32), "red")
BLUE_STAR = Item("star", (64, 0, 96, 32), "blue")
RED_RING = Item("ring", (64, 64, 96, 96), "red")
SEVEN, ONE = Item("7", (0, 48, 30, 96), place=1), Item("1", (32, 48, 44, 96), place=2)


def everything_asked(scene: Scene) -> set[tuple[str, str, str]]:
    asked = set()
    for seed in range(300):
        asked |= {(q.task, q.text, q.answer) for q in ask(scene, np.random.default_rng(seed), 99)}
    return asked


def test_only_unambiguous_things_are_asked_after():
    asked = everything_asked(scene_of(RED_STAR, BLUE_STAR, RED_RING, kind="count"))
    texts = " ".join(text for task, text, _ in asked if task == "attribute")
    assert "star" not in texts.replace("start", "")
    assert "red" not in texts
    assert {answer for task, text, answer in asked if "colour" in text and "ring" in text} == {"red"}
    counts = {text.split(" are")[0]: answer for task, text, answer in asked if text.startswith("How many")}
    for about, answer in (("stars", "2"), ("red shapes", "2"), ("shapes", "3")):
        assert counts[f"How many {about}"] == answer
    relations = {(text, answer) for task, text, answer in asked if task == "spatial"}
    assert ("Is the blue star left of, right of, above or below the red star?", "right") in relations
    assert ("Is the red ring left of, right of, above or below the blue star?", "below") in relations
    assert not any("red ring" in text and "red star" in text for text, _ in relations)  # they lie askew


def test_what_a_scene_was_drawn_for_is_asked_first():
    scene = scene_of(SEVEN, ONE, RED_STAR, kind="number")
    for seed in range(10):
        first, *rest = ask(scene, np.random.default_rng(seed), 4)
        assert (first.task, first.answer) == ("digits", "71")
        assert len(rest) == 3


def holds(scene: Scene, text: str) -> bool:
    """Whether an existence question is to be answered yes, read off the question's words."""
    words = re.findall(r"[a-z]+", text.casefold())
    shapes, colours = ([w for w in words if w in some] for some in (SHAPES, COLOURS))
    return any(
        thing.name in (shapes or SHAPES) and thing.colour in (colours or COLOURS) for thing in scene.things
    )


def test_existence_is_yes_as_often_as_no_and_true():
    answers = Counter()
    for i in range(200):
        rng = scene_rng(0, "train", i)
        scene = draw_scene(rng, 192, "train", KINDS[i % 2])
        for question in ask(scene, rng, 99):
            if question.task == "existence":
                assert (question.answer == "yes") == holds(scene, question.text)
                answers[question.answer] += 1
    assert 0.4 < answers["yes"] / sum(answers.values()) < 0.6


def test_counts_are_true_and_every_number_is_asked_for():
    answers = Counter()
    for i in range(200):
        rng = scene_rng(0, "train", i)
        scene = draw_scene(rng, 192, "train", "count")
        for question in ask(scene, rng, 99):
            if question.task == "counting":
                words = re.findall(r"[a-z]+", question.text.casefold())
                shape = next((SINGULAR[word] for word in words if word in SINGULAR), None)
                colour = next((word for word in words if word in COLOURS), None)
                n = sum(
                    shape in (None, thing.name) and colour in (None, thing.colour) for thing in scene.things
                )
                assert question.answer == str(n)
                answers[n] += 1
    assert set(answers) == set(range(1, 10))
    assert max(answers.values()) < 0.4 * sum(answers.values())


def test_the_phrasing_of_a_count_tells_nothing_about_it():
    """Every phrasing with every remainder modulo 3, for all shapes and for some."""
    seen = Counter()
    for i in range(200):
        rng = scene_rng(0, "train", i)
        for question in ask(draw_scene(rng, 192, "train", "count"), rng, 99, ("counting",)):
            phrasing = next(end for end in ("are there?", "can you see?", ".") if question.text.endswith(end))
            every = bool(re.search("(many|the) shapes", question.text))
            seen[every, phrasing, int(question.answer) % 3] += 1
    for every in (True, False):
        for phrasing in ("are there?", "can you see?", "."):
            counts = [seen[every, phrasing, rest] for rest in range(3)]
            assert min(counts) > 0.15 * sum(counts) > 0, (every, phrasing, counts)


def test_counts_of_many_are_asked_more_often():
    """One counting question at a time, of two after 3 things and one after 1: that one in 1 of 7 cases."""
    colours = ("red", "green", "blue")
    things = (Item("star", (20 * i, 0, 20 * i + 15, 15), colour) for i, colour in enumerate(colours))
    scene = scene_of(*things)
    asked = Counter()
    for i in range(900):
        (question,) = ask(scene, scene_rng(0, "train", i), 99, ("counting",))
        asked[question.answer] += 1
    assert set(asked) == {"1", "3"}
    assert 0.1 < asked["1"] / 900 < 0.2


def test_dense_labels_of_a_known_scene():
    # Two squares wide and high, then one that covers a single centre and touches its neighbours.
    ring = Item("ring", (60, 60, 76, 76), "blue")
    label = dense_labels(scene_of(RED_STAR, ring))
    star, ringed = CLASSES.index("star"), CLASSES.index("ring")
    expected = np.zeros((6, 6), int)
    expected[:2, :2] = star
    expected[3:5, 3:5] = IGNORE
    expected[4, 4] = ringed
    assert np.array_equal(label["class"], expected)
    assert np.array_equal(np.argwhere(label["centre"]), [[1, 1], [4, 4]])
    assert [label["centre"][1, 1], label["centre"][4, 4]] == [star, ringed]
    assert set(label["colour"][:2, :2].ravel()) == {list(COLOURS).index("red")}
    assert (label["colour"] == IGNORE).sum() == 36 - 5
    assert not label["place"].any()


def test_places_of_characters_and_what_two_in_one_square_give():
    label = dense_labels(scene_of(SEVEN, ONE))
    assert np.argwhere(label["place"] > 0).tolist() == [[4, 0], [4, 2]]
    assert [label["place"][4, 0], label["place"][4, 2]] == [1, 2]
    close = dense_labels(scene_of(Item("I", (32, 48, 38, 64), place=1), Item("I", (40, 48, 46, 64), place=2)))
    assert close["centre"][3, 2] == close["place"][3, 2] == IGNORE


@pytest.mark.parametrize("side", [48, 96, 192])
def test_dense_labels_agree_with_the_ink(side):
    for i in range(32):
        scene = draw_scene(scene_rng(0, "train", i), side, "train", KINDS[i % 2])
        label = dense_labels(scene)
        n = side // 16
        ink = scene.ink.reshape(n, 16, n, 16).transpose(0, 2, 1, 3).reshape(n, n, -1)
        assert ink[label["class"] == 0].sum() == 0  # background is empty
        centres = label["centre"][label["centre"] > 0].tolist()  # one for every thing, so they can be counted
        assert sorted(centres) == sorted(CLASSES.index(item.name) for item in scene.things)
        assert np.allclose(label["ink"].mean(-1), ink.mean(-1), atol=1e-6)
        y, x = np.unravel_index(ink.std(-1).argmax(), (n, n))  # a square with an edge in it
        cells = label["ink"][y, x].reshape(8, 8)  # in reading order
        square = scene.ink[16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
        assert square.std() > 0.1
        for row, column in ((0, 1), (3, 6), (7, 0)):
            expected = square[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean()
            assert cells[row, column] == pytest.approx(expected, abs=1e-6)


def test_mentions_say_what_is_meant():
    things = (RED_STAR, BLUE_STAR, RED_RING)
    assert refer(things, "star") == {"count": 2}
    assert refer(things, "heart") == {"count": 0}
    assert refer(10 * [RED_STAR], "star") == {}
    expected = {"count": 1, "row": 5, "column": 5, "colour": 0, "shape": SHAPES.index("ring")}
    assert refer(things, "ring") == refer(things, "ring", "red") == expected
    said = mention("Is the red ring left of the blue star?", "blue star", {"count": 1})
    assert "Is the red ring left of the blue star?"[: said.end].endswith("blue star")
    with pytest.raises(ValueError, match="does not mention 'ring'"):
        mention("Which string?", "ring", {})


def test_every_question_about_things_has_its_mentions():
    for i in range(60):
        rng = scene_rng(0, "train", i)
        scene = draw_scene(rng, 192, "train", KINDS[i % 4])
        for question in ask(scene, rng, 99):
            wanted = {"spatial": 2, "digits": 0, "words": 0}.get(question.task, 1)
            assert len(question.mentions) == wanted
            assert len(question.spelled) == (len(question.answer) if wanted == 0 else 0)
            if question.task == "counting":
                assert question.mentions[0].facts["count"] == int(question.answer)
            elif question.task == "existence":
                assert (question.mentions[0].facts["count"] > 0) == (question.answer == "yes")
            elif question.task == "spatial":
                first, second = (said.facts for said in question.mentions)
                axis = "column" if question.answer in ("left", "right") else "row"
                less = question.answer in ("left", "above")
                assert (first[axis] <= second[axis]) if less else (first[axis] >= second[axis])
