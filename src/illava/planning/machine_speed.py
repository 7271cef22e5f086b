"""How fast a machine does what a model is made of: from which seconds are predicted.

FLOPs are not seconds: products of few rows are slower per row than those of many, and attention is slower
than products of its FLOPs. So the parts of one block of each stage are run on random numbers of the model's
own widths, at some lengths, and what lies between is interpolated.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import torch

from ..models.dimensions import llm_dimensions
from . import layer_timing as layers
from .counts import TokenCounts
from .layer_timing import Curve
from .predict import modules_of

MOST_ROWS = 32
"""Rows of a batch up to which the last map is timed; more go on as these do."""
FEW = 8
"""Rows from which the time of products is taken to grow by the row."""


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
    head: Curve
    """Of the language model's last map, by rows."""

    def seconds(self, courses: TokenCounts) -> Seconds:
        """What a pass takes."""
        prefill, encoder, llm, decode = courses.prefill, 0.0, 0.0, 0.0
        head = rows_at(self.head, prefill.rows)
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
        return Seconds(encoder, llm, encoder + llm + head, decode + head)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; :meth:`from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Rates:
        """What :meth:`to_dict` wrote."""
        return cls(**{name: tuple((int(n), float(s)) for n, s in curve) for name, curve in values.items()})


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
            head=timer.curve(lambda: layers.chain(timer, ((llm.hidden, llm.vocabulary),)), MOST_ROWS),
        )
