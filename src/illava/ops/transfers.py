"""Copies of small tables from the host to a device, without waiting for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def upload(values: Any, device: torch.device | str, dtype: torch.dtype = torch.int64) -> Tensor:
    """A tensor of ``values``, numbers on the host, on ``device``.

    ``torch.tensor(values, device="cuda")`` waits until the device has finished all earlier work; a copy from
    pinned memory does not.
    """
    table = torch.tensor(values, dtype=dtype)
    return (
        table.pin_memory().to(device, non_blocking=True)
        if torch.device(device).type == "cuda"
        else table.to(device)
    )
