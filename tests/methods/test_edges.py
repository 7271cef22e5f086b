"""The methods where hooks meet something rare: flash attention, two devices, video positions, later turns."""

from __future__ import annotations

import json

import pytest
import torch

import illava
from illava.methods import Method, method_from_dict
from illava.ops.positions import compact
from tests.battery.test_battery import inputs_of
from tests.flash import Kernels, kernels, use
from tests.test_devices import _values, on_two_devices
from tests.test_exact import logits_of_steps
from tests.test_later_pictures import at_once, chat, positions_of, turns_of
from tests.test_later_pictures import compare as compare_turns
from tests.tiny import pictures, tiny_model, video, video_prompt

__all__ = ["kernels"]

AT_THE_ENTRY = [illava.DivPrune(keep=0.4), illava.MMTok(keep=0.4), illava.Random(keep=0.4)]
IN_THE_LLM = [
    illava.FastV(layer=2, keep=0.4),
    illava.DART(layer=2, keep=0.4),
    illava.SparseVLM(keep=0.4),
    illava.Random(keep=0.4, stage="llm"),
    illava.Illava(
        encoder_layers=(), llm_layers=(2,), llm_keep=0.4, select="diverse", experimental={"llm_score": "text"}
    ),
]
BEHIND = [illava.VisionZip(keep=0.4), illava.FasterVLM(keep=0.4)]
RENUMBERING = [illava.PyramidDrop(keep=0.4), illava.Pool(keep=0.4), illava.Downsample(keep=0.4)]


def named(method: Method) -> str:
    return method.name


@pytest.mark.parametrize("rows", ["single", "batch"])
@pytest.mark.parametrize("method", [*AT_THE_ENTRY, *IN_THE_LLM, *BEHIND, RENUMBERING[0]], ids=named)
def test_flash_attention_gives_what_sdpa_does(method: Method, rows: str, kernels: Kernels) -> None:
    plain, flash = tiny_model("llava_onevision"), use(tiny_model("llava_onevision"), "flash_attention_2")
    inputs = inputs_of(plain, "two", rows)
    with illava.accelerate(plain, method), illava.accelerate(flash, method):
        expected, merged = (logits_of_steps(model, inputs)[0] for model in (plain, flash))
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=0)
    if rows == "single":
        assert not kernels.packed, "gaps in positions must not look like several prompts"


@pytest.mark.parametrize("flash", [False, True])
@pytest.mark.parametrize("method", [*AT_THE_ENTRY, *IN_THE_LLM[:2], *BEHIND], ids=named)
def test_a_picture_in_a_later_turn(method: Method, flash: bool, kernels: Kernels) -> None:
    plain = tiny_model("llava_onevision")
    model = use(tiny_model("llava_onevision"), "flash_attention_2") if flash else plain
    drawn = pictures(plain, 2)
    compare_turns(model, method, [[[]] * 2, [[drawn[0]], [drawn[1]]]], plain if flash else None)


@pytest.mark.parametrize("method", RENUMBERING, ids=named)
def test_renumbering_behind_a_filled_cache_is_refused(method: Method) -> None:
    model = tiny_model("qwen2_vl")
    drawn = pictures(model, 1)
    turns = turns_of(model, [[[]], [drawn]])
    positions = positions_of(model, at_once(turns, drawn, model))
    with (
        illava.accelerate(model, method),
        pytest.raises(illava.UnsupportedError, match="renumber positions"),
    ):
        chat(model, turns, positions)


@pytest.mark.parametrize(
    "method",
    [
        *AT_THE_ENTRY,
        illava.PyramidDrop(layers=(3,), keep=0.4),
        illava.PyramidDrop(layers=(2, 4), keep=0.4),
        illava.FastV(layer=3, keep=0.4),
        illava.DART(layer=4, keep=0.4),
        illava.VisionZip(keep=0.4),
        illava.Illava(
            encoder_layers=(),
            llm_layers=(4,),
            llm_keep=0.4,
            reduce="fold",
            experimental={"positions": "compact"},
        ),
    ],
    ids=named,
)
@pytest.mark.parametrize("rows", ["single", "batch"])
def test_two_devices_give_what_one_does(method: Method, rows: str) -> None:
    model, spread = tiny_model("qwen2_vl"), tiny_model("qwen2_vl")
    inputs = inputs_of(model, "one", rows)
    real = inputs["attention_mask"][:, -1].bool()
    with torch.no_grad(), illava.accelerate(model, method):
        expected = model(**inputs).logits
    with on_two_devices(spread), illava.accelerate(spread, method):
        found = _values(spread(**inputs).logits)
    torch.testing.assert_close(found[real], expected[real], atol=1e-6, rtol=0)


@pytest.mark.parametrize("per_grid", [1.0, 2.0])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_positions_of_a_video_of_smaller_frames_are_the_models_own(family: str, per_grid: float) -> None:
    """Every other row and column of each frame, against what the model works out for frames of that size."""
    model = tiny_model(family)
    inputs = video_prompt(model, [5, 6, 7], [], video(model, 4))
    seconds = {"second_per_grid_ts": [per_grid]} if family == "qwen2_5_vl" else {}

    def positions(ids, rows, columns):
        grid = torch.tensor([[4, 2 * rows, 2 * columns]])
        kinds = 2 * (ids == model.config.video_token_id).int()
        return model.model.get_rope_index(ids, kinds, video_grid_thw=grid, **seconds)[0]

    # 4 frames of 2 x 3 units, of which the first row and the outer columns stay.
    ids = inputs["input_ids"]
    whole = positions(ids, 2, 3)
    shown = (ids[0] == model.config.video_token_id).nonzero().flatten()
    gone = [int(shown[i]) for i in range(24) if i % 6 not in (0, 2)]
    kept = torch.tensor([[i for i in range(ids.shape[1]) if i not in gone]])
    runs = torch.where(ids[0, kept[0]] == model.config.video_token_id, 0, -1)[None]
    small = positions(ids[:, kept[0]], 1, 2)
    got = compact(whole[:, :, kept[0]], runs, kept)
    assert torch.equal(got - got[0, 0, -1], small - small[0, 0, -1])
    assert torch.equal(got[:, 0, -1], whole[:, 0, -1])


@torch.no_grad()
@pytest.mark.parametrize("method", [AT_THE_ENTRY[1], *IN_THE_LLM], ids=named)
def test_what_was_generated_rates_nothing(method: Method) -> None:
    model = tiny_model("llava_onevision")
    inputs = inputs_of(model, "two", "single")
    with illava.accelerate(model, method):
        cached, _ = logits_of_steps(model, inputs)
        anew, _ = logits_of_steps(model, inputs, use_cache=False)
    torch.testing.assert_close(cached, anew, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_the_plain_cost_does_not_depend_on_the_method(family: str) -> None:
    model = tiny_model(family)
    inputs = inputs_of(model, "two", "single")
    costs = []
    for method in (illava.Random(keep=0.4), illava.Downsample(keep=0.4), illava.Illava.best(keep=0.4)):
        with illava.accelerate(model, method) as handle:
            model(**inputs)
            costs.append(handle.report.plain_cost)
    assert costs[0] == costs[1] == costs[2]


@torch.no_grad()
@pytest.mark.parametrize("method", [*BEHIND, illava.ToMe(keep=0.4)], ids=named)
def test_masked_patches_are_refused_where_attention_is_read(method: Method) -> None:
    model = tiny_model("idefics3")
    inputs = inputs_of(model, "one", "single")
    mask = torch.ones(inputs["pixel_values"].shape[:2] + inputs["pixel_values"].shape[3:], dtype=torch.long)
    mask[:, 0, 8:] = 0
    with (
        illava.accelerate(model, method),
        pytest.raises(illava.UnsupportedError, match="masked patches are not supported"),
    ):
        model(**inputs, pixel_attention_mask=mask)


@torch.no_grad()
def test_nothing_large_is_kept_for_the_report() -> None:
    model = tiny_model("llava_onevision")
    inputs = inputs_of(model, "two", "single")
    with illava.accelerate(model, illava.VisionZip(keep=0.4)) as handle:
        model(**inputs)
        assert all(run.seen is None for run in handle._last.runs)
    turns = turns_of(model, [[[]], [pictures(model, 1)]])
    with illava.accelerate(model, illava.FastV(keep=0.4)) as handle:
        chat(model, turns)
        prefill = handle._last.prefill
        assert prefill.cached_masks is None
        assert prefill.seen == {}


@pytest.mark.parametrize(
    "values",
    [
        {"method": ["fastv"]},
        {"method": {}},
        {"method": "compose", "methods": 5},
        {"method": "compose", "methods": None},
        {"method": "compose", "methods": ["fastv", "tome"]},
        {"method": "fastv", "keep": 10**400},
        {"method": "visionzip", "contextual": 10**400},
    ],
)
def test_bad_dictionaries_raise_value_errors_alone(values: dict, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"unknown method|methods|must lie in|expected a dictionary"):
        method_from_dict(values)
    (tmp_path / "illava_config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"unknown method|methods|must lie in|expected a dictionary"):
        Method.from_pretrained(tmp_path)


def test_a_file_nested_too_deeply_is_a_value_error(tmp_path) -> None:
    (tmp_path / "illava_config.json").write_text('{"method":"compose","methods":' * 5000)
    with pytest.raises(ValueError, match="cannot read"):
        Method.from_pretrained(tmp_path)
