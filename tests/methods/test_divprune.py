"""DivPrune: against exact loops, what its choices must be like, and on whole models."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import illava
from illava.methods.divprune import DivPrune, DivPruneStep, keep_diverse
from illava.methods.steps import Units
from tests.core.cases import assert_same_bits, bounded, normal_units
from tests.core.loops import dot
from tests.methods import whole
from tests.tiny import picture, pictures, prompt, tiny_model

TEXT = [5, 6, 7, 8, 9]


def exact(a: list[float], b: list[float]) -> Fraction:
    """The cosine times its own size, which orders pairs as the cosine does, without any rounding."""
    x, y = [Fraction(value) for value in a], [Fraction(value) for value in b]
    squares = dot(x, x) * dot(y, y)
    return dot(x, y) * abs(dot(x, y)) / squares if squares else Fraction(0)


def cosine(a: list[float], b: list[float]) -> float:
    """To nine places, so that copies of a vector are equally far from all others."""
    return round(dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)), 9)


def diverse_loop(units: list[list[float]], p: int, similarity: Callable = cosine) -> list[int]:
    n = len(units)
    alike = [[similarity(a, b) for b in units] for a in units]
    chosen = [min(range(n), key=lambda i: max(alike[i][j] for j in range(n) if j != i))]
    while len(chosen) < p:
        rest = [i for i in range(n) if i not in chosen]
        # min takes the first of several, and so the lower index.
        chosen.append(min(rest, key=lambda i: max(alike[i][j] for j in chosen)))
    return sorted(chosen)


@st.composite
def few_values(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    """Units of zeros and ones: full of ties, and cosines that differ do so by much."""
    shape = draw(st.integers(1, 3)), draw(st.integers(2, 14)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
    units = torch.randint(-1, 2, shape, generator=generator).to(dtype)
    return units, draw(st.integers(1, shape[1] - 1))


@bounded
@given(case=few_values())
def test_equals_the_loop_where_most_are_tied(case):
    units, p = case
    merged = keep_diverse(p, units)
    for s in range(len(units)):
        assert merged.kept[s].tolist() == diverse_loop(units[s].tolist(), p, exact)
        assert_same_bits(merged.units[s], units[s, merged.kept[s]])


@pytest.mark.parametrize(("n", "p"), [(2, 1), (17, 1), (17, 2), (17, 6), (17, 16), (40, 9)])
def test_equals_the_loop(n, p):
    units = normal_units(3, n, 7, seed=n + p, dtype=torch.float32)
    merged = keep_diverse(p, units)
    assert merged.kept.tolist() == [diverse_loop(segment.tolist(), p) for segment in units]


def test_pairs_are_compared_in_pieces(monkeypatch):
    units = normal_units(2, 23, 6, seed=0, dtype=torch.float32)
    whole_kept = keep_diverse(5, units).kept
    monkeypatch.setattr("illava.methods.divprune.CHUNK_BYTES", 4 * 2 * 23 * 5)
    assert torch.equal(keep_diverse(5, units).kept, whole_kept)


def test_by_hand():
    # Up is alone; of the others the last is the farthest from it, and the second from both.
    units = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 2.0], [9.0, -1.0]]])
    assert [keep_diverse(p, units).kept[0].tolist() for p in (1, 2, 3)] == [[2], [2, 3], [1, 2, 3]]


@bounded
@given(seed=st.integers(0, 2**31), directions=st.integers(2, 8), copies=st.integers(1, 5), data=st.data())
def test_no_direction_twice_before_all_are_there(seed, directions, copies, data):
    generator = torch.Generator().manual_seed(seed)
    which = torch.arange(directions).repeat(copies)[torch.randperm(directions * copies, generator=generator)]
    lengths = torch.randint(1, 5, (len(which), 1), generator=generator)
    units = torch.randn(directions, 5, generator=generator)[which] * lengths
    p = data.draw(st.integers(1, min(directions, len(which) - 1)))
    kept = keep_diverse(p, units[None]).kept[0].tolist()
    first = [which.tolist().index(direction) for direction in range(directions)]
    assert len({which[i].item() for i in kept}) == p
    assert set(kept) <= set(first)


@bounded
@given(seed=st.integers(0, 2**31), n=st.integers(3, 30), data=st.data())
def test_more_are_those_and_others_and_length_does_not_matter(seed, n, data):
    units = normal_units(1, n, 6, seed=seed, dtype=torch.float32)
    p = data.draw(st.integers(1, n - 2))
    kept = keep_diverse(p, units).kept[0].tolist()
    assert kept == sorted(set(kept))
    assert set(kept) < set(keep_diverse(p + 1, units).kept[0].tolist())
    scale = 2.0 ** torch.randint(-3, 4, (n, 1), generator=torch.Generator().manual_seed(seed))
    assert keep_diverse(p, units * scale).kept[0].tolist() == kept


def test_what_is_no_number_is_not_chosen_twice():
    units = torch.full((1, 6, 3), float("nan"))
    assert keep_diverse(3, units).kept.tolist() == [[0, 1, 2]]


def test_segments_do_not_see_one_another():
    lengths = (9, 1, 4, 9, 0, 2)
    vectors = normal_units(sum(lengths), 5, seed=3, dtype=torch.float32)
    merged = DivPruneStep(0.4).reduce(Units(vectors, None, lengths, lengths))
    assert merged.lengths == (4, 1, 2, 4, 0, 1)
    expected, start = [], 0
    for n, p in zip(lengths, merged.lengths, strict=True):
        segment = vectors[start : start + n].tolist()
        expected += [start + i for i in (diverse_loop(segment, p) if n > 1 else range(n))]
        start += n
    assert merged.kept.tolist() == expected
    assert DivPruneStep(0.9).reduce(Units(vectors[:4], None, (2, 2), (2, 2))) is None


# On whole models


@pytest.mark.parametrize(
    "family", ["llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "internvl", "qwen3_vl"]
)
def test_chooses_among_what_the_projector_made(family):
    model = tiny_model(family).double()
    rows = whole.rows_of(model, (2, 1))

    def dead(segment: torch.Tensor) -> list[int]:
        keep = diverse_loop(segment.tolist(), max(1, round(0.3 * len(segment))))
        return [i for i in range(len(segment)) if i not in keep]

    whole.check_choice(model, DivPrune(keep=0.3), rows, 0, dead)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_decoding_goes_on_from_there(family):
    whole.check_decoding(tiny_model(family).double(), DivPrune(keep=0.3))


@torch.no_grad()
def test_everything_kept_and_removal_change_no_bit():
    model = tiny_model("llava")
    inputs = prompt(model, [(TEXT, pictures(model, 2))])
    plain = model(**inputs).logits
    with illava.accelerate(model, DivPrune(keep=1.0)):
        assert_same_bits(model(**inputs).logits, plain)
    handle = illava.accelerate(model, DivPrune(keep=0.2))
    assert model(**inputs).logits.shape != plain.shape
    handle.remove()
    assert_same_bits(model(**inputs).logits, plain)


@torch.no_grad()
def test_the_published_share_is_the_default():
    model = tiny_model("qwen2_vl")
    with illava.accelerate(model, DivPrune()) as handle:
        model(**prompt(model, [(TEXT, [picture(model, (8, 9))])]))
        assert handle.report.final_tokens == 7


@pytest.mark.parametrize("keep", [0, -0.5, 1.5, True, "all"])
def test_refuses_what_is_no_share(keep):
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\]"):
        DivPrune(keep=keep)


def test_survives_json():
    method = DivPrune(keep=0.25)
    assert method.to_dict() == {"version": 2, "method": "divprune", "keep": 0.25}
    assert illava.methods.method_from_dict(method.to_dict()) == method
