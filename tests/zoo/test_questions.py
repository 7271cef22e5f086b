"""Questions have one right answer, and dense labels lie where the items are."""

from collections import Counter

import numpy as np
import pytest

from illava.zoo.questions import CLASSES, IGNORE, KINDS, ask, dense_labels, facts
from illava.zoo.scenes import COLOURS, Item, Scene, draw_scene, scene_rng


def scene_of(*items: Item) -> Scene:
    return Scene(np.zeros((96, 96, 3), np.uint8), np.zeros((96, 96), np.float32), list(items))


RED_STAR = Item("shape", "star", (0, 0, 32, 32), "red")
BLUE_STAR = Item("shape", "star", (64, 0, 96, 32), "blue")
RED_RING = Item("shape", "ring", (64, 64, 96, 96), "red")
SEVEN = Item("digit", "7", (0, 48, 32, 96), writing="print")


def test_only_unambiguous_facts_are_asked():
    assert facts(scene_of(RED_STAR, RED_RING, SEVEN)) == [
        ("colour", "star", "red"),
        ("colour", "ring", "red"),
        ("count", "shapes", "2"),
        ("digit", "", "7"),
    ]
    assert facts(scene_of(RED_STAR, BLUE_STAR, RED_RING)) == [
        ("shape", "blue", "star"),
        ("colour", "ring", "red"),
        ("count", "shapes", "3"),
        ("count_one", "rings", "1"),
        ("count_one", "stars", "2"),
    ]


def test_each_kind_is_asked_once_before_any_twice():
    scene = scene_of(RED_STAR, RED_RING, SEVEN)
    for seed in range(20):
        asked = ask(scene, np.random.default_rng(seed), 3)
        assert {question.kind for question in asked} == {"colour", "count", "digit"}
        assert len(ask(scene, np.random.default_rng(seed), 9)) == 4


def test_answers_are_spread_so_that_no_guess_is_often_right():
    answers = {kind: Counter() for kind in KINDS}
    for i in range(300):
        rng = scene_rng(0, "test", i)
        for question in ask(draw_scene(rng, 192, "test"), rng, 9):
            answers[question.kind][question.answer] += 1
    assert set(answers["colour"]) == set(COLOURS)
    assert set(answers["digit"]) == set("0123456789")
    assert set(answers["count"]) == set("12345")
    for kind, counts in answers.items():
        # Of one name there are mostly one or two, so that kind can be guessed more often.
        assert max(counts.values()) / sum(counts.values()) < (0.6 if kind == "count_one" else 0.4)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="colour, shape, count, digit, count_one, word"):
        ask(scene_of(RED_STAR), np.random.default_rng(0), 1, ["smell"])


def test_dense_labels_of_a_known_scene():
    # Two squares wide and high, then one that covers a single centre and touches its neighbours.
    ring = Item("shape", "ring", (60, 60, 76, 76), "blue")
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


@pytest.mark.parametrize("size", [48, 96, 192])
def test_dense_labels_agree_with_the_ink(size):
    for i in range(30):
        scene = draw_scene(scene_rng(0, "train", i), size, "train")
        label = dense_labels(scene)
        n = size // 16
        ink = scene.ink.reshape(n, 16, n, 16).transpose(0, 2, 1, 3).reshape(n, n, -1)
        assert ink[label["class"] == 0].sum() == 0  # background is empty
        centres = label["centre"][label["centre"] > 0].tolist()  # one for every shape, so they can be counted
        assert sorted(centres) == sorted(CLASSES.index(item.name) for item in scene.of_kind("shape"))
        assert np.allclose(label["ink"].mean(-1), ink.mean(-1), atol=1e-6)
        for item in scene.of_kind("shape"):
            x, y = ((item.box[0] + item.box[2]) // 32, (item.box[1] + item.box[3]) // 32)
            assert label["class"][y, x] == CLASSES.index(item.name)
        first = label["ink"][0, 0].reshape(8, 8)  # cells of a square in reading order
        assert np.allclose(first[0, 1], scene.ink[0:2, 2:4].mean(), atol=1e-6)
