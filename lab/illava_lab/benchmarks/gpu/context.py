"""What all parts share: settings, the time left, and the model that was built last."""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import illava
from illava.bench import prompts, published, random_weights
from illava.bench.timing import measure as timed
from illava.methods import Method
from illava.models.layout import workload
from illava.models.located import LocatedModules, locate
from illava.planning.predict import Predictor

from .budget import Budget
from .settings import Settings

THIRD, NINTH = "keep=1/3", "keep=1/9"
PUBLISHED = "published"
SHORT = 2
"""New tokens of an answer that has a prefill and one step of decoding."""
WARM_UP = 3
"""Calls of each variant on a card before timed ones. Triton compiles in the first, and a CUDA graph is
recorded in the third with the same shapes."""


def schedules() -> dict[str, Method]:
    """The merged variants, by name."""
    return {
        PUBLISHED: illava.Illava(),
        THIRD: illava.Illava.best(1 / 3),
        NINTH: illava.Illava.best(1 / 9),
    }


@dataclass(frozen=True)
class Row:
    """One measurement that is saved by itself."""

    key: str
    seconds: float
    """Predicted."""
    measure: Callable[[], Mapping[str, Any]]
    """Returns a JSON-ready result; its key "failure", if any, says which check failed."""
    kind: str = ""
    """How long a row took corrects the predictions of later rows of its part and kind."""
    digest: str = ""
    """Of what this row depends on beside what all rows do: a result with another one is not used again."""


class Context:
    """Of one call of the command."""

    def __init__(self, settings: Settings, budget: Budget) -> None:
        self.settings, self.budget = settings, budget
        self.device = torch.device(settings.device)
        self._model: tuple[str, nn.Module] | None = None

    def model(self, shape: str) -> nn.Module:
        """A shape with random weights, built on the device. Only one is held at a time."""
        if self._model is None or self._model[0] != shape:
            self.release()
            began = time.monotonic()
            settings = self.settings
            model = random_weights.build(shape, settings.layers, settings.torch_dtype, self.device)
            self._model = shape, model
            print(f"  {shape} built in {time.monotonic() - began:.1f} s", flush=True)
        return self._model[1]

    def release(self) -> None:
        """Free the model and what torch's allocator holds."""
        self._model = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def warm_ups(self) -> int:
        """Calls before timed ones: on a CPU nothing is compiled or recorded."""
        return WARM_UP if self.device.type == "cuda" else 1

    def warm_up(
        self, model: nn.Module, inputs: Mapping[str, Tensor], methods: Iterable[Method | None]
    ) -> None:
        """Short answers of all methods, all warm-ups but the one that :func:`illava.bench.run.run` does."""
        for method in methods:
            for _ in range(self.warm_ups - 1):
                with nullcontext() if method is None else illava.accelerate(model, method):
                    timed(model, inputs, SHORT, min_new_tokens=SHORT)

    def inputs(self, model: nn.Module, size: int, batch: int = 1) -> dict[str, Tensor]:
        """A prompt with one picture of noise, ``batch`` times."""
        config: Any = model.config
        return prompts.make(
            config, (size, size), batch=batch, dtype=self.settings.torch_dtype, device=self.device
        )

    def build_seconds(self, shape: str) -> float:
        """The predicted time to build a shape."""
        bytes_ = _skeleton(shape, self.settings.layers)[1]
        return 3 + bytes_ / (4e9 if self.device.type == "cuda" else 0.8e9)

    def call_seconds(self, shape: str, size: int, batch: int, new_tokens: int) -> float:
        """The predicted time of one ``generate`` of the plain model."""
        parts, _ = _skeleton(shape, self.settings.layers)
        flops = Predictor(parts, workload(parts, size, batch=batch)).plain_cost.total
        return flops / self.settings.flops + new_tokens * self.settings.step


@functools.cache
def _skeleton(shape: str, layers: int | None) -> tuple[LocatedModules, int]:
    """A shape without weights, and the bytes that its weights would take in float32."""
    model = random_weights.on_meta(published.config(shape, layers))
    return locate(model), random_weights.weight_bytes(model)
