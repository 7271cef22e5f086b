"""Measures the rates of the device at hand in a few seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..ops.precision import full_precision
from .accelerator import AcceleratorRates
from .host_speed import operator_seconds
from .layer_timing import Timer
from .predict import modules_of

SIDES = (1024, 8192)
"""Side of the square matrices whose product is timed, on a CPU and on an accelerator."""
COPIED = (2**26, 2**30)
"""Bytes of the tensor whose copy is timed."""
PARTS = 5
"""The number of measurements of :func:`measure_accelerator`."""


def measure_accelerator(
    model: Any,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str | None = None,
    *,
    repeats: int = 5,
    advance: Callable[[int], None] = lambda steps: None,
) -> AcceleratorRates:
    """Measure launches, reads, bandwidth and matrix rates of a device; the fastest run of each counts.

    The time of a launch is that of the family's own code: a prefill of its tiny model, divided by its
    operators. It also runs on a CPU, where the roofline describes the time of a pass badly, because nothing
    is asynchronous: use :func:`illava.planning.machine_speed.measure_rates` there.

    Args:
        model: a transformers VLM, or its config.
        dtype: of the model.
        device: default: the accelerator, or the CPU if there is none.
        repeats: runs of each measurement.
        advance: called with the number of measurements since the last call.
    """
    config = modules_of(model).config
    place = _default_device() if device is None else torch.device(device)
    timer = Timer(place, dtype, repeats, advance)
    with torch.no_grad():
        rates = AcceleratorRates(
            name=_name(place),
            dtype=str(dtype).removeprefix("torch."),
            launch_seconds=_done(timer, operator_seconds(config, place, dtype)),
            synchronisation_seconds=_done(timer, _read_seconds(timer)),
            bytes_per_second=_done(timer, _bandwidth(timer)),
            flops_per_second=_done(timer, _matrix_rate(timer, dtype)),
            float32_flops_per_second=_done(timer, full_precision(_matrix_rate)(timer, torch.float32)),
            measured=True,
        )
    return rates


def _default_device() -> torch.device:
    # A build for an accelerator names it even where there is none.
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device("cpu") if here is None else here


def _done(timer: Timer, value: float) -> float:
    timer.advance(1)
    return value


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _read_seconds(timer: Timer) -> float:
    """Seconds of one small kernel and of reading its result, on an idle device."""
    number = torch.zeros((), device=timer.device)
    return timer.seconds(lambda: number.add_(1).item())


def _bandwidth(timer: Timer) -> float:
    """Bytes per second that a copy reads and writes."""
    count = _size(timer, COPIED)
    source = torch.ones(count, device=timer.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * count / timer.seconds(lambda: target.copy_(source))


def _matrix_rate(timer: Timer, dtype: torch.dtype) -> float:
    """FLOPs per second of the product of two square matrices."""
    side = _size(timer, SIDES)
    # Random numbers: products of zeros draw less power and run faster.
    left, right = (
        torch.randn(side, side, device=timer.device, generator=timer.generator).to(dtype) for _ in range(2)
    )
    return 2 * side**3 / timer.seconds(lambda: left @ right)


def _size(timer: Timer, sizes: tuple[int, int]) -> int:
    return sizes[timer.device.type != "cpu"]
