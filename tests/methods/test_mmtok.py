"""MMTok: against loops, at its ties, and on tiny models against a prefill that drops by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import illava
from illava.methods.mmtok import CoveringStep, MMTok, covering_order, keep_covering, question
from illava.methods.steps import Tokens, Units
from illava.ops import selection
from tests.core.cases import assert_same_bits, bounded, normal_units
from tests.methods import whole
from tests.methods.loops_llm import budget, covering_loop
from tests.methods.naive_llm import (
    FAMILIES,
    State,
    check_against_naive,
    check_cached_decoding,
    check_keep_one_and_removal,
    json_round_trip,
)
from tests.methods.test_sparsevlm import tokens_of
from tests.tiny import picture, prompt, tiny_model

# Its first layers add features of the full prompt, which a prefill written by hand leaves out.
IN_FULL = tuple(family for family in FAMILIES if family != "qwen3_vl")


def order_of(rank: Tensor, p: int) -> list[int]:
    return rank.argsort(descending=True, stable=True)[:p].tolist()


def selected(units: Tensor, text: Tensor, p: int, asked: Tensor | None = None) -> list[list[int]]:
    every = torch.ones(text.shape[:2], dtype=torch.bool)
    rank = covering_order(p, units, text, every if asked is None else asked)
    return [order_of(row, p) for row in rank]


@bounded
@given(
    n=st.integers(2, 20),
    words=st.integers(0, 5),
    data=st.data(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_the_order_equals_the_loop(n, words, data, dtype):
    p, seed = data.draw(st.integers(1, n)), data.draw(st.integers(0, 2**31))
    units = normal_units(2, n, 6, seed=seed, dtype=dtype)
    text = normal_units(2, words, 6, seed=seed + 1, dtype=dtype)
    asked = torch.rand(2, words, generator=torch.Generator().manual_seed(seed)) < 0.7
    want = [covering_loop(units[s].tolist(), text[s, asked[s]].tolist(), p) for s in range(2)]
    assert selected(units, text, p, asked) == want
    if p < n:
        merged = keep_covering(p, units, text, asked)
        assert merged.kept.tolist() == [sorted(row) for row in want]
        for s in range(2):
            assert_same_bits(merged.units[s], units[s, merged.kept[s]])


def test_by_hand():
    # Without a question the middle covers most; a question about the last selects it first.
    units = torch.tensor([[[1.0, 0.3, 0.0], [1.0, 0.0, 0.0], [1.0, -0.3, 0.0], [0.0, 0.0, 1.0]]])
    none = torch.zeros(1, 0, 3)
    assert selected(units, none, 2) == [[1, 3]]
    assert selected(units, torch.tensor([[[0.0, 0.0, 5.0]]]), 2) == [[3, 1]]
    # Two words are covered by two tokens.
    assert selected(units, torch.tensor([[[0.0, -9.0, 0.0], [0.0, 0.0, 5.0]]]), 2) == [[3, 2]]


def test_words_that_are_not_asked_change_nothing():
    units, text = (normal_units(3, n, 8, seed=n, dtype=torch.float32) for n in (30, 5))
    asked = torch.tensor([[True, False, True, True, False]] * 3)
    want = selected(units, text[:, [0, 2, 3]], 12)
    assert selected(units, text, 12, asked) == want
    assert selected(units, 7 * text.where(asked[..., None], 1.0), 12, asked) == want, "nor does length"
    assert selected(units, text, 12) != want


def test_of_copies_the_earlier_is_selected_whatever_their_place():
    kinds = normal_units(6, 40, seed=0, dtype=torch.float32)
    for seed in range(20):
        which = torch.randint(0, 6, (1, 61), generator=torch.Generator().manual_seed(seed))[0]
        units, text = kinds[which][None], normal_units(1, 3, 40, seed=seed, dtype=torch.float32)
        first = [which.tolist().index(kind) for kind in range(6)]
        assert sorted(selected(units, text, 6)[0]) == sorted(first)
    blank = torch.ones(1, 23, 5)
    assert selected(blank, normal_units(1, 2, 5, seed=1, dtype=torch.float32), 9) == [[*range(9)]]


def test_a_batch_is_what_its_segments_are():
    units, text = (normal_units(4, n, 16, seed=n, dtype=torch.bfloat16) for n in (50, 7))
    alone = [selected(units[s : s + 1], text[s : s + 1], 20)[0] for s in range(4)]
    assert selected(units, text, 20) == alone


def test_in_long_runs_evenly_spaced_tokens_are_covered(monkeypatch):
    units, text = (normal_units(1, n, 6, seed=n, dtype=torch.float32) for n in (12, 2))
    whole_order = selected(units, text, 12)
    monkeypatch.setattr(selection, "MAX_PAIRWISE_UNITS", 6)
    # Of the rows of 12 tokens, those of 0, 4 and 8 count.
    assert sorted(selected(units, text, 12)[0]) == [*range(12)]
    assert selected(units, text, 12) != whole_order


def test_not_a_number_neither_fails_nor_repeats_a_token():
    units = normal_units(1, 8, 4, seed=0, dtype=torch.float32)
    units[0, 3] = torch.nan
    assert sorted(selected(units, torch.ones(1, 2, 4), 8)[0]) == [*range(8)]
    assert sorted(selected(torch.full((1, 5, 4), torch.nan), torch.ones(1, 2, 4), 5)[0]) == [*range(5)]


# Which text is the question


@bounded
@given(
    rows=st.lists(st.from_regex(r"t{0,3}(v{1,6}t{1,6}){1,3}g{0,3}", fullmatch=True), min_size=1, max_size=3),
    seed=st.integers(0, 2**31),
)
def test_the_question_is_the_text_after_the_last_picture(rows, seed):
    tokens, rows = tokens_of(rows, seed)
    visual = tokens.runs >= 0
    lengths = tuple(torch.bincount(tokens.runs[visual]).tolist())
    units = Units(tokens.hidden[visual], None, lengths, lengths, tokens=tokens)
    text, asked = question(units)
    runs = [row for b, row in enumerate(rows) for _ in range(len(set(tokens.runs[b].tolist()) - {-1}))]
    owners = [b for b in range(len(rows)) for _ in range(len(set(tokens.runs[b].tolist()) - {-1}))]
    assert len(text) == len(asked) == len(lengths) == len(runs)
    for s, (row, b) in enumerate(zip(runs, owners, strict=True)):
        want = [c for c, letter in enumerate(row) if letter == "t" and c > row.rindex("v")]
        assert torch.equal(text[s, asked[s]], tokens.hidden[b, want])


def test_runs_of_any_size_meet_the_budget_and_see_their_own_prompt():
    tokens, _ = tokens_of(["tvvvvvtvvtt", "vvvvvttttt", "tttvt"], seed=2)
    visual, lengths = tokens.runs >= 0, (5, 2, 5, 1)
    units = Units(tokens.hidden[visual], None, lengths, lengths, tokens=tokens)
    merged = CoveringStep(0.4).reduce(units)
    assert merged.lengths == (2, 1, 2, 1)
    kept = []
    for start, n, b, words in ((0, 5, 0, [9, 10]), (5, 2, 0, [9, 10]), (7, 5, 1, [6, 7, 8, 9, 10])):
        vectors = units.vectors[start : start + n].tolist()
        order = covering_loop(vectors, tokens.hidden[b, words].tolist(), budget(n, 0.4))
        kept += sorted(start + i for i in order)
    assert merged.kept.tolist() == [*kept, 12]
    few = (2, 1, 2, 1)
    places = visual.flatten().nonzero().flatten()[[0, 1, 5, 7, 8, 12]]
    left = torch.full_like(tokens.runs, -1).flatten()
    left[places] = tokens.runs.flatten()[places]
    fewer = Tokens(tokens.hidden, left.view_as(tokens.runs), tokens.columns, tokens.last)
    assert CoveringStep(0.4).reduce(Units(units.vectors[:6], None, few, lengths, tokens=fewer)) is None


# In a model


def covering(keep: float):
    def step(state: State) -> list[dict[int, Tensor]]:
        words = [state.entry[c].tolist() for c in state.words if c > state.full[-1][-1]]
        left = []
        for run in state.runs:
            order = covering_loop([state.hidden[c].tolist() for c in run], words, budget(len(run), keep))
            left.append({run[i]: state.hidden[run[i]] for i in order})
        return left

    return step


@pytest.mark.parametrize("family", IN_FULL)
def test_a_model_keeps_what_covers_the_picture_and_the_question(family):
    check_against_naive(family, MMTok(keep=0.3), {0: covering(0.3)})


def test_features_of_early_layers_follow_their_tokens():
    model = tiny_model("qwen3_vl").double()
    rows = whole.rows_of(model, (2, 1))
    words = []
    for row in rows:
        made = whole.entering(model, row)
        after = made.embeds[made.segments[-1][-1] + 1 :].tolist()
        words += [after] * len(made.segments)

    def dead(segment: Tensor) -> list[int]:
        order = covering_loop(segment.tolist(), words.pop(0), budget(len(segment), 0.3))
        return [i for i in range(len(segment)) if i not in order]

    whole.check_choice(model, MMTok(keep=0.3), rows, 0, dead)
    assert not words


@torch.no_grad()
def test_another_question_keeps_other_tokens():
    model = tiny_model("qwen2_vl")
    kept = []
    for text in ([5, 6, 7], [60, 61, 62]):
        with illava.accelerate(model, MMTok(keep=0.2)) as handle:
            model(**prompt(model, [(text, [picture(model, (8, 9))])]))
            kept.append(handle.report.pictures[0].kept[-1].tolist())
    assert len(kept[0]) == len(kept[1]) == round(0.2 * 72)
    assert kept[0] != kept[1]


def test_decoding_with_a_cache_is_decoding_without():
    check_cached_decoding(MMTok(keep=0.3))


def test_the_whole_and_nothing():
    check_keep_one_and_removal(MMTok(keep=0.3), MMTok(keep=1.0))


@torch.no_grad()
def test_the_published_share_is_the_default():
    model = tiny_model("qwen2_vl")
    with illava.accelerate(model, MMTok()) as handle:
        model(**prompt(model, [([5, 6, 7], [picture(model, (8, 9))])]))
        assert handle.report.final_tokens == 8


@pytest.mark.parametrize("keep", [0, -0.5, 1.5, True, "all"])
def test_refuses_what_is_no_share(keep):
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\]"):
        MMTok(keep=keep)


def test_survives_json():
    assert MMTok(keep=0.25).to_dict() == {"version": 2, "method": "mmtok", "keep": 0.25}
    json_round_trip(MMTok(keep=0.25))
