"""The training of the encoder's adapters: goes on where it was stopped, ends after its steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .encoder import Encoder, squares
from .naming import Heads, Labelled
from .recipe import NAMING_STEPS
from .state import read, write

STATE = "encoder.pt"
LOGGED = 50
"""Steps between two lines."""
WARMUP = 50
RATE, HEADS_RATE = 1e-3, 3e-3
"""AdamW's learning rates. They fall over the second half, to nothing."""
SCORED = {112: 160, 224: 60}
"""Held-out pictures to score, by size in pixels."""


class EncoderRun:
    """A run in the folder ``output``; if that holds one, it goes on.

    Args:
        folder: the encoder.
        data: the picture sets.
        dtype: of the frozen weights.
        steps: default: NAMING_STEPS.
    """

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
        self.train, self.held_out = Labelled(data, "train", seed), Labelled(data, "val", seed)
        self.heads = Heads(self.train.groups, self.encoder.model.config.hidden_size).to(self.device)
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

    def go(self, minutes: float, save_every: float = 120) -> bool:
        """Train for ``minutes``; whether all steps are done."""
        end = time.monotonic() + 60 * minutes
        since = saved = time.monotonic()
        losses: list[Tensor] = []
        loader: Any = DataLoader(
            self.train,
            batch_size=None,
            sampler=range(self.step, self.steps),
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
        )
        for pictures, numbers in loader:
            losses.append(self._learn(pictures.to(self.device), numbers.to(self.device)))
            self.step += 1
            done = time.monotonic() > end
            if self.step % LOGGED == 0 or done:
                seconds, since = time.monotonic() - since, time.monotonic()
                mean = torch.stack(losses).mean().item()
                self.say(f"{self.step:6,} encoder loss {mean:.3f}, {seconds / len(losses):.3f} s a step")
                losses.clear()
            if time.monotonic() > saved + save_every:
                self.save()
                saved = time.monotonic()
            if done:
                break
        self.save()
        finished = self.step >= self.steps
        if finished:
            self.say(", ".join(f"{name} {right}/{total}" for name, (right, total) in self.score().items()))
        return finished

    def _learn(self, pictures: Tensor, numbers: Tensor) -> Tensor:
        part = min(1.0, 2 * (1 - self.step / self.steps)) * min(1.0, (self.step + 1) / WARMUP)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * part
        draws = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        loss = self.heads.loss(self.encoder.features(pictures), numbers, draws)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.adapters.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    @torch.no_grad()
    def score(self) -> dict[str, tuple[int, int]]:
        """Right and all held-out pictures by group of classes and size."""
        counts: dict[str, tuple[int, int]] = {}
        rng = np.random.default_rng(self.seed)
        for size, total in SCORED.items():
            for _ in range(0, total, 20):
                named = [self.held_out.draw(rng) for _ in range(20)]
                pictures = squares([one.picture for one in named], size)
                features = self.encoder(pictures.to(self.device))
                for group, right in self.heads.right(features, self.held_out.numbers(named)):
                    before = counts.get(f"{group} at {size}", (0, 0))
                    counts[f"{group} at {size}"] = before[0] + right, before[1] + 1
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
        with torch.no_grad():
            for name, weight in self.adapters.items():
                weight.copy_(held["adapters"][name])
        self.heads.load_state_dict(held["heads"])
        self.optimizer.load_state_dict(held["optimizer"])
        self.step = held["step"]
