"""Survivors selected by clusters at two depths, on tiny models against the loop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import illava
from illava.methods import Method
from tests.battery.naive import blocks_of, entering, highest
from tests.battery.test_battery import inputs_of
from tests.core.loops import coverage_loop, diverse_loop
from tests.core.two_depths_loop import two_depths_loop
from tests.methods.test_encoder_scores import units_seen
from tests.methods.test_illava_options import scores_of, units_between
from tests.tiny import pictures, prompt, tiny_model

KEEP, SHARE = 0.5, 0.3


def method(layers: tuple[int, ...], score: str = "norm", **options: object) -> illava.Illava:
    given = {"reduce": "drop", "llm_layers": (), "encoder_layers": layers, "encoder_keep": KEEP, **options}
    return illava.Illava(experimental={"encoder_score": score, "two_depths": SHARE}, **given)


def by_picture(model: nn.Module, inputs: dict[str, Tensor], rows: Tensor) -> list[list[list[float]]]:
    """Hidden states of a block as the units of each picture, without class tokens."""
    if model.config.model_type == "qwen2_vl":
        lengths = [int(h * w) for _, h, w in inputs["image_grid_thw"].tolist()]
        return [part.reshape(len(part) // 4, -1).double().tolist() for part in rows.split(lengths)]
    return [tile[1:].double().tolist() for tile in rows]


@torch.no_grad()
@pytest.mark.parametrize("select", ["highest", "diverse", "coverage"])
@pytest.mark.parametrize(("block", "middle"), [(3, 2), (2, 1), (0, 0)])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_survivors_are_those_of_the_loop(family, block, middle, select):
    model = tiny_model(family)
    inputs = prompt(model, [([5, 6, 7], pictures(model, 2))])
    rows: list[Tensor] = []
    with entering(blocks_of(model)[middle], rows):
        segments = units_between(model, inputs, block)
    earlier = by_picture(model, inputs, rows[0])
    with illava.accelerate(model, method((block,), select=select)) as handle:
        model(**inputs)
        report = handle.report
    assert len(segments) == len(earlier) == len(report.pictures) == 2
    for units, before, seen in zip(segments, earlier, report.pictures, strict=True):
        scores = scores_of("norm", units)
        p = round(KEEP * len(units))
        first = p - round(SHARE * p)
        assert 1 <= first < p
        if select == "highest":
            selected = highest(scores, first / len(scores))
        else:
            selected = {"diverse": diverse_loop, "coverage": coverage_loop}[select](units, scores, first)
        assert len(selected) == first
        chosen, _ = two_depths_loop(units, before, selected, p)
        assert torch.equal(seen.kept[0], seen.all[sorted([*selected, *chosen])])
        assert len(seen.kept[0]) == p


@torch.no_grad()
@pytest.mark.parametrize("layers", [(1, 3), (2, 3), (1, 2), (0, 3)])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_a_later_step_sees_its_units_as_they_were_halfway(family, layers):
    """Its middle block lies after the first step, in the block of it, or before it."""
    model = tiny_model(family)
    inputs = prompt(model, [([5, 6, 7], pictures(model, 2))])
    middle, rows = (layers[1] + 1) // 2, []
    with illava.accelerate(model, method(layers, reduce="fold")) as handle, units_seen() as seen:
        with entering(blocks_of(model)[middle], rows):
            model(**inputs)
        shown, group = handle.report.pictures, handle.modules.group
    width = rows[0].shape[-1]
    tokens = rows[0][:, 1:].reshape(-1, width) if family == "llava" else rows[0]
    units = tokens.reshape(-1, group * width)
    if layers[0] >= middle:
        # All units are there, of which the first step leaves these.
        left, start = [], 0
        for part in shown:
            every = part.all.tolist()
            left += [start + every.index(box) for box in part.kept[0].tolist()]
            start += len(every)
        assert len(left) < len(units)
        units = units[left]
    assert torch.equal(seen[1].halfway, units)
    assert len(seen[1].halfway) == sum(seen[1].lengths)


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl", "llava-pixtral", "llava-dinov2"])
def test_a_step_sees_all_units_halfway_in_whatever_order(family):
    model = tiny_model(family)
    inputs = prompt(model, [([5, 6, 7], pictures(model, 2))])
    rows: list[Tensor] = []
    with illava.accelerate(model, method((3,))) as handle, units_seen() as seen:
        with entering(blocks_of(model)[2], rows):
            model(**inputs)
        prefix = handle.modules.prefix
    (units,) = seen
    width = rows[0].shape[-1]
    tokens = rows[0][:, prefix:].reshape(-1, width) if prefix else rows[0].reshape(-1, width)
    assert units.halfway.shape == units.vectors.shape
    assert torch.equal(units.halfway.view(-1, width).sort(0).values, tokens.sort(0).values)
    # Of the same units: they are more similar to themselves at the step than to the next unit there.
    own = torch.nn.functional.cosine_similarity(units.halfway, units.vectors)
    other = torch.nn.functional.cosine_similarity(units.halfway, units.vectors.roll(1, 0))
    assert own.mean() > other.mean() + 0.1


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_checkpoints_select_the_same_units_again(family):
    grads, halves = [], []
    for checkpoints in (False, True):
        model = tiny_model(family).train()
        if checkpoints:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        inputs = prompt(model, [([5, 6, 7], pictures(model, 2))])
        chosen = method((1, 3), reduce="fold")
        with illava.accelerate(model, chosen), units_seen() as seen:
            model(**inputs).logits.float().square().mean().backward()
        grads.append([p.grad for p in blocks_of(model)[0].parameters()])
        halves.append([units.halfway for units in seen])
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(again, plain)
    first, rerun = halves[1][:2], halves[1][2:]
    assert len(halves[0]) == len(first) == len(rerun) == 2
    # The backward pass reruns the last block first.
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(rerun), strict=True))


@torch.no_grad()
def test_a_batch_of_different_pictures_counts_right():
    model = tiny_model("qwen2_vl")
    inputs = inputs_of(model, "two", "batch")
    with illava.accelerate(model, method((1, 3))) as handle:
        model(**inputs)
        report = handle.report
    before, after = (
        [len(part.all) for part in report.pictures],
        [len(part.kept[-1]) for part in report.pictures],
    )
    assert after == [round(KEEP * round(KEEP * n)) for n in before]
    assert report.steps[-1].after == sum(after)
    assert report.final_tokens == sum(after)


def test_few_survivors_are_all_selected_by_score():
    model = tiny_model("llava")
    inputs = prompt(model, [([5, 6, 7], pictures(model, 1))])
    boxes = []
    for experimental in ({"two_depths": 0.3}, {}):
        one = illava.Illava(encoder_layers=(2,), encoder_keep=0.01, llm_layers=(), experimental=experimental)
        with torch.no_grad(), illava.accelerate(model, one) as handle:
            model(**inputs)
            boxes.append(handle.report.pictures[0].kept[0])
    assert len(boxes[0]) == 1
    assert torch.equal(*boxes)


def test_the_option_is_saved(tmp_path: Path):
    one = method((1,))
    one.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "illava_config.json").read_text())["experimental"]["two_depths"] == SHARE
    assert Method.from_pretrained(tmp_path) == one
