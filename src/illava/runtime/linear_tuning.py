"""Faster linear layers with few rows on a CPU, as in decoding and in the short prefills that merging leaves.

The product of a wide matrix with few rows is slower per row than with many: libraries first repack the
matrix, in blocks that do not fit into a CPU cache. Computing the product in slices of output features is
faster on some machines, which a short measurement decides. Nothing is copied, and results change only by
rounding.

Decoding one sequence reads every weight once per token, so it can only get faster by reading fewer bytes.
``half=True`` stores a float16 copy of the LLM's weights for products with few rows; their inputs are rounded
to float16 as well. Results outside the range of float16, and weights that have changed since, use the float32
path.
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
"""Numbers of rows at which slicing is measured; other numbers use the result of the next larger one."""
WIDTH = 896
"""Output features of a slice: a few megabytes with one or two thousand input features."""
LEAST = 1792
"""Minimum number of output features for which slicing is measured."""
HEADS = 32768
"""Minimum number of output features of a language-model head, which processes one row per sequence."""
GAIN = 0.95
"""Slicing is used if it takes less than this share of the time of the whole product."""
HALF_ROWS = 4
"""Maximum number of rows for which float16 weights are used."""

Choice = tuple[bool, ...]
"""For each number of rows in ``ROWS``, whether products are sliced."""


@dataclass(frozen=True)
class _Shape:
    fan_in: int
    fan_out: int


class Tuned:
    """A model with tuned linear layers. Use it as a context manager, or call :meth:`remove` when done."""

    def __init__(self, modules: Sequence[tuple[nn.Linear, Choice, bool]]) -> None:
        self.modules = [module for module, _, _ in modules]
        self.removed = False
        self.choices = {
            (module.in_features, module.out_features): dict(zip(ROWS, choice, strict=True))
            for module, choice, _ in modules
        }
        """(in, out) features -> maximum number of rows -> whether products with these rows are sliced."""
        for module, choice, half in modules:
            module.forward = _Forward(module, choice, half)  # type: ignore[method-assign]

    def remove(self) -> None:
        """Restore the plain linear layers. A second call does nothing."""
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
    """Make linear layers with few rows faster on this CPU: short prefills, and decoding of batches.

    Changes this instance only, with or without :func:`illava.accelerate`, and only passes without gradients.
    Takes a few seconds, in which every shape of matrix is measured at three numbers of rows.

    Args:
        half: decode up to four sequences in float16, with a float16 copy of the LLM's weights, which takes
            half of their memory in addition. Products outside the range of float16 are recomputed in float32.
        advance: called after each shape.

    Raises UnsupportedError for a model whose weights are not float32 on a CPU, and ValueError for a model
    that is tuned already.
    """
    located = locate(model)
    weight = next(located.llm.parameters())
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise UnsupportedError(
            f"tune() is for float32 weights on a CPU, got {str(weight.dtype).removeprefix('torch.')} on "
            f"{weight.device}: with other devices and dtypes there is nothing to tune"
        )
    in_llm = {id(module) for module in located.llm.modules()}
    # The head is not part of the LLM, but runs in each decoding step.
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
    """Replacement of the ``forward`` of one linear layer."""

    def __init__(self, module: nn.Linear, choice: Choice, half: bool) -> None:
        self.module, self.choice = module, choice
        self.half = module.weight.detach().half() if half else None
        # To detect that the weights have changed since they were copied.
        self.weight, self.version = module.weight, module.weight._version

    def __call__(self, x: Tensor) -> Tensor:
        module, weight = self.module, self.module.weight
        rows = x.numel() // x.shape[-1]
        # On other devices and dtypes, with gradients, and in compiled code the plain product is used.
        plain = torch.is_grad_enabled() or x.dtype != torch.float32 or x.device.type != "cpu"
        plain = plain or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
        if plain or weight.dtype != torch.float32:
            return F.linear(x, weight, module.bias)
        if self.half is not None and rows <= HALF_ROWS and self._is_current(weight):
            out = F.linear(x.half(), self.half).float()
            # Numbers outside the range of float16 become infinite.
            if bool(out.isfinite().all()):
                return out if module.bias is None else out + module.bias
        # The first measured number that is not exceeded decides.
        at = next((i for i, limit in enumerate(ROWS) if rows <= limit), None)
        if rows > 1 and at is not None and self.choice[at]:
            return sliced(x, weight, module.bias, WIDTH)
        return F.linear(x, weight, module.bias)

    def _is_current(self, weight: Tensor) -> bool:
        return weight is self.weight and weight._version == self.version

    def __reduce__(self) -> str:
        raise UnsupportedError(
            "a tuned model cannot be copied or pickled; call remove() on the result of tune() first"
        )


@torch.no_grad()
def _choose(module: nn.Linear) -> Choice:
    """Whether slicing is faster, at each number of rows."""
    # Alternating with a copy keeps the weights out of the CPU cache, as in a model.
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
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best
