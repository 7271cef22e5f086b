"""What ``illava ask --compare`` says in one line follows from the answers and the timings."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from illava.bench.timing import Timing
from illava.cli.answers import _verdict

COSTS = {"plain_cost": (400, 300), "cost": (200, 100)}
REPORT = SimpleNamespace(**{k: SimpleNamespace(total=t, kv_bytes=b) for k, (t, b) in COSTS.items()})


def timings(ttft: list[float], total: list[float]) -> list[Timing]:
    return [Timing(0, 0, 0, a, b, 2, torch.empty(0)) for a, b in zip(ttft, total, strict=True)]


def verdict(ttft: list[float], total: list[float], text: str = "yes") -> str:
    """Of an accelerated model that takes so many seconds, where the plain one takes one."""
    ones = [1.0] * len(ttft)
    answer = SimpleNamespace(
        text=text,
        plain_text="yes",
        report=REPORT,
        timings=timings(ttft, total),
        plain_timings=timings(ones, ones),
    )
    return _verdict(answer)


def test_a_gain_a_loss_and_neither():
    said = verdict([0.5] * 5, [0.5, 0.8, 0.8, 1.25, 0.8])
    assert said == (
        "Same answer. Measured: first token 2.00x as fast, whole answer not measurably faster or slower. "
        "Counted: 2.00x fewer FLOPs, KV cache 3.00x smaller."
    )
    assert "first token 0.50x as fast, whole answer 0.80x as fast" in verdict([2.0] * 5, [1.25] * 5)


@pytest.mark.parametrize(("rounds", "known"), [(5, False), (9, True)])
def test_one_slow_round_of_many_does_not_hide_a_gain(rounds, known):
    """The sign test: of nine rounds the second smallest ratio bounds the median, of five none does."""
    said = verdict([4.0] + [0.5] * (rounds - 1), [1.0] * rounds)
    assert ("first token 2.00x as fast" in said) == known


def test_another_answer_is_said_first():
    assert verdict([0.5] * 5, [0.5] * 5, "no").startswith('The answer differs: "no", plain "yes". Measured:')
