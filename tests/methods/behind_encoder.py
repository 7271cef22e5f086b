"""Segments of units as a step behind the encoder is handed them, and a step's result beside a loop's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from illava.methods.steps import ProjectorStep, Units
from illava.ops.merging import MergedSegments
from tests.core.cases import assert_merged_like_loop, assert_same_bits
from tests.core.loops import round_half_even
from tests.methods.loops_behind_encoder import Outcome

KEY = 4


@dataclass
class Case:
    """Units of g tokens each, with what was observed of their tokens."""

    units: Tensor
    scores: Tensor
    """(U, g)."""
    keys: Tensor
    """(U, g, KEY)."""
    lengths: tuple[int, ...]

    @property
    def seen(self) -> Tensor:
        return torch.cat([self.scores[..., None], self.keys], -1)


def signs(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Vectors of four numbers 1 or -1 times a power of two, or of zeros: lengths and cosines are exact in
    fp32, many of them equal."""
    generator = torch.Generator().manual_seed(seed)
    ones = torch.randint(0, 2, (*shape, 4), generator=generator) * 2 - 1
    factors = torch.tensor([0.5, 1.0, 2.0, 2.0, 4.0, 0.0])
    drawn = factors[torch.randint(0, 5 + (seed % 2), (*shape, 1), generator=generator)]
    return (ones * drawn).to(dtype)


@st.composite
def cases(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...], most: int = 18) -> Case:
    """Where all numbers are multiples of a power of two ties are common and exact; or arbitrary numbers."""
    lengths = tuple(draw(st.lists(st.integers(1, most), min_size=1, max_size=4)))
    total, seed, g = sum(lengths), draw(st.integers(0, 2**31)), draw(st.sampled_from([1, 2, 4]))
    generator = torch.Generator().manual_seed(seed)
    if draw(st.booleans()):
        units = signs(total, seed=seed, dtype=draw(st.sampled_from(dtypes)))
        scores = torch.randint(1, 6, (total, g), generator=generator) / 4
        keys = signs(total, seed=seed + 1)[:, None].repeat(1, g, 1)
        if g > 1:
            # The mean over a unit's tokens is what it was.
            apart = torch.randint(-4, 5, (total, 1, KEY), generator=generator) / 4
            keys += apart * torch.tensor([1.0, -1.0] * (g // 2))[None, :, None]
    else:
        width = draw(st.integers(3, 12))
        units = torch.randn(total, width, generator=generator).to(draw(st.sampled_from(dtypes)))
        scores = torch.rand(total, g, generator=generator)
        keys = torch.randn(total, g, KEY, generator=generator)
    return Case(units, scores, keys, lengths)


def reduced(
    step: ProjectorStep, case: Case, keyed: bool, full: tuple[int, ...] | None = None
) -> MergedSegments | None:
    seen = case.seen if keyed else case.scores
    return step.reduce(Units(case.units, seen, case.lengths, full or case.lengths))


def assert_like_loop(
    step: ProjectorStep, case: Case, keep: float, loop: Callable[..., Outcome], keyed: bool, **fields: Any
) -> None:
    """``step`` does to every segment what the loop does to it alone."""
    counts = [max(1, round_half_even(keep * n)) for n in case.lengths]
    merged = reduced(step, case, keyed)
    if counts == list(case.lengths):
        assert merged is None
        return
    assert merged is not None
    assert merged.lengths == tuple(counts)
    scores, keys = case.scores.double().mean(1), case.keys.double().mean(1)
    start = done = 0
    for n, p in zip(case.lengths, counts, strict=True):
        here, out = slice(start, start + n), slice(done, done + p)
        if p == n:
            assert merged.kept[out].tolist() == list(range(start, start + n))
            assert_same_bits(merged.units[out], case.units[here])
        else:
            expected = loop(case.units[here].double(), scores[here], keys[here], p, **fields)
            assert_merged_like_loop(merged.units[out], merged.kept[out] - start, case.units[here], expected)
        start, done = start + n, done + p
    assert len(merged.units) == len(merged.kept) == done
