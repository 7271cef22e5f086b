"""Free memory, the peak memory of a call, and the largest batch that would fit."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from ..io.pictures import InputError

_STATM = Path("/proc/self/statm")
_UNITS = {
    unit + kind: (1000 if kind == "B" else 1024) ** (n + 1)
    for n, unit in enumerate("kMGT")
    for kind in ("B", "iB")
}
EVERY = 0.002
"""Seconds between two samples of the process's memory."""


def largest_batch(
    budget_bytes: int, weight_bytes: int, kv_bytes_per_row: float, activation_bytes_per_row: float
) -> int:
    """The largest batch that fits in a memory budget: (budget - weights) / bytes per row, rounded down.

    Args:
        kv_bytes_per_row: keys and values of one prompt and its answer.
        activation_bytes_per_row: other peak memory of a forward pass, assumed proportional to the batch.

    Returns 0 if not even one row fits. Raises ValueError for negative numbers and for rows of 0 bytes.
    """
    per_row = kv_bytes_per_row + activation_bytes_per_row
    if min(budget_bytes, weight_bytes, kv_bytes_per_row, activation_bytes_per_row) < 0 or per_row <= 0:
        raise ValueError("bytes must not be negative, and a row must take more than 0")
    return max(0, int((budget_bytes - weight_bytes) // per_row))


def parse_bytes(text: str, option: str = "--memory") -> int:
    """Parse bytes with a unit: kB, MB, GB and TB are powers of 1000, kiB to TiB powers of 1024.

    Raises InputError.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]i?B)", text.strip())
    number = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if number < 1:
        raise InputError(f"{option} {text}: give a number and its unit, such as 24GB or 80GiB")
    return number


def gigabytes(number: float) -> str:
    """Format bytes for people: "8.84 GB", "512 MB"."""
    # 999.7 MB is 1 GB to three digits.
    power = next((p for p in (4, 3, 2, 1) if number >= 0.9995 * 1000**p), 0)
    return f"{number / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def free_bytes(device: torch.device) -> int | None:
    """Free bytes on a device, or None if unknown. Container limits are not taken into account."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Peak memory of ``call`` in bytes, above what was allocated before it; None if unknown.

    On CUDA it is the exact peak of torch's allocator. On the CPU it is the resident memory of the process,
    sampled every 2 ms by a thread, so shorter peaks may be missed; memory that an earlier call freed is
    returned to the system first if the C library can do so. Sampling takes time: do not time the same call.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    if device.type != "cpu" or not _STATM.exists():
        call()
        return None
    _trim()
    before = highest = _resident()
    done = threading.Event()

    def sample() -> None:
        nonlocal highest
        while not done.is_set():
            highest = max(highest, _resident())
            time.sleep(EVERY)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        call()
    finally:
        done.set()
        sampler.join()
    return max(highest, _resident()) - before


def _resident() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _trim() -> None:
    """Ask glibc to return freed memory to the system; other C libraries have no such call."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
