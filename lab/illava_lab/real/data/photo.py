"""The stream ``photo``: one labelled photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from . import photographs as ph
from .scene import Ask, Draw, Drawing, pick

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

    def drawing(rng: np.random.Generator) -> Drawing:
        photo = ph.choose(rng, split, folder)
        picture = ph.load(photo.path)
        if split == "train":
            picture = ph.varied(photo, picture, rng)
        labels = tuple(ph.photographs(photo.set, split, folder))
        wordings = (photo.question, *OWN[photo.set])
        turns = [Ask(wordings, photo.label, KINDS[photo.set], False, photo.answers[1:])]
        if photo.fine:
            right, *others = photo.fine.answers
            turns.append(Ask((photo.fine.question,), right, "grocery-fine", False, tuple(others)))
        wrong = ph.unlike(photo.label, labels)
        if wrong:
            turns += [_exists(rng, photo, wrong), _either(rng, photo, wrong)]
        return Drawing(picture, tuple(turns), f"{photo.set}-{photo.path.stem}")

    return drawing


def _exists(rng: np.random.Generator, photo: ph.Photograph, wrong: list[str]) -> Ask:
    right = rng.random() < 0.5
    name = photo.label if right else pick(rng, wrong)
    if photo.set == "digits_sign":
        wordings: tuple[str, ...] = (f"Does the hand sign show {name}?", f"Is this the sign of {name}?")
    else:
        this = "Are these" if ph.is_plural(name) else "Is this"
        wordings = (f"{this} {ph.a(name)}?", f"Does the picture show {ph.a(name)}?")
    return Ask(wordings, "yes" if right else "no", "photo-exists", False)


def _either(rng: np.random.Generator, photo: ph.Photograph, wrong: list[str]) -> Ask:
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
    return Ask(wordings, photo.label, "photo-choice", False)
