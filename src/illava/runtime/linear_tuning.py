"""Faster products of a few rows on a CPU, which is what merging leaves: short prefills and decoding.

A wide matrix times a few rows is slower per row than times many: libraries copy the matrix into an order of
their own first, in blocks that fit no cache. The same product in slices of output features does better, where
a quick try on the machine at hand says so. Nothing is copied, and no result changes by more than rounding.

Decoding one sequence reads every weight once for each token, so that only fewer bytes can make it faster:
``half=True`` keeps a float16 copy of the LLM's weights for products of a few rows, whose inputs are rounded
to float16 too; what would leave its range, or weights that have changed since, take the usual way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UnsupportedError
from ..models.located import locate

ROWS = (8, 64, 256)
"""Numbers of rows at which slices are tried; others take the choice of the next."""
WIDTH = 896
"""Output features of a slice: with a thousand or two that go in, a few megabytes."""
LEAST = 1792
"""Output features from which slicing is tried."""
HEADS = 32768
"""Output features from which a matrix is a head, which sees a row a sequence."""
GAIN = 0.95
"""The share of the whole product's time that slices must stay under."""
HALF_ROWS = 4
"""Rows up to which float16 weights are used."""

Choice = tuple[bool, ...]
"""For each of ROWS, whether products are sliced."""


@dataclass(frozen=True)
class _Shape:
    fan_in: int
    fan_out: int


class Tuned:
    """A model whose products are sliced. Use it as a context manager, or call :meth:`remove` when done."""

    def __init__(self, modules: Sequence[tuple[nn.Linear, Choice, bool]]) -> None:
        self.modules = [module for module, _, _ in modules]
        self.removed = False
        self.choices = {
            (module.in_features, module.out_features): dict(zip(ROWS, choice, strict=True))
            for module, choice, _ in modules
        }
        """(in, out) features -> most rows -> whether products of so many are sliced."""
        for module, choice, half in modules:
            module.forward = _Forward(module, choice, half)  # type: ignore[method-assign]

    def remove(self) -> None:
        """Take it off again. Calling it twice does no harm."""
        for module in self.modules:
            module.__dict__.pop("forward", None)
        self.modules, self.removed = [], True

    def __enter__(self) -> Tuned:
        if self.removed:
            raise ValueError("this was removed already; call tune() again")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def tune(
    model: nn.Module,
    *,
    half: bool = False,
    advance: Callable[[int], None] = lambda steps: None,
) -> Tuned:
    """Make products of a few rows faster on this CPU: short prefills, and decoding of batches.

    Works on this instance alone, with or without :func:`illava.accelerate`, in passes without gradients.
    Takes a few seconds, in which every shape of matrix is tried at three numbers of rows.

    Args:
        half: decode up to four sequences in float16, with a copy of the LLM's weights (half of their memory
            on top); products that leave its range are done anew in float32.
        advance: called after each shape.

    Raises UnsupportedError for a model whose weights are not float32 on a CPU, ValueError for one that is
    tuned already.
    """
    located = locate(model)
    weight = next(located.llm.parameters())
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise UnsupportedError(
            f"tune() is for float32 weights on a CPU, got {str(weight.dtype).removeprefix('torch.')} on "
            f"{weight.device}: elsewhere products of few rows are fast as they are"
        )
    in_llm = {id(module) for module in located.llm.modules()}
    # The head may be the embedding's own weights: it is no part of the LLM, but decodes with it.
    head = getattr(located.model, "lm_head", None)
    linear = [module for module in located.model.modules() if type(module) is nn.Linear]
    if any("forward" in module.__dict__ for module in linear):
        raise ValueError("this model is tuned already, or its layers have been replaced; call remove() first")
    wide = [module for module in linear if module.out_features >= LEAST]
    found: dict[_Shape, Choice] = {}
    for module in wide:
        shape = _Shape(module.in_features, module.out_features)
        if shape not in found:
            found[shape] = _choose(module)
            advance(1)
    whole = (False,) * len(ROWS)
    chosen = []
    for module in linear:
        choice = found.get(_Shape(module.in_features, module.out_features), whole)
        halved = half and (id(module) in in_llm or module is head)
        if any(choice) or halved:
            chosen.append((module, choice, halved))
    return Tuned(chosen)


def sliced(x: Tensor, weight: Tensor, bias: Tensor | None, width: int) -> Tensor:
    """``F.linear`` in slices of ``width`` output features; (..., in) to (..., out), same dtype."""
    rows = x.reshape(-1, x.shape[-1])
    out = x.new_empty(len(rows), len(weight))
    for start in range(0, len(weight), width):
        here = slice(start, start + width)
        part = weight[here].t()
        if bias is None:
            torch.mm(rows, part, out=out[:, here])
        else:
            torch.addmm(bias[here], rows, part, out=out[:, here])
    return out.view(*x.shape[:-1], len(weight))


class _Forward:
    """What stands in for the ``forward`` of one linear layer."""

    def __init__(self, module: nn.Linear, choice: Choice, half: bool) -> None:
        self.module, self.choice = module, choice
        self.half = module.weight.detach().half() if half else None
        # A copy of weights that have changed since would be wrong.
        self.weight, self.version = module.weight, module.weight._version

    def __call__(self, x: Tensor) -> Tensor:
        module, weight = self.module, self.module.weight
        rows = x.numel() // x.shape[-1]
        # What moved, was cast, needs a gradient or is being compiled goes the usual way.
        usual = torch.is_grad_enabled() or x.dtype != torch.float32 or x.device.type != "cpu"
        usual = usual or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
        if usual or weight.dtype != torch.float32:
            return F.linear(x, weight, module.bias)
        if self.half is not None and rows <= HALF_ROWS and self._is_current(weight):
            out = F.linear(x.half(), self.half).float()
            # Numbers beyond float16's range come out as infinite.
            if bool(out.isfinite().all()):
                return out if module.bias is None else out + module.bias
        # The first number that is not passed decides.
        at = next((i for i, limit in enumerate(ROWS) if rows <= limit), None)
        if rows > 1 and at is not None and self.choice[at]:
            return sliced(x, weight, module.bias, WIDTH)
        return F.linear(x, weight, module.bias)

    def _is_current(self, weight: Tensor) -> bool:
        return weight is self.weight and weight._version == self.version

    def __reduce__(self) -> str:
        raise UnsupportedError(
            "a tuned model cannot be copied or pickled; call remove() on what tune() gave first"
        )


@torch.no_grad()
def _choose(module: nn.Linear) -> Choice:
    """Whether slices pay, at each number of rows."""
    # With a copy of the weights neither comes out of a cache, as they do not in a model.
    weights = [module.weight.detach()]
    if module.out_features < HEADS:
        weights.append(weights[0].clone())
    out = []
    for rows in ROWS:
        if module.out_features >= HEADS and rows > ROWS[0]:
            out.append(out[0])
            continue
        x = torch.randn(rows, module.in_features, generator=torch.Generator().manual_seed(0))
        whole = _seconds(lambda x=x: [F.linear(x, weight) for weight in weights])
        slices = _seconds(lambda x=x: [sliced(x, weight, None, WIDTH) for weight in weights])
        out.append(slices < GAIN * whole)
    return tuple(out)


def _seconds(run: Callable[[], Any], repeats: int = 2) -> float:
    run()
    best = math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return best
