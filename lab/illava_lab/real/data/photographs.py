"""Labelled photographs: their classes, the words for them, and fast decoding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from illava.errors import InputError

from .sets import Line, lines

SETS = ("clothing", "grocery", "digits_sign")
THUMBNAIL = 144  # pixels, the longest side of the copies that stay decoded
HAND = "hand sign"

_PLURAL = {"pants", "shorts", "shoes", "carrots", "satsumas"}
_MASS = {"asparagus", "cabbage", "garlic", "ginger", "juice", "milk", "oat milk", "oatghurt", "outwear"}
_MASS |= {"red beet", "sour cream", "sour milk", "soy milk", "soyghurt", "yoghurt"}
# Writing on packages reads only one way round, and a hand would become the other hand.
_ONE_WAY = {"juice", "milk", "oat milk", "oatghurt", "sour cream", "sour milk", "soy milk", "soyghurt"}
_ONE_WAY |= {"yoghurt", HAND}
# Pairs that could both be right for the same photograph, besides those that share a word, such as shirt and
# t-shirt.
_ALIKE = [{"longsleeve", "shirt"}, {"longsleeve", "t-shirt"}, {"orange", "satsumas"}]
_ALIKE += [{"yoghurt", "soyghurt"}, {"yoghurt", "oatghurt"}, {"soyghurt", "oatghurt"}]


class Photograph(NamedTuple):
    """A photograph of one thing."""

    set: str
    label: str
    """The set's name of its class, such as "t-shirt"; for a hand sign its digit."""
    path: Path
    question: str
    """The set's own question about the class."""
    answers: tuple[str, ...]
    """All correct answers to it."""
    fine: Line | None
    """The set's question about the kind within the class."""

    @property
    def noun(self) -> str:
        """What it is beside photographs of other sets: its label, or "hand sign"."""
        return HAND if self.set == "digits_sign" else self.label

    @property
    def other_nouns(self) -> tuple[str, ...]:
        """Other right answers to what it is."""
        return ("hand",) if self.set == "digits_sign" else self.answers[1:]


@lru_cache(maxsize=32)
def photographs(name: str, split: str, folder: Path) -> dict[str, tuple[Photograph, ...]]:
    """The photographs of a set by label, sorted by label. Raises InputError if there are none."""
    coarse: dict[Path, Line] = {}
    fine: dict[Path, Line] = {}
    for line in lines(name, split, folder):
        (fine if line.kind == "class_fine" else coarse)[line.picture] = line
    found: dict[str, list[Photograph]] = {}
    for path, line in coarse.items():
        label = line.answers[0]
        found.setdefault(label, []).append(
            Photograph(name, label, path, line.question, line.answers, fine.get(path))
        )
    if not found:
        raise InputError(f"{folder / name}: no photographs for {split}; the set needs more pictures")
    return {label: tuple(found[label]) for label in sorted(found)}


def choose(
    rng: np.random.Generator, split: str, folder: Path, weights: Sequence[float] = (1, 1, 1)
) -> Photograph:
    """A photograph: sets are as likely as their ``weights`` say, the classes of a set equally likely."""
    number = int(np.searchsorted(np.cumsum(weights), rng.random() * sum(weights), side="right"))
    by_label = photographs(SETS[number], split, folder)
    return one_of(rng, by_label[list(by_label)[int(rng.integers(len(by_label)))]])


def one_of(rng: np.random.Generator, some: tuple[Photograph, ...]) -> Photograph:
    """One of ``some``, all equally likely."""
    return some[int(rng.integers(len(some)))]


def unlike(label: str, others: tuple[str, ...]) -> list[str]:
    """Those of ``others`` that are certainly wrong for a photograph of ``label``."""
    return [other for other in others if not alike(label, other)]


def alike(one: str, other: str) -> bool:
    """Whether both names can be right for one photograph, such as shirt and t-shirt, or milk and soy milk."""
    words = [set(name.replace("-", " ").split()) for name in (one, other)]
    return words[0] <= words[1] or words[1] <= words[0] or {one, other} in _ALIKE


def is_plural(noun: str) -> bool:
    """Whether ``noun`` takes a plural verb, such as "pants"."""
    return noun in _PLURAL


def a(noun: str) -> str:
    """``noun`` with an indefinite article if it takes one: "an apple", but "milk" and "pants"."""
    if noun in _PLURAL or noun in _MASS:
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def the_picture(noun: str) -> str:
    """The photograph of ``noun`` among others: "the picture of the pants"."""
    return f"the picture of the {noun}"


def load(path: Path, side: int | None = None) -> Image.Image:
    """The RGB photograph, with a longest side of at most about ``side`` pixels where that is faster to get.

    Up to ``THUMBNAIL`` pixels it is a decoded copy that is shared: do not change it in place. Raises
    InputError if the file cannot be read.
    """
    if side is not None and side <= THUMBNAIL:
        return _thumbnail(path)
    return _decoded(path, side)


@lru_cache(maxsize=4096)
def _thumbnail(path: Path) -> Image.Image:
    image = _decoded(path, THUMBNAIL)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    return image


def _decoded(path: Path, side: int | None) -> Image.Image:
    try:
        with Image.open(BytesIO(_bytes(path))) as file:
            if side is not None:
                file.draft("RGB", (side, side))  # JPEG decodes to a half or a quarter at less cost
            return file.convert("RGB")
    except OSError as error:
        raise InputError(f"{path}: not a readable picture: {error}") from None


@lru_cache(maxsize=8192)
def _bytes(path: Path) -> bytes:
    return path.read_bytes()


def varied(
    photo: Photograph, image: Image.Image, rng: np.random.Generator, size: tuple[int, int] | None = None
) -> Image.Image:
    """A random crop of 70 to 100 % of each side of ``image``, perhaps flipped, its colours slightly changed.

    Hand signs and packages are not flipped. With ``size`` the crop is fitted to it.
    """
    shares = rng.uniform(0.7, 1, 2)
    width, height = (max(1, round(side * share)) for side, share in zip(image.size, shares, strict=True))
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    image = image.crop((left, top, left + width, top + height))
    if size:
        image = fitted(image, size)
    if photo.noun not in _ONE_WAY and rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return recoloured(image, rng)


def recoloured(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """``image`` up to 15 % darker or brighter, its colours up to 25 % weaker or stronger."""
    light, colour = rng.uniform(0.85, 1.15), rng.uniform(0.75, 1.25)
    # The colour matrix that scales brightness, and the distance from grey, in one step.
    grey = np.array([[0.299, 0.587, 0.114]]) * (1 - colour)
    matrix = light * np.hstack([np.eye(3) * colour + grey, np.zeros((3, 1))])
    return image.convert("RGB", tuple(matrix.ravel().tolist()))


def fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """``image`` in exactly ``size``, what sticks out cropped evenly."""
    return ImageOps.fit(image, size, Image.Resampling.BILINEAR)
