"""The direction in which a thing moves, or the order in which two things appear or disappear."""

import numpy as np
from PIL import Image

from ..drawing.canvas import COLOURS, SMALL, Canvas, Thing, layout, tone
from ..drawing.glyphs import SHAPES, shape_mask
from .base import Drawn, Task

SIDE, FRAMES = 96, 8  # 36 visual tokens for every two frames in the zoo's models: 144 in all
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
PHRASES = (
    "Which way does the {} move: left, right, up or down?",
    "In which direction does the {} go: left, right, up or down?",
    "The {} moves in which direction: left, right, up or down?",
)
EVENTS = {"come": ("appears", "comes into view"), "go": ("disappears", "goes away")}


class Video(Task):
    """8 frames of 96 x 96 pixels with two things that differ in shape and colour.

    Direction: one thing crosses more than a third of the frame; the other rests or moves in the same or the
    opposite direction. All directions are equally likely, so a guess is right once in 4. Order: both things
    appear, or both disappear, at least 2 frames apart, and the question is about the shape or the colour of
    the first or the last, so a guess is right once in 8. A sample is small if the thing that determines the
    answer covers less than 3 % of a frame.
    """

    name = "video"
    description = "Say which way a thing moves, or which of two things appears or disappears first or last."
    choices = (*DIRECTIONS, *SHAPES, *COLOURS)
    guess = (1 / 4 + 1 / 8) / 2
    stream = 8

    def draw(self, rng: np.random.Generator, number: int) -> Drawn:
        sizes, things = two_things(rng)
        if rng.random() < 0.5:
            kind, answer = "direction", str(rng.choice(list(DIRECTIONS)))
            question = str(rng.choice(PHRASES)).format(" ".join(reversed(things[0])))
            paths = moving(rng, sizes, answer)
        else:
            kind, event, which = "order", str(rng.choice(list(EVENTS))), str(rng.choice(["first", "last"]))
            aspect = int(rng.integers(2))
            answer = things[0][aspect]
            verb = str(rng.choice(EVENTS[event]))
            question = f"Which {('shape', 'colour')[aspect]} {verb} {which}?"
            paths = in_order(rng, sizes, event, which)
        video, share = _film(rng, things, sizes, paths)
        return Drawn(kind, question, answer, share < SMALL, video=video)


def two_things(rng: np.random.Generator) -> tuple[np.ndarray, list[Thing]]:
    """Sizes in pixels, both small or both large, and two things of two shapes and two colours."""
    sizes = rng.integers(16, 21, 2) if rng.random() < 0.5 else rng.integers(27, 35, 2)
    shapes = rng.choice(SHAPES, 2, replace=False)
    colours = rng.choice(list(COLOURS), 2, replace=False)
    return sizes, [(str(shape), str(colour)) for shape, colour in zip(shapes, colours, strict=True)]


Path = list[tuple[int, int] | None]  # (left, top) frame by frame, None where it is not there


def moving(rng: np.random.Generator, sizes: np.ndarray, direction: str) -> list[Path]:
    """Paths of a thing that moves in ``direction`` and of one that keeps to the other half."""
    step = np.array(DIRECTIONS[direction])
    along = int(np.flatnonzero(step)[0])
    halves = rng.permutation(2)
    paths = []
    for size, half, sign in zip(sizes, halves, (1, rng.integers(-1, 2)), strict=True):
        travel = rng.uniform(36, 50) * sign * step[along]
        place = np.zeros(2)
        low, high = 1 + max(0, -travel), SIDE - 1 - size - max(0, travel)
        place[along] = rng.uniform(low, high)
        place[1 - along] = rng.integers(1, SIDE // 2 - size) + half * SIDE // 2
        path: Path = []
        for frame in range(FRAMES):
            here = place.copy()
            here[along] += travel * frame / (FRAMES - 1)
            path.append((int(here[0].round()), int(here[1].round())))
        paths.append(path)
    return paths


def in_order(rng: np.random.Generator, sizes: np.ndarray, event: str, which: str) -> list[Path]:
    """Paths of two things that stand still; the first is the one that comes or goes ``which``."""
    early = int(rng.integers(1, 5))
    late = int(rng.integers(early + 2, FRAMES - 1))
    times = (early, late) if which == "first" else (late, early)
    places = layout(rng, [(int(size), int(size)) for size in sizes], SIDE)
    return [
        [place if (frame >= time) == (event == "come") else None for frame in range(FRAMES)]
        for place, time in zip(places, times, strict=True)
    ]


def _film(
    rng: np.random.Generator, things: list[Thing], sizes: np.ndarray, paths: list[Path]
) -> tuple[tuple[Image.Image, ...], float]:
    """Paint the frames; returns them and the share of a frame that the first thing covers."""
    canvas = Canvas(rng, SIDE)
    ground = canvas.pixels
    masks = [
        shape_mask(shape, int(size), rng.uniform(-0.2, 0.2))
        for (shape, _), size in zip(things, sizes, strict=True)
    ]
    tones = [tone(rng, colour) for _, colour in things]
    frames = []
    for places in zip(*paths, strict=True):
        canvas.pixels = ground.copy()
        for mask, place, colour in zip(masks, places, tones, strict=True):
            if place is not None:
                canvas.paint(mask, place, colour)
        frames.append(canvas.picture(rng))
    return tuple(frames), float(masks[0].sum()) / SIDE**2
