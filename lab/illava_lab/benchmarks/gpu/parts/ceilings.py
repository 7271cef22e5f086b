"""What the card reaches at best: FLOP/s of a large matrix product, and bytes per second of a large copy."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from illava.bench.clocks import Clock, clock_of

from ..context import Context

ROUNDS = 10


def measure(context: Context) -> Mapping[str, Any]:
    """Both ceilings, on random data: medians of single calls after three to warm up."""
    side, dtype = context.settings.ceiling_side, context.settings.torch_dtype
    generator = torch.Generator(context.device).manual_seed(0)
    a, b = (torch.rand(side, side, device=context.device, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    # As many bytes as 32 matrices of the product: far more than caches hold.
    source = a.repeat(32, 1)
    target = torch.empty_like(source)
    clock = clock_of(nn.Linear(1, 1, device=context.device))
    product = _median(clock, lambda: torch.matmul(a, b, out=out))
    copy = _median(clock, lambda: target.copy_(source))
    return {
        "kind": "ceilings",
        "side": side,
        "flops_per_second": 2 * side**3 / product,
        # Each byte is read once and written once.
        "bytes_per_second": 2 * source.numel() * source.element_size() / copy,
        "failure": None,
    }


def _median(clock: Clock, call: Callable[[], object]) -> float:
    seconds = []
    for number in range(3 + ROUNDS):
        began = clock.mark()
        call()
        ended = clock.mark()
        if number >= 3:
            seconds.append(clock.seconds(began, ended))
    return statistics.median(seconds)
