"""A resampler's queries read the survivors of the encoder stage only, against loops over these."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import illava
from tests.reference import resamplers
from tests.tiny import RESAMPLED, pictures, prompt, tiny_model

LAST = 4
KEEP = 0.5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", RESAMPLED)
def test_queries_read_survivors_alone(name: str, attention: str) -> None:
    """Dropped after the attention of the last block, a patch changes no other patch."""
    model = tiny_model(name, attention)
    inputs = prompt(model, [([5, 6, 7], pictures(model, 2))])
    with torch.no_grad():
        plain = model(**inputs)
        method = illava.Illava(encoder_layers=(LAST,), encoder_keep=KEEP, llm_layers=(), reduce="drop")
        with illava.accelerate(model, method) as handle:
            merged = model(**inputs).image_outputs
            shown = handle.report.pictures
        patches = plain.image_outputs.last_hidden_state
        found, first = rows(merged.pooler_output), 0
        for own, picture in zip(patches, shown, strict=True):
            kept = [row for row, box in enumerate(picture.all) if (picture.kept[0] == box).all(1).any()]
            assert len(kept) == round(KEEP * len(own))
            expected = reference(name, model, own[kept])
            torch.testing.assert_close(found[first : first + len(expected)], expected, atol=1e-5, rtol=1e-5)
            whole = reference(name, model, own)
            assert (whole - expected).abs().max() > 1e-3, "what was dropped must matter"
            first += len(expected)
    assert first == len(found)


def reference(name: str, model: torch.nn.Module, patches: Tensor) -> Tensor:
    if name == "idefics2":
        return resamplers.idefics2(model.model.connector, patches)
    return resamplers.aria(model.model.multi_modal_projector, patches, 9)


def rows(features: Tensor | list[Tensor]) -> Tensor:
    return features.flatten(0, 1) if isinstance(features, Tensor) else torch.cat(features)


@pytest.mark.parametrize("name", RESAMPLED)
def test_every_query_stays(name: str) -> None:
    """The encoder stage alone shortens no prompt."""
    model = tiny_model(name)
    inputs = prompt(model, [([5, 6, 7], pictures(model, 1))])
    method = illava.Illava(encoder_layers=(1,), encoder_keep=KEEP, llm_layers=())
    with illava.accelerate(model, method) as handle, torch.no_grad():
        logits = model(**inputs).logits
        report = handle.report
    assert logits.shape[1] == inputs["input_ids"].shape[1]
    assert report.final_tokens == report.visual_tokens
    assert report.cost.projector < report.plain_cost.projector


@pytest.mark.parametrize("name", RESAMPLED)
def test_methods_that_select_features_are_refused(name: str) -> None:
    with pytest.raises(illava.UnsupportedError, match="outputs of queries") as error:
        illava.accelerate(tiny_model(name), illava.Pool(keep=0.25))
    assert "\n" not in str(error.value)
