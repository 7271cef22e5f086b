"""ToMe in whole models: budgets, attentions, decoding, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import illava
from illava.methods.tome import ToMe
from illava.runtime.attention_tap import AttentionTap
from tests.battery.naive import SQUARES
from tests.core.cases import assert_same_bits
from tests.flash import Kernels, kernels, use
from tests.methods import whole
from tests.methods.tome_whole import llava, qwen
from tests.tiny import ALL, RESAMPLED, kind, picture, pictures, prompt, tiny_model

__all__ = ["kernels"]


ENCODERS = {"llava": llava, "llava-siglip": llava, "qwen2_vl": qwen, "qwen2_5_vl": qwen}
DEPTH = {"llava": 4, "llava-siglip": 5, "qwen2_vl": 5, "qwen2_5_vl": 5}


@torch.no_grad()
@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize(
    "fields",
    [{}, {"proportional": False}, {"encoder_layers": (1, 3), "keep": 0.6}, {"keep": 0.01}],
    ids=["default", "no sizes", "two blocks", "fewest"],
)
def test_equals_the_encoder_written_out(family, fields):
    model = tiny_model(family).double()
    method = ToMe(**fields)
    layers = list(method.encoder_layers or range(DEPTH[family]))
    rows = whole.rows_of(model, (2, 1))
    with illava.accelerate(model, method) as handle:
        batch = model(**whole.inputs_of(model, rows)).logits
        report = handle.report
    assert [step.layer for step in report.steps] == layers
    shown = iter(report.pictures)
    totals = [0] * len(layers)
    for number, row in enumerate(rows):
        made = whole.entering(model, row)
        embeds, dead = made.embeds.clone(), []
        for columns, part in zip(made.segments, row[1], strict=True):
            seen = ENCODERS[family](model, part.values, method.keep or 1 / 3, layers, method.proportional)
            left = [columns[i] for i in seen.kept]
            embeds[left] = seen.features
            dead += sorted(set(columns) - set(left))
            picture = next(shown)
            for i, (boxes, kept) in enumerate(zip(picture.kept, seen.history, strict=True)):
                assert torch.equal(boxes, picture.all[kept])
                totals[i] += len(kept)
        expected = whole.logits(model, made._replace(embeds=embeds), {0: dead})
        assert (batch[number, -len(expected) :] - expected).abs().max() < whole.CLOSE
    assert [step.after for step in report.steps] == totals
    assert report.final_tokens == totals[-1]


@torch.no_grad()
def test_sizes_count_in_the_attention():
    """Where they make no difference, the test above could not tell whether they are used."""
    model = tiny_model("qwen2_vl").double()
    inputs = whole.inputs_of(model, whole.rows_of(model, (1,)))
    found = []
    for proportional in (True, False):
        with illava.accelerate(model, ToMe(proportional=proportional)):
            found.append(model(**inputs).logits)
    assert (found[0] - found[1]).abs().max() > 10 * whole.CLOSE


@torch.no_grad()
@pytest.mark.parametrize("family", ALL)
def test_every_family_hits_the_budget(family):
    model = tiny_model(family)
    inputs = prompt(model, [(whole.TEXT, pictures(model, 1))])
    with illava.accelerate(model, ToMe(keep=0.3)) as handle:
        assert torch.isfinite(model(**inputs).logits).all()
        report = handle.report
    # Segments are tiles of 6 x 6 tokens, or of 3 x 3 squares of them, or a picture of any shape.
    units, of_tile = report.steps[0].before, {"anyres": 36, "square": 36, "tiles": 9, "marked_tiles": 9}
    of = 9 if family in SQUARES and kind(model) == "square" else of_tile.get(kind(model), units)
    of = 36 if family in RESAMPLED else of  # whose tiles are not folded
    assert units % of == 0
    assert report.steps[-1].after == units // of * round(0.3 * of)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_both_attentions_take_sizes(attention):
    model = tiny_model("llava", attention)
    inputs = prompt(model, [(whole.TEXT, [picture(model, (1, 1))])])
    with illava.accelerate(model, ToMe()):
        found = model(**inputs).logits
    other = tiny_model("llava", "sdpa")
    with illava.accelerate(other, ToMe()):
        assert (other(**inputs).logits - found).abs().max() < whole.CLOSE


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "qwen2_5_vl", "llava-pixtral"])
def test_flash_attention_takes_sizes_without_a_mask(family, kernels: Kernels):
    """In one call for all pictures, and for windows, whose keys have the sizes of their own tokens."""
    model, flash = tiny_model(family), use(tiny_model(family), "flash_attention_2")
    inputs = prompt(model, [(whole.TEXT, pictures(model, 2))])
    with illava.accelerate(model, ToMe()):
        expected = model(**inputs).logits
    with illava.accelerate(flash, ToMe()):
        found = flash(**inputs).logits
    with illava.accelerate(flash, ToMe(proportional=False)):
        without = flash(**inputs).logits
    assert (found - expected).abs().max() < whole.CLOSE
    assert (found - without).abs().max() > 10 * whole.CLOSE


@torch.no_grad()
def test_channels_instead_of_a_mask_change_nothing(monkeypatch: pytest.MonkeyPatch):
    """What SDPA gets on an accelerator, computed here."""
    model = tiny_model("qwen2_vl").double()
    inputs = whole.inputs_of(model, whole.rows_of(model, (2,)))
    with illava.accelerate(model, ToMe()):
        expected, calls = model(**inputs).logits, []

        def takes(tap: AttentionTap, query: Tensor, mask: Any, causal: bool | None) -> bool:
            calls.append((query.shape[2], mask, causal))
            return True

        monkeypatch.setattr(AttentionTap, "takes_channels", takes)
        assert (model(**inputs).logits - expected).abs().max() < 1e-6
    assert calls
    assert all(mask is None and causal is False for _, mask, causal in calls)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_decoding_goes_on_from_there(family):
    whole.check_decoding(tiny_model(family).double(), ToMe())


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_everything_kept_and_removal_change_no_bit(family):
    model = tiny_model(family)
    inputs = prompt(model, [(whole.TEXT, pictures(model, 2))])
    plain = model(**inputs).logits
    with illava.accelerate(model, ToMe(keep=1.0)):
        assert_same_bits(model(**inputs).logits, plain)
    handle = illava.accelerate(model, ToMe())
    assert model(**inputs).logits.shape != plain.shape
    handle.remove()
    assert_same_bits(model(**inputs).logits, plain)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep": 0}, r"keep must lie in \(0, 1\]"),
        ({"keep": 2}, r"keep must lie in \(0, 1\]"),
        ({"encoder_layers": ()}, "encoder_layers needs at least one block"),
        ({"encoder_layers": 3}, "encoder_layers must be a tuple of whole numbers"),
        ({"encoder_layers": (3, 1)}, "encoder_layers must be ascending"),
        ({"encoder_layers": (-1,)}, "encoder_layers must be whole numbers from 0 up"),
        ({"proportional": 1}, "proportional must be True or False"),
    ],
)
def test_refuses_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        ToMe(**fields)


def test_refuses_blocks_that_are_not_there_or_not_seen():
    model = tiny_model("llava")
    with pytest.raises(ValueError, match="encoder_layers: this model has layers 0 to 4, got 5"):
        illava.accelerate(model, ToMe(encoder_layers=(1, 5)))
    with pytest.raises(illava.UnsupportedError, match="vision_feature_layer=-2"):
        illava.accelerate(model, ToMe(encoder_layers=(4,)))


def test_survives_json():
    method = ToMe(keep=0.25, encoder_layers=(0, 2), proportional=False)
    assert illava.methods.method_from_dict(method.to_dict()) == method
