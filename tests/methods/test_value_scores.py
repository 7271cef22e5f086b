"""Scores by value vectors, and positions that are always kept: against loops, alone and in models."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import illava
from illava.ops.value_scores import anchors, value_scores
from tests.battery.naive import visual_columns
from tests.battery.test_battery import inputs_of
from tests.core.loops import dot, ranked, softmax
from tests.flash import Kernels, kernels, use
from tests.methods import naive_llm
from tests.test_synchronisation import MOST, on_device, passes
from tests.tiny import tiny_model

__all__ = ["kernels"]

LAYER = 2


def scores_loop(value: Tensor, text: list[int], visual: list[int]) -> dict[int, float]:
    """(H, n, h) of one prompt -> column of each visual token: its score."""
    heads, width = len(value), value.shape[2]

    def mean(rows: list[int]) -> dict[int, float]:
        total = dict.fromkeys(visual, 0.0)
        for head in value.tolist():
            for row in rows:
                weights = softmax([dot(head[row], head[j]) / math.sqrt(width) for j in visual])
                for j, weight in zip(visual, weights, strict=True):
                    total[j] += weight / (heads * len(rows))
        return total

    first = mean(text)
    seeds = sorted(visual, key=lambda j: -first[j])[: max(1, round(0.01 * len(visual)))]
    second = mean(seeds)
    return {j: (first[j] + second[j]) / 2 for j in visual}


def kept_loop(scores: list[float], cos: list[float], sin: list[float], p: int, share: float) -> list[int]:
    """Indices of one segment: those at always-kept positions, then by score."""
    n = len(scores)
    count = max(1, round(share * n))
    always = {*ranked(torch.tensor(cos))[:count], *ranked(torch.tensor(sin))[:count]} if share else set()
    order = sorted(range(n), key=lambda i: (i not in always, -scores[i]))
    return sorted(order[:p])


@pytest.mark.parametrize("chunk", [2**20, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_equal_the_loop(dtype, chunk, monkeypatch):
    monkeypatch.setattr("illava.ops.scoring.CHUNK_BYTES", chunk)
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(3, 2, 260, 4, generator=generator).to(dtype)
    kind = torch.full((3, 260), -1)
    kind[0, 5:225], kind[0, 225:250] = 1, 0
    kind[1, :3], kind[1, 3:60], kind[1, 60:62] = 0, 1, 0
    kind[2, :20] = 0
    found = value_scores(value, kind == 0, kind == 1)
    assert found.dtype == torch.float32
    for b in range(2):
        text, visual = ((kind[b] == which).nonzero().flatten().tolist() for which in (0, 1))
        expected = torch.zeros(260)
        for column, score in scores_loop(value[b].float(), text, visual).items():
            expected[column] = score
        torch.testing.assert_close(found[b], expected, atol=1e-6, rtol=1e-4)
        assert float(found[b].sum()) == pytest.approx(1, abs=1e-5)
    assert not found[2].any(), "a prompt without pictures"


def test_anchors_by_hand():
    rotary = torch.tensor([[[0.1, 0.0], [0.9, 0.0], [0.9, 0.0], [0.2, 0.5]]])
    assert anchors(rotary, 0.25).tolist() == [[False, True, False, True]]
    assert anchors(rotary, 0.5).tolist() == [[True, True, True, True]]
    assert anchors(rotary, 0.01).sum() == 2


def method(share: float, keep: float = 0.4) -> illava.Illava:
    return illava.Illava(
        encoder_layers=(),
        llm_layers=(LAYER, LAYER + 1),
        llm_keep=keep,
        reduce="drop",
        experimental={"llm_score": "value", "rotary_keep": share},
    )


@torch.no_grad()
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "llava_onevision"])
def test_models_choose_as_the_loop_does(family, share):
    """Values and rotary tables are those of the plain eager model."""

    def step(state: naive_llm.State) -> naive_llm.Left:
        place = state.place
        visual = [column for run in state.runs for column in run]
        score = scores_loop(
            state.values, [place[column] for column in state.words], [place[column] for column in visual]
        )
        left = []
        for run in state.runs:
            at = [place[column] for column in run]
            cos, sin = (table[at].mean(-1).tolist() for table in state.tables)
            p = max(1, round(0.4 * len(run)))
            kept = kept_loop([score[i] for i in at], cos, sin, p, share)
            left.append({run[i]: state.hidden[run[i]] for i in kept})
        return left

    steps = {LAYER: step, LAYER + 1: step}
    naive_llm.check_against_naive(family, method(share), steps, counted=True)


def test_always_kept_positions_make_a_difference():
    model = tiny_model("llava")
    inputs = inputs_of(model, "one", "single")
    found = []
    for share in (0.0, 0.3):
        with illava.accelerate(model, method(share)) as handle, torch.no_grad():
            model(**inputs)
            found.append(handle.report.pictures[0].kept[-1])
    assert not torch.equal(*found)


@pytest.mark.parametrize("name", ["llava", "llava_onevision", "qwen2_vl", "qwen3_vl", "gemma3", "internvl"])
def test_families_decode_from_the_cache_what_they_compute_anew(name):
    model = tiny_model(name)
    first = 3 if name == "qwen3_vl" else LAYER
    chosen = illava.Illava(
        encoder_layers=(1,),
        encoder_keep=0.7,
        llm_layers=(first,),
        llm_keep=0.5,
        experimental={"llm_score": "value", "rotary_keep": 0.1},
    )
    inputs = inputs_of(model, "two", "batch")
    options = dict(max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True)
    with illava.accelerate(model, chosen), torch.no_grad():
        cached = model.generate(**inputs, **options)
        anew = model.generate(**inputs, **options, use_cache=False)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(anew.logits), atol=1e-5, rtol=0)


def test_flash_attention_scores_the_same(kernels: Kernels):
    model, flash = tiny_model("qwen2_vl"), use(tiny_model("qwen2_vl"), "flash_attention_2")
    for rows in ("single", "batch"):
        inputs = inputs_of(model, "two", rows)
        with torch.no_grad():
            with illava.accelerate(model, method(0.1)):
                expected = model(**inputs).logits[:, -1]
            with illava.accelerate(flash, method(0.1)):
                found = flash(**inputs).logits[:, -1]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_the_host_waits_no_more(name):
    model, inputs = on_device(tiny_model(name))
    with illava.accelerate(model, method(0.1)):
        (prefill, *decoding), _ = passes(model, inputs)
    assert len(prefill.ours()) <= MOST, prefill.places()
    assert not [wait for step in decoding for wait in step.ours()]


def test_keeping_all_bfloat16_json_and_refusals():
    naive_llm.check_keep_one_and_removal(method(0.1), method(0.1, keep=1.0))
    half = tiny_model("llava").bfloat16()
    inputs = inputs_of(half, "two", "batch")
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    with illava.accelerate(half, method(0.1)), torch.no_grad():
        assert torch.isfinite(half(**inputs).logits[:, -1]).all()
    naive_llm.json_round_trip(method(0.1))
    assert visual_columns(inputs)
    for share in (-0.1, 1, True, "0.1"):
        with pytest.raises(ValueError, match=r"rotary_keep must lie in \[0, 1\)"):
            illava.Illava(experimental={"rotary_keep": share})
    with pytest.raises(ValueError, match="rotary_keep needs select='highest', got 'diverse'"):
        illava.Illava(keep=0.5, select="diverse", experimental={"rotary_keep": 0.1})
