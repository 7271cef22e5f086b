"""Clocks for work on a device: device events on one CUDA device, a synchronized host clock elsewhere."""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch
from torch import nn


class Clock(Protocol):
    """Marks points in the work submitted to a device, and tells the time between two of them."""

    def synchronize(self) -> None:
        """Wait until all submitted work is done."""

    def mark(self) -> Any:
        """The current point."""

    def seconds(self, begin: Any, end: Any) -> float:
        """The time between two points; waits until the later one is reached."""


class HostClock:
    """Waits for the device at every mark and reads the host's clock."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def synchronize(self) -> None:
        if self.device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize(self.device)

    def mark(self) -> float:
        self.synchronize()
        return time.perf_counter()

    def seconds(self, begin: float, end: float) -> float:
        return end - begin


class EventClock:
    """Records events in the current stream of a CUDA device: a mark waits for nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def seconds(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        end.synchronize()
        return begin.elapsed_time(end) / 1000


def clock_of(model: nn.Module) -> Clock:
    """The clock for a model: events if all of it is on one CUDA device, otherwise the synchronized clock."""
    devices = {parameter.device for parameter in model.parameters()}
    device = next(model.parameters()).device
    # Times between events of different devices are not defined.
    alone = device.type == "cuda" and len(devices) == 1
    return EventClock(device) if alone else HostClock(device)
