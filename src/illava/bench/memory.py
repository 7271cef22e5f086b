"""How much memory there is, how much a call takes, and what would fit."""

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
"""Seconds between two looks at the process's memory."""


def largest_batch(
    budget_bytes: int, weight_bytes: int, kv_bytes_per_row: float, activation_bytes_per_row: float
) -> int:
    """Rows that fit into a budget of memory, computed: weights once, the rest for every row.

    Args:
        kv_bytes_per_row: keys and values of one prompt and its answer.
        activation_bytes_per_row: what a pass holds beside them at its peak; taken to grow with the rows.

    Returns 0 where not even one row fits. Raises ValueError where a row takes nothing, or a number is
    negative.
    """
    a_row = kv_bytes_per_row + activation_bytes_per_row
    if min(budget_bytes, weight_bytes, kv_bytes_per_row, activation_bytes_per_row) < 0 or a_row <= 0:
        raise ValueError("bytes must not be negative, and a row must take some")
    return max(0, int((budget_bytes - weight_bytes) // a_row))


def parse_bytes(text: str, option: str = "--memory") -> int:
    """Bytes from a number with its unit: kB, MB, GB and TB are powers of 1000, kiB to TiB of 1024.

    Raises InputError.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]i?B)", text.strip())
    number = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if number < 1:
        raise InputError(f"{option} {text}: give a number and its unit, such as 24GB or 80GiB")
    return number


def gigabytes(number: float) -> str:
    """Bytes as people read them: "8.84 GB", "512 MB"."""
    # 999.7 MB are a gigabyte to three digits.
    power = next((p for p in (4, 3, 2, 1) if number >= 0.9995 * 1000**p), 0)
    return f"{number / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def free_bytes(device: torch.device) -> int | None:
    """Bytes still to be had on a device; None where nobody says. Limits of containers are not seen."""
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
    """The most bytes that ``call`` held at a time, above what was held before it; None where nobody says.

    On CUDA that is what torch's allocator notes, exactly. On the CPU it is the resident memory of the whole
    process, looked at every 2 ms from a thread of its own, so shorter peaks may be missed, and memory that
    an earlier call freed but the C library kept is asked back beforehand as far as that goes. The looking
    takes a little time: do not time the same call.
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
    _give_back()
    before = highest = _resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.is_set():
            highest = max(highest, _resident())
            time.sleep(EVERY)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return max(highest, _resident()) - before


def _resident() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _give_back() -> None:
    """Ask glibc to hand freed memory back to the system; other C libraries have no such call."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
