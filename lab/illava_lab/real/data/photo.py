"""The stream ``photo``: one labelled photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from . import photographs as ph
from .scene import Draw, Scene, Turn, pick

KINDS = {"clothing": "clothing", "grocery": "grocery", "digits_sign": "digits-sign"}
OWN = {
    "clothing": ("What is the piece of clothing?", "Name the piece of clothing."),
    "grocery": ("What is in the picture?", "Name the grocery item."),
    "digits_sign": ("What digit is shown by the hand?", "Name the digit that the hand shows."),
}
"""Other wordings of the sets' own questions."""


def draw(split: str, folder: Path) -> Draw:
    """Scenes of one photograph each; only those of "train" are cropped, flipped and coloured at random.

    Hand signs and packages are not flipped: the other hand, and mirrored writing, occur in no test.
    """

    def scene(rng: np.random.Generator) -> Scene:
        photo = ph.choose(rng, split, folder)
        picture = ph.load(photo.path)
        if split == "train":
            picture = ph.varied(photo, picture, rng)
        labels = tuple(ph.photographs(photo.set, split, folder))
        turns = [Turn(pick(rng, (photo.question, *OWN[photo.set])), photo.label, KINDS[photo.set], False)]
        if photo.fine:
            turns.append(Turn(*photo.fine, "grocery-fine", False))
        wrong = ph.unlike(photo.label, labels)
        if wrong:
            turns += [_exists(rng, photo, wrong), _either(rng, photo, wrong)]
        return Scene(picture, tuple(turns))

    return scene


def _exists(rng: np.random.Generator, photo: ph.Photograph, wrong: list[str]) -> Turn:
    right = rng.random() < 0.5
    name = photo.label if right else pick(rng, wrong)
    if photo.set == "digits_sign":
        wordings: tuple[str, ...] = (f"Does the hand sign show {name}?", f"Is this the sign of {name}?")
    else:
        this = "Are these" if ph.is_plural(name) else "Is this"
        wordings = (f"{this} {ph.a(name)}?", f"Does the picture show {ph.a(name)}?")
    return Turn(pick(rng, wordings), "yes" if right else "no", "photo-exists", False)


def _either(rng: np.random.Generator, photo: ph.Photograph, wrong: list[str]) -> Turn:
    names = [photo.label, pick(rng, wrong)]
    if rng.random() < 0.5:
        names.reverse()
    if photo.set == "digits_sign":
        one, other = names
        wordings: tuple[str, ...] = (f"Does the hand sign show {one} or {other}?", f"Is it {one} or {other}?")
    else:
        one, other = (ph.a(name) for name in names)
        this = "Are these" if ph.is_plural(names[0]) else "Is this"
        wordings = (f"{this} {one} or {other}?", f"Does the picture show {one} or {other}?")
    return Turn(pick(rng, wordings), photo.label, "photo-choice", False)
