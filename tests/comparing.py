"""Run a prompt through the accelerated library and through the reference, and compare all there is.

The models run in float64: in float32 the tiny models' own rounding moves a logit by 5e-5 without any
merging. What float64 leaves comes from norms and rotary tables, which the models compute in float32
anyhow, and from the merge step itself; with these in float64 too, 1e-6 is left.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

import illava

from .reference import Plan, Run, run
from .tiny import Picture, pictures, prompt, tiny_model

STEPS = 8
CLOSE = 1e-5
# Long prompts (large angles) and Qwen2.5-VL's norms in the encoder round more.
NEAR = 1e-4
TEXT = [5, 6, 7, 8, 9]
BOTH = {"encoder_layers": (1, 3), "encoder_keep": 0.7, "llm_layers": (1, 3), "llm_keep": 0.7}
ENCODER = {"encoder_layers": (1, 3), "encoder_keep": 0.7, "llm_layers": (), "llm_keep": 1.0}
LLM = {"encoder_layers": (), "encoder_keep": 1.0, "llm_layers": (1, 3), "llm_keep": 0.7}


@functools.cache
def model_of(family: str, attention: str = "sdpa", dtype: torch.dtype = torch.float64) -> nn.Module:
    return tiny_model(family, attention).to(dtype)


def plan_of(settings: dict) -> Plan:
    settings = dict(settings)
    shares = []
    for stage in ("encoder", "llm"):
        layers, keep = settings.pop(f"{stage}_layers"), settings.pop(f"{stage}_keep")
        each = keep if isinstance(keep, tuple) else (keep,) * len(layers)
        # The library's report leaves a layer out at which nothing is asked to go.
        shares.append({layer: share for layer, share in zip(layers, each, strict=True) if share < 1})
    return Plan(*shares, **settings)


def check(
    model: nn.Module,
    inputs: dict[str, Tensor],
    parts: list[list[Picture]],
    settings: dict,
    close: float = CLOSE,
) -> float:
    """Compare prefill, decoding and report of a batch with each row's own reference.

    Returns the largest deviation of a logit.
    """
    inputs = {
        name: value.to(model.dtype) if value.is_floating_point() else value for name, value in inputs.items()
    }
    width = inputs["input_ids"].shape[1]
    with torch.no_grad(), illava.accelerate(model, illava.Illava(**settings)) as handle:
        prefill = model(**inputs).logits
        report = handle.report
        decoded = model.generate(
            **inputs, max_new_tokens=STEPS, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    assert decoded.sequences.shape[1] == width + STEPS
    worst, naive = 0.0, []
    for number, pieces in enumerate(parts):
        prompt_ids = inputs["input_ids"][number][inputs["attention_mask"][number].bool()].tolist()
        ids = prompt_ids + decoded.sequences[number, width:].tolist()
        reference = run(model, ids, [p.values for p in pieces], plan_of(settings), len(prompt_ids))
        naive.append(reference)
        alive = [i for i in range(len(prompt_ids)) if reference.alive[i]]
        assert prefill.shape[1] >= len(alive)
        differences = [
            prefill[number, -len(alive) :] - reference.logits[alive],
            torch.stack([step[number] for step in decoded.logits])
            - reference.logits[len(prompt_ids) - 1 : -1],
        ]
        for difference in differences:
            deviation = difference.abs().max().item()
            assert deviation < close  # here, since max() would lose a NaN
            worst = max(worst, deviation)
    # Rows are padded to the longest that is left.
    assert prefill.shape[1] == max(sum(r.alive) for r in naive) - STEPS
    check_report(report, naive, model.config.model_type)
    return worst


def check_report(report: illava.Report, naive: list[Run], family: str) -> None:
    counts: dict[tuple[str, int], list[int]] = {}
    for reference in naive:
        for step in reference.steps:
            total = counts.setdefault((step.stage, step.layer), [0, 0])
            total[0] += step.before
            total[1] += step.after
    assert [((s.stage, s.layer), [s.before, s.after]) for s in report.steps] == list(counts.items())
    # Pictures come before videos there.
    kept = [
        steps
        for videos in (False, True)
        for reference in naive
        for steps, video in zip(reference.kept, reference.videos, strict=True)
        if video == videos
    ]
    assert len(report.pictures) == len(kept)
    for seen, steps in zip(report.pictures, kept, strict=True):
        assert len(seen.kept) == len(steps)
        for boxes, expected in zip(seen.kept, steps, strict=True):
            wanted = torch.tensor(expected, dtype=torch.float32).view(-1, 5)
            assert boxes.shape == wanted.shape
            if family == "qwen2_5_vl":  # listed in the order of its windows
                boxes, wanted = in_order(boxes), in_order(wanted)
            torch.testing.assert_close(boxes.float(), wanted, atol=1e-4, rtol=0)


def in_order(boxes: Tensor) -> Tensor:
    return torch.tensor(sorted(boxes.tolist(), key=lambda box: [round(edge * 1000) for edge in box]))


def check_rows(
    family: str,
    settings: dict,
    counts: tuple[int, ...] = (1,),
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float64,
    text: list[int] = TEXT,
) -> float:
    """A batch; row i holds ``counts[i]`` pictures and a text of its own length."""
    if attention == "eager":
        # In float64 the models' eager attention turns padded rows into NaN, merging or not.
        dtype = torch.float32
    close = NEAR if family in ("qwen2_5_vl", "llava_onevision") or dtype != torch.float64 else CLOSE
    model = model_of(family, attention, dtype)
    drawn = pictures(tiny_model(family), max(sum(counts), 1))
    parts, used = [], 0
    for count in counts:
        parts.append(drawn[used : used + count])
        used += count
    rows = [(text[: len(text) - 2 + i], row_parts) for i, row_parts in enumerate(parts)]
    return check(model, prompt(model, rows), parts, settings, close)
