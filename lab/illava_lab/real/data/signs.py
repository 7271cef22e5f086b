"""The stream ``signs``: signposts with places, arrows and distances in front of a photograph."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from . import rendering as rd
from . import vocabulary as vb
from .scene import Ask, Box, Draw, Drawing, is_small, pick

SIDE = 448  # pixels of the picture
ROWS = (1, 4)
PANELS = ((20, 60, 140), (10, 100, 60), (110, 65, 30), (245, 200, 20), (245, 245, 245), (40, 40, 45))
ARROWS = {
    "left": ((1.0, 0.38), (0.5, 0.38), (0.5, 0.1), (0.0, 0.5), (0.5, 0.9), (0.5, 0.62), (1.0, 0.62)),
    "right": ((0.0, 0.38), (0.5, 0.38), (0.5, 0.1), (1.0, 0.5), (0.5, 0.9), (0.5, 0.62), (0.0, 0.62)),
    "straight ahead": (
        (0.38, 1.0),
        (0.38, 0.5),
        (0.1, 0.5),
        (0.5, 0.0),
        (0.9, 0.5),
        (0.62, 0.5),
        (0.62, 1.0),
    ),
}
"""The corners of each arrow, as shares of its width and height."""


class Row(NamedTuple):
    """A line of a signpost and where its parts are."""

    place: str
    way: str
    distance: str
    """Such as "300 m", or ""."""
    name_box: Box
    arrow_box: Box
    distance_box: Box


def draw(split: str, folder: Path) -> Draw:
    """Scenes of one signpost each with up to 5 turns."""

    def drawing(rng: np.random.Generator) -> Drawing:
        picture = rd.backdrop(rng, split, folder, (SIDE, SIDE))
        rows = write(rng, picture, split)
        turns = [ask_way(rng, rows), ask_place(rng, rows), ask_distance(rng, rows), ask_exists(rng, rows)]
        turns.append(ask_only(rng, rows) if len(rows) == 1 else ask_row(rng, rows))
        return Drawing(picture, tuple(turn for turn in turns if turn))

    return drawing


def write(rng: np.random.Generator, picture: Image.Image, split: str) -> list[Row]:
    """Draw a panel of random size and place with 1 to 4 rows on ``picture``."""
    count = int(rng.integers(ROWS[0], ROWS[1] + 1))
    width, height = int(rng.integers(190, 420)), int(rng.integers(34, 60))
    left, top = int(rng.integers(4, SIDE - width - 4)), int(rng.integers(4, SIDE - count * height - 4))
    panel = PANELS[int(rng.integers(len(PANELS)))]
    ink = (250, 250, 250) if sum(panel) < 400 else (15, 15, 15)
    pen, name = rd.Pen(picture), rd.font(rng, split)
    pen.frame((left, top, left + width, top + count * height), panel, panel)
    pen.frame((left + 3, top + 3, left + width - 3, top + count * height - 3), ink, width=2)
    places = [vb.SIGHTS[i] for i in rng.permutation(len(vb.SIGHTS))[:count]]
    distances = bool(rng.random() < 0.6)
    return [
        _row(rng, pen, place, distances, (left + 12, top + i * height, width - 24, height), name, ink)
        for i, place in enumerate(places)
    ]


def _row(
    rng: np.random.Generator,
    pen: rd.Pen,
    place: str,
    with_distance: bool,
    area: tuple[int, int, int, int],
    font: str,
    ink: rd.Colour,
) -> Row:
    """Draw a row in ``area`` (left, top, width, height): the arrow at the side that it points to."""
    left, top, width, height = area
    way = pick(rng, ARROWS)
    side = height * 0.5
    x, y = (left if way == "left" else left + width - side), top + height * 0.25
    pen.shape([(x + across * side, y + down * side) for across, down in ARROWS[way]], ink)
    distance = ""
    if with_distance:
        metres = int(rng.integers(1, 20)) * 50
        distance = f"{metres} m" if rng.random() < 0.6 else f"{rng.integers(1, 30)} km"
    start = left + (side + 10 if way == "left" else 0)
    room = width - side - 10
    size = rd.fitting(f"{place}  {distance}", font, round(height * 0.55), room)
    line = top + height / 2 - size * 0.62
    written = pen.write(place, (start, line), font, size, ink)
    end = start + room
    figure = pen.write(distance, (end, line), font, size, ink, "r") if distance else None
    arrow = (x, y, x + side, y + side)
    return Row(place, way, distance, written.box, arrow, figure.box if figure else (0, 0, 0, 0))


def ask_way(rng: np.random.Generator, rows: list[Row]) -> Ask:
    """Where the arrow of a place points."""
    row = rows[int(rng.integers(len(rows)))]
    wordings = (f"Which way is the {row.place}?", f"Where does the arrow of the {row.place} point?")
    return _ask(wordings, row.way, "way", [row.name_box, row.arrow_box])


def ask_place(rng: np.random.Generator, rows: list[Row]) -> Ask | None:
    """The only place in a direction."""
    ways = [row.way for row in rows]
    found = [row for row in rows if ways.count(row.way) == 1]
    if not found:
        return None
    row = found[int(rng.integers(len(found)))]
    to = row.way if row.way == "straight ahead" else f"to the {row.way}"
    wordings = (f"What is {to}?", f"Which place is {to}?")
    return _ask(wordings, row.place, "place", [row.name_box, row.arrow_box])


def ask_distance(rng: np.random.Generator, rows: list[Row]) -> Ask | None:
    """How far a place is, if the sign says so."""
    row = rows[int(rng.integers(len(rows)))]
    if not row.distance:
        return None
    wordings = (f"How far is the {row.place}?", f"What is the distance to the {row.place}?")
    return _ask(wordings, row.distance, "distance", [row.name_box, row.distance_box])


def ask_exists(rng: np.random.Generator, rows: list[Row]) -> Ask:
    """Whether the sign names a place; half of the answers are yes."""
    there = [row.place for row in rows]
    yes = rng.random() < 0.5
    place = pick(rng, there if yes else [other for other in vb.SIGHTS if other not in there])
    wordings = (f"Does the sign name the {place}?", f"Is the {place} on the sign?")
    return _ask(wordings, "yes" if yes else "no", "exists", [row.name_box for row in rows])


def ask_only(rng: np.random.Generator, rows: list[Row]) -> Ask:
    """The place on a sign of one row."""
    wordings = ("Which place does the sign name?", "What place is on the sign?")
    return _ask(wordings, rows[0].place, "only", [rows[0].name_box])


def ask_row(rng: np.random.Generator, rows: list[Row]) -> Ask:
    """The first or last place on a sign of several rows."""
    first = rng.random() < 0.5
    row, word = (rows[0], "first") if first else (rows[-1], "last")
    wordings = (f"What is the {word} place on the sign?", f"Which place does the sign name {word}?")
    return _ask(wordings, row.place, "row", [row.name_box])


def _ask(wordings: tuple[str, ...], answer: str, kind: str, boxes: list[Box]) -> Ask:
    also = ("straight", "ahead", "straight on") if answer == "straight ahead" else ()
    return Ask(wordings, answer, f"sign-{kind}", is_small(boxes, (SIDE, SIDE)), also)
