"""Two methods on one model, and the preset: each stage does what its method does alone."""

from __future__ import annotations

import json
import math

import pytest
import torch

import illava
from illava.methods import Method, method_from_dict, presets
from illava.models.located import locate
from tests.tiny import ALL, IMAGE, pictures, prompt, tiny_model

PAIRS = [
    (illava.ToMe(keep=0.5), illava.FastV(layer=2, keep=0.2)),
    (illava.FastV(layer=2, keep=0.2), illava.ToMe(keep=0.5)),
    (illava.VisionZip(keep=0.5), illava.PyramidDrop(keep=0.2)),
    (illava.Illava(keep=0.5, llm_layers=()), illava.DART(keep=0.2)),
    (illava.Illava(keep=0.6, llm_layers=()), illava.FasterVLM(keep=0.4), illava.SparseVLM(keep=0.2)),
]


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "llava_onevision", "qwen2_vl", "internvl"])
@pytest.mark.parametrize("methods", PAIRS, ids=lambda pair: "+".join(method.name for method in pair))
def test_each_stage_does_what_its_method_does(methods, family):
    model = tiny_model(family)
    inputs = prompt(model, [([5, 6, 7], pictures(model, 2)), ([8, 9, 5, 6], pictures(model, 1, seed=4))])
    plain = model(**inputs).logits
    steps, before = [], []
    for method in methods:
        with illava.accelerate(model, method) as handle:
            model(**inputs)
            steps += handle.report.steps
            if handle.plan.before_llm:
                before.append((handle.plan, handle.report.steps))
    with illava.accelerate(model, illava.Compose(methods)) as handle:
        model(**inputs)
        report, plan = handle.report, handle.plan
    assert [(s.stage, s.layer) for s in report.steps] == sorted(
        ((s.stage, s.layer) for s in steps), key=lambda s: ("encoder", "projector", "llm").index(s[0])
    )
    # The first stage sees what it sees alone.
    first = next(alone for _, alone in before if alone[0].stage == report.steps[0].stage)
    assert report.steps[: len(first)] == first
    assert plan.positions == ("compact" if "pyramiddrop" in [m.name for m in methods] else "original")
    # Budgets are shares of all, whatever went before: of each run of placeholders.
    if family != "llava_onevision":  # line ends count there
        assert report.final_tokens == sum(max(1, round(0.2 * run)) for run in runs_of(inputs))
    assert torch.equal(model(**inputs).logits, plain)


def runs_of(inputs):
    """Lengths of the runs of placeholders."""
    for row in (inputs["input_ids"] == IMAGE).tolist():
        length = 0
        for visual in [*row, False]:
            if not visual and length:
                yield length
            length = length + 1 if visual else 0


def test_dictionaries_and_files_bring_it_back(tmp_path):
    method = illava.Compose(
        (illava.ToMe(keep=0.5), illava.Illava(encoder_layers=(), llm_layers=(2,), llm_keep=0.3))
    )
    assert method_from_dict(json.loads(json.dumps(method.to_dict()))) == method
    method.save_pretrained(tmp_path)
    assert Method.from_pretrained(tmp_path) == method
    assert illava.Compose.from_pretrained(tmp_path) == method


@pytest.mark.parametrize("given", [(), (illava.FastV(),), (illava.FastV(), "tome"), 3])
def test_what_is_not_two_methods_is_refused(given):
    with pytest.raises(ValueError, match="two or more methods"):
        illava.Compose(given)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ((illava.FastV(), illava.DART()), "only one method can act in the llm, got fastv and dart"),
        ((illava.ToMe(), illava.Illava(keep=0.5)), "only one method can act in the encoder, got tome and"),
        ((illava.FasterVLM(), illava.Pool()), "only one method can act in the projector"),
        ((illava.Downsample(), illava.ToMe()), "downsample can only be combined with a method of the LLM"),
    ],
)
def test_two_methods_in_one_stage_are_refused(methods, message):
    with pytest.raises(ValueError, match=message):
        illava.accelerate(tiny_model("qwen2_vl"), illava.Compose(methods))


@torch.no_grad()
def test_a_smaller_picture_goes_with_a_method_of_the_llm():
    model = tiny_model("qwen2_vl")
    inputs = prompt(model, [([5, 6, 7], pictures(model, 1))])
    with illava.accelerate(
        model, illava.Compose((illava.Downsample(keep=0.3), illava.FastV(keep=0.1)))
    ) as handle:
        model(**inputs)
        assert handle.report.llm_tokens == (9, 9, 3, 3, 3)  # 5 x 6 to 3 x 3, then a tenth of 30


@torch.no_grad()
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("keep", [1 / 3, 1 / 9])
def test_the_preset_has_late_steps_and_its_budget_on_every_family(name, keep):
    model = tiny_model(name)
    method = presets()["illava-best"](keep)
    assert method == illava.Illava.best(keep=keep)
    modules = locate(model)
    plan = method.plan(modules)
    read = getattr(model.config, "vision_feature_layer", -1)
    last = min(f % (len(modules.blocks) + 1) for f in ([read] if isinstance(read, int) else read))
    whole = modules.tower.full_attention_blocks(modules.config.vision_config)
    # Five blocks: after 5/9, 7/9 and all of those that the LLM sees, but not with windows.
    wanted = {round(last * share) - 1 for share in (5 / 9, 7 / 9, 1)}
    assert set(plan.encoder) == (wanted if not whole else set(plan.encoder) & set(whole))
    encoder, llm = ([step.share for step in steps.values()] for steps in (plan.encoder, plan.llm))
    assert math.prod(encoder + llm) == pytest.approx(keep)
    if llm:
        assert math.prod(encoder) == pytest.approx(keep**0.75)
        assert encoder == pytest.approx([encoder[0]] * len(encoder))
    else:
        assert any(modules.recurrent)
    inputs = prompt(model, [([5, 6, 7], pictures(model, 1))])
    plain = model(**inputs).logits
    with illava.accelerate(model, method) as handle:
        model(**inputs)
        report = handle.report
    with illava.accelerate(model, illava.Illava.best(keep=1.0)):
        assert torch.equal(model(**inputs).logits, plain)
    assert report.final_tokens < report.visual_tokens
