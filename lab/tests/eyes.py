"""Answers read off the pixels: knows colours, outlines and the questions' words only."""

import re
from functools import lru_cache
from statistics import mode
from typing import NamedTuple

import numpy as np
from illava_lab.drawing.canvas import COLOURS
from illava_lab.drawing.glyphs import SHAPES, shape_mask
from illava_lab.tasks.counting import PLURALS
from PIL import Image
from scipy import ndimage

NEIGHBOURS = np.ones((3, 3))
SINGULAR = {plural: shape for shape, plural in PLURALS.items()}


class Seen(NamedTuple):
    shape: str
    colour: str
    x: float
    y: float
    share: float


def coloured(picture):
    """Where the picture is neither grey, black nor white: bool (height, width)."""
    pixels = ndimage.uniform_filter(np.asarray(picture, np.float32), size=(3, 3, 1))
    return pixels.max(2) - pixels.min(2) > 58


def look(picture) -> list[Seen]:
    """Every connected coloured region, its outline and colour named by the nearest known ones."""
    pixels = np.asarray(picture).astype(float)
    blobs, _ = ndimage.label(coloured(picture), NEIGHBOURS)
    seen = []
    for number, place in enumerate(ndimage.find_objects(blobs), 1):
        blob = blobs[place] == number
        if blob.sum() < 40:
            continue
        colour = np.median(pixels[place][blob], axis=0)
        nearest = min(COLOURS, key=lambda name: np.abs(colour - COLOURS[name]).sum())
        row, column = ndimage.center_of_mass(blob)
        x, y = place[1].start + column, place[0].start + row
        seen.append(Seen(outline(blob), nearest, x, y, blob.sum() / blobs.size))
    return seen


def squared(mask, shape=(24, 24)):
    """``mask``, cut to its ink, as zero-mean unit vector of fixed length."""
    mask = np.asarray(mask, np.float32)
    rows, columns = np.nonzero(mask.max(1) > 0.3)[0], np.nonzero(mask.max(0) > 0.3)[0]
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    grey = np.asarray(Image.fromarray(mask).resize(shape[::-1], Image.Resampling.BOX)).ravel()
    grey = grey - grey.mean()
    return grey / max(np.linalg.norm(grey), 1e-6)


@lru_cache(maxsize=1)
def outlines():
    known = [(shape, turn) for shape in SHAPES for turn in np.linspace(-0.2, 0.2, 9)]
    return [shape for shape, _ in known], np.stack([squared(shape_mask(s, 40, t)) for s, t in known])


def outline(blob) -> str:
    # A square that fills its box is all ones after cutting, so its margin is part of what is compared.
    shapes, vectors = outlines()
    if blob.mean() > 0.97:
        return "square"
    return shapes[int(np.argmax(vectors @ squared(blob)))]


def ink(picture):
    """Where something is written: bool, dark on light or light on dark, away from coloured things."""
    grey = np.asarray(picture.convert("L")).astype(float)
    level = np.median(grey)
    written = grey > 130 if level < 100 else grey < 130
    return written & ~ndimage.binary_dilation(coloured(picture), iterations=3)


def matching(things, words: str) -> list[Seen]:
    """The things that ``words`` ("red star", "anything red", "stars", "red shapes", "shapes") mean."""
    words = re.findall(r"\w+", words)
    shape = next((SINGULAR.get(w, w) for w in words if SINGULAR.get(w, w) in SHAPES), None)
    colour = next((w for w in words if w in COLOURS), None)
    return [t for t in things if shape in (None, t.shape) and colour in (None, t.colour)]


THING = rf"(?:(?:{'|'.join(COLOURS)}) )?(?:{'|'.join(SHAPES)})"


def answer(sample) -> str:
    """The answer to a question about shapes, from its words and pixels alone."""
    question = sample.question.rstrip("?.")
    return globals()[f"answer_{sample.task}"](question, [look(p) for p in sample.pictures or sample.video])


def answer_attribute(question, seen):
    (thing,) = matching(seen[0], question)
    return thing.colour if "colour" in question else thing.shape


def answer_counting(question, seen):
    words = question.split()
    at = max(i for i, word in enumerate(words) if word in ("shapes", *SINGULAR))
    return str(len(matching(seen[0], " ".join(words[at - 1 : at + 1]))))


def answer_spatial(question, seen):
    (first,), (second,) = (
        matching(seen[0], name) for name in re.findall(rf"the ({THING})", question.lower())
    )
    x, y = first.x - second.x, first.y - second.y
    assert max(abs(x), abs(y)) > 2 * min(abs(x), abs(y)), "too far off the axis to be one relation"
    if abs(x) > abs(y):
        return "left" if x < 0 else "right"
    return "above" if y < 0 else "below"


def answer_existence(question, seen):
    return "yes" if matching(seen[0], question) else "no"


def answer_multi_picture(question, seen):
    assert re.search(r"1(, 2)?(, 3)? or (\d)$", question)[3] == str(len(seen))
    found = [len(matching(things, question)) for things in seen]
    if "shapes" not in re.findall(r"\w+", question):
        assert sorted(found)[-2] == 0, "another picture has it, too"
    assert sorted(found)[-2] < max(found)
    return str(found.index(max(found)) + 1)


def answer_video(question, seen):
    if "first" not in question and "last" not in question:
        named = re.search(THING, question)[0]
        tracks = [matching(things, named.split()[0]) for things in seen]  # the two differ in colour
        x, y = (np.diff([getattr(track[0], axis) for track in tracks]) for axis in "xy")
        assert abs(x.sum() + y.sum()) > 30
        way = x if abs(x.sum()) > abs(y.sum()) else y
        assert (np.sign(way) == np.sign(way.sum())).all()
        return (("left", "right"), ("up", "down"))[way is y][int(way.sum() > 0)]
    there: list[list[tuple[int, Seen]]] = []  # of each thing that stands still: where it was seen when
    for frame, things in enumerate(seen):
        for thing in things:
            known = [t for t in there if abs(t[0][1].x - thing.x) + abs(t[0][1].y - thing.y) < 6]
            if not known:
                there.append([])
            (known[0] if known else there[-1]).append((frame, thing))
    assert len(there) == 2
    comes = re.search(r"\bappears|comes", question)
    times = sorted(there, key=lambda track: track[0][0] if comes else track[-1][0])
    early, late = (track[0][0] if comes else track[-1][0] for track in times)
    assert late - early >= 2
    chosen = [thing for _, thing in times["last" in question]]
    return mode(thing.shape if "shape" in question else thing.colour for thing in chosen)
