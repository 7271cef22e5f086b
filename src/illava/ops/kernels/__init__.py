"""Triton kernels for scoring, selection and merging on graphics cards.

Each function here computes what a function of :mod:`illava.ops` computes with PyTorch operations, in one or
two launches. Operands keep the dtype of the model and sums are fp32. The product of two bfloat16 or float16
numbers is exact in fp32, so that results differ from fp32 arithmetic by rounding only. No setting of autocast
or TF32 applies to them.

Numbers that change from picture to picture are not specialised (``do_not_specialize``), since each new value
that is 1 or a multiple of 16 would be compiled anew during a prefill.

The kernels are used for tensors on CUDA or ROCm devices if Triton is installed (:func:`enabled`). No function
is differentiable. The modules with kernels import Triton and are only imported when they are used.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from ...errors import InputError

VARIABLE = "ILLAVA_KERNELS"
"""Environment variable: "triton", "torch" for plain PyTorch operations, or "auto", the default."""

CHOICES = ("auto", "triton", "torch")
HALF = (torch.bfloat16, torch.float16)
"""The dtypes that tensor cores multiply with exact products."""
MAX_HEAD_WIDTH = 256
"""Widest attention head whose tiles fit in shared memory."""
OLDEST = (8, 0)
"""Compute capability of the oldest NVIDIA cards with enough shared memory."""
_INSTALLED = importlib.util.find_spec("triton") is not None
_off = 0
"""Number of active blocks of :func:`switched_off`."""
_refusals: dict[tuple[torch.device, torch.dtype], str | None] = {}
"""Devices and dtypes on which the kernels were tried, and why they are not used there; None if they are."""


@contextmanager
def switched_off() -> Iterator[None]:
    """Use PyTorch operations inside of a ``with`` block, in every thread.

    A reentrant checkpoint runs once without gradients and once with them. The rounding of kernels must not
    make the first run select other units than the second.
    """
    global _off
    _off += 1
    try:
        yield
    finally:
        _off -= 1


def enabled(*tensors: Tensor) -> bool:
    """Whether the kernels are used for these tensors.

    False where a gradient is needed. On a CPU they are used only if ``ILLAVA_KERNELS=triton`` and Triton's
    interpreter is on (``TRITON_INTERPRET=1``), as in tests. Before their first use on a device, all of them
    are run on a small input and compared with PyTorch operations (:mod:`illava.ops.kernels.trial`).
    """
    if _off or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
        return False
    return refusal(tensors[0].device, tensors[0].dtype) is None


def refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels are not used on a device for tensors of a dtype; None if they are."""
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted not in CHOICES:
        raise InputError(f"{VARIABLE} must be one of {', '.join(CHOICES)}, got {wanted!r}")
    if wanted == "torch":
        return f"{VARIABLE}=torch"
    if not _INSTALLED:
        return "Triton is not installed"
    if device.type == "cpu":
        return None if wanted == "triton" and interpreted() else "they need a graphics card"
    if device.type != "cuda":
        return f"they do not run on {device.type}"
    if dtype not in (*HALF, torch.float32):
        return f"they do not compute in {dtype}"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < OLDEST:
        return "they need compute capability 8.0"
    key = (device, dtype)
    if key not in _refusals:
        if torch.cuda.is_current_stream_capturing():
            return "they were not tried yet, and a capture does not allow to wait for the device"
        # During the trial, the functions that it compares with use PyTorch operations.
        _refusals[key] = "they are being tried"
        try:
            _refusals[key] = _tried(device, dtype)
        except BaseException:
            # Out of memory, or interrupted: another call tries again.
            del _refusals[key]
            raise
    return _refusals[key]


def suits_attention(query: Tensor, key: Tensor) -> bool:
    """Whether the kernels are used for these queries and keys, (..., h).

    In fp32 they are not, since the tiles would be multiplied without tensor cores.
    """
    narrow = query.shape[-1] <= MAX_HEAD_WIDTH
    return narrow and (query.dtype in HALF or interpreted()) and enabled(query, key)


def _tried(device: torch.device, dtype: torch.dtype) -> str | None:
    try:
        from .trial import differences

        wrong = differences(device, dtype)
    except torch.OutOfMemoryError:
        raise
    # Triton raises errors of many kinds, for example if there is no C compiler.
    except Exception as error:
        wrong = [f"{type(error).__name__}: {error}"]
    if not wrong:
        return None
    reason = "; ".join(wrong).splitlines()[0]
    warnings.warn(
        f"illava's kernels are not used on {device} in {dtype}, and merging is slower: {reason}", stacklevel=5
    )
    return reason


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Context in which kernels are launched on the device of ``tensor``, which may not be the current one."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()


def block(n: int, least: int = 16) -> int:
    """The smallest power of two that is at least ``n`` and ``least``."""
    return max(least, 1 << (n - 1).bit_length())


def warps(size: int) -> int:
    """Warps of a program that holds ``size`` elements of each of several arrays: 8 a thread, if possible."""
    return min(16, max(4, size // 256))
