"""How many tokens are left where: the counts of ALGORITHM's formula, step by step, and what a report says."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console

import illava
from tests.test_exact import BOTH, batch, logits_of_steps, several, single
from tests.tiny import FAMILIES, IMAGE, pictures, prompt, tiny_model


def survivors(n, keeps):
    """n, then what is left after each keep ratio: max(1, round(r * n))."""
    counts = [n]
    for keep in keeps:
        counts.append(max(1, round(keep * counts[-1])))
    return counts


def segments(model, inputs):
    """Units of every attention segment of the encoder, and placeholders of every run in the prompt."""
    if "image_grid_thw" in inputs:
        units = [int(t * h * w) // 4 for t, h, w in inputs["image_grid_thw"].tolist()]
        return units, units
    with torch.no_grad():
        features = model.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"])
    from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

    pinpoints = model.config.image_grid_pinpoints
    tiles = sum(image_size_to_num_patches(s, pinpoints, 24) for s in inputs["image_sizes"].tolist())
    return [36] * tiles, [len(rows) for rows in features.pooler_output]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("make", [single, several, batch])
@pytest.mark.parametrize(("encoder_keep", "llm_keep"), [(0.85, 0.9), (0.5, 0.5), (0.31, 0.77), (0.9, 0.05)])
def test_counts_are_those_of_the_formula_at_every_layer(family, make, encoder_keep, llm_keep):
    model = tiny_model(family)
    inputs = make(model)
    method = illava.Illava(
        encoder_layers=(1, 2, 3), encoder_keep=encoder_keep, llm_layers=(1, 2, 4), llm_keep=llm_keep
    )
    units, runs = segments(model, inputs)
    with illava.accelerate(model, method) as handle:
        _, out = logits_of_steps(model, inputs, steps=2)
        report = handle.report
    steps = [survivors(n, [encoder_keep] * 3) for n in units]
    for i, block in enumerate((1, 2, 3)):
        step = report.steps[i]
        assert (step.stage, step.layer) == ("encoder", block)
        assert (step.before, step.after) == (sum(s[i] for s in steps), sum(s[i + 1] for s in steps))
    if family == "llava_onevision":
        # Unpadding and newlines come between the stages: count what entered the LLM.
        entered = report.llm_tokens[0]
        dropped = sum(runs) - entered
        assert dropped >= 0
    else:
        left = [survivors(s[-1], [llm_keep] * 3) for s in steps]
        by_layer = [sum(run[i] for run in left) for i in (0, 1, 2, 2, 3)]
        assert list(report.llm_tokens) == by_layer
        assert report.average_tokens == pytest.approx(sum(by_layer) / 5)
        assert report.final_tokens == by_layer[-1]
        if make is not batch:
            text = int((inputs["input_ids"] != IMAGE).sum())
            lengths = [layer.keys.shape[2] for layer in out.past_key_values.layers]
            # One decoded token has entered the cache after two steps.
            assert lengths == [text + n + 1 for n in by_layer]
    assert report.visual_tokens == sum(runs) == int((inputs["input_ids"] == IMAGE).sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_llm_counts_of_tiles_with_newlines(family):
    """The LLM stage alone sees every run whole, whatever the family put into it."""
    model = tiny_model(family)
    inputs = batch(model)
    _, runs = segments(model, inputs)
    method = illava.Illava(encoder_layers=(), llm_layers=(1, 3), llm_keep=(0.6, 0.4))
    with illava.accelerate(model, method) as handle, torch.no_grad():
        model(**inputs)
    left = [survivors(n, [0.6, 0.4]) for n in runs]
    assert list(handle.report.llm_tokens) == [sum(r[i] for r in left) for i in (0, 1, 1, 2, 2)]
    assert [(s.before, s.after) for s in handle.report.steps] == [
        tuple(sum(r[i] for r in left) for i in pair) for pair in ((0, 1), (1, 2))
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("keep", [1 / 3, 1 / 9, 0.5, 0.8, 1.0])
def test_a_budget_is_hit_exactly_run_by_run(family, keep):
    model = tiny_model(family)
    inputs = batch(model)
    _, runs = segments(model, inputs)
    with illava.accelerate(model, keep=keep) as handle, torch.no_grad():
        model(**inputs)
    assert handle.report.final_tokens == sum(max(1, round(keep * n)) for n in runs)
    assert handle.report.visual_tokens == sum(runs)


@pytest.mark.parametrize("family", FAMILIES)
def test_kv_bytes_are_those_of_the_cache(family):
    model = tiny_model(family)
    inputs = batch(model)

    def held():
        with torch.no_grad():
            cache = model(**inputs, use_cache=True).past_key_values
        return sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))

    plain = held()
    with illava.accelerate(model, BOTH) as handle:
        merged = held()
    assert handle.report.plain_cost.kv_bytes == plain
    assert handle.report.cost.kv_bytes == merged < plain


@pytest.mark.parametrize("family", FAMILIES)
def test_beams_do_not_multiply_the_tokens_of_a_report(family):
    model = tiny_model(family)
    inputs = several(model)
    with illava.accelerate(model, BOTH) as handle:
        logits_of_steps(model, inputs, steps=1)
        once = handle.report
        model.generate(**inputs, num_beams=3, max_new_tokens=2, do_sample=False)
        beams = handle.report
    for name in ("visual_tokens", "final_tokens", "average_tokens", "steps", "llm_tokens"):
        assert getattr(beams, name) == getattr(once, name)
    for a, b in zip(once.pictures, beams.pictures, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.kept, b.kept, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_report_is_json(family):
    import json

    model = tiny_model(family)
    with illava.accelerate(model, BOTH) as handle, torch.no_grad():
        model(**several(model))
    assert str(handle.report).startswith(
        f"{handle.report.final_tokens} of {handle.report.visual_tokens} visual"
    )
    values = json.loads(json.dumps(handle.report.to_dict()))
    assert values["final_tokens"] == handle.report.final_tokens
    assert len(values["pictures"]) == 3
    assert len(values["pictures"][0]["kept"]) == len(values["steps"])
    assert illava.Illava.from_dict(values["method"]) == BOTH


def test_kept_patches_point_at_the_marked_one():
    """One patch differs from a constant picture; made the favourite of the scores, it must be where it is."""
    model = tiny_model("qwen2_vl")
    (part,) = pictures(model, 1)
    inputs = prompt(model, [([5, 6], [part])])
    rows, columns, unit = 5, 6, 17
    kept = {}
    for sign in (1, -1):
        inputs["pixel_values"] = torch.zeros_like(part.values["pixel_values"])
        inputs["pixel_values"][unit * 4 : unit * 4 + 4] = 5
        # A one-head read-out of "is marked": every query looks for (or away from) the marked patch.
        block = model.model.visual.blocks[1]
        with torch.no_grad():
            marked = model.model.visual.patch_embed(inputs["pixel_values"])[unit * 4]
            # Identity-like setting: values vanish, so hidden states stay what the patch embedding made.
            for b in model.model.visual.blocks[:1]:
                b.attn.proj.weight.zero_(), b.attn.proj.bias.zero_()
                b.mlp.fc2.weight.zero_(), b.mlp.fc2.bias.zero_()
            normed = block.norm1(marked)
            block.attn.qkv.weight.zero_()
            block.attn.qkv.bias.zero_()
            # Rotary turns queries and keys by position, but not the sign of the slowest pair by much.
            head = block.attn.head_dim
            block.attn.qkv.bias[head // 4 - 1 : 24 : head] = 3.0 * sign
            block.attn.qkv.weight[24 + head // 4 - 1 : 48 : head] = normed / normed.norm()
        method = illava.Illava(encoder_layers=(1,), encoder_keep=1 / 30, llm_layers=())
        with illava.accelerate(model, method) as handle, torch.no_grad():
            model(**inputs)
        (picture,) = handle.report.pictures
        kept[sign] = picture.kept[0]
    box = torch.tensor([0, unit % columns / columns, unit // columns / rows, 0, 0])
    box[3:] = box[1:3] + torch.tensor([1 / columns, 1 / rows])
    assert kept[1].shape == (1, 5)
    torch.testing.assert_close(kept[1][0], box)
    assert not torch.allclose(kept[-1][0], box)


def test_a_report_is_told_in_a_notebook_in_rich_and_in_json():
    model = tiny_model("llava")
    with illava.accelerate(model, illava.Illava.best(1 / 3)) as handle, torch.no_grad():
        model(**single(model))
        report = handle.report
    page, console = report._repr_html_(), Console(width=120, record=True, file=io.StringIO())
    console.print(report)
    text = console.export_text()
    for step in report.steps:
        for description in (page, text, str(report)):
            assert f"{step.stage} block" in description or f"{step.stage.upper()} layer" in description
        assert f"<td>{step.before}</td><td>{step.after}</td>" in page
    assert f"{report.plain_cost.total / 1e9:,.2f}" in text
    assert page.count("<tr>") == 1 + len(report.steps) + 4
    assert json.loads(report.to_json()) == json.loads(json.dumps(report.to_dict()))
