"""Part "equality": selection, merging and logits on the card against the CPU, on the same inputs.

In fp32, without TF32, both must agree. In bfloat16 rounding differs between devices, so that a choice among
near equals may differ: the share of equal choices is stated, not judged.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import illava
from illava.bench import prompts, random_weights
from illava.models.families import FAMILIES
from illava.models.tiny_models import ALL, tiny_model
from illava.models.tiny_prompts import picture, prompt
from illava.ops.merging import REDUCTIONS, merge, merge_diverse
from illava.ops.selection import diverse_ranking

from ..context import Context, Row

CLOSE = 1e-3
"""Largest difference of fp32 logits."""
EQUAL = 0.99
"""Least share of equal choices and merged units in fp32: a few distances may be equal up to rounding."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def rows(context: Context) -> Iterable[Row]:
    """Operations, slices of published shapes, then a tiny model of each family that has an encoder stage."""
    settings = context.settings
    for units in settings.units:
        for kind in ("random", "ties"):
            for dtype in DTYPES:
                measure = partial(operations, context.device, units, settings.width, kind, dtype)
                key = f"operations, {units} units, {kind}, {dtype}"
                yield Row(key, 1 + units / 1000, measure, "operations")
    for shape in settings.slices:
        yield Row(f"logits, {shape}, 2 layers", 8, partial(slice_of, context, shape), "slice")
    for family in FAMILIES.values():
        # None where the installed transformers cannot run the family.
        name = next((variant for variant in family.tiny if variant in ALL), None)
        if name is None or family.encoder_refusal:
            continue
        yield Row(f"logits, tiny {name}", 2, partial(tiny, context, name), "tiny")


def operations(device: torch.device, n: int, width: int, kind: str, dtype: str) -> Mapping[str, Any]:
    """The share of units that both devices select, and for :func:`merge` also that they merge alike."""
    units, scores = _units(n, width, kind)
    units, p = units.to(DTYPES[dtype]), n // 3
    there, placed = units.to(device), scores.to(device)
    ranks = diverse_ranking(units, scores, p)
    same = _share(ranks > 0, diverse_ranking(there, placed, p).cpu() > 0)
    # What keep= uses: selection and merging in one.
    options: dict[str, Any] = {"reduce": "fold", "similarity": "cosine"}
    kept = merge_diverse(units, scores, p, **options).kept
    found_kept = merge_diverse(there, placed, p, **options).kept.cpu()
    same = min(same, float(torch.isin(found_kept, kept).float().mean()))
    merged: dict[str, float] = {}
    for reduce in REDUCTIONS:
        for similarity in ("dot", "cosine"):
            options = {"reduce": reduce, "similarity": similarity}
            want = merge(units, ranks, p, **options)
            found = merge(there, ranks.to(device), p, **options)
            apart = (found.units.float().cpu() - want.units.float()).norm(dim=-1)
            # One step of bfloat16 is no difference.
            close = apart <= (CLOSE if dtype == "fp32" else 1e-2) * want.units.float().norm(dim=-1)
            equal = close & (found.kept.cpu() == want.kept)
            merged[f"{reduce}, {similarity}"] = float(equal.float().mean())
    least = min(same, *merged.values())
    wrong = dtype == "fp32" and least < EQUAL
    return {
        "selected": same,
        "merged": merged,
        "failure": f"{least:.1%} equal, {EQUAL:.0%} wanted" if wrong else None,
    }


def _units(n: int, width: int, kind: str) -> tuple[Tensor, Tensor]:
    """(1, n, width) units around a common direction and (1, n) scores; ties: every unit and score twice."""
    generator = torch.Generator().manual_seed(n)
    units = torch.randn(1, n, width, generator=generator) + torch.randn(1, 1, width, generator=generator)
    scores = torch.rand(1, n, generator=generator)
    if kind == "ties":
        units[:, 1::2], scores[:, 1::2] = units[:, : n // 2 * 2 : 2], scores[:, : n // 2 * 2 : 2]
    return units, scores


def _share(a: Tensor, b: Tensor) -> float:
    """The share of what is True in ``a`` that is True in ``b``, too."""
    return float((a & b).sum() / a.sum())


def slice_of(context: Context, shape: str) -> Mapping[str, Any]:
    """Logits of the first two layers of a published shape."""
    model = random_weights.build(shape, 2, torch.float32, torch.device("cpu"))
    size = context.settings.slice_size
    config: Any = model.config
    return compared(context, model, prompts.make(config, (size, size)), illava.Illava.best(1 / 3))


def tiny(context: Context, name: str) -> Mapping[str, Any]:
    """Logits of a tiny model of a family."""
    model = tiny_model(name)
    shown = picture(model, {"anyres": (40, 30), "square": (1, 1)}.get(_format(model), (3, 4)))
    inputs = prompt(model, [([5, 6, 7, 8], [shown])])
    return compared(context, model, inputs, illava.Illava(keep=0.4, where="middle"))


def _format(model: nn.Module) -> str:
    config: Any = model.config
    return FAMILIES[config.model_type].picture_format(config)


def compared(
    context: Context, model: nn.Module, inputs: Mapping[str, Tensor], method: illava.Method
) -> Mapping[str, Any]:
    """Logits of the last prompt token and kept units on both devices, in fp32 and in bf16."""
    cpu = torch.device("cpu")
    try:
        with _exact():
            plain, _ = _logits(model, inputs)
            want, kept = _logits(model, inputs, method)
            there = _copy(model, context.device, torch.float32)
            plain_found, _ = _logits(there, inputs)
            found, same = _logits(there, inputs, method)
            rounded, near = _logits(_copy(model, context.device, torch.bfloat16), inputs, method)
            rounded_here, near_here = _logits(_copy(model, cpu, torch.bfloat16), inputs, method)
    finally:
        context.release()
    differences = {
        "plain": float((plain - plain_found).abs().max()),
        "merged": float((want - found).abs().max()),
    }
    equal = _equal(kept, same)
    # A NaN is a failure, too.
    wrong = not max(differences.values()) <= CLOSE or equal < 1
    return {
        "largest_difference": differences,
        "logits_spread": float(want.std()),
        "kept_equal": equal,
        "bf16_kept_equal": _equal(near_here, near),
        "bf16_kept_as_in_fp32": _equal(kept, near),
        "bf16_top_token_equal": bool((rounded.argmax(-1) == rounded_here.argmax(-1)).all()),
        "failure": f"differences {differences}, {equal:.1%} of the choices equal" if wrong else None,
    }


def _copy(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A copy with weights in another dtype. Buffers, such as rotary frequencies, keep theirs."""
    made = copy.deepcopy(model)
    for parameter in made.parameters():
        parameter.data = parameter.data.to(dtype)
    return made.to(device)


@contextmanager
def _exact() -> Iterator[None]:
    """Without TF32, which convolutions use by default."""
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = False
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value


def _logits(
    model: nn.Module, inputs: Mapping[str, Tensor], method: illava.Method | None = None
) -> tuple[Tensor, list[Tensor]]:
    """(B, V) fp32 logits of the next token, and the indices kept by each step."""
    weight = next(model.parameters())
    placed = {
        n: v.to(weight.device, weight.dtype if v.is_floating_point() else None) for n, v in inputs.items()
    }
    # One token by generate(): only the logits of the last position are computed.
    options: dict[str, Any] = dict(max_new_tokens=1, do_sample=False, output_logits=True)
    with nullcontext() if method is None else illava.accelerate(model, method, trace=True) as handle:
        answer = model.generate(**placed, **options, return_dict_in_generate=True)  # type: ignore[operator]
        traces = [] if handle is None else handle.report.traces
    return answer.logits[0].float().cpu(), [trace.kept for trace in traces if trace is not None]


def _equal(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The share of the units kept by a step in ``a`` that it kept in ``b``, too; the least of all steps.

    Later steps choose among what earlier ones left: one differing choice shows in several.
    """
    shares = [float(torch.isin(x, y).float().mean()) for x, y in zip(a, b, strict=True) if len(x)]
    return min(shares, default=1.0)
