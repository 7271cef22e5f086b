"""Percentiles, histograms, rates at equal waits, memory over time: against loops and closed forms."""

from __future__ import annotations

import math
import random

import pytest
from illava_lab.benchmarks.serving.client import Outcome
from illava_lab.benchmarks.serving.equal import compare, sustained
from illava_lab.benchmarks.serving.figures import (
    EDGES,
    Slice,
    at_limit,
    describe,
    histogram,
    interval,
    p99,
    percentile,
    rate,
)
from illava_lab.benchmarks.serving.soak import different, growth


def outcome(due, wait=None, end=None, number=0, text=""):
    """A request that waits for its first token, and longer for its end."""
    last = None if wait is None else due + (wait if end is None else end)
    return Outcome(number, due, due, None if wait is None else due + wait, last, text=text)


def test_a_percentile_is_the_smallest_that_so_many_do_not_exceed():
    rng = random.Random(0)
    for count in (1, 2, 3, 99, 100, 101, 250):
        values = [rng.random() for _ in range(count)]
        for percent in (50, 90, 99):
            good = [v for v in values if sum(w <= v for w in values) * 100 >= percent * count]
            assert percentile(values, percent) == min(good)


def test_a_histogram_counts_every_value_once():
    rng = random.Random(0)
    values = [10 ** rng.uniform(-3, 3) for _ in range(500)] + EDGES + [math.inf]
    expected = [0] * (len(EDGES) + 1)
    for value in values:
        expected[next((n for n, edge in enumerate(EDGES) if value <= edge), len(EDGES))] += 1
    assert histogram(values) == expected


def test_requests_without_an_answer_waited_for_ever():
    found = describe([0.1] * 98 + [math.inf] * 2)
    assert (found["p50"], found["p95"], found["p99"], found["high"]) == (0.1, 0.1, None, None)
    assert found["histogram"][-1] == 2
    assert describe([]) == {"count": 0}


def test_a_slice_counts_what_is_due_and_what_ends_in_it():
    outcomes = [
        outcome(0.5, 1.0),
        outcome(1.5, 0.1, 9.0),
        outcome(2.0),
        outcome(2.9, 0.05, 0.09),
        outcome(3.0, 1),
    ]
    one = Slice(outcomes, 1.0, 3.0)
    assert one.ttfts == pytest.approx([0.1, math.inf, 0.05])
    assert one.latencies == pytest.approx([9.0, math.inf, 0.09])
    assert one.rate == 2 / 2.0
    other = Slice([outcome(0, 0.5)], 0, 1)
    assert rate([one, other]) == 3 / 3.0
    assert p99([one, other]) == math.inf


@pytest.mark.parametrize(
    ("waits", "limit", "expected"),
    [
        ([1, 2, 4], 3, 25),
        ([1, 2, 4], 2, 20),
        ([1, 2, 4], 1, 10),
        ([1, 2, 4], 4, 30),
        ([1, 2, 4], 5, 30),
        ([1, 2, 4], 0.5, None),
        ([1, 2, math.inf], 3, 20),
        ([1, 5, 2], 3, 15),
    ],
)
def test_the_rate_at_a_limit(waits, limit, expected):
    assert at_limit([10, 20, 30], waits, limit) == expected


def queue(capacity, arriving, rounds=3, requests=400):
    """Slices of a server that takes 1 / capacity for each request: a wait of (1 / capacity) / (1 - load)."""
    wait = 1 / capacity / (1 - arriving / capacity)
    due = [n / arriving for n in range(requests)]
    slices = [[outcome(at, wait * (1 + 0.01 * n)) for at in due] for n in range(rounds)]
    return [Slice(one, 0, requests / arriving) for one in slices]


def test_twice_the_capacity_is_twice_the_rate_at_half_the_wait():
    def rungs(capacity):
        return {share * capacity: queue(capacity, share * capacity) for share in (0.5, 0.65, 0.8, 0.9)}

    both = {"plain": rungs(10.0), "merged": rungs(20.0)}
    found = compare(both, 8.0, 3)
    assert found["limit_p99_ttft"] == pytest.approx(0.5 * 1.02)
    plain, merged = (found["variants"][name] for name in ("plain", "merged"))
    assert plain["rate"]["value"] == pytest.approx(8.0)
    assert plain["times_plain"] == {"value": 1.0, "low": 1.0, "high": 1.0, "drawn_with_value": 1.0}
    # At its rung of 0.9 it waits 0.05 / 0.1 = 0.5 s, as long as plain at 0.8.
    assert merged["rate"]["value"] == pytest.approx(18.0)
    assert merged["times_plain"]["value"] == pytest.approx(18 / 8)
    assert merged["times_plain"]["low"] <= 18 / 8 <= merged["times_plain"]["high"]
    assert merged["at_least"]
    assert not plain["at_least"]
    # At a given limit: on a straight line between the rungs whose waits are 1 / (capacity - rate).
    fixed = compare(both, 8.0, 3, limit=0.22 * 1.02)
    assert fixed["limit_p99_ttft"] == 0.22 * 1.02
    expected = 5.0 + 1.5 * (0.22 - 1 / 5) / (1 / 3.5 - 1 / 5)
    assert fixed["variants"]["plain"]["rate"]["value"] == pytest.approx(expected)
    assert sustained(both, "merged", 0.01, range(3)) is None
    assert fixed["variants"]["merged"]["rate"]["value"] == pytest.approx(
        13.0 + 3.0 * (0.22 - 1 / 7) / (1 / 4 - 1 / 7)
    )


def test_the_interval_is_that_of_rounds_drawn_anew():
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = interval(5, lambda chosen: sum(values[n] for n in chosen) / len(chosen))
    assert found["value"] == 3.0
    # The mean of five draws has a standard deviation of sqrt(2 / 5).
    assert found["low"] == pytest.approx(3 - 1.96 * math.sqrt(0.4), abs=0.2)
    assert found["high"] == pytest.approx(3 + 1.96 * math.sqrt(0.4), abs=0.2)
    assert interval(2, lambda chosen: None) == {
        "value": None,
        "low": None,
        "high": None,
        "drawn_with_value": 0.0,
    }


def test_memory_over_time():
    samples = [(float(at), 500.0 + (at / 36.0 if at >= 100 else -400.0)) for at in range(0, 1001, 10)]
    found = growth(samples, 0.1)
    assert found["mb_per_hour"] == pytest.approx(100.0)
    assert found["first_mb"] == pytest.approx(500 + 145 / 36, abs=0.2)
    assert found["last_mb"] == pytest.approx(500 + 955 / 36, abs=0.2)
    assert found["growth"] == pytest.approx(found["last_mb"] / found["first_mb"] - 1)
    assert growth([], 0.1) is None


def test_answers_that_differ():
    outcomes = [outcome(0, 1, number=n, text="ab"[n == 65]) for n in (0, 1, 64, 65, 128)]
    assert different(outcomes) == 1
    assert different([outcome(0, number=0, text="x"), outcome(0, 1, number=64, text="y")]) == 0
