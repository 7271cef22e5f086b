"""ToMe: one merge against loops, how many go where, and whole encoders against a recomputation of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import illava
from illava.methods.steps import Units
from illava.methods.tome import ToMe, ToMeStep, merge_similar, merged_count
from illava.ops.merging import keep_count
from illava.runtime.attention_tap import AttentionTap
from tests.core.cases import assert_same_bits, bounded, normal_units
from tests.flash import Kernels, kernels, use
from tests.methods import whole
from tests.methods.tome_whole import counts_loop, llava, merge_loop, qwen
from tests.tiny import ALL, kind, picture, pictures, prompt, tiny_model

__all__ = ["kernels"]

# How many go at each block


@bounded
@given(n=st.integers(0, 200), keep=st.floats(0.01, 1), steps=st.integers(1, 12))
def test_counts_equal_the_loop(n, keep, steps):
    target = keep_count(n, keep) if n else 0
    counts = [merged_count(n, target, i + 1, steps) for i in range(steps)]
    assert counts == counts_loop(n, target, steps)
    left = [n, *counts]
    gone = [a - b for a, b in zip(left, counts, strict=False)]
    assert all(2 * going <= before for going, before in zip(gone, left, strict=False))
    # As few blocks as possible go without their share: the last.
    assert gone == sorted(gone, reverse=True)
    fewest = n
    for _ in range(steps):
        fewest -= fewest // 2
    assert counts[-1] == max(target, fewest)


def test_counts_by_hand():
    assert [merged_count(576, 192, i, 24) for i in (1, 12, 24)] == [560, 384, 192]
    assert [merged_count(36, 12, i + 1, 4) for i in range(4)] == [30, 24, 18, 12]
    assert [merged_count(36, 13, i + 1, 4) for i in range(4)] == [30, 24, 18, 13]
    # Half of them at most: 10, 5, 3 is all that three blocks can do.
    assert [merged_count(20, 1, i + 1, 3) for i in range(3)] == [10, 5, 3]
    assert merged_count(1, 1, 1, 3) == 1
    assert merged_count(2, 1, 1, 1) == 1


# One merge


def assert_like_loop(units: Tensor, keys: Tensor, sizes: Tensor, p: int) -> None:
    merged = merge_similar(p, units, keys, sizes=sizes)
    assert merged.units.dtype == units.dtype
    assert merged.kept.dtype == torch.int64
    assert merged.sizes.dtype == torch.float32
    for s in range(len(units)):
        expected = merge_loop(units[s].tolist(), keys[s].tolist(), sizes[s].tolist(), p)
        assert merged.kept[s].tolist() == expected.kept
        assert merged.sizes[s].tolist() == expected.sizes
        values = torch.tensor(expected.values, dtype=torch.float64)
        close = 1e-5 if units.dtype in (torch.float32, torch.float64) else 2e-2
        torch.testing.assert_close(merged.units[s].double(), values, atol=close, rtol=close)


@st.composite
def segments(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int]:
    count, n, width = draw(st.integers(1, 3)), draw(st.integers(2, 16)), draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
    units = normal_units(count, n, width, seed=seed, dtype=dtype)
    # Signs alone: of length 2 in fp32 as well, so that cosines are exact and often the same.
    keys = torch.randint(0, 2, (count, n, 4), generator=generator) * 2.0 - 1
    if draw(st.booleans()):
        keys = normal_units(count, n, 4, seed=seed + 1, dtype=torch.float32)
    sizes = torch.randint(1, 5, (count, n), generator=generator).float()
    return units, keys, sizes, draw(st.integers(n - n // 2, n - 1))


@bounded
@given(case=segments())
def test_equals_the_loop(case):
    units, keys, sizes, p = case
    assert_like_loop(units, keys, sizes, p)


@pytest.mark.parametrize(("n", "p"), [(2, 1), (3, 2), (40, 20), (41, 21), (41, 40), (40, 33)])
def test_edges_equal_the_loop(n, p):
    units = normal_units(2, n, 6, seed=n, dtype=torch.float32)
    keys = normal_units(2, n, 5, seed=p, dtype=torch.float32)
    assert_like_loop(units, keys, torch.ones(2, n), p)
    # All alike: every even unit goes into the first odd one, the first of them first.
    assert_like_loop(units, torch.ones(2, n, 4), torch.ones(2, n), p)


@bounded
@given(case=segments())
def test_nothing_is_lost(case):
    units, keys, sizes, p = case
    merged = merge_similar(p, units.double(), keys, sizes=sizes)
    assert merged.kept.shape == (len(units), p)
    assert bool((merged.kept.diff(dim=1) > 0).all())
    # The first unit is the first source of whatever it goes into.
    assert bool((merged.kept[:, 0] == 0).all())
    assert torch.equal(merged.sizes.sum(1), sizes.sum(1))
    before = (units.double() * sizes[..., None]).sum(1)
    after = (merged.units * merged.sizes[..., None]).sum(1)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


@bounded
@given(case=segments())
def test_who_stays_alone_keeps_every_bit(case):
    units, keys, sizes, p = case
    merged = merge_similar(p, units, keys, sizes=sizes)
    for s in range(len(units)):
        for values, place, size in zip(
            merged.units[s], merged.kept[s].tolist(), merged.sizes[s], strict=True
        ):
            if size == sizes[s, place]:
                assert_same_bits(values, units[s, place])


@bounded
@given(case=segments(), factor=st.sampled_from([0.25, 2.0, 8.0]))
def test_length_of_keys_does_not_matter(case, factor):
    units, keys, sizes, p = case
    lengths = torch.tensor([1.0, factor]).repeat(keys.shape[1])[: keys.shape[1], None]
    one, other = (merge_similar(p, units, k, sizes=sizes) for k in (keys, keys * lengths))
    assert torch.equal(one.kept, other.kept)
    assert torch.equal(one.sizes, other.sizes)


def test_by_hand():
    units = torch.tensor([[[0.0], [10.0], [20.0], [30.0], [40.0]]])
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [2.0, 0.1], [9.0, 1.0]]])
    sizes = torch.tensor([[1.0, 1.0, 3.0, 1.0, 1.0]])
    # 2 is just like 1, and 0 hardly less like 3 than 4 is; 1 has the size of one, 2 that of three.
    merged = merge_similar(4, units, keys, sizes=sizes)
    assert merged.kept.tolist() == [[0, 1, 3, 4]]
    assert merged.units.flatten().tolist() == [0, (10 + 60) / 4, 30, 40]
    assert merged.sizes.tolist() == [[1, 4, 1, 1]]
    merged = merge_similar(3, units, keys, sizes=sizes)
    assert merged.kept.tolist() == [[0, 1, 4]]
    assert merged.units.flatten().tolist() == [15, 17.5, 40]


def test_segments_of_any_size_and_sizes_go_along():
    lengths, full = (9, 1, 5, 5, 0, 1, 9), (18, 1, 9, 9, 0, 2, 18)
    vectors = normal_units(sum(lengths), 6, seed=3, dtype=torch.float32)
    seen = normal_units(sum(lengths), 2, 3, seed=4, dtype=torch.float32)
    sizes = torch.randint(1, 4, (sum(lengths),), generator=torch.Generator().manual_seed(5)).float()
    # The second of two steps: 18 -> 9 -> 5 and 9 -> 5 -> 3, since no more than half can go at one.
    merged = ToMeStep(0.25, 2, 2).reduce(Units(vectors, seen, lengths, full, sizes))
    assert merged.lengths == (5, 1, 3, 3, 0, 1, 5)
    start, expected, weights = 0, [], []
    for n, p in zip(lengths, merged.lengths, strict=True):
        part = slice(start, start + n)
        if n == p:
            expected += range(start, start + n)
            weights += sizes[part].tolist()
        else:
            step = merge_loop(vectors[part].tolist(), seen[part].flatten(1).tolist(), sizes[part].tolist(), p)
            expected += [start + i for i in step.kept]
            weights += step.sizes
        start += n
    assert merged.kept.tolist() == expected
    assert merged.sizes.tolist() == weights


# Whole encoders

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
    of = 9 if family == "gemma3" else of_tile.get(kind(model), units)
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


def test_flex_attention_is_refused():
    model = use(tiny_model("qwen2_vl"), "flex_attention")
    with pytest.raises(illava.UnsupportedError, match="does not support proportional attention"):
        illava.accelerate(model, ToMe())


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
