"""A leg of training without the LLM: the encoder's adapters learn with a classifier of its features."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .encoder import Encoder
from .state import read, restored, write
from .stepping import Stepping

WARMUP = 50
RATE, CLASSIFIER_RATE = 1e-3, 3e-3
"""AdamW's learning rates. They fall over the second half, to nothing."""


class EncoderLeg(Stepping):
    """A run in the folder ``output``; if that holds its state, it goes on. It ends after ``steps``.

    Args:
        folder: the encoder.
        lessons: ``lessons[step]`` is the batch of a step, a tuple of tensors.
        classifier_of: makes the classifier for features of a width.
        dtype: of the frozen weights.
        seed: of the adapters, the classifier and what a step draws.
        workers: processes that draw pictures; 0: none but this one.
        say: called with every line to print.

    Raises ValueError if the state in ``output`` cannot be read or does not fit.
    """

    logged = 50
    name: str
    """What the log calls it."""
    state: str
    """Its file in ``output``."""

    def __init__(
        self,
        folder: Path,
        output: Path,
        lessons: Dataset,
        classifier_of: Callable[[int], nn.Module],
        steps: int,
        dtype: torch.dtype,
        device: str = "cpu",
        seed: int = 0,
        workers: int = 1,
        say: Callable[[str], None] = print,
    ):
        torch.manual_seed(seed)
        self.output, self.lessons, self.steps = output, lessons, steps
        self.seed, self.workers, self.say = seed, workers, say
        self.device = torch.device(device)
        self.encoder = Encoder(folder, dtype, self.device)
        self.classifier = classifier_of(self.encoder.model.config.hidden_size).to(self.device)
        self.adapters = self.encoder.named_adapters()
        groups: list[dict[str, Any]] = [
            {"params": list(self.adapters.values()), "rate": RATE, "weight_decay": 0.01},
            {"params": list(self.classifier.parameters()), "rate": CLASSIFIER_RATE, "weight_decay": 0.05},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
        self.step = 0
        output.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def loss(self, *batch: Tensor) -> Tensor:
        """The loss of a batch that is on the device, a scalar."""

    @abstractmethod
    def tell(self) -> None:
        """Score what was learnt; log and say it."""

    def go(self, minutes: float) -> bool:
        """Train for ``minutes``; whether all steps are done."""
        self.train(self.lessons, self.steps, minutes)
        finished = self.step >= self.steps
        if finished:
            self.tell()
        return finished

    def report(self, loss: float, seconds: float) -> None:
        self.log({f"{self.name} step": self.step, "loss": loss, "seconds": seconds})
        self.say(f"{self.step:6,} {self.name} loss {loss:.3f}, {seconds:.3f} s a step")

    def learn(self, batch: tuple[Tensor, ...]) -> Tensor:
        part = min(1.0, 2 * (1 - self.step / self.steps)) * min(1.0, (self.step + 1) / WARMUP)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * part
        loss = self.loss(*(tensor.to(self.device, non_blocking=True) for tensor in batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.adapters.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def save(self) -> None:
        """Write all that is needed to go on."""
        state = {
            "adapters": {name: weight.detach() for name, weight in self.adapters.items()},
            "classifier": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        write(self.output / self.state, state)

    def resume(self) -> None:
        """Go on with the state in ``output``, if there is one."""
        file = self.output / self.state
        if not file.exists():
            return
        held = read(file)
        known = self.adapters | dict(self.classifier.named_parameters())
        restored(known, held["adapters"] | held["classifier"], file)
        self.optimizer.load_state_dict(held["optimizer"])
        self.step = held["step"]
