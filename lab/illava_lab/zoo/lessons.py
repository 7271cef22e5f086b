"""Training lessons: images, or a video, with all questions about them."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from ..drawing.canvas import COLOURS, Thing, any_thing, indefinite, other_than, with_or_without
from ..drawing.glyphs import SHAPES
from ..drawing.streams import scene_rng
from ..tasks import multi_picture, video
from ..tasks.easy_vqa import EasyVQA
from .questions import IGNORE, Mention, Question, ask, dense_labels, mention, refer, spots
from .scenes import KINDS, Item, Scene, Sheet, draw_scene, sizes_of_crowd

FORMS = ("scene", "page", "easy_vqa", "multi_picture", "video", "clip")


@dataclass(frozen=True)
class Lesson:
    """The images and questions of one row of a batch.

    pairs: uint8 (n, 2, side, side, 3): n pictures, each twice, or the n pairs of frames of a video. labels:
    the :func:`dense_labels` of each, stacked, or None where they are not known.
    """

    pairs: np.ndarray
    labels: dict[str, np.ndarray] | None
    questions: list[Question]
    video: bool = False
    closing: tuple[Mention, ...] = ()  # one per image, at its end; may be empty


@dataclass(frozen=True)
class Syllabus:
    """The lessons of one stage of the training, with their shares.

    forms: shares of the ``FORMS``. scenes: shares of the scenes' ``KINDS``; a page's are numbers and words.
    tasks: the tasks of single scenes; () for all. most: questions per image; 0 for none.
    """

    forms: tuple[float, ...]
    scenes: tuple[float, ...]
    tasks: tuple[str, ...] = ()
    most: int = 12


def draw_lesson(
    form: str, side: int, count: int, syllabus: Syllabus, split: str, seed: int, *place: int
) -> Lesson:
    """Draw a lesson of one of ``FORMS``: a pure function of its arguments.

    Images are ``side`` x ``side`` pixels; video frames have the task's size. ``count`` is the number of
    images of a lesson with several. Raises ValueError for an unknown form.
    """
    rng = scene_rng(seed, split, *place)
    if form == "scene":
        scene = draw_scene(rng, side, split, str(rng.choice(KINDS, p=syllabus.scenes)))
        return _of_scenes([scene], ask(scene, rng, syllabus.most, syllabus.tasks) if syllabus.most else [])
    if form == "page":
        scene = draw_scene(rng, side, split, "word" if rng.random() < 0.6 else "number")
        return _of_scenes([scene], ask(scene, rng, min(syllabus.most, 2)) if syllabus.most else [])
    if form == "multi_picture":
        return _several(rng, side, count)
    if form == "video":
        return _video(rng)
    if form == "clip":
        return _clip(rng, side)
    if form == "easy_vqa":
        return _easy_vqa(rng, side, syllabus.most, split)
    raise ValueError(f"unknown form of lesson {form!r}; the forms are {', '.join(FORMS)}")


def _of_scenes(scenes: list[Scene], questions: list[Question]) -> Lesson:
    pictures = np.stack([scene.picture for scene in scenes])
    labels = [dense_labels(scene) for scene in scenes]
    stacked = {key: np.stack([label[key] for label in labels]) for key in labels[0]}
    # A causal LLM has seen the whole image only at its end, so the number of things is predicted there.
    closing = tuple(
        Mention(0, _number(scene), spots(scene.things, picture=i)) for i, scene in enumerate(scenes)
    )
    return Lesson(np.stack([pictures, pictures], axis=1), stacked, questions, closing=closing)


def _number(scene: Scene) -> dict[str, int]:
    return {name: fact for name, fact in refer(scene.things).items() if name == "count"}


def _several(rng: np.random.Generator, side: int, count: int) -> Lesson:
    """The images of task ``multi_picture``, with all possible questions."""
    answer = int(rng.integers(count))
    scenes = []
    if rng.random() < 0.5:
        thing = any_thing(rng)
        for i in range(count):
            crowd = sizes_of_crowd(rng, side)
            sizes = np.resize(crowd, max(2, len(crowd)))
            others = [other_than(rng, thing) for _ in sizes[2:]]
            scenes.append(_scene(rng, side, with_or_without(rng, thing, i == answer) + others, sizes))
    else:
        most = int(rng.integers(2, max(3, round(8 * side / 192))))
        for i in range(count):
            n = most if i == answer else int(rng.integers(max(1, most - 3), most))
            scenes.append(_scene(rng, side, [any_thing(rng) for _ in range(n)], rng.integers(20, 31, n)))
    listed = f"{', '.join(str(i) for i in range(1, count))} or {count}"
    held = [{(thing.name, thing.colour) for thing in scene.things} for scene in scenes]
    abouts: list[tuple[str, int, Mention]] = []
    for i, things in enumerate(held):
        here = sorted(things.difference(*(other for j, other in enumerate(held) if j != i)))
        for j in rng.permutation(len(here))[:3]:
            facts = {**refer(scenes[i].things, *here[j]), "picture": i}
            seen = spots(scenes[i].things, *here[j], picture=i)
            abouts.append((f"{here[j][1]} {here[j][0]}", i, Mention(0, facts, seen)))
    counts = [len(scene.things) for scene in scenes]
    if counts.count(max(counts)) == 1:
        about, i = "more shapes" if count == 2 else "the most shapes", counts.index(max(counts))
        abouts.append((about, i, Mention(0, {"picture": i}, spots(scenes[i].things, picture=i))))
    questions = []
    for about, i, reference in abouts:
        named = about if about.endswith("shapes") else indefinite(about)
        text = str(rng.choice(multi_picture.PHRASES)).format(named, listed)
        questions.append(
            Question(
                "multi_picture",
                text,
                str(i + 1),
                (mention(text, about, reference.facts, reference.seen),),
            )
        )
    return _of_scenes(scenes, questions)


def _scene(rng: np.random.Generator, side: int, things: list[Thing], sizes: np.ndarray) -> Scene:
    sheet = Sheet(rng, side)
    sheet.scatter(rng, things, sizes)
    return sheet.scene(rng, "crowd")


def _video(rng: np.random.Generator) -> Lesson:
    """The video of task ``video``, with all possible questions."""
    sizes, things = video.two_things(rng)
    motions, event = [0, 0], None
    if rng.random() < 0.5:
        paths = video.moving(rng, sizes, str(rng.choice(list(video.DIRECTIONS))))
        motions = [_motion(path) for path in paths]
    else:
        event = str(rng.choice(list(video.EVENTS)))
        paths = video.in_order(rng, sizes, event, "first")
    frames = []
    sheet = Sheet(rng, video.SIDE)
    ground = sheet.pixels
    turns = rng.integers(2**31, size=2).tolist()  # the same rotation and tone in every frame
    for places in zip(*paths, strict=True):
        sheet.pixels, sheet.items = ground.copy(), []
        sheet.cover = np.zeros_like(sheet.cover)
        for thing, size, place, turn, motion in zip(things, sizes, places, turns, motions, strict=True):
            if place is not None:
                sheet.put(np.random.default_rng(turn), thing, int(size), place, motion)
        frames.append(sheet.scene(rng, "crowd"))
    questions = []
    for which, thing, motion in zip(("first", "last"), things, motions, strict=True):
        if motion:
            questions.append(_which_way(rng, thing, motion, frames))
        for aspect, answer in zip(("shape", "colour"), thing, strict=True) if event else ():
            text = f"Which {aspect} {rng.choice(video.EVENTS[event])} {which}?"
            facts = {"shape": SHAPES.index(thing[0]), "colour": list(COLOURS).index(thing[1])}
            reference = mention(text, which, facts, _seen_over_time(frames, thing))
            questions.append(Question("video", text, answer, (reference,)))
    return _of_frames(frames, questions)


def _clip(rng: np.random.Generator, side: int) -> Lesson:
    """Two frames in which several things move as far as in the task: many questions for few tokens."""
    sheet, drawn = Sheet(rng, side), []
    for size in sizes_of_crowd(rng, side):
        thing, motion = any_thing(rng), int(rng.integers(0, 1 + len(video.DIRECTIONS)))
        way = np.array([(0, 0), *video.DIRECTIONS.values()][motion])
        # The task's things travel 36 to 50 pixels in seven steps.
        step = (way * rng.uniform(36, 50) / (video.FRAMES - 1)).round().astype(int)
        room = int(size) + int(abs(step).max())
        place = sheet.find(rng, room, room)
        if place is not None:
            start = np.array(place) + np.maximum(-step, 0)
            drawn.append((thing, int(size), start, step, motion, int(rng.integers(2**31))))
            sheet.items.append(Item("", (place[0], place[1], place[0] + room, place[1] + room)))
    frames, ground = [], sheet.pixels
    for moment in range(2):
        sheet.pixels, sheet.items = ground.copy(), []
        sheet.cover = np.zeros_like(sheet.cover)
        for thing, size, start, step, motion, turn in drawn:
            left, top = (start + moment * step).tolist()
            sheet.put(np.random.default_rng(turn), thing, size, (left, top), motion)
        frames.append(sheet.scene(rng, "crowd"))
    names = [thing for thing, *_ in drawn]
    questions = []
    for thing, *_, motion, _ in drawn:
        if motion and names.count(thing) == 1:
            questions.append(_which_way(rng, thing, motion, frames))
    return _of_frames(frames, questions)


def _which_way(rng: np.random.Generator, thing: Thing, motion: int, frames: list[Scene]) -> Question:
    about = " ".join(reversed(thing))
    text = str(rng.choice(video.PHRASES)).format(about)
    reference = mention(text, about, {"motion": motion - 1}, _seen_over_time(frames, thing))
    return Question("video", text, list(video.DIRECTIONS)[motion - 1], (reference,))


def _seen_over_time(frames: list[Scene], thing: Thing) -> tuple[tuple[int, int, int], ...]:
    """The places of a thing in each pair of frames, whose visual tokens are shared."""
    seen = [spots(frame.things, *thing, picture=i // 2) for i, frame in enumerate(frames)]
    return tuple(dict.fromkeys(spot for here in seen for spot in here))


def _of_frames(frames: list[Scene], questions: list[Question]) -> Lesson:
    pairs = list(zip(frames[::2], frames[1::2], strict=True))
    labels = [_agreed(dense_labels(a), dense_labels(b)) for a, b in pairs]
    return Lesson(
        np.stack([np.stack([a.picture, b.picture]) for a, b in pairs]),
        {key: np.stack([label[key] for label in labels]) for key in labels[0]},
        questions,
        video=True,
    )


def _motion(path: video.Path) -> int:
    """The direction of a path without gaps: 0 for none, else from 1 in the order of the directions."""
    start, end = path[0] or (0, 0), path[-1] or (0, 0)
    ways = [(0, 0), *video.DIRECTIONS.values()]
    return ways.index((int(np.sign(end[0] - start[0])), int(np.sign(end[1] - start[1]))))


def _agreed(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The labels that both frames of a pair share, else IGNORE; ink is their mean."""
    both = {key: np.where(one[key] == other[key], one[key], IGNORE) for key in one if key != "ink"}
    return {**both, "ink": (one["ink"] + other["ink"]) / 2}


@lru_cache(maxsize=2)
def _by_picture(split: str) -> list[tuple[str, list[tuple[str, str]]]]:
    return EasyVQA(split).by_picture()


def _easy_vqa(rng: np.random.Generator, side: int, most: int, split: str) -> Lesson:
    pictures = _by_picture(split)
    path, rows = pictures[rng.integers(len(pictures))]
    with Image.open(path) as file:
        picture = np.asarray(file.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
    chosen = [rows[i] for i in rng.permutation(len(rows))[:most]]
    return Lesson(
        np.stack([picture, picture])[None],
        None,
        [Question("easy_vqa", text, answer) for text, answer in chosen],
    )
