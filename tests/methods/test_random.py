"""Random: drawn by seed and size alone, each token as likely as another, and nothing else about the model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import illava
from illava.methods.random import Random, RandomStep, keep_random
from illava.methods.steps import Units
from tests.core.cases import assert_same_bits, bounded
from tests.methods import whole
from tests.tiny import pictures, prompt, tiny_model


def units_of(lengths: tuple[int, ...], seed: int = 0) -> Units:
    generator = torch.Generator().manual_seed(seed)
    return Units(torch.randn(sum(lengths), 3, generator=generator), None, lengths, lengths)


def kept_of(lengths: tuple[int, ...], keep: float = 0.5, seed: int = 0) -> list[list[int]]:
    """Of each segment, the indices that stay."""
    merged = RandomStep(keep, seed).reduce(units_of(lengths))
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    pieces = merged.kept.split(list(merged.lengths))
    return [(piece - start).tolist() for piece, start in zip(pieces, starts, strict=True)]


@bounded
@given(seed=st.integers(0, 2**63 - 1), n=st.integers(3, 60), data=st.data())
def test_as_many_as_asked_in_order_and_as_they_are(seed, n, data):
    p = data.draw(st.integers(1, n - 2))
    units = units_of((n,)).vectors[None]
    merged = keep_random(p, units, seed)
    kept = merged.kept[0].tolist()
    assert len(kept) == p
    assert kept == sorted(set(kept))
    assert 0 <= kept[0] <= kept[-1] < n
    assert_same_bits(merged.units, units[:, kept])
    assert set(kept) < set(keep_random(p + 1, units, seed).kept[0].tolist())


def test_size_and_seed_decide_alone():
    chosen = kept_of((7, 12, 1, 0, 7))
    assert [len(part) for part in chosen] == [4, 6, 1, 0, 4]
    assert chosen[0] == chosen[4] == kept_of((7,))[0]
    assert chosen[1] == kept_of((30, 12))[1]
    assert chosen[1] != kept_of((7, 12), seed=1)[1]
    other = RandomStep(0.5).reduce(units_of((7, 12), seed=9)).kept.tolist()
    assert other == RandomStep(0.5).reduce(units_of((7, 12))).kept.tolist()


def test_each_and_each_pair_as_often_as_another():
    draws, single, pair = 2000, torch.zeros(8), torch.zeros(8, 8)
    for seed in range(draws):
        (kept,) = kept_of((8,), seed=seed)
        hit = torch.zeros(8)
        hit[kept] = 1
        single += hit
        pair += hit[:, None] * hit
    # Five standard deviations around 1 / 2 and 3 / 14.
    assert (single - draws / 2).abs().max() < 5 * (draws / 4) ** 0.5
    apart = pair[~torch.eye(8, dtype=torch.bool)]
    assert (apart - draws * 3 / 14).abs().max() < 5 * (draws * 3 / 14 * 11 / 14) ** 0.5


def test_nothing_is_touched_where_all_stay():
    assert RandomStep(0.9).reduce(units_of((2, 3))) is None


# On whole models


@pytest.mark.parametrize(
    ("stage", "layer", "given"), [("projector", 0, None), ("llm", 2, None), ("llm", 4, 4)]
)
@pytest.mark.parametrize("family", ["llava", "llava_onevision", "qwen2_vl", "qwen3_vl"])
def test_nobody_looks_at_what_went(family, stage, layer, given):
    model = tiny_model(family).double()

    def dead(segment: torch.Tensor) -> list[int]:
        n = len(segment)
        drawn = torch.randperm(n, generator=torch.Generator().manual_seed(5)).tolist()
        return drawn[max(1, round(0.4 * n)) :]

    rows = whole.rows_of(model, (2, 1))
    whole.check_choice(model, Random(keep=0.4, stage=stage, layer=given, seed=5), rows, layer, dead)


@pytest.mark.parametrize("stage", ["projector", "llm"])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_decoding_goes_on_from_there(family, stage):
    whole.check_decoding(tiny_model(family).double(), Random(stage=stage))


@torch.no_grad()
@pytest.mark.parametrize("stage", ["projector", "llm"])
def test_everything_kept_and_removal_change_no_bit(stage):
    model = tiny_model("llava")
    inputs = prompt(model, [(whole.TEXT, pictures(model, 2))])
    plain = model(**inputs).logits
    with illava.accelerate(model, Random(keep=1.0, stage=stage)):
        assert_same_bits(model(**inputs).logits, plain)
    handle = illava.accelerate(model, Random(stage=stage))
    model(**inputs)
    assert handle.report.final_tokens == 24
    handle.remove()
    assert_same_bits(model(**inputs).logits, plain)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep": 0}, r"keep must lie in \(0, 1\]"),
        ({"keep": 1.1}, r"keep must lie in \(0, 1\]"),
        ({"stage": "encoder"}, "stage must be one of projector, llm"),
        ({"layer": 0}, "layer must be a whole number from 1 up"),
        ({"layer": 1.0}, "layer must be a whole number from 1 up"),
        ({"seed": -1}, "seed must be a whole number from 0 up"),
        ({"seed": True}, "seed must be a whole number from 0 up"),
        ({"seed": 2**63}, r"seed must be a whole number below 2 \*\* 63"),
    ],
)
def test_refuses_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        Random(**fields)


@pytest.mark.parametrize(
    ("family", "layer", "message"),
    [("llava", 5, "1 to 4"), ("qwen3_vl", 1, "2 to 4"), ("llava", 7, "1 to 4")],
)
def test_refuses_layers_before_which_nothing_can_leave(family, layer, message):
    with pytest.raises(ValueError, match=f"layer: must lie in {message} on this model, got {layer}"):
        illava.accelerate(tiny_model(family), Random(stage="llm", layer=layer))


def test_survives_json():
    method = Random(keep=0.25, stage="llm", layer=3, seed=7)
    assert illava.methods.method_from_dict(method.to_dict()) == method
    assert method.to_dict()["stage"] == "llm"
