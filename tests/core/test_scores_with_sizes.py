"""Attention scores with the logarithms of sizes as a bias: softmax(q k + log(size)) in loops, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from illava.methods.merge_step import MergeStep
from illava.methods.prumerge import PruMergePlusStep
from illava.methods.steps import EncoderAttention, LlmAttention, Tokens
from illava.methods.tome import ToMeStep
from illava.ops import scoring
from illava.ops.own_rows import own_row_scores
from illava.ops.scoring import column_scores, last_row_scores, row_scores
from tests.core.test_size_bias import heads

N, HEADS, SHARED, WIDTH = 9, 4, 2, 6
SCALING = 0.4
SIZES = [[1, 9, 2, 1, 30, 4, 1, 1, 3], [5, 1, 1, 1, 8, 1, 200, 2, 1]]
BIAS = torch.tensor(SIZES).float().log()


def made(dtype: torch.dtype = torch.float32, rows: int = N) -> tuple[Tensor, Tensor]:
    return heads(2, HEADS, rows, WIDTH, 0, dtype), heads(2, SHARED, N, WIDTH, 1, dtype)


def logits_loop(
    query: Tensor, key: Tensor, b: int, head: int, row: int, *, causal: bool, cap: float | None = None
) -> dict[int, float]:
    """Of each key that the row attends to."""
    found = {}
    for j in range(row + key.shape[2] - query.shape[2] + 1 if causal else key.shape[2]):
        product = SCALING * float(query[b, head, row].double() @ key[b, head // 2, j].double())
        product = product if cap is None else cap * math.tanh(product / cap)
        found[j] = product + math.log(SIZES[b][j])
    return found


def weights_loop(
    query: Tensor, key: Tensor, rows: list[list[int]], *, causal: bool, cap: float | None = None
) -> Tensor:
    """(B, k) float64, the mean weight of each key over heads and the query rows of each sequence."""
    out = torch.zeros(2, N, dtype=torch.float64)
    for b in range(2):
        for head in range(HEADS):
            for row in rows[b]:
                logits = logits_loop(query, key, b, head, row, causal=causal, cap=cap)
                total = math.fsum(math.exp(logit) for logit in logits.values())
                for j, logit in logits.items():
                    out[b, j] += math.exp(logit) / total / HEADS / len(rows[b])
    return out


def close(found: Tensor, expected: Tensor, rtol: float = 2e-5) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("chunk", [0, 4 * N * 3, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_received(monkeypatch, dtype, chunk):
    monkeypatch.setattr(scoring, "CHUNK_BYTES", chunk)
    query, key = made(dtype)
    expected = weights_loop(query, key, [[*range(N)]] * 2, causal=False)
    close(column_scores(query, key, SCALING, bias=BIAS), expected)
    close(EncoderAttention(query, key, SCALING, 0, BIAS).received(), N * expected)
    without = column_scores(query, key, SCALING)
    assert (without.double() - expected).abs().max() > 0.05
    assert torch.equal(column_scores(query, key, SCALING, bias=torch.zeros(2, N)), without)


def test_a_token_of_nine_patches_gets_the_weight_of_nine():
    query, key = made()
    alike = torch.cat([key[:, :, :1].expand(-1, -1, 8, -1), key], 2)
    nine = torch.tensor([[9.0, *[1.0] * 8]] * 2)
    last = torch.tensor([8, 8])
    found = last_row_scores(query, key, SCALING, last, bias=nine.log())
    expected = last_row_scores(query, alike, SCALING, last).double()
    close(found, torch.cat([expected[:, :9].sum(1, keepdim=True), expected[:, 9:]], 1))


@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("rows", [N, 4])
def test_one_row_of_the_llm(rows, cap):
    query, key = made(rows=rows)
    last = [rows - 1, rows - 2]
    expected = weights_loop(query, key, [[row] for row in last], causal=True, cap=cap)
    close(last_row_scores(query, key, SCALING, torch.tensor(last), None, cap, BIAS), expected)
    tokens = Tokens(
        torch.empty(2, rows, 0), *[torch.zeros(2, rows, dtype=torch.long)] * 2, torch.tensor(last)
    )
    attention = LlmAttention(query, key, SCALING, None, cap, tokens, key, BIAS)
    close(attention.by_last(), expected[:, N - rows :])


@pytest.mark.parametrize("kind", ["none", "padding", "boolean", "additive"])
def test_masks_hide_large_tokens_too(kind):
    query, key = made()
    seen = torch.tensor([0, 1, 2, 5, 8])
    hidden = torch.ones(N, dtype=torch.bool).index_fill(0, seen, False)
    mask: dict[str, Tensor | None] = {
        "none": None,
        "padding": ~hidden.expand(2, -1),
        "boolean": ~hidden.expand(2, 1, N, -1),
        "additive": torch.zeros(2, 1, N, N).masked_fill(hidden, torch.finfo(torch.float32).min),
    }
    for rows, scores in (
        ([[8], [8]], last_row_scores(query, key, SCALING, torch.tensor([8, 8]), mask[kind], bias=BIAS)),
        ([[6, 8], [8]], row_scores(query, key, SCALING, chosen([[6, 8], [8]]), mask[kind], bias=BIAS)),
    ):
        if kind == "none":
            close(scores, weights_loop(query, key, rows, causal=True))
            continue
        few = torch.zeros(2, N, dtype=torch.float64)
        for b in range(2):
            for head in range(HEADS):
                for row in rows[b]:
                    logits = logits_loop(query, key, b, head, row, causal=kind == "padding")
                    shown = {j: math.exp(logits[j]) for j in seen.tolist() if j in logits}
                    for j, power in shown.items():
                        few[b, j] += power / sum(shown.values()) / HEADS / len(rows[b])
        close(scores, few)


def chosen(rows: list[list[int]]) -> Tensor:
    return torch.tensor([[row in own for row in range(N)] for own in rows])


@pytest.mark.parametrize("causal", [False, True])
def test_the_log_sum_exp_of_a_row(causal):
    query, key = made()
    expected = torch.zeros(2, N, dtype=torch.float64)
    for b in range(2):
        for row in range(N):
            for head in range(HEADS):
                logits = logits_loop(query, key, b, head, row, causal=causal)
                expected[b, row] += math.log(math.fsum(map(math.exp, logits.values()))) / HEADS
    close(own_row_scores(query, key, SCALING, bias=BIAS, causal=causal), expected)
    step = MergeStep(0.5, encoder_score="own_row")
    close(own_row_scores(query, key, SCALING, bias=BIAS, causal=False), _seen(step).double())


def _seen(step: MergeStep) -> Tensor:
    return step.observe_encoder(EncoderAttention(*made(), SCALING, 0, BIAS))


def test_the_class_tokens_attention():
    query, key = made()
    expected = weights_loop(query, key, [[0], [0]], causal=False)
    close(EncoderAttention(query, key, SCALING, 1, BIAS).by_class(), expected)
    # As a single head over the full width.
    wide = PruMergePlusStep(0.5, 0.5, 32).observe_encoder(EncoderAttention(query, key, SCALING, 1, BIAS))
    repeated = key.repeat_interleave(2, 1)
    for b in range(2):
        products = [
            sum(float(query[b, h, 0] @ repeated[b, h, j]) for h in range(HEADS)) / (HEADS * WIDTH) ** 0.5
            for j in range(N)
        ]
        powers = [math.exp(product) * size for product, size in zip(products, SIZES[b], strict=True)]
        close(wide[b, :, 0], torch.tensor(powers, dtype=torch.float64) / sum(powers))


def test_keys_have_no_sizes():
    query, key = made()
    step, given = ToMeStep(0.5, 1, 1), EncoderAttention(query, key, SCALING, 0, BIAS)
    assert torch.equal(step.observe_encoder(given), key.float().mean(1))
    wide = PruMergePlusStep(0.5, 0.5, 32).observe_encoder(given)
    assert torch.equal(wide[..., 1:], key.repeat_interleave(2, 1).transpose(1, 2).flatten(2))
