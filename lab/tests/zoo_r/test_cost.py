"""What merging itself costs: an interval of medians, and the verdict."""

from __future__ import annotations

import math
from typing import Any

import pytest
from illava_lab.benchmarks.zoo_r import cost


@pytest.mark.parametrize("n", [6, 9, 15, 30])
def test_the_interval_is_the_shortest_of_order_statistics_that_covers_the_median(n: int) -> None:
    low, middle, high = cost.spread([float(value) for value in range(n)])
    assert middle == (n - 1) / 2
    assert low == n - 1 - high

    def missing(least: int) -> float:
        """The probability that the median lies outside of the values at ``least`` and ``n - 1 - least``."""
        return 2 * sum(math.comb(n, k) for k in range(least + 1)) / 2**n

    assert missing(int(low)) <= 0.05 < missing(int(low) + 1)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([0.004] * 6, "1.00 % (1.00 to 1.00), within the 2 %"),
        ([0.05] * 6, "above the 2 %"),
        ([0.0, 0.0, 0.01, 0.02, 0.05, 0.05], "not told apart from the 2 %"),
    ],
)
def test_the_verdict(sizes: list[float], words: str) -> None:
    rows = {name: {"own": own, "took": 0.3} for name, own in ((cost.PRESET, 0.02), (cost.UNSIZED, 0.006))}
    found: dict[str, Any] = {"rows": rows, "sizes": sizes, "rounds": 6, "dtype": "float32", "threads": 2}
    found["machine"] = {"cpu": "a CPU", "torch": "2"}
    assert words in "\n".join(cost.section(found))
