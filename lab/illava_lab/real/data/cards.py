"""The stream ``cards``: photographs of playing cards with the set's questions and more from its boxes."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from illava.errors import InputError

from . import photographs as ph
from .scene import Ask, Box, Draw, Drawing, is_small, pick
from .sets import Line, lines

RANKS = ("nine", "ten", "jack", "queen", "king", "ace")
CLEAR = 0.06  # share of a side by which centres must differ for their order to be asked about
MOST_TURNS = 6


class Table(NamedTuple):
    """A photograph of cards."""

    path: Path
    questions: tuple[Line, ...]
    cards: tuple[tuple[str, Box], ...]
    """The rank and box of every labelled card."""


def draw(split: str, folder: Path) -> Draw:
    """Scenes of one photograph each, in "train" cropped at random around the cards, but never flipped."""
    found = tables(split, folder)

    def drawing(rng: np.random.Generator) -> Drawing:
        table = found[int(rng.integers(len(found)))]
        picture = ph.load(table.path)
        if split == "train":
            picture, table = cropped(picture, table, rng)
        turns = [of_the_set(line, picture.size) for line in table.questions]
        extra = (exists, where, outermost, sides)
        turns += [turn for make in extra if (turn := make(rng, table, picture.size))]
        some = tuple(turns[i] for i in rng.permutation(len(turns))[:MOST_TURNS])
        return Drawing(picture, some, table.path.stem)

    return drawing


@lru_cache(maxsize=8)
def tables(split: str, folder: Path) -> tuple[Table, ...]:
    """All photographs of a split. Raises InputError if there are none."""
    by_picture: dict[Path, list[Line]] = {}
    for line in lines("cards", split, folder):
        by_picture.setdefault(line.picture, []).append(line)
    if not by_picture:
        raise InputError(f"{folder / 'cards'}: no pictures for {split}; the set needs more pictures")
    found = []
    for path, questions in by_picture.items():
        # Some questions are about a part of the cards; the one with the most boxes is about all.
        cards = max((line.boxes for line in questions), key=len)
        found.append(Table(path, tuple(questions), cards))
    return tuple(found)


def answer(line: Line) -> str:
    """The training target of a question of the set."""
    return ", ".join(line.answers) if line.all else line.answers[0]


def of_the_set(line: Line, size: tuple[int, int]) -> Ask:
    """A question of the set as a turn. Where the answer is no, no box shows it, so it is not small."""
    boxes = [box for _, box in line.boxes]
    kind = {"yes_no": "card-exists", "count": "card-count"}.get(line.kind, "card-rank")
    return Ask((line.question,), answer(line), kind, bool(boxes) and is_small(boxes, size))


def cropped(image: Image.Image, table: Table, rng: np.random.Generator) -> tuple[Image.Image, Table]:
    """A random part that holds all cards, in slightly changed colours, and the boxes in its pixels."""
    sides = [0, 0, *image.size]
    for axis in range(2):
        low = min(box[axis] for _, box in table.cards)
        high = max(box[axis + 2] for _, box in table.cards)
        sides[axis] = int(rng.uniform(0, 0.3) * low)
        sides[axis + 2] = round(image.size[axis] - rng.uniform(0, 0.3) * (image.size[axis] - high))
    left, top = sides[:2]

    def moved(boxes: tuple[tuple[str, Box], ...]) -> tuple[tuple[str, Box], ...]:
        return tuple((name, (a - left, b - top, c - left, d - top)) for name, (a, b, c, d) in boxes)

    questions = tuple(line._replace(boxes=moved(line.boxes)) for line in table.questions)
    image = ph.recoloured(image.crop((left, top, sides[2], sides[3])), rng)
    return image, Table(table.path, questions, moved(table.cards))


def exists(rng: np.random.Generator, table: Table, size: tuple[int, int]) -> Ask | None:
    """Whether a rank is on the table; half of the answers are yes, unless all six ranks are."""
    there = sorted({rank for rank, _ in table.cards})
    absent = [rank for rank in RANKS if rank not in there]
    yes = not absent or rng.random() < 0.5
    rank = pick(rng, there if yes else absent)
    wordings = (f"Is there {ph.a(rank)}?", f"Do you see {ph.a(rank)}?")
    small = all(is_small([box], size) for _, box in table.cards)
    return Ask(wordings, "yes" if yes else "no", "card-exists", small)


def where(rng: np.random.Generator, table: Table, size: tuple[int, int]) -> Ask | None:
    """In which part of the picture the only card of a rank is, if that is clear for one."""
    found = [(rank, box, part(box, size)) for rank, box in unique(table) if part(box, size)]
    if not found:
        return None
    rank, box, answer = found[int(rng.integers(len(found)))]
    wordings = (f"Where is the {rank}?", f"In which part of the picture is the {rank}?")
    return Ask(wordings, answer, "card-where", is_small([box], size))


def outermost(rng: np.random.Generator, table: Table, size: tuple[int, int]) -> Ask | None:
    """The rank of the card farthest in one direction, if the next one is clearly behind it."""
    name, axis, order = (("leftmost", 0, 1), ("rightmost", 0, -1), ("highest", 1, 1), ("lowest", 1, -1))[
        int(rng.integers(4))
    ]
    ranked = sorted(table.cards, key=lambda card: order * centre(card[1])[axis])
    if len(ranked) < 2:
        return None
    gap = abs(centre(ranked[1][1])[axis] - centre(ranked[0][1])[axis])
    if gap < CLEAR * size[axis]:
        return None
    rank, box = ranked[0]
    place = {"highest": "nearest to the top", "lowest": "nearest to the bottom"}.get(name, f"the {name}")
    wordings = (f"Which card is {place}?", f"What rank is the card that is {place}?")
    return Ask(wordings, rank, "card-outermost", is_small([box], size))


def sides(rng: np.random.Generator, table: Table, size: tuple[int, int]) -> Ask | None:
    """Whether one card is left or right of another, if both ranks occur once and it is clear."""
    found = unique(table)
    if len(found) < 2:
        return None
    (one, box), (other, second) = (found[i] for i in rng.permutation(len(found))[:2])
    apart = centre(box)[0] - centre(second)[0]
    if abs(apart) < CLEAR * size[0]:
        return None
    wordings = (
        f"Is the {one} left or right of the {other}?",
        f"Is the {one} right or left of the {other}?",
    )
    answer = "left" if apart < 0 else "right"
    return Ask(wordings, answer, "card-sides", is_small([box, second], size))


def unique(table: Table) -> list[tuple[str, Box]]:
    """The cards whose rank occurs once."""
    often = Counter(rank for rank, _ in table.cards)
    return [card for card in table.cards if often[card[0]] == 1]


def part(box: Box, size: tuple[int, int]) -> str:
    """The quarter in which the centre of ``box`` is; "" if it is too near to a line between two."""
    x, y = (place / side for place, side in zip(centre(box), size, strict=True))
    if min(abs(x - 0.5), abs(y - 0.5)) < CLEAR:
        return ""
    return f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"


def centre(box: Box) -> tuple[float, float]:
    """The centre of a box in pixels."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
