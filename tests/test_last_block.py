"""Features of survivors after a step at the encoder's last block, against those of the plain model.

What is dropped after the last attention changes no other patch, so that a survivor's feature is the plain
model's, at the same place. This holds projectors that fold patches by grids, and modules after the projector.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import illava
from tests.tiny import pictures, prompt, tiny_model

LAST, KEEP = 4, 0.5
NAMES = (
    "cosmos3_edge",
    "exaone4_5",
    "hyperclovax_vision_v2",
    "paddleocr_vl",
    "qwen2_5_omni_thinker",
    "qwen3_omni_moe_thinker",
    "qwen2_vl",
)
METHOD = illava.Illava(encoder_layers=(LAST,), encoder_keep=KEEP, llm_layers=(), reduce="drop")


@pytest.mark.parametrize("name", NAMES)
def test_survivors_have_the_plain_features(name: str) -> None:
    model = tiny_model(name)
    inputs = prompt(model, [([5, 6, 7], pictures(model, 3))])
    with torch.no_grad():
        plain = model(**inputs).image_outputs.pooler_output
        with illava.accelerate(model, METHOD) as handle:
            merged = model(**inputs).image_outputs.pooler_output
            shown = handle.report.pictures
    for whole, left, picture in zip(plain, merged, shown, strict=True):
        kept = ~left[:, 0].isnan()
        assert left[~kept].isnan().all()
        assert int(kept.sum()) == round(KEEP * len(whole))
        torch.testing.assert_close(left[kept], whole[kept], atol=1e-5, rtol=1e-5)
        assert boxes(picture.kept[0]) == boxes(raster(picture.all)[kept])


def raster(regions: Tensor) -> Tensor:
    """(U, 5) boxes of one picture line by line, as its features are."""
    return regions[torch.tensor(sorted(range(len(regions)), key=lambda i: regions[i, [0, 2, 1]].tolist()))]


def boxes(regions: Tensor) -> set[tuple[float, ...]]:
    return set(map(tuple, regions.tolist()))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite(name: str) -> None:
    """0 * NaN is NaN: a mark must reach no weight."""
    model = tiny_model(name)
    inputs = prompt(model, [([5, 6, 7], pictures(model, 2))])
    with illava.accelerate(model, METHOD):
        model(**inputs).logits[:, -1].square().sum().backward()
    found = {path: weight.grad for path, weight in model.named_parameters() if weight.grad is not None}
    assert any(path.startswith("model.visual") or path.startswith("model.vision") for path in found)
    for path, gradient in found.items():
        assert gradient.isfinite().all(), path
