"""The training of the encoder's adapters on text: goes on where it was stopped, ends after its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .encoder import Encoder
from .reading import KEEP, Lesson, Lessons, Reader, lost
from .recipe import READING_STEPS
from .state import read, restored, write
from .stepping import Stepping

STATE = "reading.pt"
WARMUP = 50
RATE, READER_RATE = 1e-3, 3e-3
"""AdamW's learning rates. They fall over the second half, to nothing."""
SCORED = 40
"""Held-out steps to score."""


class ReadingRun(Stepping):
    """A run in the folder ``output``; if that holds one, it goes on.

    Args:
        folder: the encoder.
        adapted: its adapters before.
        data: the picture sets.
        dtype: of the frozen weights.
        seed: of the pictures and the classifier.
        workers: processes that draw pictures; 0: none but this one.
        say: called with every line to print.
        steps: default: READING_STEPS.

    Raises ValueError if the state in ``output`` cannot be read or is another encoder's.
    """

    logged = 50

    def __init__(
        self,
        folder: Path,
        adapted: Mapping[str, Tensor],
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
        self.steps = READING_STEPS if steps is None else steps
        self.device = torch.device(device)
        self.before, self.encoder = (Encoder(folder, dtype, self.device) for _ in range(2))
        self.adapters = self.encoder.named_adapters()
        for one in (self.before.named_adapters(), self.adapters):
            restored(one, adapted, output)
        self.before.freeze()
        self.lessons, self.held_out = Lessons(data, "train", seed), Lessons(data, "val", seed)
        self.reader = Reader(self.encoder.model.config.hidden_size).to(self.device)
        groups: list[dict[str, Any]] = [
            {"params": list(self.adapters.values()), "rate": RATE, "weight_decay": 0.01},
            {"params": list(self.reader.parameters()), "rate": READER_RATE, "weight_decay": 0.05},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
        self.step = 0
        if (output / STATE).exists():
            self._resume(output / STATE)

    def go(self, minutes: float) -> bool:
        """Train for ``minutes``; whether all steps are done."""
        self.train(self.lessons, self.steps, minutes)
        finished = self.step >= self.steps
        if finished:
            right, total, moved = self.score()
            self.log({"reading step": self.step, "right": [right, total], "lost": moved})
            self.say(
                f"{right}/{total} halves of patches name their character, photographs lost {moved:.1%} of "
                "their features' variance"
            )
        return finished

    def report(self, loss: float, seconds: float) -> None:
        self.log({"reading step": self.step, "loss": loss, "seconds": seconds})
        self.say(f"{self.step:6,} reading loss {loss:.3f}, {seconds:.3f} s a step")

    def learn(self, batch: Lesson) -> Tensor:
        pages, wanted, photos = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        part = min(1.0, 2 * (1 - self.step / self.steps)) * min(1.0, (self.step + 1) / WARMUP)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * part
        loss = self.reader.loss(self.encoder.features(pages), wanted)
        kept = lost(self.encoder.features(photos), self.before(photos))
        (loss + KEEP * kept).backward()
        torch.nn.utils.clip_grad_norm_(self.adapters.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach() + kept.detach()

    @torch.no_grad()
    def score(self) -> tuple[int, int, float]:
        """Right and all halves with a character of held-out pages, and the mean loss of photographs."""
        found, moved = [0, 0], []
        for number in range(SCORED):
            pages, wanted, photos = (tensor.to(self.device) for tensor in self.held_out[number])
            right, total = self.reader.right(self.encoder(pages), wanted)
            found = [found[0] + right, found[1] + total]
            moved.append(float(lost(self.encoder(photos), self.before(photos))))
        return found[0], found[1], sum(moved) / len(moved)

    def save(self) -> None:
        """Write all that is needed to go on."""
        state = {
            "adapters": {name: weight.detach() for name, weight in self.adapters.items()},
            "reader": self.reader.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        write(self.output / STATE, state)

    def _resume(self, state: Path) -> None:
        held = read(state)
        restored(
            self.adapters | dict(self.reader.named_parameters()), held["adapters"] | held["reader"], state
        )
        self.optimizer.load_state_dict(held["optimizer"])
        self.step = held["step"]
