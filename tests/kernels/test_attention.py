"""Attention received, from kernels, against loops over heads and queries in double precision."""

from __future__ import annotations

import math

import pytest
import torch

from illava.ops.kernels import attention
from illava.ops.scoring import column_scores, last_row_scores
from tests.core.loops import causal_bias, column_scores_loop, last_row_scores_loop
from tests.kernels.device import DEVICE


def projected(*shape: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    return (1.5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", [(2, 2), (4, 2), (3, 1)])
@pytest.mark.parametrize(("n", "width"), [(1, 3), (17, 8), (70, 20)])
def test_column_scores_equal_the_loop(n, width, heads, dtype):
    # As attention modules make them: heads are not contiguous.
    query = projected(2, n, heads[0], width, seed=n, dtype=dtype).transpose(1, 2)
    key = projected(2, heads[1], n, width, seed=n + 1, dtype=dtype)
    want = column_scores_loop(query.cpu(), key.cpu(), 0.3, rows=list(range(n)))
    got = column_scores(query, key, 0.3)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.cpu().double(), want, rtol=2e-5, atol=1e-7)
    times = column_scores(query, key, 0.3, times=n)
    torch.testing.assert_close(times.cpu().double(), n * want, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("n", [257, 300])
def test_sampled_scores_equal_the_loop_over_their_rows(n):
    query, key = (projected(1, h, n, 2, seed=n + h, dtype=torch.bfloat16) for h in (2, 1))
    rows = [math.floor(i * n / 256) for i in range(256)]
    got = column_scores(query, key, 0.7, score="sampled").cpu().double()
    torch.testing.assert_close(
        got, column_scores_loop(query.cpu(), key.cpu(), 0.7, rows), rtol=2e-5, atol=1e-7
    )


def test_large_logits_do_not_overflow():
    query, key = (100 * projected(1, 2, 6, 4, seed=s, dtype=torch.float16) for s in (4, 5))
    want = column_scores_loop(query.cpu(), key.cpu(), 1.0, rows=list(range(6)))
    torch.testing.assert_close(column_scores(query, key, 1.0).cpu().double(), want, rtol=2e-5, atol=1e-7)


KINDS = ("causal", "padding", "padding of numbers", "boolean", "additive", "additive for each head")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "cached"), [(1, 0), (9, 0), (5, 140)])
def test_one_row_equals_the_loop(rows, cached, kind, dtype):
    keys = rows + cached
    query = projected(2, rows, 4, 12, seed=rows, dtype=dtype).transpose(1, 2)
    key = projected(2, 2, keys, 12, seed=rows + 1, dtype=dtype)
    last = [rows - 1, max(0, rows - 3)]
    bias = [[causal_bias(rows, keys, at) for _ in range(4)] for at in last]
    mask = None
    if kind.startswith("padding"):
        mask = torch.ones(2, keys, dtype=torch.bool)
        mask[:, 0] = keys == 1
        bias = [
            [[b if seen else -math.inf for b, seen in zip(h, mask[0], strict=True)] for h in row]
            for row in bias
        ]
        mask = mask if kind == "padding" else mask.long()
    elif kind != "causal":
        seen = torch.arange(keys) <= torch.arange(rows)[:, None] + cached
        mask = seen[None, None].expand(2, 1, -1, -1)
        if kind.startswith("additive"):
            mask = torch.zeros(mask.shape).masked_fill(~mask, -math.inf).to(dtype)
        if kind == "additive for each head":
            extra = torch.tensor([0.0, 0.25, 0.5, 1.0])
            mask = mask.expand(2, 4, -1, -1) + (extra[:, None] * (torch.arange(keys) % 2))[:, None].to(dtype)
            bias = [
                [[b + float(extra[h]) * (j % 2) for j, b in enumerate(row[h])] for h in range(4)]
                for row in bias
            ]
    given = None if mask is None else mask.to(DEVICE)
    got = last_row_scores(query, key, 0.4, torch.tensor(last, device=DEVICE), given)
    want = last_row_scores_loop(query.cpu(), key.cpu(), 0.4, last, bias)
    torch.testing.assert_close(got.cpu().double(), want, rtol=2e-5, atol=1e-6)


def test_soft_capped_logits(monkeypatch):
    query, key = (projected(1, 2, 7, 4, seed=s, dtype=torch.float32) * 4 for s in (0, 1))
    last = torch.tensor([6], device=DEVICE)
    got = last_row_scores(query, key, 0.5, last, softcap=3.0)
    monkeypatch.setenv("ILLAVA_KERNELS", "torch")
    torch.testing.assert_close(got, last_row_scores(query, key, 0.5, last, softcap=3.0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sizes_count_in_both(dtype):
    query, key = (projected(2, h, 19, 12, seed=h, dtype=dtype) for h in (4, 2))
    sizes = torch.randint(1, 60, (2, 19), generator=torch.Generator().manual_seed(0)).float()
    bias = [[row] * 4 for row in sizes.log().tolist()]
    given = sizes.log().to(DEVICE)
    # The mean over the rows of all queries, each by the loop for one.
    rows = [last_row_scores_loop(query.cpu(), key.cpu(), 0.3, [i, i], bias) for i in range(19)]
    got = column_scores(query, key, 0.3, bias=given).cpu().double()
    torch.testing.assert_close(got, torch.stack(rows).mean(0), rtol=1e-4, atol=1e-6)
    last = torch.tensor([18, 18], device=DEVICE)
    got = last_row_scores(query, key, 0.3, last, bias=given).cpu().double()
    torch.testing.assert_close(got, rows[18], rtol=1e-4, atol=1e-6)


def test_sizes_beside_a_soft_cap_and_in_wide_heads_need_no_kernel(monkeypatch):
    query, key = (projected(1, 2, 7, 256, seed=s, dtype=torch.float32) / 8 for s in (0, 1))
    last, given = torch.tensor([6], device=DEVICE), torch.arange(1.0, 8.0, device=DEVICE).log()[None]
    calls = [
        lambda: column_scores(query, key, 0.5, bias=given),
        lambda: last_row_scores(query, key, 0.5, last, bias=given),
        lambda: last_row_scores(query[..., :8], key[..., :8], 0.5, last, softcap=0.3, bias=given),
    ]
    found = [call() for call in calls]
    monkeypatch.setenv("ILLAVA_KERNELS", "torch")
    for one, call in zip(found, calls, strict=True):
        torch.testing.assert_close(one, call(), rtol=1e-5, atol=1e-6)


def test_nothing_as_large_as_the_attention_matrix_is_made():
    query, key = (projected(1, 2, 200, 4, seed=s, dtype=torch.float32) for s in (0, 1))
    made = []
    empty = torch.empty

    def noting(*args, **kwargs):
        made.append(empty(*args, **kwargs))
        return made[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "empty", noting)
        attention.column_sums(query, key, 0.5, 200, 1.0)
    assert made
    assert max(tensor.numel() for tensor in made) <= 2 * 200
