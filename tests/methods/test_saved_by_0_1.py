"""Files that illava 0.1 saved load, and give the schedule that 0.1 made of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import illava
from illava.methods import Method
from illava.methods.merge_step import MergeStep
from illava.methods.pyramiddrop import StageStep
from illava.models.located import locate

from ..tiny import tiny_model

SAVED = Path(__file__).parent / "saved_by_0_1"
SCHEDULES = json.loads((SAVED / "schedules.json").read_text())
THEN = {"where": "middle", "proportional": None}
TODAY = {
    "published": illava.Illava(),
    "budget": illava.Illava(keep=1 / 9),
    # The presets of then.
    "best": dataclasses.replace(illava.Illava.best(1 / 9), **THEN, encoder_share=0.5),
    "best-layers": dataclasses.replace(
        illava.Illava.best(1 / 3),
        encoder_layers=(1,),
        llm_layers=(3,),
        encoder_share=0.35,
        **THEN,
    ),
    "layers": illava.Illava(
        encoder_layers=(1, 3), encoder_keep=(0.8, 0.9), llm_layers=(2,), llm_keep=0.7, reduce="weighted"
    ),
    "every-option": illava.Illava(
        keep=0.4,
        recycle=0.3,
        neighbours=3,
        select="random",
        similarity="cosine",
        score="sampled",
        reduce="fold",
        proportional="encoder",
        experimental={
            "seed": 7,
            "encoder_score": "rarity",
            "llm_score": "text",
            "positions": "compact",
        },
    ),
    "fastv": illava.FastV(layer=2, keep=0.5),
    "tome": illava.ToMe(),
    "visionzip": illava.VisionZip(keep=1 / 9, reduce="mean"),
    "pyramiddrop": illava.PyramidDrop(keep=0.2),
    "compose": illava.Compose(
        (
            illava.ToMe(keep=1 / 3),
            illava.Illava(
                encoder_layers=(), llm_layers=(2,), llm_keep=0.5, experimental={"positions": "compact"}
            ),
        )
    ),
}


def as_in_0_1(step: Any) -> dict[str, Any]:
    """A step's fields by the names of 0.1, where ``keep`` was the share that one step keeps."""
    fields = {"class": type(step).__name__, **dataclasses.asdict(step)}
    if isinstance(step, StageStep):
        # There it was the share of all.
        fields |= {"keep": fields.pop("of_all"), "of_all": None}
        del fields["share"]
    elif isinstance(step, MergeStep):
        fields["keep"] = fields.pop("share")
    if isinstance(step, MergeStep):
        # Later options, which change nothing by default.
        names = ("rotary_keep", "score_power", "sinks", "two_depths", "complexity")
        assert [fields.pop(name) for name in names] == [0.0, 1.0, None, 0.0, None]
    return fields


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_file_gives_the_same_method_and_schedule(name):
    text = (SAVED / name / "illava_config.json").read_text()
    assert "version" not in json.loads(text)
    method = Method.from_pretrained(SAVED / name)
    assert method == TODAY[name]
    plan = method.plan(locate(tiny_model("qwen2_vl")))
    assert {
        "encoder": {str(block): as_in_0_1(step) for block, step in plan.encoder.items()},
        "llm": {str(layer): as_in_0_1(step) for layer, step in plan.llm.items()},
        "projector": None if plan.projector is None else as_in_0_1(plan.projector),
        "pixels": plan.pixels,
        "positions": plan.positions,
    } == SCHEDULES[name]


@pytest.mark.parametrize("name", SCHEDULES)
def test_saved_again_it_is_of_the_current_version(name, tmp_path):
    method = Method.from_pretrained(SAVED / name)
    assert json.loads(method.save_pretrained(tmp_path).read_text())["version"] == 2
    assert Method.from_pretrained(tmp_path) == method


@pytest.mark.parametrize(
    ("given", "found"),
    [(True, "encoder"), (False, None), ("encoder", "encoder"), ("llm", "llm"), ("both", "both")],
)
def test_sizes_in_attention_were_an_experimental_option_of_version_2(given, found):
    values = {"method": "illava", "version": 2, "keep": 0.5, "reduce": "fold"}
    method = Method.from_dict({**values, "experimental": {"proportional": given, "seed": 3}})
    assert method == illava.Illava(keep=0.5, reduce="fold", proportional=found, experimental={"seed": 3})
    with pytest.raises(ValueError, match="proportional is given twice"):
        Method.from_dict({**values, "proportional": "llm", "experimental": {"proportional": given}})


@pytest.mark.parametrize("experimental", [5, [1, 2], "compact"])
def test_options_that_are_no_mapping_are_refused(experimental):
    with pytest.raises(ValueError, match="experimental must be a mapping"):
        Method.from_dict({"method": "illava", "version": 2, "experimental": experimental})


def test_a_newer_method_within_a_composition_is_refused():
    values = TODAY["compose"].to_dict()
    values["methods"][1]["version"] = 3
    with pytest.raises(ValueError, match="pip install --upgrade illava"):
        Method.from_dict(values)
