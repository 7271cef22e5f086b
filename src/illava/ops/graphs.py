"""Functions of many small operations, replayed on a graphics card as one CUDA graph.

A loop of a thousand operations takes ten milliseconds to launch, whatever the device. The second time that a
captured function is called with the same shapes, its operations are recorded, and from then on one call
launches them all. It serves loops without a Triton kernel, and machines without Triton.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])

MOST_GRAPHS = 16
"""Graphs held at a time. Each holds copies of its inputs and outputs; other memory is shared."""


class Graph:
    """A function recorded for inputs of one shape."""

    def __init__(self, function: Callable[..., Any], tensors: list[Tensor], pool: Any) -> None:
        self.graph = torch.cuda.CUDAGraph()
        # Tensors made in inference mode could not be overwritten outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self.inputs = [tensor.clone() for tensor in tensors]
            # Other threads may use the device meanwhile.
            with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                self.outputs = function(*self.inputs)

    def replay(self, tensors: list[Tensor]) -> Any:
        """The outputs for other inputs of the same shapes; the next replay overwrites them."""
        with torch.no_grad():
            for own, given in zip(self.inputs, tensors, strict=True):
                own.copy_(given)
        self.graph.replay()
        return self.outputs


class Graphs:
    """The graphs of this process, by function, options and shapes, the least recently used first."""

    def __init__(self) -> None:
        self._held: OrderedDict[Any, Graph | None] = OrderedDict()
        self._pools: dict[torch.device, Any] = {}
        # Reentrant: a captured function may call another one.
        self._lock = threading.RLock()

    def run(self, function: Callable[..., Any], key: Any, tensors: list[Tensor]) -> Any:
        """``function(*tensors)``, from a graph if it was called with this key before.

        Tensors in the result are new, also those in tuples. Other fields of tuples become None, since they
        would refer to memory of the graph, except ``linear_map``, which is computed anew when it is called.
        """
        with self._lock:
            if key not in self._held:
                # The first call also initialises what must not be initialised during a capture.
                self._hold(key, None)
                return function(*tensors)
            graph = self._held[key] or self._capture(function, tensors)
            if graph is None:
                return function(*tensors)
            self._hold(key, graph)
            outputs = graph.replay(tensors)
            result = _copied(outputs)
            if getattr(outputs, "linear_map", None) is not None:
                return result._replace(linear_map=lambda x: function(*tensors).linear_map(x))
            return result

    def _hold(self, key: Any, graph: Graph | None) -> None:
        self._held[key] = graph
        self._held.move_to_end(key)
        while len(self._held) > MOST_GRAPHS:
            self._held.popitem(last=False)

    def _capture(self, function: Callable[..., Any], tensors: list[Tensor]) -> Graph | None:
        device = tensors[0].device
        with torch.cuda.device(device):
            pool = self._pools.setdefault(device, torch.cuda.graph_pool_handle())
            try:
                return Graph(function, tensors, pool)
            except RuntimeError:
                # For example, a function of this version of PyTorch that cannot be captured.
                return None


GRAPHS = Graphs()


def usable(tensors: list[Tensor]) -> bool:
    """Whether a function of these tensors can be replayed: on one CUDA device, without gradients."""
    return (
        bool(tensors)
        and all(tensor.device == tensors[0].device for tensor in tensors)
        and tensors[0].device.type == "cuda"
        and not torch.cuda.is_current_stream_capturing()
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
    )


def captured(function: F) -> F:
    """Decorator for a function of tensors and hashable options that neither waits for the device nor reads
    anything else. On a CUDA device it is replayed as a graph from the second call with the same shapes."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        names = [*range(len(args)), *kwargs]
        given = dict(zip(names, [*args, *kwargs.values()], strict=True))
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        if not usable([*tensors.values()]):
            return function(*args, **kwargs)
        options = {name: value for name, value in given.items() if name not in tensors}
        shapes = tuple((name, t.shape, t.dtype, t.device) for name, t in tensors.items())

        def called(*values: Tensor) -> Any:
            every = {**options, **dict(zip(tensors, values, strict=True))}
            return function(
                *(every[name] for name in range(len(args))), **{name: every[name] for name in kwargs}
            )

        return GRAPHS.run(called, (function, tuple(options.items()), shapes), [*tensors.values()])

    return cast(F, run)


def _copied(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result.clone()
    if isinstance(result, tuple):
        parts = [_copied(part) for part in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    return None
