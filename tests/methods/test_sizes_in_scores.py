"""Scores of a later step count the sizes of tokens, as the attention that they are taken from does.

The weights are those that the modelling code's own eager attention returns, with the bias in its mask.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import illava
from tests.battery.naive import attention_of, blocks_of, highest, layers_of, visual_columns, weights_of
from tests.flash import Kernels, kernels, use
from tests.tiny import pictures, prompt, tiny_model

__all__ = ["kernels"]

FOLD: dict[str, Any] = {"reduce": "fold", "similarity": "cosine"}
FAMILIES = ("llava", "qwen2_vl", "qwen3_vl", "internvl")


def prompt_of(model: nn.Module) -> dict[str, Tensor]:
    return prompt(model, [([5, 6, 7], pictures(model, 2))])


def folding(*layers: int) -> illava.Illava:
    return illava.Illava(
        encoder_layers=layers,
        encoder_keep=0.6,
        llm_layers=(),
        **FOLD,
        proportional="encoder",
    )


def received(weights: list[Tensor], run: Any) -> list[list[float]]:
    """For each picture, what each unit receives: the mean over heads and tokens of the sums over queries."""
    tokens = [one.mean(0).sum(0)[run.prefix :] for call in weights for one in call.double()]
    return [each.view(-1, run.group).mean(1).tolist() for each in tokens]


def without_sizes(weights: list[Tensor], run: Any) -> list[Tensor]:
    """The same logits without the logarithms of sizes."""
    sizes, out = run.token_log_sizes(3).double().exp(), []
    for call in weights:
        own, sizes = sizes[: len(call) * call.shape[-1]], sizes[len(call) * call.shape[-1] :]
        powers = call.double() / own.view(len(call), 1, 1, -1)
        out.append(powers / powers.sum(-1, keepdim=True))
    return out


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_later_step_of_the_encoder(family, kernels: Kernels):
    model, eager = tiny_model(family), tiny_model(family, "eager")
    inputs = prompt_of(model)
    with (
        illava.accelerate(eager, folding(1, 3)) as handle,
        weights_of(attention_of(blocks_of(eager)[3])) as seen,
    ):
        eager(**inputs)
        (run,) = handle._last.runs
    entered, left = (next(n[1] for n in run.history if n[0] == block) for block in (1, 3))
    lengths = next(n[2] for n in run.history if n[0] == 1)

    def chosen(weights: list[Tensor]) -> list[int]:
        kept, start = [], 0
        for scores, n in zip(received(weights, run), lengths, strict=True):
            assert len(scores) == n
            kept += [int(entered[start + i]) for i in highest(scores, 0.6)]
            start += n
        return kept

    assert chosen(seen) == left.tolist()
    assert chosen(without_sizes(seen, run)) != left.tolist(), "sizes make no difference"
    for other in (model, use(tiny_model(family), "flash_attention_2")):
        with illava.accelerate(other, folding(1, 3)) as handle:
            other(**inputs)
            assert handle._last.runs[0].history[-1][1].tolist() == left.tolist()


@torch.no_grad()
def test_windows_of_packed_pictures_have_the_sizes_of_their_own_tokens(kernels: Kernels):
    """All windows in one call, and each in its own."""
    kept = []
    for model in (tiny_model("qwen2_5_vl"), use(tiny_model("qwen2_5_vl"), "flash_attention_2")):
        encoder = model.model.visual
        windows = [i for i in range(len(encoder.blocks)) if i not in encoder.fullatt_block_indexes]
        with illava.accelerate(model, folding(*windows[:2])) as handle:
            model(**prompt_of(model))
            kept.append(handle._last.runs[0].history[-1][1].tolist())
    assert kept[0] == kept[1]


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_a_layer_that_scores_for_itself(family):
    """PyramidDrop recomputes the attention of the layer before which it drops."""
    options = {"proportional": "llm", "experimental": {"positions": "compact"}}
    first = illava.Illava(encoder_layers=(1,), encoder_keep=0.6, llm_layers=(), **FOLD, **options)
    eager, model = tiny_model(family, "eager"), tiny_model(family)
    inputs = prompt_of(model)
    with illava.accelerate(eager, first) as handle, weights_of(attention_of(layers_of(eager)[2])) as seen:
        eager(**inputs)
        columns = handle._last.prefill.entry.columns[0].tolist()
        sizes = handle._last.prefill.entry.log_sizes[0].double().exp()
    weights = seen[0][0].double()[:, -1]
    unsized = weights / sizes
    found = []
    for rows in (weights, unsized / unsized.sum(1, keepdim=True)):
        row = dict(zip(columns, rows.mean(0).tolist(), strict=True))
        expected = []
        for run in visual_columns(inputs)[0]:
            present = [column for column in run if column in row]
            kept = highest([row[column] for column in present], round(0.3 * len(run)) / len(present))
            expected += [present[i] for i in kept]
        found.append(expected)
    both = illava.Compose((first, illava.PyramidDrop(layers=(2,), keep=0.3)))
    with illava.accelerate(model, both) as handle:
        model(**inputs)
        sequence = handle._last.prefill.at(2)
    assert sequence.columns[0][sequence.runs[0] >= 0].tolist() == found[0]
    assert found[0] != found[1], "sizes make no difference"
