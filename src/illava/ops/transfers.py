"""Copies from the host to an accelerator that do not make the host wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

PINNED = ("cuda", "xpu")
"""Types of devices that copy from pinned memory; on others, such as "mps", pinning fails."""


def upload(values: Sequence[Any] | Tensor, device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Numbers of the host, or a tensor on the CPU, as a tensor on ``device``.

    From pageable memory a copy would wait until the device has done all of its work. Memory that is pinned is
    copied when the device gets to it; torch does not reuse the memory before.

    Args:
        values: (nested) numbers, or a tensor of any dtype. A tensor that is on another device than the CPU
            is moved by ``Tensor.to``.
        dtype: of the result for numbers; tensors keep their own.
    """
    made = values if isinstance(values, Tensor) else torch.tensor(values, dtype=dtype)
    if made.device.type != "cpu" or device.type not in PINNED:
        return made.to(device)
    try:
        pinned = made.pin_memory()
    except RuntimeError:
        # The system limits how much memory may be pinned.
        return made.to(device)
    return pinned.to(device, non_blocking=True)
