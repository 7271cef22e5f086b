"""Measures how fast a machine runs the parts of a model, and predicts the time of a forward pass from that.

FLOPs do not determine seconds: matrix products of few rows are slower per row than those of many rows, and
attention is slower than matrix products of the same FLOPs. Therefore the parts of one encoder block and one
LLM layer are timed on random inputs of the model's dimensions at several lengths. Times at other lengths are
interpolated.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import torch

from ..models.dimensions import llm_dimensions
from . import layer_timing as layers
from .counts import StepReport, TokenCounts
from .host_speed import operator_seconds
from .layer_timing import Curve
from .merging_cost import KERNELS_PER_PREFILL
from .predict import modules_of
from .seconds import Seconds
from .step_timing import merge_in_encoder, merge_in_llm, steps_of

MAX_HEAD_ROWS = 32
"""Largest batch for which the language-model head is timed; larger ones are extrapolated."""
MIN_LINEAR_ROWS = 8
"""Number of rows from which the time of matrix products is assumed to grow linearly."""


@dataclass(frozen=True)
class Rates:
    """Measured seconds of the parts of a model on one machine, in one dtype."""

    encoder_rows: Curve
    """Norm and projections of the attention in an encoder block, by tokens."""
    encoder_mlp: Curve
    encoder_attention: Curve
    """Attention over one sequence, by its tokens."""
    projector: Curve
    """By units."""
    embedding: Curve
    llm_rows: Curve
    llm_attention: Curve
    decode_attention: Curve
    """Attention of one query, by keys."""
    head: Curve
    """The language-model head, by rows."""
    encoder_step: Curve = ()
    """Scores, selection and merging of one encoder step of ``Illava.best``, by the units that enter it."""
    llm_step: Curve = ()
    """Selection and merging of one LLM step, by visual tokens; empty if the LLM has no layer for a step."""
    operator: float = 0.0
    """One small operator in the eager code of the model's family."""

    def seconds(self, token_counts: TokenCounts) -> Seconds:
        """Predicted seconds of a pass with these token counts."""
        prefill, encoder, llm, decode = token_counts.prefill, 0.0, 0.0, 0.0
        head = rows_at(self.head, prefill.rows)
        for call in token_counts.encoder:
            encoder += rows_at(self.embedding, call.embedded) + rows_at(self.projector, call.projected)
            encoder += sum(rows_at(self.projector, units) for units in call.tapped)
            for segments, mlp_tokens in zip(call.sequences, call.mlp_tokens, strict=True):
                encoder += rows_at(self.encoder_rows, sum(segments)) + rows_at(self.encoder_mlp, mlp_tokens)
                encoder += sum(at(self.encoder_attention, n) for n in segments)
        for tokens, cached, attends in zip(prefill.tokens, prefill.cached, prefill.attends, strict=True):
            llm += rows_at(self.llm_rows, prefill.rows * tokens)
            decode += rows_at(self.llm_rows, prefill.rows)
            if attends:
                llm += prefill.rows * at(self.llm_attention, tokens)
                decode += prefill.rows * at(self.decode_attention, cached + 1)
        return Seconds(encoder, llm, encoder + llm + head, decode + head)

    def merging_seconds(self, steps: Sequence[StepReport], segments: int, runs: int) -> float:
        """Seconds that steps add to a prefill.

        Args:
            segments, runs: segments of the encoder and runs of visual tokens in the LLM, over the batch.
        """
        steps = [step for step in steps if step.stage != "pixels"]
        if not steps:
            return 0.0
        total = KERNELS_PER_PREFILL * self.operator
        for step in steps:
            curve, parts = (self.llm_step, runs) if step.stage == "llm" else (self.encoder_step, segments)
            total += parts * at(curve, step.before / parts) if curve else 0.0
        return total

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values, for :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Rates:
        """Read the result of :meth:`to_dict`."""
        curves = {name: value for name, value in values.items() if name != "operator"}
        made = {name: tuple((int(n), float(s)) for n, s in curve) for name, curve in curves.items()}
        return cls(**made, operator=float(values.get("operator", 0.0)))


def at(curve: Curve, tokens: float) -> float:
    """Seconds at ``tokens``.

    Interpolates linearly between the logarithms of tokens and seconds. Beyond the ends of the curve it
    extrapolates from the two nearest points.
    """
    if not tokens:
        return 0.0
    if len(curve) == 1:
        return curve[0][1] * tokens / curve[0][0]
    index = min(max(1, bisect_left([n for n, _ in curve], tokens)), len(curve) - 1)
    (a, below), (b, above) = curve[index - 1], curve[index]
    part = math.log(tokens / a) / math.log(b / a)
    return math.exp(math.log(below) + part * math.log(above / below))


def rows_at(curve: Curve, rows: int) -> float:
    """Seconds of matrix products of ``rows`` rows: a constant for reading the weights, plus a time per row.

    The line is fitted to all points from eight rows on, so that a single disturbed measurement has no effect.
    For fewer rows the curve itself is used.
    """
    if rows < MIN_LINEAR_ROWS or sum(n >= MIN_LINEAR_ROWS for n, _ in curve) < 2:
        return at(curve, rows)
    constant, each = _line(curve)
    return constant + each * rows


@lru_cache(maxsize=64)
def _line(curve: Curve) -> tuple[float, float]:
    """The line through two of the points with the smallest sum of relative errors, without negative terms."""
    points = [(n, s) for n, s in curve if n >= MIN_LINEAR_ROWS]
    best = (math.inf, 0.0, points[-1][1] / points[-1][0])
    for (a, low), (b, high) in combinations(points, 2):
        each = (high - low) / (b - a)
        constant = low - each * a
        if each > 0 and constant >= 0:
            error = sum(abs((constant + each * n) / s - 1) for n, s in points)
            best = min(best, (error, constant, each))
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
    """Time the parts of one encoder block and one LLM layer on random inputs; the fastest run of each counts.

    Takes up to a minute for a model of 2B parameters on a CPU. Recurrent layers and experts are assumed to be
    as fast as attention and dense layers of the same FLOPs.

    Args:
        model: a transformers VLM, or its config.
        most_tokens: the longest sequence of the encoder, in tokens.
        most_prompt: the longest prompt of the LLM, in tokens.
        dtype, device: default: those of the model's weights, or float32 on the CPU for a config.
        repeats: runs of each part.
        advance: called with the number of parts that were timed since the last call.
    """
    modules = modules_of(model)
    weight = next(modules.llm.parameters())
    device = torch.device(device or ("cpu" if weight.is_meta else weight.device))
    dtype = dtype or weight.dtype
    shape, llm = modules.family.encoder_dimensions(modules.config), llm_dimensions(modules.config)
    vision = modules.config.vision_config
    heads = next(
        getattr(vision, name) for name in ("num_heads", "num_attention_heads") if hasattr(vision, name)
    )
    timer = layers.Timer(device, dtype, repeats, advance)
    encoder_step, llm_step = steps_of(modules)
    with torch.no_grad():
        return Rates(
            encoder_rows=timer.curve(lambda: layers.attention_rows(timer, shape), most_tokens),
            encoder_mlp=timer.curve(lambda: layers.encoder_mlp(timer, shape), most_tokens),
            encoder_attention=timer.curve(
                lambda: layers.attention(timer, heads, heads, shape.hidden // heads, False), most_tokens
            ),
            projector=timer.curve(lambda: layers.chain(timer, shape.projector), most_tokens // modules.group),
            embedding=timer.curve(
                lambda: layers.chain(timer, ((shape.patch_values, shape.hidden),)), most_tokens
            ),
            llm_rows=timer.curve(lambda: layers.llm_rows(timer, llm), most_prompt),
            llm_attention=timer.curve(
                lambda: layers.attention(timer, llm.heads, llm.kv_heads, llm.head_dim, True), most_prompt
            ),
            decode_attention=timer.curve(lambda: layers.decode_attention(timer, llm), most_prompt),
            head=timer.curve(lambda: layers.chain(timer, ((llm.hidden, llm.vocabulary),)), MAX_HEAD_ROWS),
            encoder_step=timer.curve(
                lambda: merge_in_encoder(timer, encoder_step, heads, shape.hidden // heads, modules.group),
                most_tokens // modules.group,
            ),
            llm_step=()
            if llm_step is None
            else timer.curve(lambda: merge_in_llm(timer, llm_step, llm.hidden), most_prompt),
            operator=operator_seconds(modules.config, device, dtype),
        )
