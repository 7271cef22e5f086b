"""The first leg: names."""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .encoder import squares
from .encoder_leg import EncoderLeg
from .naming import Heads, Labelled, cells, painted
from .recipe import NAMING_STEPS

STATE = "encoder.pt"
SCORED = {(112, 1): 160, (224, 1): 60, (224, 2): 60, (448, 4): 64}
"""Held-out photographs to score, by size in pixels of a picture and rows of photographs in it."""


class EncoderRun(EncoderLeg):
    """Adapters learn the labels of photographs and cards.

    Args:
        folder, output, options: as :class:`EncoderLeg` takes them.
        data: the picture sets.
        steps: default: NAMING_STEPS.

    Raises ValueError as :class:`EncoderLeg` does.
    """

    name, state = "encoder", STATE
    classifier: Heads

    def __init__(
        self,
        folder: Path,
        output: Path,
        data: Path,
        dtype: torch.dtype,
        seed: int = 0,
        steps: int | None = None,
        **options: Any,
    ):
        labelled, self.held_out = Labelled(data, "train", seed), Labelled(data, "val", seed)
        steps = NAMING_STEPS if steps is None else steps
        super().__init__(
            folder,
            output,
            labelled,
            lambda width: Heads(labelled.groups, width),
            steps,
            dtype,
            seed=seed,
            **options,
        )
        self.resume()

    def loss(self, *batch: Tensor) -> Tensor:
        pictures, numbers = batch
        draws = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + self.step)
        features = self.encoder.features(pictures)
        return self.classifier.loss(cells(features, isqrt(len(numbers) // len(pictures))), numbers, draws)

    def tell(self) -> None:
        right = self.score()
        self.log({"encoder step": self.step, "right": right})
        self.say(", ".join(f"{name} {found}/{total}" for name, (found, total) in right.items()))

    @torch.no_grad()
    def score(self) -> dict[str, tuple[int, int]]:
        """Right and all held-out photographs by group of classes, size and rows."""
        counts: dict[str, tuple[int, int]] = {}
        rng = np.random.default_rng(self.seed)
        for (size, rows), total in SCORED.items():
            for _ in range(-(-total // rows**2)):
                named = [self.held_out.draw(rng) for _ in range(rows**2)]
                picture = named[0].picture if rows == 1 else painted(rng, named, size // rows)
                features = self.encoder(squares([picture], size).to(self.device))
                for group, right in self.classifier.right(
                    cells(features, rows), self.held_out.numbers(named)
                ):
                    name = f"{group} at {size}" + (f", {rows} x {rows}" if rows > 1 else "")
                    before = counts.get(name, (0, 0))
                    counts[name] = before[0] + right, before[1] + 1
        return dict(sorted(counts.items()))
