"""What a model is made of, on random numbers: the parts of one encoder block and one LLM layer, timed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.dimensions import EncoderDimensions, LlmDimensions

LENGTHS = (1, 8, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2304, 4096, 8192)

Curve = tuple[tuple[int, float], ...]
"""(tokens, seconds), ascending."""


class Timer:
    def __init__(
        self, device: torch.device, dtype: torch.dtype, repeats: int, advance: Callable[[int], None]
    ) -> None:
        self.device, self.dtype, self.repeats, self.advance = device, dtype, repeats, advance
        # Of its own: what a caller draws afterwards must not depend on it.
        self.generator = torch.Generator(device).manual_seed(0)

    def weights(self, fan_in: int, fan_out: int) -> Tensor:
        # As in memory as a model's: read from there every time, not from a cache.
        made = torch.empty(fan_out, fan_in, device=self.device, dtype=self.dtype)
        return made.normal_(0, fan_in**-0.5, generator=self.generator)

    def numbers(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device, dtype=self.dtype, generator=self.generator)

    def curve(self, make: Callable[[], Callable[[int], Callable[[], Any]]], most: int) -> Curve:
        """Seconds of what ``make()(tokens)()`` does, at lengths up to ``most`` and the next behind it."""
        wanted = [n for n in LENGTHS if n < most] + [most]
        prepare = make()
        points = tuple((n, self.seconds(prepare(n))) for n in wanted)
        self.advance(1)
        return points

    def seconds(self, run: Callable[[], Any]) -> float:
        run()
        best = math.inf
        for _ in range(self.repeats):
            began = self.now()
            run()
            best = min(best, self.now() - began)
        return best

    def now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()


Prepared = Callable[[int], Callable[[], Any]]


def attention_rows(timer: Timer, shape: EncoderDimensions) -> Prepared:
    qkv, out = timer.weights(shape.hidden, 3 * shape.hidden), timer.weights(shape.hidden, shape.hidden)

    def prepare(n: int) -> Callable[[], Any]:
        x = timer.numbers(n, shape.hidden)

        def run() -> Tensor:
            mixed = F.linear(F.layer_norm(x, (shape.hidden,)), qkv)
            # Rotary tables and the residual: a few passes over the numbers.
            turned = mixed[:, : 2 * shape.hidden] * 1.5 + mixed[:, shape.hidden :] * 0.5
            return x + F.linear(turned[:, : shape.hidden], out)

        return run

    return prepare


def encoder_mlp(timer: Timer, shape: EncoderDimensions) -> Prepared:
    ups = [timer.weights(shape.hidden, shape.intermediate) for _ in range(shape.mlp_matrices - 1)]
    down = timer.weights(shape.intermediate, shape.hidden)

    def prepare(n: int) -> Callable[[], Any]:
        x = timer.numbers(n, shape.hidden)

        def run() -> Tensor:
            normed = F.layer_norm(x, (shape.hidden,))
            inner = F.gelu(F.linear(normed, ups[0]), approximate="tanh")
            if len(ups) > 1:
                inner = inner * F.linear(normed, ups[1])
            return x + F.linear(inner, down)

        return run

    return prepare


def llm_rows(timer: Timer, llm: LlmDimensions) -> Prepared:
    width, narrow = llm.heads * llm.head_dim, llm.kv_heads * llm.head_dim
    maps = [timer.weights(llm.hidden, size) for size in (width * (2 if llm.gated else 1), narrow, narrow)]
    out = timer.weights(width, llm.hidden)
    gate, up = (timer.weights(llm.hidden, llm.intermediate) for _ in range(2))
    down = timer.weights(llm.intermediate, llm.hidden)

    def prepare(n: int) -> Callable[[], Any]:
        x = timer.numbers(n, llm.hidden)

        def run() -> Tensor:
            normed = F.rms_norm(x, (llm.hidden,))
            query, key, _ = (F.linear(normed, weight) for weight in maps)
            turned = query[:, :width] * 1.5 + query[:, :width] * 0.5
            _ = key * 1.5 + key * 0.5
            h = x + F.linear(turned, out)
            normed = F.rms_norm(h, (llm.hidden,))
            return h + F.linear(F.silu(F.linear(normed, gate)) * F.linear(normed, up), down)

        return run

    return prepare


def attention(timer: Timer, heads: int, kv_heads: int, width: int, causal: bool) -> Prepared:
    def prepare(n: int) -> Callable[[], Any]:
        query, key = timer.numbers(1, heads, n, width), timer.numbers(1, kv_heads, n, width)
        return lambda: F.scaled_dot_product_attention(
            query, key, key, is_causal=causal, enable_gqa=heads != kv_heads
        )

    return prepare


def decode_attention(timer: Timer, llm: LlmDimensions) -> Prepared:
    def prepare(n: int) -> Callable[[], Any]:
        query = timer.numbers(1, llm.heads, 1, llm.head_dim)
        key = timer.numbers(1, llm.kv_heads, n, llm.head_dim)
        return lambda: F.scaled_dot_product_attention(query, key, key, enable_gqa=llm.heads != llm.kv_heads)

    return prepare


def chain(timer: Timer, maps: Sequence[tuple[int, int]]) -> Prepared:
    weights = [timer.weights(a, b) for a, b in maps]

    def prepare(n: int) -> Callable[[], Any]:
        first = timer.numbers(n, maps[0][0])

        def run() -> Tensor:
            x = first
            for (fan_in, _), weight in zip(maps, weights, strict=True):
                # Branches (a gate beside its values) start from what fits.
                x = F.linear(x if x.shape[-1] == fan_in else timer.numbers(n, fan_in), weight)
            return x

        return run

    return prepare
