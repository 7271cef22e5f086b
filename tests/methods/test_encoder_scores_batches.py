"""Scores of encoder units in batches, checkpoints and dtypes, and what is refused."""

from __future__ import annotations

import pytest
import torch

import illava
from illava.errors import UnsupportedError
from tests.battery.naive import blocks_of
from tests.battery.test_battery import inputs_of
from tests.core.loops import coverage_loop, diverse_loop
from tests.methods.test_encoder_scores import FAMILIES, method, prompt_of, units_seen
from tests.tiny import pictures, prompt, tiny_model

OPTIONS = {
    "coverage": {"select": "coverage"},
    "coverage, nothing": {
        "select": "coverage",
        "proportional": "encoder",
        "experimental": {"encoder_score": "none"},
    },
    "change, sinks": {"select": "diverse", "experimental": {"encoder_score": "change", "sinks": "discount"}},
    "pixels": {
        "select": "coverage",
        "experimental": {"encoder_score": "attention+pixels", "score_power": 0.5},
    },
    "two depths": {"select": "diverse", "experimental": {"two_depths": 0.3, "encoder_score": "change"}},
}


@torch.no_grad()
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_keep_what_single_prompts_do_and_all_is_unchanged(family, name, dtype):
    model = tiny_model(family).to(dtype)
    rows = [([5, 6, 7], pictures(model, 2)), ([8, 9, 5, 6, 7], pictures(model, 1, seed=5))]
    batch, singles = prompt(model, rows), [prompt(model, [row]) for row in rows]
    plain = model(**batch).logits
    options = {"reduce": "fold", "similarity": "cosine", "llm_layers": (), **OPTIONS[name]}
    steps = {"encoder_layers": (1, 3), "keep": 0.3}
    with illava.accelerate(model, illava.Illava(**steps, **options)) as handle:
        together = model(**batch).logits
        kept = [part.kept[-1] for part in handle.report.pictures]
        alone = []
        for single in singles:
            model(**single)
            alone += [part.kept[-1] for part in handle.report.pictures]
    assert torch.isfinite(together[:, -1]).all()
    assert [part.tolist() for part in kept] == [part.tolist() for part in alone]
    with illava.accelerate(model, illava.Illava(encoder_layers=(1, 3), encoder_keep=1, **options)):
        assert torch.equal(model(**batch).logits, plain)


@torch.no_grad()
def test_features_computed_ahead_have_cues_too():
    model = tiny_model("llava")
    inputs = prompt_of(model)
    with illava.accelerate(model, method("pixels")), units_seen() as seen:
        model(**inputs)
        model.model.get_image_features(inputs["pixel_values"])
    assert torch.equal(seen[0].cues, seen[1].cues)


@pytest.mark.parametrize("kind", ["change", "pixels"])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_checkpoints_select_the_same_units_again(family, kind):
    grads = []
    for checkpoints in (False, True):
        model = tiny_model(family).train()
        if checkpoints:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        with illava.accelerate(model, method(kind, (1, 3), reduce="fold")), units_seen() as seen:
            model(**prompt_of(model)).logits.float().square().mean().backward()
        grads.append([p.grad for p in blocks_of(model)[0].parameters()])
        assert len(seen) == (4 if checkpoints else 2)
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(again, plain)


@pytest.mark.parametrize("family", ["llava-pixtral", "mistral3"])
def test_padded_pictures_are_refused(family):
    with pytest.raises(UnsupportedError, match="whose pictures are padded, cannot be scored") as error:
        illava.accelerate(tiny_model(family), method("pixels"))
    assert "\n" not in str(error.value)


@torch.no_grad()
@pytest.mark.parametrize("power", [1, 0.5])
@pytest.mark.parametrize("select", ["diverse", "coverage"])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_a_second_step_selects_by_the_sizes_of_the_first(family, select, power):
    model = tiny_model(family)
    inputs = prompt_of(model)
    options = {"reduce": "fold", "similarity": "cosine", "experimental": {"score_power": power}}
    with illava.accelerate(model, method("size", (1, 3), select=select, **options)) as handle:
        with units_seen() as seen:
            model(**inputs)
        boxes = [part.kept for part in handle.report.pictures]
    first, second = seen
    assert first.sizes is None
    assert second.sizes.sum() == sum(first.lengths)
    assert second.sizes.max() > 1
    parts = zip(second.vectors.split(second.lengths), second.sizes.split(second.lengths), boxes, strict=True)
    for vectors, sizes, (entered, left) in parts:
        rows, scores = vectors.double().tolist(), [size**power for size in sizes.double().tolist()]
        count = len(left)
        if select == "diverse":
            kept = diverse_loop(rows, scores, count)
        else:
            kept = coverage_loop(rows, scores, count, sizes.tolist())
        assert torch.equal(left, entered[sorted(kept)])


@pytest.mark.parametrize("kind", ["none", "size"])
@pytest.mark.parametrize("select", ["highest", "lowest"])
def test_equal_scores_cannot_be_ranked(kind, select):
    with pytest.raises(ValueError, match=r"gives all units the same score at first.*diverse") as error:
        method(kind, select=select, reduce="fold")
    assert "\n" not in str(error.value)
    method(kind, select="random", reduce="fold")


@pytest.mark.parametrize("default", [torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["none", "size", "pixels", "change"])
def test_the_default_dtype_changes_nothing(kind, default):
    model = tiny_model("llava")
    inputs = inputs_of(model, "two", "batch")
    with torch.no_grad(), illava.accelerate(model, method(kind, select="diverse", reduce="fold")):
        plain = model(**inputs).logits
        before = torch.get_default_dtype()
        torch.set_default_dtype(default)
        try:
            again = model(**inputs).logits
        finally:
            torch.set_default_dtype(before)
    assert again.dtype == plain.dtype
    torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-4)
