"""Which units a step keeps: the highest-scored, and the two controls."""

import pytest
import torch

import illava
from illava.methods.merge_step import MergeStep
from illava.methods.steps import LlmStep, Units
from tests.tiny import picture, prompt, tiny_model

LENGTHS = (7, 12, 7)


@pytest.fixture
def segments():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(sum(LENGTHS), 4, generator=generator), torch.rand(sum(LENGTHS), generator=generator)


def kept(segments, lengths=LENGTHS, **fields):
    """Which units of each segment stay."""
    step = MergeStep(0.5, reduction="drop", **fields)
    units, scores = (part[: sum(lengths)] for part in segments)
    merged = step.reduce(Units(units, scores, lengths, lengths))
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    pieces = merged.kept.split(list(merged.lengths))
    return [(piece - start).tolist() for piece, start in zip(pieces, starts, strict=True)]


@pytest.mark.parametrize(("select", "sign"), [("highest", 1), ("lowest", -1)])
def test_units_stay_by_their_score(segments, select, sign):
    scores = segments[1].split(list(LENGTHS))
    expected = []
    for some in scores:
        ranked = sorted(range(len(some)), key=lambda i, some=some: -sign * float(some[i]))
        expected.append(sorted(ranked[: round(len(some) / 2)]))
    assert kept(segments, select=select) == expected


def test_random_units_do_not_look_at_scores_or_neighbours(segments):
    chosen = kept(segments, select="random")
    assert chosen == kept((segments[0], -segments[1]), select="random")
    assert chosen[:2] == kept(segments, LENGTHS[:2], select="random")
    assert chosen[0] == chosen[2]


def test_seeds_choose_other_units_each_about_as_often(segments):
    counts = torch.zeros(12)
    for seed in range(400):
        counts[kept(segments, select="random", seed=seed)[1]] += 1
    assert (counts - 200).abs().max() < 50  # five standard deviations


@torch.no_grad()
@pytest.mark.parametrize("stage", ["encoder", "llm"])
def test_methods_hand_it_to_both_stages(stage):
    model = tiny_model("qwen2_vl")
    inputs = prompt(model, [([5, 6, 7], [picture(model, (5, 6))])])
    off = {"llm_layers" if stage == "encoder" else "encoder_layers": ()}
    kept = {}
    for select in ("highest", "lowest", "random"):
        with illava.accelerate(
            model, illava.Illava(keep=0.4, select=select, experimental={"seed": 3}, **off)
        ) as handle:
            model(**inputs)
            (seen,) = handle.report.pictures
            kept[select] = str(seen.kept[0].tolist())
    assert len(set(kept.values())) == 3


@pytest.mark.parametrize(("old", "new"), [("asks", "attention_source"), ("weighs", "proportional_attention")])
def test_names_of_0_1_in_a_step_are_refused(old, new):
    """Ignored, they would change what is merged without a word."""
    with pytest.raises(TypeError, match=rf"Mine\.{old} is called {new}"):
        type("Mine", (LlmStep,), {old: "itself"})
    with pytest.raises(TypeError, match=rf"Mine\.{old} is called {new}"):
        type("Mine", (type("Mixin", (), {old: "itself"}), LlmStep), {})
