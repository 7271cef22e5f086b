"""The second leg of the encoder: patches name the characters on them, and photographs stay what they were.

DINOv2 was trained without text, and a patch of it hardly tells which characters it shows. Between the LLM's
stages the encoder's adapters learn that on rendered text. The LLM has learnt to read the features of
photographs by then, so these are held to what the encoder made of them before.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from ..data.pages import Page, page
from .encoder import squares
from .naming import Labelled
from .recipe import PATCH

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,/-:$!'"
"""What is told apart: capitals count as small letters, and anything else as nothing."""
NOTHING = len(CHARACTERS)
HALVES = 2
"""Of a patch, left and right: small type has more than one character on a patch."""
SIDES = {224: 0.5, 336: 0.2, 448: 0.3}
"""Pixels of a page, and how often."""
PHOTOS = 0.4
"""The share of patches that show photographs."""
TOKENS = 2600
"""About how many patches a step has."""
BLANK = 0.15
"""The weight of a half without a character: most are."""
KEEP = 4.0
"""The weight of what photographs' features lose, as a share of their variance."""


class Lesson(NamedTuple):
    """The batch of a step."""

    pages: Tensor
    """(B, S, S, 3) uint8."""
    labels: Tensor
    """(B, (S / 14)**2, 2) int64, in :data:`CHARACTERS` or NOTHING."""
    photos: Tensor
    """(C, T, T, 3) uint8."""


class Lessons(Dataset):
    """``lessons[step]``: a pure function of seed and step."""

    def __init__(self, folder: Path, split: str = "train", seed: int = 0):
        self._folder, self._split, self._seed = folder, split, seed
        self._labelled = Labelled(folder, split, seed)

    def __getitem__(self, step: int) -> Lesson:
        rng = np.random.default_rng((self._seed, 8, step))
        side = int(rng.choice(list(SIDES), p=list(SIDES.values())))
        count = max(1, round((1 - PHOTOS) * TOKENS / (side // PATCH) ** 2))
        pages = [page(rng, self._split, self._folder, side) for _ in range(count)]
        photos, _ = self._labelled.pictures(rng, round(PHOTOS * TOKENS))
        pictures = squares([one.picture for one in pages], side)
        return Lesson(pictures, torch.stack([labels(one, side) for one in pages]), photos)


def labels(shown: Page, side: int) -> Tensor:
    """((side / 14)**2, 2) int64: the character on the middle of each half of a patch, or NOTHING.

    A character belongs to a row of patches that holds at least half of it, or of which it fills half.
    """
    rows = side // PATCH
    found = np.full((rows, HALVES * rows), NOTHING)
    half = PATCH / HALVES
    for text, (left, top, right, bottom) in shown.characters:
        number = CHARACTERS.find(text.lower())
        if number < 0:
            continue
        columns = slice(max(0, int(np.ceil(left / half - 0.5))), max(0, int(np.ceil(right / half - 0.5))))
        for row in range(max(0, int(top // PATCH)), min(rows, int(bottom // PATCH) + 1)):
            inside = min(bottom, (row + 1) * PATCH) - max(top, row * PATCH)
            if 2 * inside >= min(PATCH, bottom - top):
                found[row, columns] = number
    return torch.from_numpy(found.reshape(rows * rows, HALVES))


class Reader(nn.Module):
    """A linear classifier of the characters on the halves of a patch."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, HALVES * (NOTHING + 1))

    def forward(self, features: Tensor) -> Tensor:
        """(..., width) to (..., 2, classes)."""
        return self.linear(self.norm(features.float())).unflatten(-1, (HALVES, -1))

    def loss(self, features: Tensor, wanted: Tensor) -> Tensor:
        """The cross-entropy of (B, n, width) features with (B, n, 2) labels."""
        weight = torch.ones(NOTHING + 1, device=features.device)
        weight[NOTHING] = BLANK
        return F.cross_entropy(self(features).flatten(0, 2), wanted.flatten(), weight)

    def right(self, features: Tensor, wanted: Tensor) -> tuple[int, int]:
        """Right and all halves with a character."""
        there = wanted != NOTHING
        hits = self(features).argmax(-1) == wanted
        return int((hits & there).sum()), int(there.sum())


def lost(features: Tensor, before: Tensor) -> Tensor:
    """How far (B, n, D) features moved from ``before``, as a share of the variance of these."""
    before = before.float()
    spread = (before - before.mean((0, 1))).square().mean()
    return (features.float() - before).square().mean() / spread
