"""Part "profile": the card's ceilings, and kernels and host waits of one prefill, plain and merged.

On a card by torch's profiler and its warnings of synchronizing calls. On a CPU operators are counted instead,
and the operators that would make the host wait for a card.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import illava

from ..context import THIRD, Context, Row, schedules
from . import ceilings

PLAIN = "plain"
TOP = 15
WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.unique", "aten.bincount")
"""Operators that read a value or need a shape that depends on values."""


def rows(context: Context) -> Iterable[Row]:
    """The plain and the merged model; first what the card reaches at best."""
    settings = context.settings
    yield Row("ceilings", 2, partial(ceilings.measure, context), "ceilings")
    call = context.call_seconds(settings.shape, settings.size, 1, 1)
    for number, label in enumerate((PLAIN, THIRD)):
        seconds = 5 + (3 + context.warm_ups) * call
        seconds += context.build_seconds(settings.shape) if number == 0 else 0
        yield Row(label, seconds, partial(measure, context, label), label)


def measure(context: Context, label: str) -> Mapping[str, Any]:
    """One ``generate`` of one token: image encoder, projector and prefill."""
    settings = context.settings
    model = context.model(settings.shape)
    inputs = context.inputs(model, settings.size)
    method = schedules().get(label)

    def call() -> None:
        model.generate(**inputs, max_new_tokens=1, do_sample=False)  # type: ignore[operator]

    with nullcontext() if method is None else illava.accelerate(model, method):
        for _ in range(context.warm_ups):
            call()
        if context.device.type == "cuda":
            with synchronizing() as waits:
                call()
            found = kernels(call)
        else:
            with Operators() as counted:
                call()
            waits, found = counted.waits, counted.to_dict()
    return {**found, "waits": sum(waits.values()), "wait_places": dict(waits.most_common(30))}


def kernels(call: Any) -> dict[str, Any]:
    """Kernels of a call by torch's profiler: their number, their time, and those that take most of it."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        call()
        torch.cuda.synchronize()
    seconds: dict[str, float] = defaultdict(float)
    count: Counter[str] = Counter()
    copies, launches, ranges = 0, 0, []
    for event in profiled.events():
        if event.device_type == DeviceType.CUDA:
            if event.name.startswith(("Memcpy", "Memset")):
                copies += 1
            elif not getattr(event, "is_user_annotation", False):
                seconds[event.name] += event.time_range.elapsed_us() / 1e6
                count[event.name] += 1
            ranges.append((event.time_range.start, event.time_range.end))
        elif "LaunchKernel" in event.name:
            launches += 1
    top = sorted(seconds, key=lambda name: -seconds[name])[:TOP]
    span = (max(end for _, end in ranges) - min(start for start, _ in ranges)) / 1e6 if ranges else 0.0
    return {
        "kind": "kernels",
        "count": sum(count.values()),
        "launches": launches,
        "copies": copies,
        "busy_seconds": sum(seconds.values()),
        "span_seconds": span,
        "top": [{"name": name[:160], "count": count[name], "seconds": seconds[name]} for name in top],
        "failure": None if count else "the profiler saw no kernel",
    }


@contextmanager
def synchronizing() -> Iterator[Counter[str]]:
    """Within the block, count the places whose calls make the host wait for the card."""
    found: Counter[str] = Counter()

    def note(message: Any, *_: Any, **__: Any) -> None:
        if "synchroniz" in str(message):
            found[_caller()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _caller() -> str:
    """The innermost place that is neither in this file nor in torch or in ``warnings``."""
    frame = sys._getframe(1)
    skipped = (__file__, warnings.__file__)
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        if file not in skipped and "/torch/" not in file:
            break
        frame = frame.f_back
    return _place(frame.f_code.co_filename, frame.f_lineno)


class Operators(TorchDispatchMode):
    """Counts operators, and notes whose code would make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = str(function)
        self.count[name] += 1
        waits = name.startswith(WAITING)
        if name.startswith(("aten.index.Tensor", "aten.index_put")):
            # A boolean index is a hidden nonzero.
            waits = any(isinstance(t, Tensor) and t.dtype == torch.bool for t in args[1])
        if waits:
            self.waits[_caller()] += 1
        return function(*args, **(kwargs or {}))

    def to_dict(self) -> dict[str, Any]:
        top = [{"name": name, "count": count, "seconds": None} for name, count in self.count.most_common(TOP)]
        return {"kind": "operators", "count": sum(self.count.values()), "top": top, "failure": None}


def _place(file: str, line: int) -> str:
    """A place in the code without the folders of this machine."""
    parts = Path(file).parts
    roots = [i for i, part in enumerate(parts) if part in ("illava", "transformers", "torch")]
    return f"{'/'.join(parts[roots[-1] :] if roots else parts[-1:])}:{line}"
