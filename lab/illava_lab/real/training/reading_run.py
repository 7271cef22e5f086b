"""The second leg: characters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .encoder import Encoder
from .encoder_leg import EncoderLeg
from .reading import KEEP, Lessons, Reader, lost
from .recipe import READING_STEPS
from .state import restored

STATE = "reading.pt"
SCORED = 40
"""Held-out steps to score."""


class ReadingRun(EncoderLeg):
    """Adapters learn characters, and to leave photographs as they are.

    Args:
        folder, output, options: as :class:`EncoderLeg` takes them.
        adapted: the encoder's adapters before.
        data: the picture sets.
        steps: default: READING_STEPS.

    Raises ValueError as :class:`EncoderLeg` does.
    """

    name, state = "reading", STATE
    classifier: Reader
    lessons: Lessons

    def __init__(
        self,
        folder: Path,
        adapted: Mapping[str, Tensor],
        output: Path,
        data: Path,
        dtype: torch.dtype,
        seed: int = 0,
        steps: int | None = None,
        **options: Any,
    ):
        lessons, self.held_out = Lessons(data, "train", seed), Lessons(data, "val", seed)
        steps = READING_STEPS if steps is None else steps
        super().__init__(folder, output, lessons, Reader, steps, dtype, seed=seed, **options)
        self.before = Encoder(folder, dtype, self.device)
        for adapters in (self.before.named_adapters(), self.adapters):
            restored(adapters, adapted, output)
        self.before.freeze()
        self.resume()

    def loss(self, *batch: Tensor) -> Tensor:
        pages, wanted, photos = batch
        kept = lost(self.encoder.features(photos), self.before(photos))
        return self.classifier.loss(self.encoder.features(pages), wanted) + KEEP * kept

    def tell(self) -> None:
        right, total, moved = self.score()
        self.log({"reading step": self.step, "right": [right, total], "lost": moved})
        self.say(
            f"{right}/{total} halves of patches name their character, photographs lost {moved:.1%} of "
            "their features' variance"
        )

    @torch.no_grad()
    def score(self) -> tuple[int, int, float]:
        """Right and all halves with a character on held-out pages, and what photographs lost, on average."""
        found, moved = [0, 0], []
        for number in range(SCORED):
            pages, wanted, photos = (tensor.to(self.device) for tensor in self.held_out[number])
            right, total = self.classifier.right(self.encoder(pages), wanted)
            found = [found[0] + right, found[1] + total]
            moved.append(float(lost(self.encoder(photos), self.before(photos))))
        return found[0], found[1], sum(moved) / len(moved)
