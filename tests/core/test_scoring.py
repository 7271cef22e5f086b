"""scoring.py against loops over heads and queries in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from illava.ops import scoring
from illava.ops.scoring import SAMPLED_ROWS, column_scores, last_row_scores, unit_scores
from tests.core.cases import DTYPES, assert_same_bits, bounded
from tests.core.loops import causal_bias, column_scores_loop, last_row_scores_loop


def projected(*shape: int, seed: int, dtype: torch.dtype = torch.float32, spread: float = 1.5) -> Tensor:
    """Queries or keys spread widely enough for attention to be far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(shape, generator=generator)).to(dtype)


def assert_scores(got: Tensor, want: Tensor) -> None:
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=2e-5, atol=1e-7)
    torch.testing.assert_close(
        got.double().sum(-1), torch.ones(len(got), dtype=torch.float64), rtol=0, atol=1e-5
    )


@st.composite
def attention(draw: st.DrawFn) -> tuple[Tensor, Tensor, float]:
    """Query (B, H, n, h), key (B, H_kv, n, h) and a scaling, with grouped key/value heads."""
    batch, n, width = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 8))
    key_heads, group = draw(st.sampled_from([(1, 1), (2, 1), (1, 3), (2, 2), (2, 3), (3, 2)]))
    seed, dtype = draw(st.integers(0, 2**31)), draw(st.sampled_from(DTYPES))
    query = projected(batch, key_heads * group, n, width, seed=seed, dtype=dtype)
    key = projected(batch, key_heads, n, width, seed=seed + 1, dtype=dtype)
    return query, key, draw(st.sampled_from([width**-0.5, 1.0, 0.3]))


# Attention received


@bounded
@given(case=attention())
def test_exact_equals_the_loop(case):
    query, key, scaling = case
    want = column_scores_loop(query, key, scaling, rows=list(range(query.shape[2])))
    assert_scores(column_scores(query, key, scaling), want)


@pytest.mark.parametrize("rows_in_chunk", [0, 1, 2, 5, 1000])
@pytest.mark.parametrize("score", ["exact", "sampled"])
def test_chunks_change_nothing(monkeypatch, rows_in_chunk, score):
    query, key = projected(2, 4, 11, 8, seed=0), projected(2, 2, 11, 8, seed=1)
    want = column_scores_loop(query, key, 0.3, rows=list(range(11)))
    # 4 bytes for each of 2 * 4 * 11 weights of a row; at least one row is taken at a time.
    monkeypatch.setattr(scoring, "CHUNK_BYTES", rows_in_chunk * 4 * 2 * 4 * 11)
    assert_scores(column_scores(query, key, 0.3, score=score), want)


class LargestTensor(TorchDispatchMode):
    """Remembers the size in bytes of the largest tensor that any operation gave back."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel() * tensor.element_size())
        return out


def test_the_attention_matrix_is_never_held_whole(monkeypatch):
    query, key = projected(1, 4, 128, 4, seed=2), projected(1, 2, 128, 4, seed=3)
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 2**14)
    with LargestTensor() as seen:
        column_scores(query, key, 0.5)
    assert 2**13 <= seen.largest <= 2**14  # the whole would be 2**18 bytes


@pytest.mark.parametrize("n", [1, 7, SAMPLED_ROWS - 1, SAMPLED_ROWS])
def test_sampled_takes_every_row_when_there_are_few(n):
    query, key = projected(1, 2, n, 4, seed=n), projected(1, 1, n, 4, seed=n + 1)
    assert_same_bits(column_scores(query, key, 0.5, score="sampled"), column_scores(query, key, 0.5))


@pytest.mark.parametrize(
    ("n", "dtype"), [(257, torch.float32), (300, torch.bfloat16), (511, torch.float32), (513, torch.bfloat16)]
)
def test_sampled_equals_the_loop_over_its_rows(n, dtype):
    query, key = projected(1, 2, n, 2, seed=n, dtype=dtype), projected(1, 1, n, 2, seed=n + 1, dtype=dtype)
    rows = [math.floor(i * n / 256) for i in range(256)]
    got = column_scores(query, key, 0.7, score="sampled")
    assert_scores(got, column_scores_loop(query, key, 0.7, rows))
    assert not torch.allclose(got, column_scores(query, key, 0.7))


def test_large_logits_do_not_overflow():
    query = projected(1, 2, 6, 4, seed=4, spread=100.0, dtype=torch.float16)
    key = projected(1, 2, 6, 4, seed=5, spread=100.0, dtype=torch.float16)
    want = column_scores_loop(query, key, 1.0, rows=list(range(6)))
    assert_scores(column_scores(query, key, 1.0), want)


@pytest.mark.parametrize("default", [torch.float16, torch.float64])
@pytest.mark.parametrize("score", ["exact", "sampled"])
def test_default_dtype_changes_nothing(default, score):
    # 4999 rows: a float16 cannot count them.
    query, key = projected(1, 1, 4999, 2, seed=6), projected(1, 1, 4999, 2, seed=7)
    plain = column_scores(query, key, 0.7, score=score)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        again = column_scores(query, key, 0.7, score=score)
    finally:
        torch.set_default_dtype(before)
    assert_same_bits(again, plain)


@pytest.mark.parametrize("score", ["", "Exact", "approx"])
def test_unknown_score_is_refused(score):
    with pytest.raises(ValueError, match="exact, sampled"):
        column_scores(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), 1.0, score=score)


# Attention paid by the last prompt token


@st.composite
def last_row(draw: st.DrawFn) -> tuple[Tensor, Tensor, float, list[int]]:
    """Query (B, H, q, h), key (B, H_kv, k, h) with k - q keys cached, scaling, the asking row of each."""
    batch, rows, cached = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(0, 5))
    key_heads, group = draw(st.sampled_from([(1, 1), (2, 1), (1, 3), (2, 2), (2, 3), (3, 2)]))
    width, seed = draw(st.integers(1, 8)), draw(st.integers(0, 2**31))
    dtype = draw(st.sampled_from(DTYPES))
    query = projected(batch, key_heads * group, rows, width, seed=seed, dtype=dtype)
    key = projected(batch, key_heads, rows + cached, width, seed=seed + 1, dtype=dtype)
    last = draw(st.lists(st.integers(0, rows - 1), min_size=batch, max_size=batch))
    return query, key, draw(st.sampled_from([width**-0.5, 0.3])), last


def assert_last_row(case, bias, mask=None) -> None:
    query, key, scaling, last = case
    got = last_row_scores(query, key, scaling, torch.tensor(last), mask)
    assert_scores(got, last_row_scores_loop(query, key, scaling, last, bias))
    for b, heads in enumerate(bias):
        for j in range(key.shape[2]):
            if all(head[j] == -math.inf for head in heads):
                assert got[b, j] == 0


@bounded
@given(case=last_row())
def test_no_mask_is_causal_after_the_cached_keys(case):
    query, key, _, last = case
    assert_last_row(case, [[causal_bias(query.shape[2], key.shape[2], row)] * query.shape[1] for row in last])


@bounded
@given(case=last_row(), data=st.data())
def test_padding_comes_on_top_of_the_causal_mask(case, data):
    query, key, _, last = case
    rows, length = query.shape[2], key.shape[2]
    real, bias = [], []
    for row in last:
        padding = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
        padding[row + length - rows] = True  # a token that asks is no padding
        real.append(padding)
        causal = causal_bias(rows, length, row)
        bias.append(
            [[b if seen else -math.inf for b, seen in zip(causal, padding, strict=True)]] * query.shape[1]
        )
    mask = torch.tensor(real).to(data.draw(st.sampled_from([torch.bool, torch.int64, torch.float32])))
    assert_last_row(case, bias, mask)


@bounded
@given(case=last_row(), data=st.data())
def test_boolean_mask_of_the_layer_is_the_only_mask(case, data):
    query, key, _, last = case
    (batch, heads, rows, _), length = query.shape, key.shape[2]
    shape = (data.draw(st.sampled_from([1, batch])), data.draw(st.sampled_from([1, heads])), rows, length)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99)))) < 0.6
    mask[..., data.draw(st.integers(0, length - 1))] = True  # every row attends to something
    bias = [
        [
            [0.0 if seen else -math.inf for seen in mask[b % shape[0], h % shape[1], row].tolist()]
            for h in range(heads)
        ]
        for b, row in enumerate(last)
    ]
    assert_last_row(case, bias, mask)


@bounded
@given(case=last_row(), data=st.data())
def test_additive_mask_of_the_layer_is_the_only_mask(case, data):
    """The dtype's lowest number hides a key; any other number shifts its logit."""
    query, key, _, last = case
    (batch, heads, rows, _), length = query.shape, key.shape[2]
    shape = (data.draw(st.sampled_from([1, batch])), data.draw(st.sampled_from([1, heads])), rows, length)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    hidden = torch.rand(shape, generator=generator) < 0.4
    hidden[..., data.draw(st.integers(0, length - 1))] = False
    lowest = data.draw(st.sampled_from([-math.inf, torch.finfo(query.dtype).min]))
    mask = torch.randn(shape, generator=generator).to(query.dtype).masked_fill(hidden, lowest)
    bias = [
        [
            [-math.inf if b <= -60000 else b for b in mask[b_ % shape[0], h % shape[1], row].tolist()]
            for h in range(heads)
        ]
        for b_, row in enumerate(last)
    ]
    assert_last_row(case, bias, mask)


def test_an_earlier_row_does_not_see_later_keys():
    query, key = projected(2, 2, 4, 4, seed=8), projected(2, 2, 6, 4, seed=9)
    got = last_row_scores(query, key, 0.5, torch.tensor([1, 3]))
    assert (got[0] > 0).tolist() == [True] * 4 + [False] * 2
    assert (got[1] > 0).tolist() == [True] * 6


# Scores of groups


@bounded
@given(
    leading=st.lists(st.integers(1, 3), max_size=2),
    n=st.integers(1, 6),
    tokens=st.sampled_from([1, 2, 4, 16]),
    seed=st.integers(0, 99),
)
def test_a_unit_scores_the_mean_of_its_tokens(leading, n, tokens, seed):
    scores = torch.rand(*leading, n * tokens, generator=torch.Generator().manual_seed(seed))
    got = unit_scores(scores, tokens)
    assert got.shape == (*leading, n)
    assert got.dtype == torch.float32
    flat = scores.flatten().tolist()
    means = [math.fsum(flat[i : i + tokens]) / tokens for i in range(0, len(flat), tokens)]
    torch.testing.assert_close(
        got.flatten().double(), torch.tensor(means, dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_units_of_one_token_keep_their_scores():
    scores = projected(2, 5, seed=10)
    assert_same_bits(unit_scores(scores, 1), scores)
