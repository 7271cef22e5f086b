"""A device that does not exist: tensors that say they are on an accelerator, computed on the CPU.

Their device is "xla", which torch knows by name and never initialises. Every operation runs on the CPU; those
that make the host wait for a real accelerator are counted with the place in the code that called them, as
``torch.cuda.set_sync_debug_mode`` does: a value read by the host, a shape that depends on values, a copy
between devices that blocks. Tensors of both devices in one operation raise an error, as they do on a card.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

import illava
from illava.ops import transfers

DEVICE = torch.device("xla", 0)
OURS = str(Path(illava.__file__).parent)

VALUES = (
    "aten._local_scalar_dense",
    "aten.equal",
    "aten.is_nonzero",
    "aten.nonzero",
    "aten.masked_select",
    "aten.unique",
    "aten._unique",
    "aten.bincount",
    "aten.histc",
)
"""Operations that read values on the host, or whose output has a shape that depends on values."""
COPIES = ("aten._to_copy", "aten.copy_", "aten.to.", "aten._copy_from")
MAKERS = ("tensor", "as_tensor", "new_tensor", "asarray")


@dataclass
class Waits:
    """The operations that wait, in order."""

    found: list[tuple[str, str]] = field(default_factory=list)
    """(operation, file:line of the innermost function that is not torch's)."""

    def ours(self) -> list[tuple[str, str]]:
        """Those called by illava itself."""
        return [wait for wait in self.found if wait[1].startswith(OURS)]

    def places(self) -> Counter[str]:
        """How often each place waits."""
        return Counter(f"{place} {name}" for name, place in self.found)


_current: list[Waits] = []


class OnDevice(Tensor):
    """A tensor on the device, whose ``held`` numbers are on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        out: Any = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            dtype=held.dtype,
            # Code in C++ needs a device that has an implementation; Python code reads the property below.
            device="meta",
            strides=held.stride(),
            storage_offset=held.storage_offset(),
        )
        out.held = held
        return out  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})

    def tolist(self) -> Any:
        _note("tolist")
        return self.held.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert a device tensor to numpy; use Tensor.cpu() first")

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.held})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return OnDevice, (self.held,)

    def __deepcopy__(self, memo: Any) -> OnDevice:
        return OnDevice(self.held.clone())


class _Pinned(Tensor):
    """A CPU tensor in pinned memory."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))


class _Factories(TorchFunctionMode):
    """Constructors copy their data to the device, which waits. Pinned memory is marked."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if name == "pin_memory":
            return args[0].as_subclass(_Pinned)
        if name == "is_pinned":
            return isinstance(args[0], _Pinned)
        if name == "__setitem__" and isinstance(args[0], OnDevice) and not isinstance(args[2], Tensor):
            return _set(*args)
        if name not in MAKERS:
            return function(*args, **kwargs)
        if kwargs.pop("pin_memory", False):
            return function(*args, **kwargs).as_subclass(_Pinned)
        source = args[0] if name != "new_tensor" else args[1]
        default = (
            args[0].device if name == "new_tensor" else source.device if isinstance(source, Tensor) else "cpu"
        )
        wanted = torch.device(kwargs.get("device") or default)
        if isinstance(source, Tensor):
            dtype = kwargs.get("dtype") or source.dtype
            return source.to(wanted, dtype)
        if isinstance(source, (list, tuple)) and any(
            isinstance(part, OnDevice) for part in tree_iter(source)
        ):
            source = tree_map(lambda part: part.item() if isinstance(part, Tensor) else part, source)
        with torch._C.DisableTorchFunction():
            made = getattr(torch, "tensor" if name == "new_tensor" else name)(
                source, dtype=kwargs.get("dtype")
            )
        return made if wanted.type == "cpu" else made.to(wanted)


def _set(tensor: OnDevice, index: Any, value: Any) -> None:
    """``tensor[index] = value`` as on CUDA: ``masked_fill_`` for a mask; for indices the value is copied."""
    indices = [part for part in tree_iter(index) if isinstance(part, Tensor)]
    if isinstance(index, Tensor) and index.dtype == torch.bool:
        tensor.masked_fill_(index.view(*index.shape, *[1] * (tensor.dim() - index.dim())), value)
        return
    if indices:
        _note("a scalar at indices")
    with torch._C.DisableTorchFunction():
        tensor.__setitem__(index, value)


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = str(function)
    given: list[Tensor] = []
    plain_args, plain_kwargs = _unwrapped(args, given), _unwrapped(kwargs, given)
    on_device = any(isinstance(part, OnDevice) for part in given)
    wanted = kwargs.get("device")
    # Code in C++ makes its tensors on the device that it knows.
    target = None if wanted is None else DEVICE if torch.device(wanted).type != "cpu" else torch.device("cpu")
    if on_device and name.startswith(VALUES):
        _note(name)
    if on_device and name.startswith("aten.repeat_interleave.Tensor") and kwargs.get("output_size") is None:
        _note(name)
    if name.startswith(COPIES):
        _note_copy(name, args, kwargs, target)
    elif on_device:
        _check(name, args, given)
    same = target in (None, DEVICE) and kwargs.get("dtype") in (None, given[0].dtype if given else None)
    if name == "aten._to_copy.default" and on_device and same:
        # Nothing to do, which torch does not know, since it takes the device for another.
        return args[0]
    wrappers = {id(part.held): part for part in given if isinstance(part, OnDevice)}
    if target == DEVICE:
        plain_kwargs["device"] = torch.device("cpu")
    out = function(*plain_args, **plain_kwargs)
    # An operation with a device is the only one that moves anything; copy_ and the like write in place.
    placed = target == DEVICE if target is not None else on_device
    if name.startswith("aten.copy_"):
        placed = isinstance(args[0], OnDevice)
    if not placed:
        return out
    return _wrapped(out, wrappers)


def _wrapped(out: Any, wrappers: dict[int, OnDevice]) -> Any:
    if isinstance(out, (list, tuple)):
        return type(out)(_wrapped(part, wrappers) for part in out)
    if not isinstance(out, Tensor):
        return out
    known = wrappers.get(id(out))
    return OnDevice(out) if known is None else known


def _unwrapped(tree: Any, found: list[Tensor]) -> Any:
    """The arguments of an operation with numbers on the CPU; ``found`` gets all tensors as they were."""
    if isinstance(tree, Tensor):
        found.append(tree)
        return tree.held if isinstance(tree, OnDevice) else tree
    if isinstance(tree, (list, tuple)):
        return type(tree)(_unwrapped(part, found) for part in tree)
    if isinstance(tree, dict):
        return {key: _unwrapped(part, found) for key, part in tree.items()}
    return tree


def _note_copy(name: str, args: Any, kwargs: dict[str, Any], target: torch.device | None) -> None:
    if name.startswith("aten.copy_"):
        into, source = args[:2]
        blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        up, down = isinstance(into, OnDevice), isinstance(source, OnDevice)
        if source.dim() == 0 and up and not down:
            # The value of a scalar on the host is an argument of the kernel.
            return
    else:
        source = args[0]
        blocking = not kwargs.get("non_blocking", False)
        down = isinstance(source, OnDevice)
        up = target == DEVICE if target is not None else down
    if up == down or not source.numel():
        return
    if up and not blocking and not isinstance(source, _Pinned):
        _note(f"{name} of pageable memory")
    elif blocking:
        _note(name)


def _check(name: str, args: Any, given: list[Tensor]) -> None:
    if name.startswith(("aten.index.", "aten.index_put", "aten._index_put", "aten._unsafe_index")):
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            _note(f"{name} by a mask")
        elif isinstance(args[0], OnDevice) and not all(isinstance(index, OnDevice) for index in indices):
            _note(f"{name} by indices on the host")
        given = [args[0], *args[2:3]]
    if any(isinstance(part, Tensor) and not isinstance(part, OnDevice) and part.dim() for part in given):
        raise RuntimeError(
            f"{name}: expected all tensors to be on the same device, {DEVICE}; some are on cpu"
        )


def _note(name: str) -> None:
    if _current:
        frame: Any = sys._getframe(2)
        while "/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__:
            frame = frame.f_back
        _current[-1].found.append((name, f"{frame.f_code.co_filename}:{frame.f_lineno}"))


@contextmanager
def device() -> Iterator[None]:
    """Tensors can be made on the device, and moved to it, inside this block."""
    with mock.patch.object(transfers, "PINNED", (DEVICE.type,)), _Factories(), _Dispatch():
        yield


@contextmanager
def watch() -> Iterator[Waits]:
    """Count what waits inside this block, apart from inner ones."""
    _current.append(waits := Waits())
    try:
        yield waits
    finally:
        _current.remove(waits)


def to_device(value: Any) -> Any:
    """A model, in place, or a tree of tensors with copies on the device."""
    if not isinstance(value, nn.Module):
        return tree_map(lambda part: OnDevice(part.clone()) if isinstance(part, Tensor) else part, value)
    for module in value.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(OnDevice(parameter.detach()), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = OnDevice(buffer.detach())
    return value
