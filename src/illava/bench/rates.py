"""How fast a machine does what a model is made of: from which seconds are predicted.

FLOPs are not seconds: products of few rows are slower per row than those of many, and attention is slower
than products of its FLOPs. So the parts of one block of each stage are run on random numbers of the model's
own widths, at some lengths, and what lies between is interpolated.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cost import Courses, EncoderShape, LlmShape
from ..prediction import parts_of
from ..shapes import llm_shape

LENGTHS = (1, 8, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2304, 4096, 8192)

FEW = 8
"""Rows from which the time of products is taken to grow by the row."""

Curve = tuple[tuple[int, float], ...]
"""(tokens, seconds), ascending."""


@dataclass(frozen=True)
class Seconds:
    """Predicted seconds of one ``generate``."""

    encoder: float
    """Projector included."""
    prefill: float
    ttft: float
    decode: float
    """Of one new token, the first one."""


@dataclass(frozen=True)
class Rates:
    """Seconds of the parts of a model on one machine, in one dtype."""

    blocks: int
    layers: int
    encoder_rows: Curve
    """What an encoder block does row by row in front of its MLP, by tokens."""
    encoder_mlp: Curve
    encoder_attention: Curve
    """Of one sequence, by its tokens."""
    projector: Curve
    """By units."""
    embedding: Curve
    llm_rows: Curve
    llm_attention: Curve
    decode_attention: Curve
    """Of one query, by keys."""
    head: float

    def seconds(self, courses: Courses) -> Seconds:
        """What a pass takes."""
        prefill, encoder, llm, decode = courses.prefill, 0.0, 0.0, 0.0
        for call in courses.encoder:
            encoder += rows_at(self.embedding, call.embedded) + rows_at(self.projector, call.projected)
            encoder += sum(rows_at(self.projector, units) for units in call.tapped)
            for segments, behind in zip(call.sequences, call.behind, strict=True):
                encoder += rows_at(self.encoder_rows, sum(segments)) + rows_at(self.encoder_mlp, behind)
                encoder += sum(at(self.encoder_attention, n) for n in segments)
        for tokens, held, attends in zip(prefill.tokens, prefill.held, prefill.attends, strict=True):
            llm += rows_at(self.llm_rows, prefill.rows * tokens)
            decode += rows_at(self.llm_rows, prefill.rows)
            if attends:
                llm += prefill.rows * at(self.llm_attention, tokens)
                decode += prefill.rows * at(self.decode_attention, held + 1)
        return Seconds(encoder, llm, encoder + llm + self.head, decode + self.head)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; :meth:`from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Rates:
        """What :meth:`to_dict` wrote."""
        made = {
            name: tuple((int(n), float(s)) for n, s in value) if isinstance(value, (list, tuple)) else value
            for name, value in values.items()
        }
        return cls(**made)


def at(curve: Curve, tokens: int) -> float:
    """Seconds at ``tokens``: straight lines between logarithms; beyond the ends as the nearest two go on."""
    if not tokens:
        return 0.0
    if len(curve) == 1:
        return curve[0][1] * tokens / curve[0][0]
    index = min(max(1, bisect_left([n for n, _ in curve], tokens)), len(curve) - 1)
    (a, below), (b, above) = curve[index - 1], curve[index]
    part = math.log(tokens / a) / math.log(b / a)
    return math.exp(math.log(below) + part * math.log(above / below))


def rows_at(curve: Curve, rows: int) -> float:
    """Seconds of products of ``rows`` rows: a constant, for reading the weights, and so much a row.

    Fitted to all that was measured from eight rows on, so that no single measurement that the machine
    disturbed decides; fewer rows go by the curve itself.
    """
    if rows < FEW or sum(n >= FEW for n, _ in curve) < 2:
        return at(curve, rows)
    constant, each = _line(curve)
    return constant + each * rows


@lru_cache(maxsize=64)
def _line(curve: Curve) -> tuple[float, float]:
    """The line through two of the points that is off by the least share in sum; neither part is negative."""
    points = [(n, s) for n, s in curve if n >= FEW]
    best = (math.inf, 0.0, points[-1][1] / points[-1][0])
    for (a, low), (b, high) in combinations(points, 2):
        each = (high - low) / (b - a)
        constant = low - each * a
        if each > 0 and constant >= 0:
            off = sum(abs((constant + each * n) / s - 1) for n, s in points)
            best = min(best, (off, constant, each))
    return best[1:]


def measure_rates(
    model: Any,
    most_tokens: int = 2304,
    most_prompt: int = 1024,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    repeats: int = 3,
    advance: Callable[[int], None] = lambda steps: None,
) -> Rates:
    """Run the parts of one encoder block and one LLM layer on random numbers, and take the fastest of each.

    Seconds to a minute for models of 2B on a CPU. Recurrent layers and experts are taken to be as fast as
    attention and plain layers of the same FLOPs.

    Args:
        model: a transformers VLM, or its config alone.
        most_tokens: the longest sequence that the encoder will see, and ``most_prompt`` the LLM.
        dtype, device: default: those of the model's weights, or float32 on the CPU for a config.
    """
    parts = parts_of(model)
    weight = next(parts.llm.parameters())
    device = torch.device(device or ("cpu" if weight.is_meta else weight.device))
    dtype = dtype or weight.dtype
    shape, llm = parts.family.encoder_shape(parts.config), llm_shape(parts.config)
    vision = parts.config.vision_config
    heads = next(
        getattr(vision, name) for name in ("num_heads", "num_attention_heads") if hasattr(vision, name)
    )
    timer = _Timer(device, dtype, repeats, advance)
    with torch.no_grad():
        return Rates(
            blocks=shape.depth,
            layers=llm.depth,
            encoder_rows=timer.curve(lambda: _attention_rows(timer, shape), most_tokens),
            encoder_mlp=timer.curve(lambda: _encoder_mlp(timer, shape), most_tokens),
            encoder_attention=timer.curve(
                lambda: _attention(timer, heads, heads, shape.hidden // heads, False), most_tokens
            ),
            projector=timer.curve(lambda: _chain(timer, shape.projector), most_tokens // parts.group),
            embedding=timer.curve(lambda: _chain(timer, ((shape.patch_values, shape.hidden),)), most_tokens),
            llm_rows=timer.curve(lambda: _llm_rows(timer, llm), most_prompt),
            llm_attention=timer.curve(
                lambda: _attention(timer, llm.heads, llm.kv_heads, llm.head_dim, True), most_prompt
            ),
            decode_attention=timer.curve(lambda: _decode_attention(timer, llm), most_prompt),
            head=timer.curve(lambda: _chain(timer, ((llm.hidden, llm.vocabulary),)), 1)[0][1],
        )


class _Timer:
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


def _attention_rows(timer: _Timer, shape: EncoderShape) -> Prepared:
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


def _encoder_mlp(timer: _Timer, shape: EncoderShape) -> Prepared:
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


def _llm_rows(timer: _Timer, llm: LlmShape) -> Prepared:
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


def _attention(timer: _Timer, heads: int, kv_heads: int, width: int, causal: bool) -> Prepared:
    def prepare(n: int) -> Callable[[], Any]:
        query, key = timer.numbers(1, heads, n, width), timer.numbers(1, kv_heads, n, width)
        return lambda: F.scaled_dot_product_attention(
            query, key, key, is_causal=causal, enable_gqa=heads != kv_heads
        )

    return prepare


def _decode_attention(timer: _Timer, llm: LlmShape) -> Prepared:
    def prepare(n: int) -> Callable[[], Any]:
        query = timer.numbers(1, llm.heads, 1, llm.head_dim)
        key = timer.numbers(1, llm.kv_heads, n, llm.head_dim)
        return lambda: F.scaled_dot_product_attention(query, key, key, enable_gqa=llm.heads != llm.kv_heads)

    return prepare


def _chain(timer: _Timer, maps: Sequence[tuple[int, int]]) -> Prepared:
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
