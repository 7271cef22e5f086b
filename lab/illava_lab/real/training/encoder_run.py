"""The training of the encoder's adapters: goes on where it was stopped, ends after its steps."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .encoder import Encoder, squares
from .naming import Heads, Labelled, cells, painted
from .recipe import NAMING_STEPS
from .state import read, restored, write
from .stepping import Stepping

STATE = "encoder.pt"
WARMUP = 50
RATE, HEADS_RATE = 1e-3, 3e-3
"""AdamW's learning rates. They fall over the second half, to nothing."""
SCORED = {(112, 1): 160, (224, 1): 60, (224, 2): 60, (448, 4): 64}
"""Held-out photographs to score, by size in pixels of a picture and rows of photographs in it."""


class EncoderRun(Stepping):
    """A run in the folder ``output``; if that holds one, it goes on.

    Args:
        folder: the encoder.
        data: the picture sets.
        dtype: of the frozen weights.
        seed: of the adapters, the pictures and the patches that are left out.
        workers: processes that draw pictures; 0: none but this one.
        say: called with every line to print.
        steps: default: NAMING_STEPS.

    Raises ValueError if the state in ``output`` cannot be read or is another encoder's or of other labels.
    """

    logged = 50

    def __init__(
        self,
        folder: Path,
        output: Path,
        data: Path,
        dtype: torch.dtype,
        device: str = "cpu",
        seed: int = 0,
        workers: int = 1,
        say: Callable[[str], None] = print,
        steps: int | None = None,
    ):
        torch.manual_seed(seed)
        self.output, self.seed, self.workers, self.say = output, seed, workers, say
        self.steps = NAMING_STEPS if steps is None else steps
        self.device = torch.device(device)
        self.encoder = Encoder(folder, dtype, self.device)
        self.labelled, self.held_out = Labelled(data, "train", seed), Labelled(data, "val", seed)
        self.heads = Heads(self.labelled.groups, self.encoder.model.config.hidden_size).to(self.device)
        self.adapters = self.encoder.named_adapters()
        groups: list[dict[str, Any]] = [
            {"params": list(self.adapters.values()), "rate": RATE, "weight_decay": 0.01},
            {"params": list(self.heads.parameters()), "rate": HEADS_RATE, "weight_decay": 0.05},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
        self.step = 0
        output.mkdir(parents=True, exist_ok=True)
        if (output / STATE).exists():
            self._resume(output / STATE)

    def go(self, minutes: float) -> bool:
        """Train for ``minutes``; whether all steps are done."""
        self.train(self.labelled, self.steps, minutes)
        finished = self.step >= self.steps
        if finished:
            right = self.score()
            self.log({"encoder step": self.step, "right": right})
            self.say(", ".join(f"{name} {found}/{total}" for name, (found, total) in right.items()))
        return finished

    def report(self, loss: float, seconds: float) -> None:
        self.log({"encoder step": self.step, "loss": loss, "seconds": seconds})
        self.say(f"{self.step:6,} encoder loss {loss:.3f}, {seconds:.3f} s a step")

    def learn(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        pictures, numbers = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        part = min(1.0, 2 * (1 - self.step / self.steps)) * min(1.0, (self.step + 1) / WARMUP)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * part
        draws = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + self.step)
        features = self.encoder.features(pictures)
        loss = self.heads.loss(cells(features, isqrt(len(numbers) // len(pictures))), numbers, draws)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.adapters.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

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
                for group, right in self.heads.right(cells(features, rows), self.held_out.numbers(named)):
                    name = f"{group} at {size}" + (f", {rows} x {rows}" if rows > 1 else "")
                    before = counts.get(name, (0, 0))
                    counts[name] = before[0] + right, before[1] + 1
        return dict(sorted(counts.items()))

    def save(self) -> None:
        """Write all that is needed to go on."""
        state = {
            "adapters": {name: weight.detach() for name, weight in self.adapters.items()},
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        write(self.output / STATE, state)

    def _resume(self, state: Path) -> None:
        held = read(state)
        restored(self.adapters | dict(self.heads.named_parameters()), held["adapters"] | held["heads"], state)
        self.optimizer.load_state_dict(held["optimizer"])
        self.step = held["step"]
