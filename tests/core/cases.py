"""Inputs that the tests of the core share, and how closely they compare."""

from __future__ import annotations

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LIBRARY_ERROR = 1e-5
"""What fp32 arithmetic may cost on numbers of order one."""

bounded = settings(max_examples=60, deadline=None, derandomize=True)

ratios = st.floats(min_value=0, max_value=1, exclude_min=True, allow_subnormal=False)
# A few repeated values among arbitrary ones, so that ties are common.
score_values = st.one_of(
    st.sampled_from([0.0, 0.25, 0.5]), st.floats(min_value=-1, max_value=1, width=32, allow_subnormal=False)
)


def grid_units(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random multiples of 1/4 in [-2, 2]: exact in every dtype, and so are their dot products in fp32.

    With arbitrary numbers two dot products could be ordered differently in fp32 and in double.
    """
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(-8, 9, shape, generator=generator) / 4).to(dtype)


def normal_units(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@st.composite
def segments(draw: st.DrawFn, most: int = 20) -> tuple[Tensor, Tensor, int]:
    """Units (S, n, D) of g tokens each, scores (S, n) and a number p of survivors."""
    count, n = draw(st.integers(1, 3)), draw(st.integers(2, most))
    width = draw(st.sampled_from([1, 4])) * draw(st.integers(1, 5))
    units = grid_units(count, n, width, seed=draw(st.integers(0, 2**31)), dtype=draw(st.sampled_from(DTYPES)))
    scores = draw(st.lists(score_values, min_size=count * n, max_size=count * n))
    return units, torch.tensor(scores).view(count, n), draw(st.integers(1, n - 1))


def assert_within_one_ulp(got: Tensor, want: Tensor) -> None:
    """``got`` is float64 ``want`` rounded to the dtype of ``got``, but for one ulp or fp32's own error."""
    rounded = want.to(got.dtype).double()
    ulp = torch.finfo(got.dtype).eps * 2.0 ** (torch.frexp(rounded).exponent.double() - 1)
    error = (got.double() - rounded).abs()
    allowed = ulp.clamp(min=LIBRARY_ERROR)
    assert bool((error <= allowed).all()), f"off by {(error / allowed).max():.3g} times what is allowed"


def assert_same_bits(got: Tensor, want: Tensor) -> None:
    """Equal bit for bit, so that -0.0 differs from 0.0 and a NaN equals itself."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert torch.equal(got.contiguous().view(torch.uint8), want.contiguous().view(torch.uint8))


def assert_merged_like_loop(
    units: Tensor, kept: Tensor, original: Tensor, expected: tuple[Tensor, list[int], set[int]]
) -> None:
    values, indices, changed = expected
    assert kept.dtype == torch.int64
    assert kept.tolist() == indices
    assert units.dtype == original.dtype
    assert units.shape == values.shape
    same = [row for row, i in enumerate(indices) if i not in changed]
    assert_same_bits(units[same], original[[indices[row] for row in same]])
    assert_within_one_ulp(units, values)
