"""Tasks: pure functions of their numbers, splits apart, and answers that the pixels give."""

import re
import sys
from collections import Counter, defaultdict
from functools import cache

import eyes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from illava_lab.drawing.canvas import GAP, SIDE, layout
from illava_lab.drawing.streams import SPLITS
from illava_lab.tasks import load, names
from illava_lab.zoo.text import build_processor
from PIL import Image

from illava.errors import UnsupportedError

DRAWN = tuple(name for name in names() if name != "easy_vqa")
SEEN_SHAPES = ("attribute", "counting", "spatial", "existence", "multi_picture", "video")
N = 48


@cache
def samples(name, n=N, split="test"):
    if name == "easy_vqa":
        pytest.importorskip("easy_vqa")
    task = load(name, split)
    return [task[number] for number in range(n)]


def content(sample):
    pixels = [picture.tobytes() for picture in (*sample.pictures, *sample.video)]
    return sample.question, sample.answers, sample.kind, sample.small, sample.cluster, pixels


def test_there_are_nine():
    assert " ".join(names()) == (
        "attribute counting digits words spatial existence multi_picture video easy_vqa"
    )
    streams = [load(name).stream for name in DRAWN]
    assert len(set(streams)) == len(DRAWN)


@pytest.mark.parametrize("name", names())
def test_a_sample_is_a_function_of_its_number(name):
    drawn = samples(name, 6)
    again = load(name)
    for number in (5, 0, 3):
        assert content(again[number]) == content(drawn[number])
        assert content(again[np.int64(number)]) == content(drawn[number])
    contents = [content(sample) for sample in (*drawn, load(name, seed=1)[0], load(name, "val")[0])]
    assert all(a != b for i, a in enumerate(contents) for b in contents[:i])
    assert [sample.number for sample in drawn] == list(range(6))
    assert load(name)[10**4 - 999].task == name  # far out, without what comes before


@given(st.sampled_from(DRAWN), st.sampled_from(SPLITS), st.integers(0, 2**40), st.integers(0, 2**40))
@settings(max_examples=25, deadline=None)
def test_any_number_of_any_split_can_be_drawn(name, split, seed, number):
    sample = load(name, split, seed)[number]
    assert (sample.task, sample.number, sample.cluster) == (name, number, f"{name}-{number}")
    assert sample.is_right(sample.answers[0])


@pytest.mark.parametrize("name", names())
def test_sizes_kinds_and_answers(name):
    task = load(name) if name != "easy_vqa" else None
    for sample in samples(name):
        task = task or load(name)
        (answer,) = sample.answers
        assert answer in task.choices or not task.choices
        assert len(answer.split()) == 1
        assert sample.kind
        assert "{" not in sample.question
        assert len(sample.question) < 100
        if name == "video":
            assert not sample.pictures
            assert [(f.mode, f.size) for f in sample.video] == [("RGB", (96, 96))] * 8
        else:
            n = len(sample.pictures)
            assert not sample.video
            assert 2 <= n <= 4 if name == "multi_picture" else n == 1
            assert [(p.mode, p.size) for p in sample.pictures] == [("RGB", (192, 192))] * n


def test_the_zoos_models_get_144_visual_tokens():
    processor = build_processor()
    grid = processor.image_processor(images=list(samples("spatial")[0].pictures))["image_grid_thw"]
    assert int(grid[0].prod()) // 4 == 144
    video = np.stack([np.asarray(frame) for frame in samples("video")[0].video])
    grid = processor.video_processor(videos=[video])["video_grid_thw"]
    assert int(grid[0].prod()) // 4 == 144


@pytest.mark.parametrize("name", SEEN_SHAPES)
def test_the_pixels_give_the_answer(name):
    for sample in samples(name):
        assert eyes.answer(sample) == sample.answers[0], (sample.number, sample.question)


@pytest.mark.parametrize("name", ["attribute", "existence"])
def test_small_is_measured_in_the_pixels(name):
    for sample in samples(name):
        things = eyes.look(sample.pictures[0])
        if name == "attribute":
            things = eyes.matching(things, sample.question)
        share = max(thing.share for thing in things)
        assert not sample.small or share < 0.034  # the smoothed region is a little larger
        assert sample.small or share > 0.026


def test_yes_and_no_alternate_in_every_way():
    drawn = samples("existence")
    assert [sample.answers[0] for sample in drawn] == ["yes", "no"] * (N // 2)
    by_kind = defaultdict(Counter)
    for sample in drawn:
        by_kind[sample.kind][sample.answers[0]] += 1
        by_kind[sample.small][sample.answers[0]] += 1
        if sample.kind == "colour and shape":  # the colour and the shape are there whatever the answer is
            things = eyes.look(sample.pictures[0])
            shape = re.search("|".join(eyes.SHAPES), sample.question)[0]
            colour = next(word for word in sample.question.split() if word in eyes.COLOURS)
            assert {shape, colour} <= {t.shape for t in things} | {t.colour for t in things}
    assert all(min(counts.values()) > 2 and len(counts) == 2 for counts in by_kind.values())


@pytest.mark.parametrize("name", DRAWN)
def test_a_third_is_small(name):
    assert np.mean([sample.small for sample in samples(name)]) >= 1 / 3


@pytest.mark.parametrize("name", DRAWN)
def test_the_commonest_answer_is_no_better_than_the_stated_guess(name):
    def kind(sample):
        options = re.findall(r"\d", sample.question)[-1:] if name == "multi_picture" else []
        asked = [word for word in ("shape", "colour") if name == "video" and word in sample.question]
        return (sample.kind, *options, *asked)

    taught, right = defaultdict(Counter), 0
    for sample in samples(name)[: N // 2]:
        taught[kind(sample)][sample.answers[0]] += 1
    for sample in samples(name)[N // 2 :]:
        best = taught[kind(sample)].most_common(1)
        right += bool(best) and sample.is_right(best[0][0])
    guess = load(name).guess
    assert right / (N // 2) <= guess + 3 * np.sqrt(guess * (1 - guess) / (N // 2))


def test_easy_vqa_is_the_packages_own():
    package = pytest.importorskip("easy_vqa")
    texts, answers, ids = package.get_test_questions()
    task, other = load("easy_vqa"), load("easy_vqa", seed=1)
    assert len(task) == len(other) == len(texts) == 9673
    assert len(load("easy_vqa", "train")) + len(load("easy_vqa", "val")) == 38575
    official = Counter(zip(texts, answers, ids, strict=True))
    drawn = samples("easy_vqa")
    for sample in drawn:
        picture = int(sample.cluster.removeprefix("easy_vqa-"))
        assert (sample.question, sample.answers[0], picture) in official
        with Image.open(package.get_test_image_paths()[picture]) as file:
            original = np.asarray(file.convert("RGB")).astype(int)
        shrunk = np.asarray(sample.pictures[0].resize((64, 64), Image.Resampling.BOX)).astype(int)
        assert np.abs(shrunk - original).mean() < 3
    assert len({sample.cluster for sample in drawn}) > 40
    clusters = {split: {row[2] for row in load("easy_vqa", split)._rows} for split in ("train", "val")}
    assert not clusters["train"] & clusters["val"]
    with pytest.raises(IndexError, match="9672"):
        task[9673]
    with pytest.raises(TypeError):
        len(load("spatial"))


def test_what_is_not_there_is_refused_in_one_line(monkeypatch):
    with pytest.raises(ValueError, match=r"unknown task 'counts'; the tasks are attribute, .*, easy_vqa$"):
        load("counts")
    with pytest.raises(ValueError, match=r"unknown split 'dev'; the splits are train, val, test$"):
        load("counting", "dev")
    with pytest.raises(ValueError, match="seed must be 0 or more, not -1"):
        load("counting", seed=-1)
    with pytest.raises(IndexError, match="numbered from 0"):
        load("counting")[-1]
    for name, module in (("easy_vqa", "easy_vqa"), ("digits", "sklearn"), ("words", "matplotlib")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UnsupportedError, match=r"pip install illava-lab$"):
            load(name)


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(16, 30))
@settings(max_examples=40, deadline=None)
def test_places_stay_inside_and_apart(seed, n, size):
    taken = [(0, 0, 30, 30)]
    places = layout(np.random.default_rng(seed), [(size, size)] * n, taken=taken)
    boxes = taken + [(x, y, x + size, y + size) for x, y in places]
    grown = np.zeros((SIDE + GAP, SIDE + GAP), int)
    for left, top, right, bottom in boxes:
        assert min(left, top) >= 0
        assert max(right, bottom) <= SIDE
        grown[top : bottom + GAP, left : right + GAP] += 1
    assert grown.max() == 1


def test_what_cannot_fit_is_refused():
    with pytest.raises(ValueError, match="3 things do not fit into 96 x 96 pixels"):
        layout(np.random.default_rng(0), [(80, 80)] * 3, 96)
