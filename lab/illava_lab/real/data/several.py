"""Several photographs in one picture: their choice, and questions that do not depend on the layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import photographs as ph
from .scene import Ask, Box, is_small, pick

WEIGHTS = (0.4, 0.45, 0.15)
"""The shares of clothing, grocery items and hand signs, which have one noun for all digits."""


class Thing(NamedTuple):
    """A photograph at its place in a picture."""

    photo: ph.Photograph
    box: Box

    @property
    def noun(self) -> str:
        return self.photo.noun


class Album(NamedTuple):
    """What a picture of several photographs shows."""

    things: tuple[Thing, ...]
    size: tuple[int, int]
    """Width and height of the picture in pixels."""
    split: str
    folder: Path

    def unique(self) -> list[Thing]:
        """The things whose noun occurs once."""
        often = Counter(thing.noun for thing in self.things)
        return [thing for thing in self.things if often[thing.noun] == 1]


def choose_several(
    rng: np.random.Generator, split: str, folder: Path, count: int, most_alike: int, but: str = ""
) -> list[ph.Photograph]:
    """``count`` photographs in random order; two nouns occur 1 to ``most_alike`` times, the others once.

    All nouns exclude each other, as :func:`photographs.alike` says, and the noun ``but``. Where a set has
    too few nouns for that, some of the others occur again. No photograph occurs twice while there is another
    with its noun.
    """
    found: list[ph.Photograph] = []
    nouns = [but] if but else []
    while len(found) < count:
        photo = _another(rng, split, folder, nouns)
        if any(photo.noun == other.noun for other in found):
            photo = _again(rng, split, folder, photo.noun, found)
        times = int(rng.integers(1, most_alike + 1)) if len(set(nouns)) < 2 + bool(but) else 1
        found.append(photo)
        for _ in range(min(times, count - len(found) + 1) - 1):
            found.append(_again(rng, split, folder, photo.noun, found))
        nouns.append(photo.noun)
    return [found[i] for i in rng.permutation(count)]


def _again(
    rng: np.random.Generator, split: str, folder: Path, noun: str, found: Sequence[ph.Photograph]
) -> ph.Photograph:
    """A photograph with ``noun``, one of those ``found``, and where possible none of these."""
    photo = next(photo for photo in found if photo.noun == noun)
    by_label = ph.photographs(photo.set, split, folder)
    labels = list(by_label) if noun == ph.HAND else [photo.label]
    used = {other.path for other in found}
    left = [tuple(other for other in by_label[label] if other.path not in used) for label in labels]
    pools = [pool for pool in left if pool] or [by_label[label] for label in labels]
    return ph.one_of(rng, pools[int(rng.integers(len(pools)))])


def _another(
    rng: np.random.Generator, split: str, folder: Path, nouns: Sequence[str], tries: int = 200
) -> ph.Photograph:
    """A photograph whose noun excludes ``nouns``, or after so many tries one that repeats a later noun."""
    for attempt in range(2 * tries):
        photo = ph.choose(rng, split, folder, WEIGHTS)
        if not any(ph.alike(photo.noun, noun) for noun in nouns):
            break
        if attempt >= tries and photo.noun in nouns[1:]:
            break
    return photo


def exists(rng: np.random.Generator, album: Album, kind: str, but: str = "") -> Ask:
    """Whether any of the photographs shows a thing; half of the answers are yes."""
    nouns = sorted({thing.noun for thing in album.things})
    yes = rng.random() < 0.5
    noun = pick(rng, nouns)
    for _ in range(0 if yes else 400):
        noun = ph.choose(rng, album.split, album.folder, WEIGHTS).noun
        if not any(ph.alike(noun, other) for other in [*nouns, *([but] if but else [])]):
            break
    else:
        yes = True
        noun = pick(rng, nouns)
    wordings = (
        f"Is there a picture of {ph.a(noun)}?",
        f"Does any of the pictures show {ph.a(noun)}?",
        f"Do you see a picture of {ph.a(noun)}?",
    )
    # A yes must be no easier to find than a no, so both are small only if each photograph is.
    small = all(is_small([thing.box], album.size) for thing in album.things)
    return Ask(wordings, "yes" if yes else "no", kind, small)


def how_many(rng: np.random.Generator, album: Album, kind: str) -> Ask:
    """How many photographs show a thing, one of the two that occur most often."""
    often = Counter(sorted(thing.noun for thing in album.things)).most_common(2)
    noun, count = often[int(rng.integers(len(often)))]
    wordings = (
        f"How many pictures show {ph.a(noun)}?",
        f"How many of the pictures show {ph.a(noun)}?",
        f"Count the pictures that show {ph.a(noun)}.",
    )
    boxes = [thing.box for thing in album.things if thing.noun == noun]
    return Ask(wordings, str(count), kind, is_small(boxes, album.size))


def digit(rng: np.random.Generator, album: Album, kind: str) -> Ask | None:
    """The digit of the only hand sign, if there is only one."""
    hands = [thing for thing in album.unique() if thing.noun == ph.HAND]
    if not hands:
        return None
    wordings = ("Which digit does the hand sign show?", "What digit is shown by the hand?")
    hand = hands[0]
    small = is_small([hand.box], album.size)
    return Ask(wordings, hand.photo.label, kind, small, hand.photo.answers[1:])
