"""A bias on the logits of keys as channels of queries and keys: attention against loops, for each dtype."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from illava.ops.size_bias import biased_mask, with_channels

sdpa = torch.nn.functional.scaled_dot_product_attention
CLOSE = {torch.float64: 1e-6, torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def attention_loop(
    query: Tensor, key: Tensor, value: Tensor, bias: list[list[float]], scaling: float, *, causal: bool
) -> Tensor:
    """(B, H, q, h') by the definition, in float64."""
    query, key, value = query.double(), key.double(), value.double()
    out = torch.zeros(*query.shape[:3], value.shape[-1], dtype=torch.float64)
    shared = query.shape[1] // key.shape[1]
    for b, h, i in (
        (b, h, i) for b in range(len(query)) for h in range(query.shape[1]) for i in range(query.shape[2])
    ):
        seen = range(i + 1) if causal else range(key.shape[2])
        weights = {
            j: math.exp(float(query[b, h, i] @ key[b, h // shared, j]) * scaling + bias[b % len(bias)][j])
            for j in seen
        }
        for j, weight in weights.items():
            out[b, h, i] += weight / sum(weights.values()) * value[b, h // shared, j]
    return out


def heads(batch: int, count: int, n: int, width: int, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, count, n, width, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("width", [6, 8, 15, 72])
@pytest.mark.parametrize("dtype", CLOSE)
def test_channels_equal_the_loop(dtype, width, causal):
    query, key = heads(2, 4, 7, width, 0, dtype), heads(2, 2, 7, width, 1, dtype)
    value = heads(2, 2, 7, width - 1, 2, dtype)
    sizes = torch.randint(1, 300, (2, 7), generator=torch.Generator().manual_seed(3)).float()
    scaling = width**-0.5
    wide = with_channels(query, key, value, sizes.log()[:, None, None], scaling)
    assert {part.shape[-1] for part in wide} == {-(-(width + 2) // 8) * 8}
    assert {part.dtype for part in wide} == {dtype}
    found = sdpa(*wide, scale=scaling, is_causal=causal, enable_gqa=True)[..., : width - 1]
    expected = attention_loop(query, key, value, sizes.log().tolist(), scaling, causal=causal)
    torch.testing.assert_close(found.double(), expected, atol=CLOSE[dtype], rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scaling", [64**-0.5, 72**-0.5, 80**-0.5, 1.0, 0.3])
def test_the_bias_is_not_rounded_to_the_dtype(dtype, scaling):
    """With empty queries and keys the logits are the bias alone."""
    bias = torch.arange(1, 900).float().log()[None, None, None]
    nothing = torch.zeros(1, 1, 1, 8, dtype=dtype)
    query, key, _ = with_channels(nothing, nothing.expand(-1, -1, 899, -1), nothing, bias, scaling)
    logits = query.double() @ key.double().transpose(2, 3) * scaling
    assert (logits - bias.double()).abs().max() < 1e-4
    assert (bias.to(dtype).double() - bias.double()).abs().max() > 1e-3, "a single channel would round"


def test_channels_pass_gradients_to_what_was_given():
    parts = [heads(1, 2, 5, 8, seed, torch.float64).requires_grad_() for seed in range(3)]
    bias = torch.tensor([1.0, 2, 3, 4, 5]).log()[None, None, None]
    wide = sdpa(*with_channels(*parts, bias, 0.4), scale=0.4)[..., :8]
    masked = sdpa(*parts, attn_mask=bias.double(), scale=0.4)
    for found, expected in zip(
        torch.autograd.grad(wide.square().sum(), parts),
        torch.autograd.grad(masked.square().sum(), parts),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_masks_take_the_bias_too():
    bias = torch.tensor([0.0, 1.0, 2.0])[None, None, None]
    assert torch.equal(biased_mask(None, bias, 2), bias.expand(1, 1, 2, 3))
    seen = torch.tensor([[True, False, True], [True, True, False]])[None, None]
    low = torch.finfo(torch.float32).min
    expected = torch.tensor([[0.0, low, 2.0], [0.0, 1.0, low]])[None, None]
    # A masked key stays masked: the bias is lost in rounding.
    assert torch.equal(biased_mask(seen, bias, 2), expected)
    assert torch.equal(biased_mask(expected, bias * 0, 2), expected)
