"""The stream ``words``: one to three words or numbers on a photograph or plain ground."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...drawing.canvas import layout
from . import rendering as rd
from . import vocabulary
from .scene import Ask, Draw, Drawing, is_small, pick
from .vocabulary import NEW_WORDS, WORDS

SIDE = 448  # pixels of the picture
MOST, MOST_BIG = 3, 2
USUAL, LARGER, BIG = (22, 46), (46, 90), (56, 120)  # pixels of the type
CLEAR = 0.08  # share of the side by which a text must be off a line for its side to be asked about


class Text(NamedTuple):
    """A word or number in the picture."""

    text: str
    number: bool
    new: bool
    """Whether it is a word that training never shows."""
    box: tuple[float, float, float, float]
    """The box of its ink."""


def draw(split: str, folder: Path, big: bool = False) -> Draw:
    """Scenes of 1 to 3 texts, each under 3 % of the picture in about three of four cases.

    ``big``: of 1 or 2 texts that can be read where the picture is a quarter as wide and as high.
    """

    def drawing(rng: np.random.Generator) -> Drawing:
        while True:
            picture = rd.backdrop(rng, split, folder, (SIDE, SIDE), sharp=True)
            texts = write(rng, picture, split, big)
            turns = [read(rng, texts), exists(rng, texts), where(rng, texts), order(rng, texts)]
            if any(turns):  # several numbers side by side may allow none
                return Drawing(picture, tuple(turn for turn in turns if turn))

    return drawing


def write(rng: np.random.Generator, picture: Image.Image, split: str, big: bool = False) -> list[Text]:
    """Write 1 to 3 texts at places that do not overlap, some on a plate, in colours that stand out."""
    chosen: list[tuple[str, bool, bool, str, int]] = []
    for _ in range(int(rng.integers(1, (MOST_BIG if big else MOST) + 1))):
        text, number, new = _any_text(rng, split, [text for text, *_ in chosen])
        name = rd.font(rng, split)
        size = int(rng.integers(*(BIG if big else USUAL if rng.random() < 0.75 else LARGER)))
        chosen.append((text, number, new, name, rd.fitting(text, name, size, 0.8 * SIDE)))
    margins = [6 + size // 5 for *_, size in chosen]
    extents = [rd.extent(text, name, size) for text, _, _, name, size in chosen]
    sizes = [
        (right - left + 2 * margin, bottom - top + 2 * margin)
        for (left, top, right, bottom), margin in zip(extents, margins, strict=True)
    ]
    places = layout(rng, sizes, SIDE)
    pen, texts = rd.Pen(picture), []
    for (text, number, new, name, size), outer, margin, place in zip(
        chosen, sizes, margins, places, strict=True
    ):
        box = (place[0], place[1], place[0] + outer[0], place[1] + outer[1])
        if rng.random() < 0.5 or rd.is_busy(picture.crop(box)):
            plate = rd.paper(rng) if rng.random() < 0.5 else rd.dark(rng)
            pen.frame(box, plate, plate)
        ink = rd.contrasting(rng, picture.crop(box))
        left, top, *_ = rd.extent(text, name, size)
        written = pen.write(text, (place[0] + margin - left, place[1] + margin - top), name, size, ink)
        texts.append(Text(text, number, new, written.box))
    return texts


def _any_text(rng: np.random.Generator, split: str, others: list[str]) -> tuple[str, bool, bool]:
    """A word in lower case, capitals or with one capital, or a number of 1 to 4 digits; not in ``others``."""
    taken = {other.lower() for other in others}
    while True:
        if rng.random() < 0.35:
            text, number, new = str(rng.integers(1, 10 ** rng.integers(1, 5))), True, False
        else:
            word, new = vocabulary.word(rng, split)
            text, number = (
                (word.upper(), word, word.capitalize())[int(rng.choice(3, p=(0.5, 0.2, 0.3)))],
                False,
            )
        if text.lower() not in taken:
            return text, number, new


def read(rng: np.random.Generator, texts: list[Text]) -> Ask | None:
    """What the only word, number or text is."""
    words = [text for text in texts if not text.number]
    numbers = [text for text in texts if text.number]
    turns = []
    if len(texts) == 1:
        turns.append((texts[0], ("What does it read?", "What is written?", "Read the text.")))
    if len(words) == 1:
        turns.append((words[0], ("What is the word?", "Which word is written?", "Read the word.")))
    if len(numbers) == 1:
        turns.append((numbers[0], ("What is the number?", "What number is written?", "Read the number.")))
    if not turns:
        return None
    text, wordings = turns[int(rng.integers(len(turns)))]
    return _ask(wordings, text.text, text, "read")


def exists(rng: np.random.Generator, texts: list[Text]) -> Ask | None:
    """Whether a word is there; half of the answers are yes.

    If the answer is no, the word is as long as one that is there where possible, and as new to training.
    """
    words = [text for text in texts if not text.number]
    if not words:
        return None
    text, yes = words[int(rng.integers(len(words)))], rng.random() < 0.5
    word = text.text.lower()
    if not yes:
        there = {text.text.lower() for text in words}
        others = [other for other in (NEW_WORDS if text.new else WORDS) if other not in there]
        alike = [other for other in others if len(other) == len(word)]
        word = pick(rng, alike or others)
    wordings = (
        f'Is the word "{word}" in the picture?',
        f'Does the picture say "{word}"?',
        f'Do you see the word "{word}"?',
    )
    small = is_small([max((text.box for text in texts), key=_area)], (SIDE, SIDE))
    return Ask(wordings, "yes" if yes else "no", "words-exists", small)


def where(rng: np.random.Generator, texts: list[Text]) -> Ask | None:
    """In which quarter of the picture a text is, if its centre is clearly in one."""
    text = texts[int(rng.integers(len(texts)))]
    x, y = (text.box[0] + text.box[2]) / 2 / SIDE, (text.box[1] + text.box[3]) / 2 / SIDE
    if min(abs(x - 0.5), abs(y - 0.5)) < CLEAR:
        return None
    what = f'the {"number" if text.number else "word"} "{text.text}"'
    answer = f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"
    wordings = (f"Where is {what}?", f"In which part of the picture is {what}?")
    return Ask(wordings, answer, "words-where", is_small([text.box], (SIDE, SIDE)))


def order(rng: np.random.Generator, texts: list[Text]) -> Ask | None:
    """What the uppermost or lowest of several texts reads, if it ends before the others begin."""
    if len(texts) < 2:
        return None
    top = rng.random() < 0.5
    ranked = sorted(texts, key=lambda text: text.box[1] if top else -text.box[3])
    first, others = ranked[0], ranked[1:]
    clear = all(other.box[1] > first.box[3] if top else other.box[3] < first.box[1] for other in others)
    if not clear:
        return None
    place = "top" if top else "bottom"
    wordings = (f"What does the text at the {place} read?", f"What is written nearest to the {place}?")
    return _ask(wordings, first.text, first, "order")


def _ask(wordings: tuple[str, ...], answer: str, text: Text, what: str) -> Ask:
    kind = f"words-{what}-{'number' if text.number else 'new' if text.new else 'word'}"
    return Ask(wordings, answer, kind, is_small([text.box], (SIDE, SIDE)))


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
