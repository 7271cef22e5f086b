"""The device that kernels are tested on, and a count of their launches in the interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# Memory only, or facts that the host knows.
FREE = (
    "aten.empty",
    "aten.new_empty",
    "aten.lift_fresh",
    "aten._unsafe_view",
    "aten.promote_types",
    "prims.",
)


class Launches(TorchDispatchMode):
    """Counts the operations that would launch at least one kernel; those of Triton as one each."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if not function.is_view and not name.startswith(FREE):
            self.names.append(name)
        return function(*args, **(kwargs or {}))


@contextmanager
def launches() -> Iterator[list[str]]:
    """The names of the operations and kernels launched inside; for the interpreter only."""
    from triton.runtime.interpreter import GridExecutor

    run = GridExecutor.__call__

    def counted(self, *args, **kwargs):
        mode.names.append(self.fn.__name__)
        # The interpreter's own copies are not launches.
        with _disable_current_modes():
            return run(self, *args, **kwargs)

    with mock.patch.object(GridExecutor, "__call__", counted), Launches() as mode:
        yield mode.names
