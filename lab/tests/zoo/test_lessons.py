"""Lessons of several pictures and of videos: the answers hold for what is shown."""

import re
from itertools import combinations

import numpy as np
import pytest
from eyes import look
from illava_lab.drawing.canvas import COLOURS
from illava_lab.drawing.streams import scene_rng
from illava_lab.tasks import load
from illava_lab.zoo.lessons import FORMS, Syllabus, _agreed, draw_lesson
from illava_lab.zoo.questions import CLASSES, IGNORE, ask
from illava_lab.zoo.scenes import draw_scene

EVEN = Syllabus((1 / 6,) * 6, (0.2,) * 5 + (0.0,), most=5)


@pytest.mark.parametrize("form", FORMS)
def test_a_lesson_is_a_function_of_its_arguments(form):
    first, again = (draw_lesson(form, 96, 2, EVEN, "train", 1, 5, 7) for _ in range(2))
    other = draw_lesson(form, 96, 2, EVEN, "train", 1, 5, 8)
    assert np.array_equal(first.pairs, again.pairs)
    assert first.questions == again.questions
    assert not np.array_equal(first.pairs, other.pairs)


def test_unknown_forms_are_refused():
    with pytest.raises(ValueError, match="scene, page, easy_vqa, multi_picture, video, clip"):
        draw_lesson("film", 96, 1, EVEN, "train", 0, 0)


def test_several_pictures_answers_read_off_the_pixels():
    checked = set()
    for i in range(40):
        lesson = draw_lesson("multi_picture", 192, 2 + i % 3, EVEN, "train", 0, i)
        seen = [look(picture) for picture in lesson.pairs[:, 0]]
        assert np.array_equal(lesson.pairs[:, 0], lesson.pairs[:, 1])
        for question in lesson.questions:
            found = re.search(r"an? (\w+) (\w+)", question.text)
            if found:
                colour, shape = found.groups()
                having = [any((t.colour, t.shape) == (colour, shape) for t in things) for things in seen]
            else:
                having = [len(things) == max(map(len, seen)) for things in seen]
            assert having == [str(n) == question.answer for n in range(1, len(seen) + 1)], question
            checked.add(bool(found))
    assert checked == {True, False}


def test_video_answers_read_off_the_pixels():
    tasks = set()
    for i in range(40):
        lesson = draw_lesson("video", 48, 1, EVEN, "train", 0, i)
        frames = lesson.pairs.reshape(8, 96, 96, 3)
        assert lesson.video
        seen = [look(frame) for frame in frames]
        for question in lesson.questions:
            if "move" in question.text or "direction" in question.text:
                colour = next(word for word in COLOURS if word in question.text)
                ends = [next(t for t in seen[n] if t.colour == colour) for n in (0, 7)]
                across, down = ends[1].x - ends[0].x, ends[1].y - ends[0].y
                way = (
                    ("right" if across > 0 else "left")
                    if abs(across) > abs(down)
                    else ("down" if down > 0 else "up")
                )
                assert question.answer == way
                tasks.add("direction")
            else:
                there = {}
                for things in seen:
                    for thing in things:
                        there[thing.shape, thing.colour] = there.get((thing.shape, thing.colour), 0) + 1
                # Who comes first is there longest, who goes first is there shortest.
                comes = "appears" in question.text.split() or "comes" in question.text
                longest = comes == question.text.endswith("first?")
                shape, colour = (max if longest else min)(there, key=there.get)
                assert question.answer == (colour if "colour" in question.text else shape)
                tasks.add("order")
    assert tasks == {"direction", "order"}


def test_labels_that_two_frames_do_not_share_are_ignored():
    one = {"class": np.array([[1, 2], [0, IGNORE]]), "ink": np.array([0.0, 1.0])}
    other = {"class": np.array([[1, 3], [4, IGNORE]]), "ink": np.array([1.0, 1.0])}
    both = _agreed(one, other)
    assert both["class"].tolist() == [[1, IGNORE], [IGNORE, IGNORE]]
    assert both["ink"].tolist() == [0.5, 1.0]


def test_labels_of_a_pair_of_frames_are_what_both_show():
    lesson = draw_lesson("video", 48, 1, EVEN, "train", 0, 3)
    assert lesson.labels["class"].shape == (4, 6, 6)
    known = lesson.labels["class"][lesson.labels["class"] != IGNORE]
    assert set(known.tolist()) <= {0, *range(1, 1 + CLASSES.index("heart"))}
    assert (lesson.labels["class"] == IGNORE).any()


def test_easy_vqas_training_pictures_never_show_its_test():
    held = {path for split in ("val", "test") for path, _ in load("easy_vqa", split).by_picture()}
    train = {path for path, _ in load("easy_vqa", "train").by_picture()}
    assert len(train) == 3600
    assert not train & held
    lesson = draw_lesson("easy_vqa", 96, 1, EVEN, "train", 0, 1)
    assert lesson.labels is None
    assert 1 <= len(lesson.questions) <= 5
    rows = {row for _, rows in load("easy_vqa", "train").by_picture() for row in rows}
    assert {(question.text, question.answer) for question in lesson.questions} <= rows


def test_a_syllabus_says_what_is_drawn_and_asked():
    only = Syllabus(
        (1.0, 0.0, 0.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0, 0.0, 0.0), ("counting", "spatial"), most=8
    )
    tasks = set()
    for i in range(20):
        lesson = draw_lesson("scene", 96, 1, only, "train", 0, i)
        assert len(lesson.questions) <= 8
        tasks |= {question.task for question in lesson.questions}
    assert tasks == {"counting", "spatial"}
    silent = Syllabus((1.0, 0.0, 0.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 0.0, 0.0), most=0)
    assert draw_lesson("scene", 96, 1, silent, "train", 0, 1).questions == []


def test_pages_full_of_text_are_for_dense_labels_alone():
    for i in range(6):
        scene = draw_scene(scene_rng(0, "train", i), 144, "train", "text")
        ends = [item for item in scene.items if item.place == 1]
        assert len(ends) >= 2
        assert scene.written == ""
        assert ask(scene, scene_rng(0, "train", i), 9) == []
        for one, other in combinations(scene.items, 2):
            (a, b, c, d), (e, f, g, h) = one.box, other.box
            overlap = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
            # Slanted letters lean into the next one's box, words never into other words.
            assert overlap == 0 or abs(one.place - other.place) == 1


def test_what_is_seen_over_time_is_where_the_thing_is():
    """Against the frames: every token's square, and a little around it, has the thing's middle in it."""
    kinds = set()
    for i in range(12):
        lesson = draw_lesson("video", 96, 1, EVEN, "train", 0, i)
        frames = [look(frame) for frame in lesson.pairs.reshape(8, 96, 96, 3)]
        said = [(question.text, question.answer) for question in lesson.questions]
        for question in lesson.questions:
            named = re.search(rf"({'|'.join(COLOURS)}) (\w+)", question.text)
            if named:
                colour, shape = named.groups()
            else:  # which of the two is meant is known from both answers about it
                last = question.text.split()[-1]
                shape, colour = (
                    next(a for text, a in said if text.endswith(last) and text.startswith(f"Which {aspect}"))
                    for aspect in ("shape", "colour")
                )
            kinds.add(bool(named))
            where = [[t for t in things if (t.shape, t.colour) == (shape, colour)] for things in frames]
            (reference,) = question.mentions
            shown = {n // 2 for n, found in enumerate(where) if found}
            assert {pair for pair, _, _ in reference.seen} == shown
            for pair, row, column in reference.seen:
                there = where[2 * pair] + where[2 * pair + 1]
                assert any(abs(t.y - 16 * row - 8) < 13 and abs(t.x - 16 * column - 8) < 13 for t in there)
    assert kinds == {True, False}


def test_clips_move_as_they_say():
    seen = set()
    for i in range(30):
        lesson = draw_lesson("clip", 96, 1, EVEN, "train", 0, i)
        before, after = (look(frame) for frame in lesson.pairs[0])
        for question in lesson.questions:
            colour, shape = re.search(rf"[Tt]he ({'|'.join(COLOURS)}) (\w+)", question.text).groups()
            one, other = (
                next(t for t in things if (t.shape, t.colour) == (shape, colour))
                for things in (before, after)
            )
            across, down = other.x - one.x, other.y - one.y
            flat = abs(across) > abs(down)
            assert 3 < max(abs(across), abs(down)) < 9
            assert question.answer == (
                ("left", "right")[int(across > 0)] if flat else ("up", "down")[int(down > 0)]
            )
            seen.add(question.answer)
            middle = [int(sum(pair) / 2) // 16 for pair in ((one.y, other.y), (one.x, other.x))]
            motion = lesson.labels["motion"][0][tuple(middle)]
            assert motion in (IGNORE, 1 + ["left", "right", "up", "down"].index(question.answer))
    assert len(seen) == 4


def test_mixed_scenes_share_shapes_and_colours():
    for i in range(20):
        things = draw_scene(np.random.default_rng(i), 192, "train", "mixed").things
        assert len({thing.name for thing in things}) <= 3
        assert len({thing.colour for thing in things}) <= 3
        assert len(things) >= 3
