"""Every family, on SDPA and eager attention, alone and in a padded batch, with whatever it can be shown.

Tiny random models. What is held: with everything kept, and after the handle is taken off, the model is the
plain one bit for bit; a merged run with a cache equals one that computes all of it anew at every step; a row
of a batch equals its run alone; counts follow the method's formula.
"""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

import illava
from tests.test_exact import logits_of_steps
from tests.tiny import (
    EAGER_ONLY,
    EVERY,
    IMAGE,
    LLM_ONLY,
    LLM_ONLY_WITH_VIDEO,
    RECURRENT,
    RESAMPLED,
    VIDEO,
    WITH_VIDEO,
    Picture,
    kind,
    pictures,
    prompt,
    tiny_model,
    video,
    video_prompt,
)

TEXTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16]]
SHOWN = ("one", "two", "video", "none")
# Recurrent layers work through a prompt in chunks of 64: filler shifts these, and so the rounding.
# The matrices of DeepSeek-OCR-2 are rounded otherwise by AVX-512 for other numbers of rows: 1.4e-5 were seen.
CLOSE = {**dict.fromkeys(RECURRENT, 1e-3), "deepseek_ocr2": 3e-5}

cells = [
    pytest.param(name, attention, shown, rows, id=f"{name}-{attention}-{shown}-{rows}")
    for name in EVERY
    for attention in ("sdpa", "eager")
    for shown in SHOWN
    for rows in ("single", "batch")
    # A video comes on its own: the builders of batches know pictures.
    if not (shown == "video" and (name not in (*WITH_VIDEO, *LLM_ONLY_WITH_VIDEO) or rows == "batch"))
    if not (name in EAGER_ONLY and attention == "sdpa")
]


@functools.cache
def model_of(name: str, attention: str) -> nn.Module:
    return tiny_model(name, attention)


def method_of(name: str) -> illava.Illava:
    """Two steps in each stage, where a family has both."""
    encoder, llm = () if name in LLM_ONLY else (1, 3), () if name in RECURRENT else (2, 4)
    return illava.Illava(encoder_layers=encoder, encoder_keep=0.7, llm_layers=llm, llm_keep=0.7)


def registers_of(name: str) -> int:
    """Class tokens and registers of a picture that reach the LLM, where all of them stay."""
    return 3 * name.endswith("registers") + name.endswith("full")


def rows_of(model: nn.Module, shown: str, rows: str) -> list[tuple[list[int], list[Picture]]]:
    count = {"one": 1, "two": 2, "none": 0}[shown]
    drawn = pictures(model, 3)
    first = (TEXTS[0], drawn[:count])
    return [first] if rows == "single" else [first, (TEXTS[1], drawn[count : count + 1]), (TEXTS[2], [])]


def inputs_of(model: nn.Module, shown: str, rows: str) -> dict[str, Tensor]:
    if shown == "video":
        return video_prompt(model, TEXTS[0], [], video(model, 3))
    return prompt(model, rows_of(model, shown, rows))


@pytest.mark.parametrize(("name", "attention", "shown", "rows"), cells)
def test_cell(name: str, attention: str, shown: str, rows: str) -> None:
    model = model_of(name, attention)
    inputs = inputs_of(model, shown, rows)
    method, close = method_of(name), CLOSE.get(name, 1e-5)
    plain, _ = logits_of_steps(model, inputs)
    with illava.accelerate(model, keep=1.0):
        assert torch.equal(logits_of_steps(model, inputs)[0], plain), "all kept"
    with illava.accelerate(model, method) as handle:
        merged, _ = logits_of_steps(model, inputs)
        report = handle.report if shown != "none" else None
        anew, _ = logits_of_steps(model, inputs, use_cache=False)
    assert torch.equal(logits_of_steps(model, inputs)[0], plain), "undone"
    assert merged.isfinite().all()
    torch.testing.assert_close(merged, anew, atol=close, rtol=0)
    if rows == "batch":
        with illava.accelerate(model, method):
            for index, row in enumerate(rows_of(model, shown, rows)):
                alone, _ = logits_of_steps(model, prompt(model, [row]))
                torch.testing.assert_close(merged[:, index], alone[:, 0], atol=close, rtol=0)
    if report is None:
        if rows == "single":
            assert torch.equal(merged, plain), "text alone"
        return
    visual = int(((inputs["input_ids"] == IMAGE) | (inputs["input_ids"] == VIDEO)).sum())
    assert report.visual_tokens == visual
    assert (merged - plain)[:, 0].abs().max() > 1e-3, "something must have gone"
    for step in (step for step in report.steps if step.stage == "encoder"):
        assert step.after < step.before
    assert report.final_tokens < visual
    left = [picture.kept[-1] for picture in report.pictures]
    fixed = len(left) * registers_of(name)
    if not report.pictures:
        # The features are outputs of queries, which have no place.
        assert name in LLM_ONLY
        return
    if name in RESAMPLED:
        # Later steps drop queries' outputs, which show what these read.
        assert all(
            len(picture.kept[1]) == len(own) for picture, own in zip(report.pictures, left, strict=True)
        )
        return
    assert sum(map(len, left)) + fixed == report.final_tokens or kind(model) == "anyres"
