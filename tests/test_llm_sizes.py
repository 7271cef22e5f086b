"""Sizes of visual tokens in the LLM: the logarithm added to the logits of keys, in prefill and in decoding.

Held against a language model written out at full length, where a dropped token is one that nobody attends to.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import illava
from tests.core.loops import alike, ranked
from tests.flash import kernels
from tests.methods import whole
from tests.methods.test_illava_options import scores_of, units_between
from tests.reference.llm import decode, rotations
from tests.tiny import tiny_model

__all__ = ["kernels"]

KEEP = 0.3
FOLD: dict[str, Any] = {"reduce": "fold", "similarity": "cosine"}
RECURRENT = ("qwen3_5", "qwen3_5_moe")
RESAMPLED = ("idefics2", "aria")
"""Their features are queries, each of which reads all units."""
BOTH = illava.Illava(
    encoder_layers=(1,),
    encoder_keep=0.5,
    llm_layers=(2, 3),
    llm_keep=0.5,
    **FOLD,
    proportional="both",
)
ENCODER = illava.Illava(
    encoder_layers=(1,),
    encoder_keep=KEEP,
    llm_layers=(),
    **FOLD,
    proportional="llm",
    experimental={"encoder_score": "norm"},
)


def folded(units: list[list[float]], sizes: list[float], scores: list[float], keep: float) -> dict[int, Any]:
    """One segment: the index of each survivor -> (its values, its size)."""
    p = max(1, round(keep * len(units)))
    order = ranked(torch.tensor(scores))
    kept = sorted(order[:p])
    members = {j: [j] for j in kept}
    for i in order[p:]:
        members[max(kept, key=lambda j: alike(units[i], units[j], "cosine"))].append(i)
    found = {}
    for j, own in members.items():
        size = sum(sizes[i] for i in own)
        found[j] = [sum(sizes[i] * units[i][d] for i in own) / size for d in range(len(units[0]))], size
    return found


@torch.no_grad()
def written_out(
    model: nn.Module, made: whole.Prompt, sizes: Tensor, alive: Tensor, last: int, steps: Any
) -> Tensor:
    """(P, vocabulary) logits of what is left.

    Args:
        sizes: (L,) of each token that enters the LLM.
        alive: (L,) bool, who enters it.
        last: column of the last prompt token; generated ones follow.
        steps: layer -> share kept by the step before it.
    """
    language, hidden = model.model.language_model, made.embeds.double().clone()
    sizes, alive = sizes.double().clone(), alive.clone()
    causal = torch.ones(len(hidden), len(hidden), dtype=torch.bool).tril()
    rotary = rotations(
        language, hidden, made.positions[:, None] if len(made.positions) > 1 else made.positions
    )
    before = None
    for number, layer in enumerate(language.layers):
        if number in steps:
            # Scores are the weights of that layer's attention, sizes included.
            _, weights = decode(
                language.layers[number - 1], before, rotary[number - 1], causal & alive, sizes.log()
            )
            row = torch.stack([head[last] for head in weights]).mean(0)
            for segment in made.segments:
                own = [column for column in segment if alive[column]]
                found = folded(hidden[own].tolist(), sizes[own].tolist(), row[own].tolist(), steps[number])
                for i, column in enumerate(own):
                    alive[column] = i in found
                    if i in found:
                        hidden[column], sizes[column] = torch.tensor(found[i][0]), found[i][1]
        before = hidden
        hidden, _ = decode(layer, hidden, rotary[number], causal & alive, sizes.log())
        if number < len(made.taps):
            hidden[[c for segment in made.segments for c in segment]] += made.taps[number]
    return model.lm_head(language.norm(hidden))[alive]


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "qwen3_vl"])
@pytest.mark.parametrize("steps", [{2: KEEP}, {2: 0.6, 3: 0.5}], ids=["one step", "two steps"])
def test_steps_of_the_llm_equal_the_model_written_out(family, steps):
    model = tiny_model(family).double()
    layers = {layer + (family == "qwen3_vl"): share for layer, share in steps.items()}
    method = illava.Illava(
        encoder_layers=(),
        llm_layers=tuple(layers),
        llm_keep=tuple(layers.values()),
        **FOLD,
        proportional="llm",
    )
    rows = whole.rows_of(model, (2, 1))
    without = copy.deepcopy(method)
    object.__setattr__(without, "proportional", None)
    with illava.accelerate(model, without):
        plain = model(**whole.inputs_of(model, rows)).logits
    with illava.accelerate(model, method):
        batch = model(**whole.inputs_of(model, rows)).logits
        decoded = model.generate(
            **whole.inputs_of(model, rows),
            max_new_tokens=4,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        again = illava.Illava.from_dict(method.to_dict())
    assert again == method
    assert (plain[:, -1] - batch[:, -1]).abs().max() > 100 * whole.CLOSE, "sizes make no difference"
    width = whole.inputs_of(model, rows)["input_ids"].shape[1]
    for number, (text, parts) in enumerate(rows):
        new = decoded.sequences[number, width:].tolist()
        made = whole.entering(model, (text + new, parts))
        length = len(made.embeds)
        expected = written_out(
            model, made, torch.ones(length), torch.ones(length, dtype=torch.bool), length - 5, layers
        )
        prompt = expected[:-4]
        assert (batch[number, -len(prompt) :] - prompt).abs().max() < whole.CLOSE
        steps_found = torch.stack([step[number] for step in decoded.logits])
        assert (steps_found - expected[-5:-1]).abs().max() < whole.CLOSE


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_sizes_of_the_encoder_reach_the_llm(family):
    """The encoder folds as the loop does, and each survivor's column has its size."""
    model = tiny_model(family).double()
    row = whole.rows_of(model, (2,))[0]
    inputs = whole.inputs_of(model, [row])
    segments = units_between(model, inputs, 1)
    made = whole.entering(model, row)
    images = {k: v for k, v in inputs.items() if k in ("pixel_values", "image_grid_thw")}
    with illava.accelerate(model, ENCODER):
        found = model(**inputs).logits[0]
        features = model.model.get_image_features(**images).pooler_output
    features = torch.cat([part.reshape(-1, part.shape[-1]) for part in features])
    embeds, sizes = made.embeds.double().clone(), torch.ones(len(made.embeds))
    alive = torch.ones(len(embeds), dtype=torch.bool)
    columns = [column for segment in made.segments for column in segment]
    embeds[columns] = features.where(~features.isnan(), 0)
    alive[columns] = ~features[:, 0].isnan()
    for segment, units in zip(made.segments, segments, strict=True):
        kept = folded(units, [1.0] * len(units), scores_of("norm", units), KEEP)
        assert [i for i, column in enumerate(segment) if alive[column]] == sorted(kept)
        for i, (_, size) in kept.items():
            sizes[segment[i]] = size
        assert sum(size for _, size in kept.values()) == len(segment)
    expected = written_out(model, made._replace(embeds=embeds), sizes, alive, len(embeds) - 1, {})
    assert (found - expected).abs().max() < whole.CLOSE
    ones = written_out(
        model, made._replace(embeds=embeds), torch.ones(len(embeds)), alive, len(embeds) - 1, {}
    )
    assert (found - ones).abs().max() > 100 * whole.CLOSE
