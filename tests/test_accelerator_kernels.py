"""The kernels that the planner counts, against counts of whole passes."""

from __future__ import annotations

import pytest
import torch

import illava
from illava.models.located import locate
from illava.ops.kernels import selection
from illava.planning import kernels as planning_kernels
from illava.planning.kernels import KernelCounter, count_kernels
from illava.planning.merging_cost import (
    KERNELS_BESIDE_ROUNDS,
    KERNELS_PER_ENCODER_STEP,
    KERNELS_PER_LLM_STEP,
    KERNELS_PER_PREFILL,
)
from tests.kernels.device import DEVICE, launches
from tests.tiny import SIZES as CANVASES
from tests.tiny import config, kind, picture, prompt, tiny_model


@pytest.mark.skipif(DEVICE != "cpu", reason="launches are counted in the interpreter")
def test_the_kernels_of_a_large_segment_are_those_launched():
    """Of the library's selection, with a lower limit of its size, against one below the limit."""
    units, scores = torch.randn(2, 40, 8), torch.rand(2, 40)
    counts = []
    for most in (40, 39):
        with launches() as names:
            selection.select_diverse(units, scores, 7, tie=0.0, most_pairs=most)
        counts.append(len(names))
    assert counts[1] - counts[0] == 7 + KERNELS_BESIDE_ROUNDS


def test_kernels_are_operators_that_run_something():
    counter, x = KernelCounter(), torch.ones(4, 4)
    with counter:
        y = x.view(16)[:8].reshape(2, 4).T  # Views.
        torch.empty(3)
        z = x @ x + 1  # Two kernels.
        z.mul_(2)  # One that writes into its input.
        y.contiguous()  # A copy.
        z.sum().item()  # One kernel, and a number read.
    assert sum(counter.passes[0].values()) == 5


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "qwen2_5_vl", "internvl", "mistral3", "qwen3_5"])
def test_parts_sum_up_to_the_kernels_of_a_whole_pass(family):
    """On a prompt with three pictures; the parts were counted on one and two."""
    model = tiny_model(family).bfloat16()
    shown = [picture(model, CANVASES[kind(model)][-1]) for _ in range(3)]
    inputs = prompt(model, [([3, 4, 5, 6, 7, 8], shown)])
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    modules, kernels = locate(model), count_kernels(config(family))
    counter = KernelCounter()
    with torch.no_grad():
        with counter:
            model.generate(**inputs, max_new_tokens=1, do_sample=False)
        with illava.accelerate(model, illava.Illava(keep=1.0)) as handle:
            model(**inputs)
    counts = handle.report.token_counts[1]
    assert sum(map(len, counts.encoder[0].sequences)) >= len(modules.blocks)
    expected = kernels.of_encoder(counts, 3) + kernels.of_prefill(counts, 3)
    assert sum(counter.passes[0].values()) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    "family", ["llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "internvl", "gemma3"]
)
def test_the_kernels_of_a_merged_prefill_are_about_those_counted(family):
    """What one more step adds is taken off, so that what is left does not depend on the selection."""
    model = tiny_model(family)
    inputs = prompt(model, [([3, 4, 5, 6, 7, 8], [picture(model, CANVASES[kind(model)][-1])])])

    def kernels(blocks=(), layers=()):
        counter = KernelCounter()
        method = illava.Illava(
            encoder_layers=blocks,
            llm_layers=layers,
            **({"encoder_keep": 0.7} if blocks else {}),
            **({"llm_keep": 0.7} if layers else {}),
            select="highest",
            reduce="drop",
        )
        with illava.accelerate(model, method), torch.no_grad(), counter:
            model(**inputs)
        return sum(counter.passes[0].values())

    in_encoder = kernels((1, 3)) - kernels((1,))
    in_llm = kernels((), (2, 4)) - kernels((), (2,))
    fixed = kernels((1,), (2,)) - in_encoder - in_llm - kernels()
    assert KERNELS_PER_PREFILL / 2 < fixed < KERNELS_PER_PREFILL * 2
    # Scores, selection and merging take more operations on a CPU than kernels on a card.
    assert KERNELS_PER_ENCODER_STEP / 2 < in_encoder < KERNELS_PER_ENCODER_STEP * 2
    assert KERNELS_PER_LLM_STEP / 2 < in_llm < KERNELS_PER_LLM_STEP * 2


def test_a_family_whose_tiny_model_does_not_run_is_refused(monkeypatch):
    def broken(modules, pictures):
        raise AttributeError("no such module")

    monkeypatch.setattr(planning_kernels, "_kernels", broken)
    planning_kernels._count.cache_clear()
    with pytest.raises(illava.UnsupportedError, match=r"no such module.*plan without rates"):
        count_kernels(config("llava"))
    planning_kernels._count.cache_clear()


def test_experts_are_counted_as_they_run():
    """Grouped: not one after another, whatever number of them a prompt reaches."""
    found = count_kernels(config("qwen3_vl_moe"))
    assert found.layer == found.decode_layer
