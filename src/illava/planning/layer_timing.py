"""Times the parts of one encoder block and one LLM layer on random inputs."""

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
    """Measures callables on one device and in one dtype, and creates random weights and inputs for them."""

    def __init__(
        self, device: torch.device, dtype: torch.dtype, repeats: int, advance: Callable[[int], None]
    ) -> None:
        self.device, self.dtype, self.repeats, self.advance = device, dtype, repeats, advance
        # A separate generator, so that random numbers of the caller do not change.
        self.generator = torch.Generator(device).manual_seed(0)

    def weights(self, fan_in: int, fan_out: int) -> Tensor:
        # In memory like the weights of a model, to be read from there every time.
        made = torch.empty(fan_out, fan_in, device=self.device, dtype=self.dtype)
        return made.normal_(0, fan_in**-0.5, generator=self.generator)

    def numbers(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device, dtype=self.dtype, generator=self.generator)

    def curve(self, make: Callable[[], Callable[[int], Callable[[], Any]]], most: int) -> Curve:
        """Seconds of ``make()(tokens)()`` for the lengths below ``most``, and for ``most`` itself."""
        wanted = [n for n in LENGTHS if n < most] + [most]
        prepare = make()
        points = tuple((n, self.seconds(prepare(n))) for n in wanted)
        self.advance(1)
        return points

    def seconds(self, run: Callable[[], Any]) -> float:
        """The fastest of ``repeats`` runs after one warm-up run."""
        run()
        best = math.inf
        for _ in range(self.repeats):
            began = self.now()
            run()
            best = min(best, self.now() - began)
        return best

    def now(self) -> float:
        """The time in seconds, after the device has finished its work."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()


Prepared = Callable[[int], Callable[[], Any]]
"""Prepares inputs of a number of tokens, and returns the callable to time."""


def attention_rows(timer: Timer, shape: EncoderDimensions) -> Prepared:
    """Norm, projections and rotary embeddings of an encoder block, without the attention itself."""
    qkv, out = timer.weights(shape.hidden, 3 * shape.hidden), timer.weights(shape.hidden, shape.hidden)

    def prepare(n: int) -> Callable[[], Any]:
        x = timer.numbers(n, shape.hidden)

        def run() -> Tensor:
            mixed = F.linear(F.layer_norm(x, (shape.hidden,)), qkv)
            # Stands for rotary embeddings: a few elementwise operations.
            rotated = mixed[:, : 2 * shape.hidden] * 1.5 + mixed[:, shape.hidden :] * 0.5
            return x + F.linear(rotated[:, : shape.hidden], out)

        return run

    return prepare


def encoder_mlp(timer: Timer, shape: EncoderDimensions) -> Prepared:
    """Norm and MLP of an encoder block."""
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
    """An LLM layer without the attention itself: norms, projections, rotary embeddings and MLP."""
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
            rotated = query[:, :width] * 1.5 + query[:, :width] * 0.5
            _ = key * 1.5 + key * 0.5
            h = x + F.linear(rotated, out)
            normed = F.rms_norm(h, (llm.hidden,))
            return h + F.linear(F.silu(F.linear(normed, gate)) * F.linear(normed, up), down)

        return run

    return prepare


def attention(timer: Timer, heads: int, kv_heads: int, width: int, causal: bool) -> Prepared:
    """Attention over one sequence."""

    def prepare(n: int) -> Callable[[], Any]:
        query, key = timer.numbers(1, heads, n, width), timer.numbers(1, kv_heads, n, width)
        return lambda: F.scaled_dot_product_attention(
            query, key, key, is_causal=causal, enable_gqa=heads != kv_heads
        )

    return prepare


def decode_attention(timer: Timer, llm: LlmDimensions) -> Prepared:
    """Attention of one query over the KV cache."""

    def prepare(n: int) -> Callable[[], Any]:
        query = timer.numbers(1, llm.heads, 1, llm.head_dim)
        key = timer.numbers(1, llm.kv_heads, n, llm.head_dim)
        return lambda: F.scaled_dot_product_attention(query, key, key, enable_gqa=llm.heads != llm.kv_heads)

    return prepare


def chain(timer: Timer, maps: Sequence[tuple[int, int]]) -> Prepared:
    """Linear maps of the given sizes, one after another."""
    weights = [timer.weights(a, b) for a, b in maps]

    def prepare(n: int) -> Callable[[], Any]:
        first = timer.numbers(n, maps[0][0])

        def run() -> Tensor:
            x = first
            for (fan_in, _), weight in zip(maps, weights, strict=True):
                # A branch, such as a gate beside its values, starts from an input of its own size.
                x = F.linear(x if x.shape[-1] == fan_in else timer.numbers(n, fan_in), weight)
            return x

        return run

    return prepare
