"""The library computes what a reference at full length computes, on tiny random models.

The models run in float64: in float32 the tiny models' own rounding moves a logit by 5e-5 without any
merging. What float64 leaves comes from norms and rotary tables, which the models compute in float32
anyhow, and from the merge step itself; with these in float64 too, 1e-6 is left.
"""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

import illava

from .reference import Plan, Run, run
from .tiny import END, IMAGE, START, VIDEO, Picture, picture, pictures, prompt, tiny_model

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
    kept = [steps for reference in naive for steps in reference.kept]
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
) -> float:
    """A batch; row i holds ``counts[i]`` pictures and a text of its own length."""
    if attention == "eager":
        # In float64 the models' eager attention turns padded rows into NaN, merging or not.
        dtype = torch.float32
    close = CLOSE if family == "qwen2_vl" and dtype == torch.float64 else NEAR
    model = model_of(family, attention, dtype)
    drawn = pictures(tiny_model(family), max(sum(counts), 1))
    parts, used = [], 0
    for count in counts:
        parts.append(drawn[used : used + count])
        used += count
    rows = [(TEXT[: 3 + i], row_parts) for i, row_parts in enumerate(parts)]
    return check(model, prompt(model, rows), parts, settings, close)


@pytest.mark.parametrize(
    "family", ["qwen2_vl", "qwen2_5_vl", "llava_onevision", "llava", "internvl", "idefics3"]
)
def test_the_reference_is_the_plain_model_where_nothing_merges(family: str) -> None:
    model = model_of(family)
    parts = pictures(tiny_model(family), 2)
    ids = prompt(model, [(TEXT, parts)])
    ids = {name: value.double() if value.is_floating_point() else value for name, value in ids.items()}
    with torch.no_grad():
        plain = model(**ids).logits[0]
    tokens = ids["input_ids"][0].tolist()
    reference = run(model, tokens, [p.values for p in parts], Plan(), len(tokens))
    assert (reference.logits - plain).abs().max() < CLOSE


@pytest.mark.parametrize("recycle", [0.05, 0.5])
@pytest.mark.parametrize("reduce", ["recycle", "drop", "weighted"])
def test_reductions(reduce: str, recycle: float) -> None:
    check_rows("qwen2_vl", {**BOTH, "reduce": reduce, "recycle": recycle}, (2,))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("counts", [(1,), (2,), (1, 0, 2)])
def test_rows_and_attention(counts: tuple[int, ...], attention: str) -> None:
    check_rows("qwen2_vl", {**BOTH, "recycle": 0.3}, counts, attention)


@pytest.mark.parametrize(
    "settings",
    [
        ENCODER,
        LLM,
        {**BOTH, "encoder_layers": (1, 2), "llm_layers": (1, 2)},
        {**BOTH, "encoder_keep": (0.8, 0.5), "llm_keep": (0.9, 0.4)},
        {**BOTH, "encoder_layers": (0, 4), "llm_layers": (2, 4)},
        {**BOTH, "encoder_keep": 0.01, "llm_keep": 0.5},
        {**BOTH, "encoder_keep": 0.9, "llm_keep": 0.1},
        {**BOTH, "neighbours": 1, "recycle": 1.0},
        {**BOTH, "neighbours": 50, "recycle": 0.5, "encoder_keep": 0.4},
    ],
    ids=[
        "encoder",
        "llm",
        "consecutive",
        "uneven",
        "outer",
        "one unit",
        "few",
        "one neighbour",
        "all neighbours",
    ],
)
def test_schedules(settings: dict) -> None:
    check_rows("qwen2_vl", settings, (2,))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
@pytest.mark.parametrize("settings", [ENCODER, LLM, {**BOTH, "recycle": 0.3}], ids=["encoder", "llm", "both"])
def test_other_families(family: str, settings: dict) -> None:
    check_rows(family, settings, (2, 0, 1) if settings["encoder_layers"] and settings["llm_layers"] else (1,))


# A class token, units that are squares of a grid, and layer scale.
@pytest.mark.parametrize("family", ["llava", "internvl", "idefics3"])
@pytest.mark.parametrize("settings", [ENCODER, LLM, {**BOTH, "recycle": 0.3}], ids=["encoder", "llm", "both"])
def test_towers_of_tiles(family: str, settings: dict) -> None:
    check_rows(family, settings, (2, 0, 1) if settings["encoder_layers"] and settings["llm_layers"] else (1,))


@pytest.mark.parametrize("reduce", ["drop", "weighted"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
def test_other_families_reductions(family: str, reduce: str) -> None:
    check_rows(family, {**BOTH, "reduce": reduce}, attention="eager")


def test_windows_score_by_what_a_token_receives_in_all() -> None:
    """A mean within each window would favour the tokens of small windows at the border."""
    check_rows("qwen2_5_vl", {**BOTH, "encoder_layers": (0, 3), "encoder_keep": 0.6})


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_video_frames_are_segments_of_the_encoder_and_one_run_of_the_llm(family: str) -> None:
    model = model_of(family)
    frames, (rows, columns) = 3, (3, 4)
    generator = torch.Generator().manual_seed(1)
    values = {
        "pixel_values_videos": torch.randn(frames * rows * columns * 4, 96, generator=generator),
        "video_grid_thw": torch.tensor([[frames, 2 * rows, 2 * columns]]),
    }
    ids = torch.tensor([[1, 5, START, *[VIDEO] * frames * rows * columns, END, *TEXT]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **values}
    if family == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = torch.tensor([1.0 / model.config.vision_config.tokens_per_second])
    inputs["mm_token_type_ids"] = (ids == VIDEO).int() * 2
    check(
        model, inputs, [[Picture(values, [VIDEO] * frames * rows * columns)]], {**BOTH, "recycle": 0.3}, NEAR
    )


def test_pictures_side_by_side_are_one_run_of_the_llm() -> None:
    model = model_of("llava_onevision")
    parts = pictures(tiny_model("llava_onevision"), 2)
    inputs = prompt(model, [(TEXT, parts)])
    ids = [1, *[IMAGE] * sum(p.tokens for p in parts), *TEXT]
    inputs["input_ids"] = torch.tensor([ids])
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    check(model, inputs, [parts], BOTH, NEAR)


def test_a_picture_of_one_unit() -> None:
    model = model_of("qwen2_vl")
    parts = [picture(model, (1, 1)), picture(model, (1, 2), seed=1)]
    check(model, prompt(model, [(TEXT, parts)]), [parts], BOTH)


def test_single_precision() -> None:
    check_rows("qwen2_vl", BOTH, (2, 1), dtype=torch.float32)
