"""Functions of many small operations, replayed on a graphics card as one CUDA graph.

The operations of a loop are launched one by one, which can take longer than to compute them. The third time a
captured function is called with the same shapes, its operations are recorded; later calls replay them in one
launch. This serves loops without a Triton kernel, and machines without Triton.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])

CALLS_BEFORE = 2
"""Calls with the same shapes before the function is recorded: most sizes of pictures occur once."""
MOST_SEEN = 4096
"""Shapes remembered at a time."""
MOST_BYTES = 512 * 2**20
"""Bytes of inputs and outputs that the graphs of the process hold. Other memory is shared by those of a
device."""
CLOSE = 1e-3
"""Largest difference of a replay from the function it recorded."""


class Graph:
    """A function recorded for inputs of one shape, on a stream of its own."""

    def __init__(
        self, function: Callable[..., Any], tensors: list[Tensor], pool: Any, stream: torch.cuda.Stream
    ) -> None:
        self.graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(tensors[0].device)
        # Tensors made in inference mode could not be overwritten outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self.inputs = [tensor.clone() for tensor in tensors]
            stream.wait_stream(current)
            # Not torch.cuda.graph(), which leaves this stream current if the recording fails.
            with torch.cuda.stream(stream):
                # What is made once for each stream must not be made while recording.
                function(*self.inputs)
                self.graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                try:
                    outputs = function(*self.inputs)
                finally:
                    self.graph.capture_end()
            current.wait_stream(stream)
        self.mapped = getattr(outputs, "linear_map", None) is not None
        # A map would keep the memory of intermediate results.
        self.outputs = outputs._replace(linear_map=None) if self.mapped else outputs

    def replay(self, tensors: list[Tensor]) -> Any:
        """The outputs for other inputs of the same shapes; the next replay overwrites them."""
        with torch.no_grad():
            for own, given in zip(self.inputs, tensors, strict=True):
                own.copy_(given)
        self.graph.replay()
        return self.outputs

    @property
    def bytes(self) -> int:
        """Of its inputs and outputs."""
        return sum(part.numel() * part.element_size() for part in (*self.inputs, *_tensors(self.outputs)))


class Graphs:
    """The graphs of this process, by function, options and shapes, the least recently used first."""

    def __init__(self) -> None:
        self._seen: OrderedDict[Any, int] = OrderedDict()
        self._held: OrderedDict[Any, Graph] = OrderedDict()
        self._streams: dict[torch.device, Any] = {}
        self._pools: dict[torch.device, Any] = {}
        self._replayed: dict[torch.device, Any] = {}
        """Device -> event after the last replay: replays share memory."""
        self._failed = False
        # Reentrant: a captured function may call another one.
        self._lock = threading.RLock()

    def run(self, function: Callable[..., Any], key: Any, tensors: list[Tensor]) -> Any:
        """``function(*tensors)``, from a graph if it was called with this key before.

        Tensors in the result are new, also those in tuples. Other fields of tuples become None, since they
        would refer to memory of the graph, except ``linear_map``, which is computed anew when it is called.
        """
        with self._lock:
            calls = self._seen[key] = self._seen.pop(key, 0) + 1
            if len(self._seen) > MOST_SEEN:
                self._seen.popitem(last=False)
            if key in self._held:
                self._held.move_to_end(key)
                return self._replay(self._held[key], function, tensors)
            result = function(*tensors)
            if calls > CALLS_BEFORE and not self._failed:
                self._record(function, key, tensors, result)
            return result

    def _replay(self, graph: Graph, function: Callable[..., Any], tensors: list[Tensor]) -> Any:
        device = tensors[0].device
        self._after_others(device)
        result = _copied(graph.replay(tensors))
        self._done(device)
        if not graph.mapped:
            return result
        return result._replace(linear_map=lambda x: function(*tensors).linear_map(x))

    def _after_others(self, device: torch.device) -> None:
        """Let the current stream wait for the last replay, which may be on another stream."""
        if (event := self._replayed.get(device)) is not None:
            torch.cuda.current_stream(device).wait_event(event)

    def _done(self, device: torch.device) -> None:
        self._replayed[device] = torch.cuda.current_stream(device).record_event()

    def _record(self, function: Callable[..., Any], key: Any, tensors: list[Tensor], expected: Any) -> None:
        """Record a graph and hold it, if its first replay returns what the function did."""
        try:
            graph = self._capture(function, tensors)
            same = _close(self._replay(graph, function, tensors), expected)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # PyTorch may be left in a state in which further recordings fail.
            self._fail(f"{type(error).__name__}: {error}".splitlines()[0])
            return
        if not same:
            self._fail("a replay differs from the function that it recorded")
            return
        self._held[key] = graph
        while sum(held.bytes for held in self._held.values()) > MOST_BYTES:
            self._held.popitem(last=False)

    def _capture(self, function: Callable[..., Any], tensors: list[Tensor]) -> Graph:
        device = tensors[0].device
        with torch.cuda.device(device):
            if device not in self._streams:
                self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            if not any(graph.inputs[0].device == device for graph in self._held.values()):
                # A pool ends with its last graph.
                self._pools[device] = torch.cuda.graph_pool_handle()
            self._after_others(device)
            return Graph(function, tensors, self._pools[device], self._streams[device])

    def _fail(self, reason: str) -> None:
        self._failed = True
        self._held.clear()
        warnings.warn(
            f"illava no longer records CUDA graphs in this process, and some methods are slower: {reason}",
            stacklevel=4,
        )


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
    anything else. On a CUDA device it is replayed as a graph once it was called often with one shape."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        names = [*range(len(args)), *kwargs]
        given = dict(zip(names, [*args, *kwargs.values()], strict=True))
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        if not usable([*tensors.values()]):
            return function(*args, **kwargs)
        options = {name: value for name, value in given.items() if name not in tensors}
        shapes = tuple((name, t.shape, t.stride(), t.dtype, t.device) for name, t in tensors.items())

        def called(*values: Tensor) -> Any:
            every = {**options, **dict(zip(tensors, values, strict=True))}
            return function(
                *(every[name] for name in range(len(args))), **{name: every[name] for name in kwargs}
            )

        return GRAPHS.run(called, (function, tuple(options.items()), shapes), [*tensors.values()])

    return cast(F, run)


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, tuple):
        for part in result:
            yield from _tensors(part)


def _copied(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result.clone()
    if isinstance(result, tuple):
        parts = [_copied(part) for part in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    return None


def _close(found: Any, expected: Any) -> bool:
    """Whether two results agree: indices exactly, other numbers within rounding. Waits for the device."""
    pairs = [*zip(_tensors(found), _tensors(expected), strict=True)]
    return all(
        torch.allclose(a.float(), b.float(), rtol=CLOSE, atol=CLOSE, equal_nan=True)
        if a.is_floating_point()
        else torch.equal(a, b)
        for a, b in pairs
    )
