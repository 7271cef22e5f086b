"""The first leg of training: adapters of the image encoder, learnt on labels alone, without the LLM.

The encoder comes from a saliency model, and a linear probe names few of the photographs from its features.
Labels are few bits, but a small picture costs the encoder less than a tenth of what it costs the LLM, and
where several photographs share a picture it learns all their names at once. Each patch's feature must name
the photograph that it belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..data import cards
from ..data import photographs as ph
from .encoder import squares
from .recipe import PATCH

GRIDS = {
    (112, 1): 0.26,
    (112, 2): 0.2,
    (168, 2): 0.12,
    (168, 3): 0.08,
    (224, 1): 0.12,
    (224, 2): 0.06,
    (224, 4): 0.04,
    (336, 4): 0.04,
    (448, 1): 0.04,
    (448, 4): 0.04,
}
"""Pixels of the square and rows of photographs in it, and how often. A photograph has at least 4 x 4 patches,
whole ones."""
GAP = 4
"""Pixels, at most, by which a photograph among others is narrower and lower than its cell."""
TOKENS = 2600
"""About how many patches a step has."""
SHARES = {"clothing": 0.33, "grocery": 0.33, "digits_sign": 0.17, "cards": 0.17}
MARGIN = 0.15
"""Of a card's sides, at most, by which its crop is larger or smaller."""


class Named(NamedTuple):
    """A picture and its classes, "SET: LABEL" and where there is one "SET, fine: LABEL"."""

    picture: Image.Image
    classes: tuple[str, ...]


class Labelled(Dataset):
    """``labelled[step]`` is the batch of a step: pictures (B, S, S, 3) uint8, and the classes (N, 2) int64,
    -1 for none, of the photographs in them, picture by picture and row by row; a pure function of seed and
    step."""

    def __init__(self, folder: Path, split: str = "train", seed: int = 0):
        self._folder, self._split, self._seed = folder, split, seed
        self.groups = classes(folder)
        everything = [name for group in self.groups for name in group]
        self._number = {name: number for number, name in enumerate(everything)}

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        pictures, named = self.pictures(np.random.default_rng((self._seed, 7, step)), TOKENS)
        return pictures, self.numbers(named)

    def pictures(self, rng: np.random.Generator, tokens: int) -> tuple[Tensor, list[Named]]:
        """Pictures (B, S, S, 3) uint8 of about ``tokens`` patches, and the photographs in them in order."""
        size, rows = list(GRIDS)[int(rng.choice(len(GRIDS), p=list(GRIDS.values())))]
        grids = [
            [self.draw(rng, 2 * size // rows) for _ in range(rows**2)]
            for _ in range(max(1, tokens // (size // PATCH) ** 2))
        ]
        pictures = [grid[0].picture if rows == 1 else painted(rng, grid, size // rows) for grid in grids]
        return squares(pictures, size), [one for grid in grids for one in grid]

    def numbers(self, named: Sequence[Named]) -> Tensor:
        """(N, 2) int64: the numbers of their classes, -1 for none and for one that training does not have."""
        rows = [[self._number.get(name, -1) for name in one.classes] for one in named]
        return torch.tensor([[*row, -1][:2] for row in rows])

    def draw(self, rng: np.random.Generator, side: int | None = None) -> Named:
        """A picture of any set, its classes equally likely; in "train" cropped and coloured at random.

        Photographs of ``side`` pixels are enough where that is given.
        """
        kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        if kind == "cards":
            return self._card(rng)
        by_label = ph.photographs(kind, self._split, self._folder)
        photo = ph.one_of(rng, by_label[list(by_label)[int(rng.integers(len(by_label)))]])
        picture = ph.load(photo.path, side)
        names = [f"{kind}: {photo.label}"]
        if photo.fine:
            names.append(f"{kind}, fine: {photo.fine.answers[0]}")
        return Named(ph.varied(photo, picture, rng) if self._split == "train" else picture, tuple(names))

    def _card(self, rng: np.random.Generator) -> Named:
        tables = cards.tables(self._split, self._folder)
        table = tables[int(rng.integers(len(tables)))]
        rank, box = table.cards[int(rng.integers(len(table.cards)))]
        sides = np.array([box[2] - box[0], box[3] - box[1]] * 2) * np.array([-1, -1, 1, 1])
        grown = np.array(box) + sides * (rng.uniform(-MARGIN, MARGIN, 4) if self._split == "train" else 0)
        crop = ph.load(table.path).crop(tuple(int(side) for side in grown))
        return Named(ph.recoloured(crop, rng) if self._split == "train" else crop, (f"cards: {rank}",))


def painted(rng: np.random.Generator, grid: Sequence[Named], side: int) -> Image.Image:
    """A square of photographs, row by row in cells of ``side`` pixels, on a ground of random grey."""
    rows = isqrt(len(grid))
    picture = Image.new("RGB", (rows * side, rows * side), (int(rng.integers(256)),) * 3)
    for number, one in enumerate(grid):
        width, height = (side - int(gap) for gap in rng.integers(GAP + 1, size=2))
        left, top = (number % rows) * side, (number // rows) * side
        picture.paste(ph.fitted(one.picture, (width, height)), (left, top))
    return picture


def cells(features: Tensor, rows: int) -> Tensor:
    """(B, n, D) features of square pictures to (B * rows**2, n / rows**2, D) of their cells, row by row."""
    side = isqrt(features.shape[1])
    grid = features.unflatten(1, (rows, side // rows, rows, side // rows))
    return grid.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def classes(folder: Path) -> list[list[str]]:
    """The classes of the training pictures in groups that exclude each other."""
    groups = []
    for name in ph.SETS:
        by_label = ph.photographs(name, "train", folder)
        groups.append([f"{name}: {label}" for label in by_label])
        fine = {p.fine.answers[0] for some in by_label.values() for p in some if p.fine}
        if fine:
            groups.append([f"{name}, fine: {label}" for label in sorted(fine)])
    groups.append([f"cards: {rank}" for rank in cards.RANKS])
    return groups


class Heads(nn.Module):
    """Linear classifiers of patches' features, one for each group of classes."""

    def __init__(self, groups: list[list[str]], width: int):
        super().__init__()
        ends = np.cumsum([len(group) for group in groups]).tolist()
        self.bounds = list(zip([0, *ends[:-1]], ends, strict=True))
        self.names = [group[0].split(": ")[0] for group in groups]
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, ends[-1])

    def forward(self, features: Tensor) -> Tensor:
        """(..., width) to (..., classes), log-probabilities within each group."""
        logits = self.linear(self.norm(features.float()))
        return torch.cat([logits[..., low:high].log_softmax(-1) for low, high in self.bounds], dim=-1)

    def loss(self, features: Tensor, numbers: Tensor, draws: torch.Generator) -> Tensor:
        """Mean cross-entropy of the classes from the mean of all patches, and from that of some.

        Args:
            features: (B, n, width).
            numbers: (B, 2) int64, -1 for none.
            draws: on the device of ``features``; draws which patches: each with a probability that is drawn
                for the picture, at least one.
        """
        chance = torch.rand(features.shape[:2], generator=draws, device=features.device)
        share = torch.rand(len(features), 1, generator=draws, device=features.device)
        kept = (chance <= torch.maximum(share, chance.amin(1, keepdim=True))).float()
        some = (features.float() * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)
        known = numbers >= 0
        found = [self(pooled).gather(1, numbers.clamp_min(0)) for pooled in (features.float().mean(1), some)]
        return -sum((one * known).sum() for one in found) / (2 * known.sum())

    def right(self, features: Tensor, numbers: Tensor) -> list[tuple[str, bool]]:
        """For each known class of (B, n, width) features its group and whether their mean names it."""
        out = []
        for scores, wanted in zip(self(features.float().mean(1)), numbers.tolist(), strict=True):
            for number in (number for number in wanted if number >= 0):
                group = next(i for i, (low, high) in enumerate(self.bounds) if low <= number < high)
                low, high = self.bounds[group]
                out.append((self.names[group], int(scores[low:high].argmax()) + low == number))
        return out
