"""What both legs of training share: steps within a time, a log, and states to go on from."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from illava.ops import transfers

LOG = "log.jsonl"
SAVED = 120.0
"""Seconds after which the state is written."""


class Stepping(ABC):
    """Steps from ``step`` on, in the folder ``output``."""

    output: Path
    device: torch.device
    workers: int
    """Processes that draw batches; 0: none but this one."""
    say: Callable[[str], None]
    step: int
    logged: int
    """Steps between two lines of the log."""

    @abstractmethod
    def learn(self, batch: Any) -> Tensor:
        """One step; its loss, a scalar on the device."""

    @abstractmethod
    def save(self) -> None:
        """Write all that is needed to go on."""

    @abstractmethod
    def report(self, loss: float, seconds: float) -> None:
        """Log the mean loss of the last steps and the seconds of one."""

    def train(
        self, batches: Dataset, steps: int, minutes: float, after_step: Callable[[], None] = lambda: None
    ) -> None:
        """Train for ``minutes``, at least one step, or until ``steps`` are done; save the state at the end.

        Args:
            batches: ``batches[step]`` is the batch of a step.
            after_step: called after every step; its time does not count as the step's.
        """
        end = time.monotonic() + 60 * minutes
        since = saved = time.monotonic()
        losses: list[Tensor] = []
        for batch in self._loader(batches, steps):
            losses.append(self.learn(batch))
            self.step += 1
            done = time.monotonic() > end
            if self.step % self.logged == 0 or done:
                # An accelerator is waited for here only.
                loss = torch.stack(losses).mean().item()
                seconds, since = time.monotonic() - since, time.monotonic()
                self.report(loss, seconds / len(losses))
                losses.clear()
            if time.monotonic() > saved + SAVED:
                self.save()
                saved = time.monotonic()
            before = time.monotonic()
            after_step()
            since += time.monotonic() - before
            if done:
                break
        self.save()

    def _loader(self, batches: Dataset, steps: int) -> Any:
        return DataLoader(
            batches,
            batch_size=None,
            sampler=range(self.step, steps),
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
            pin_memory=self.device.type in transfers.PINNED,
        )

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to the log."""
        with (self.output / LOG).open("a") as file:
            file.write(json.dumps(line) + "\n")
