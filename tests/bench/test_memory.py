"""Memory: what fits by closed forms, units, and that peaks are seen."""

from __future__ import annotations

import time

import pytest
import torch

from illava.bench.memory import gigabytes, largest_batch, parse_bytes, peak_bytes
from illava.io.pictures import InputError


def test_largest_batch():
    # 100 less 40 of weights, 7 a row: 8 rows take 56, 9 would take 63.
    assert largest_batch(100, 40, 3, 4) == 8
    assert largest_batch(96, 40, 3, 4) == 8
    assert largest_batch(95, 40, 3, 4) == 7
    assert largest_batch(46, 40, 3, 4) == 0
    assert largest_batch(30, 40, 3, 4) == 0
    # A merged row: fewer keys, smaller activations.
    assert largest_batch(100, 40, 1.5, 2) == 17


@pytest.mark.parametrize("wrong", [(-1, 1, 1, 1), (1, -1, 1, 1), (1, 1, -1, 3), (9, 1, 0, 0)])
def test_rows_that_take_nothing(wrong):
    with pytest.raises(ValueError, match="must"):
        largest_batch(*wrong)


@pytest.mark.parametrize(
    ("text", "number"),
    [("24GB", 24 * 10**9), ("80GiB", 80 * 2**30), ("1.5 MB", 1500000), ("2TiB", 2**41), ("7kB", 7000)],
)
def test_units(text, number):
    assert parse_bytes(text) == number


@pytest.mark.parametrize("text", ["", "24", "GB", "24gb", "-1GB", "0GB", "1e9GB", "24 GB 3", "nanGB"])
def test_wrong_units(text):
    with pytest.raises(InputError, match="such as 24GB or 80GiB"):
        parse_bytes(text)


def test_bytes_for_people():
    shown = [gigabytes(n) for n in (999, 1234, 5.2e8, 8.84e9, 102e9)]
    assert shown == ["999 B", "1.23 kB", "520 MB", "8.84 GB", "102 GB"]


def test_peaks_are_seen_and_what_was_held_before_is_not():
    cpu = torch.device("cpu")
    held = torch.ones(2**24)

    def call():
        mine = torch.ones(2**24)
        time.sleep(0.1)
        del mine

    peak = peak_bytes(call, cpu)
    if peak is None:
        pytest.skip("this system has no /proc")
    assert 0.9 * 2**26 < peak < 1.5 * 2**26
    assert peak_bytes(lambda: None, cpu) < 2**24
    assert held.sum() == 2**24


def test_errors_come_through():
    with pytest.raises(ZeroDivisionError):
        peak_bytes(lambda: 1 / 0, torch.device("cpu"))
