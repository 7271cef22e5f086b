"""What the battery works out by itself, with loops and the plain model's own attention weights."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from tests.tiny import IMAGE, VIDEO, kind

# Families whose units are squares of the picture's grid, side in tokens.
SQUARES = dict.fromkeys(
    (
        "internvl",
        "idefics3",
        "smolvlm",
        "gemma3",
        "mistral3",
        "aya_vision",
        "cohere2_vision",
        "lighton_ocr",
        "ovis2",
        "paddleocr_vl",
        "qianfan_ocr",
    ),
    2,
)


def encoder_of(model: nn.Module) -> nn.Module:
    base = model.model
    names = ("visual", "vision_tower", "vision_model", "vision_encoder")
    return next(getattr(base, name) for name in names if hasattr(base, name))


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The blocks of the image encoder."""
    return next(
        m
        for m in encoder_of(model).modules()
        if isinstance(m, nn.ModuleList) and len(m) == 5 and any(_attention(block) for block in m)
    )


def layers_of(model: nn.Module) -> nn.ModuleList:
    base = model.model
    return (base.text_model if hasattr(base, "text_model") else base.language_model).layers


def _attention(block: nn.Module) -> nn.Module | None:
    names = ("attn", "self_attn", "attention")
    return next((getattr(block, name) for name in names if hasattr(block, name)), None)


def attention_of(block: nn.Module) -> nn.Module:
    found = _attention(block)
    assert found is not None
    return found


def mlp_of(block: nn.Module) -> nn.Module:
    return next(getattr(block, name) for name in ("mlp", "feed_forward", "ffn") if hasattr(block, name))


@contextmanager
def weights_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collects the attention weights of an eager attention module, (B, H, q, k) a call."""
    file = sys.modules[type(module).__module__]
    before, seen = file.eager_attention_forward, []

    def attend(asking: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output, weights = before(asking, *args, **kwargs)
        if asking is module:
            seen.append(weights)
        return output, weights

    with mock.patch.object(file, "eager_attention_forward", attend):
        yield seen


@contextmanager
def hooked(register: Callable[..., Any], hook: Callable[..., Any], **options: Any) -> Iterator[None]:
    handle = register(hook, **options)
    try:
        yield
    finally:
        handle.remove()


def entering(module: nn.Module, into: list[Tensor]) -> Any:
    """Collects the first tensor that a module is handed."""

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        into.append(args[0] if args else kwargs["hidden_states"])

    return hooked(module.register_forward_pre_hook, note, with_kwargs=True)


def visual_columns(inputs: dict[str, Tensor]) -> list[list[list[int]]]:
    """The runs of placeholders of every row of a batch, as columns."""
    out = []
    for ids in inputs["input_ids"].tolist():
        runs: list[list[int]] = []
        for column, token in enumerate(ids):
            if token not in (IMAGE, VIDEO):
                continue
            if runs and runs[-1][-1] == column - 1:
                runs[-1].append(column)
            else:
                runs.append([column])
        out.append(runs)
    return out


def segments(seen: list[Tensor], lengths: list[int]) -> list[Tensor]:
    """What was seen of the encoder's attention, by segment of so many tokens: (H, n, n) weights."""
    if len(seen) > 1:
        return [weights[0] for weights in seen]
    (weights,) = seen
    if len(weights) == len(lengths):
        return list(weights)
    out, first = [], 0
    for n in lengths:
        # Pixtral's pictures stand in one sequence, kept apart by the mask.
        out.append(weights[0, :, first : first + n, first : first + n])
        first += n
    return out


def unit_tokens(model: nn.Module, tokens: int, columns: int) -> list[list[int]]:
    """The tokens of every unit of a segment of that many tokens, which stand in rows of ``columns``."""
    side = SQUARES.get(model.config.model_type, 0)
    if not side:
        g = 4 if kind(model) == "grid" else 1
        return [list(range(first, first + g)) for first in range(0, tokens, g)]
    inner = range(side)
    return [
        [(y + dy) * columns + x + dx for dy in inner for dx in inner]
        for y in range(0, tokens // columns, side)
        for x in range(0, columns, side)
    ]


def all_units(model: nn.Module, inputs: dict[str, Tensor], lengths: list[int]) -> list[list[list[int]]]:
    """The tokens of every unit of each segment, given their tokens; class tokens are in none."""
    if kind(model) == "grid":
        return [unit_tokens(model, n, 0) for n in lengths]
    if kind(model) == "patches":
        sizes = inputs["image_grid_thw"].tolist()
        return [unit_tokens(model, rows * columns, columns) for _, rows, columns in sizes]
    if kind(model) == "lines":
        sizes = (inputs["image_sizes"] // model.config.vision_config.patch_size).tolist()
        return [unit_tokens(model, rows * columns, columns) for rows, columns in sizes]
    side = math.isqrt(lengths[0])
    prefix = lengths[0] - side**2
    one = [[prefix + token for token in unit] for unit in unit_tokens(model, side**2, side)]
    return [one] * len(lengths)


def highest(scores: list[float], keep: float) -> list[int]:
    """Indices of the ``keep`` share with the highest scores, in their own order."""
    count = max(1, round(keep * len(scores)))
    return sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:count])


def received(weights: Tensor, units: list[list[int]]) -> list[float]:
    """(H, n, n) weights to each unit's attention: over its tokens, the mean over queries and heads."""
    heads, queries, _ = weights.shape
    each = (weights.double().sum((0, 1)) / (heads * queries)).tolist()
    return [sum(each[token] for token in unit) for unit in units]


def paid(weights: Tensor, columns: list[int]) -> list[float]:
    """(H, n, n) weights to what the last token pays each of ``columns``, the mean over heads."""
    each = weights[:, -1].double().mean(0).tolist()
    return [each[column] for column in columns]


def blank_columns(model: nn.Module, inputs: dict[str, Tensor], entry: Tensor) -> set[tuple[int, int]]:
    """(row, column) of placeholders that show no patch, given the LLM's input.

    They are line ends, class tokens and registers.
    """
    newline, out = getattr(model.model, "image_newline", None), set()
    for b, runs in enumerate(visual_columns(inputs)):
        for own in runs:
            if newline is not None:
                out |= {(b, column) for column in own if torch.equal(entry[b, column], newline)}
            elif kind(model) == "square":
                # Class tokens and registers, before a square of patches.
                out |= {(b, column) for column in own[: len(own) - math.isqrt(len(own)) ** 2]}
    return out
