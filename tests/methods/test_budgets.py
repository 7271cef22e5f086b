"""A budget for each picture by its complexity: counts and survivors against loops, and an equal mean."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import illava
from illava.errors import UnsupportedError
from illava.evaluation.complexity import calibration_of, measure
from illava.methods import Method
from illava.methods.budgets import budget_factor, calibrated
from illava.models.located import locate
from tests.battery.naive import highest
from tests.core.loops import pixel_complexity_loop, round_half_even
from tests.methods.test_encoder_scores import patches_of
from tests.methods.test_illava_options import scores_of, units_between
from tests.tiny import Picture, pictures, prompt, tiny_model, video, video_prompt

CALIBRATION = (0.8, 2.0)


def method(keep: float = 0.4, **options: Any) -> illava.Illava:
    given = {"reduce": "drop", "llm_layers": (), "encoder_layers": (1,), "keep": keep, **options}
    experimental = {"complexity": CALIBRATION, "encoder_score": "norm"}
    return illava.Illava(experimental={**experimental, **given.pop("experimental", {})}, **given)


def coarser(picture: Picture, levels: float) -> Picture:
    """The picture with that many grey levels for each unit of its values."""
    values = dict(picture.values)
    values["pixel_values"] = (values["pixel_values"] * levels).round() / levels
    return picture._replace(values=values) if hasattr(picture, "_replace") else Picture(values, picture.ids)


def shown(model: nn.Module, count: int, *levels: float) -> list[Picture]:
    return [coarser(one, level) for one, level in zip(pictures(model, count), levels, strict=True)]


def factor(patches: Tensor, calibration: tuple[float, float] = CALIBRATION) -> float:
    reference, slope = calibration
    return min(1.5, max(0.5, 1 + slope * (pixel_complexity_loop(patches) - reference)))


def count(share: float, n: int) -> int:
    return min(n, max(1, round_half_even(min(1.0, share) * n)))


@torch.no_grad()
@pytest.mark.parametrize("keep", [0.4, 0.9])
def test_each_picture_keeps_the_highest_of_its_own_budget(keep):
    model = tiny_model("qwen2_vl")
    rows = [([5, 6, 7], shown(model, 2, 100, 0.5)), ([8, 9], shown(model, 1, 0.2)), ([5], shown(model, 1, 1))]
    inputs = prompt(model, rows)
    factors = [factor(part) for part in patches_of(model, inputs)]
    assert len({round(f, 3) for f in factors}) == 4, factors
    segments = units_between(model, inputs, 1)
    with illava.accelerate(model, method(keep)) as handle:
        logits = model(**inputs).logits
        report = handle.report
    left = []
    for units, seen, own in zip(segments, report.pictures, factors, strict=True):
        few = count(keep * own, len(units))
        left.append(few)
        scores = scores_of("norm", units)
        assert torch.equal(seen.kept[0], seen.all[highest(scores, few / len(units))])
    assert report.visual_tokens == sum(map(len, segments))
    assert report.steps[0].before == report.visual_tokens
    assert report.steps[0].after == report.final_tokens == sum(left)
    assert [tokens[0] for tokens in report.row_tokens] == [left[0] + left[1], left[2], left[3]]
    assert torch.isfinite(logits[:, -1]).all()


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_a_batch_keeps_what_single_prompts_do_in_both_stages(family):
    model = tiny_model(family)
    rows = [([5, 6, 7], shown(model, 2, 100, 0.5)), ([8, 9], shown(model, 1, 0.2))]
    options = {"encoder_layers": (1, 3), "llm_layers": (4,), "encoder_share": 0.5, "reduce": "fold"}
    with illava.accelerate(model, method(0.25, **options)) as handle:
        model(**prompt(model, rows))
        together = [[part.kept[at].tolist() for at in range(3)] for part in handle.report.pictures]
        alone, logits = [], []
        for row in rows:
            logits.append(model(**prompt(model, [row])).logits[:, -1])
            alone += [[part.kept[at].tolist() for at in range(3)] for part in handle.report.pictures]
        again = model(**prompt(model, rows)).logits[:, -1]
    assert together == alone
    torch.testing.assert_close(again, torch.cat(logits), atol=1e-4, rtol=0)
    assert len({len(part[1]) for part in together}) > 1
    for part in together:
        # The LLM keeps half of what enters it, however many these are.
        assert len(part[2]) == count(0.5, len(part[1]))


@torch.no_grad()
def test_a_picture_of_mean_complexity_keeps_what_all_do_without_budgets():
    model = tiny_model("qwen2_vl")
    inputs = prompt(model, [([5, 6, 7], shown(model, 1, 2))])
    ((value,), _) = measure(locate(model), inputs)
    plain = method(0.4, experimental={"complexity": None})
    same = method(0.4, experimental={"complexity": (value, 3.0)})
    logits = []
    for one in (plain, same):
        with illava.accelerate(model, one):
            logits.append(model(**inputs).logits)
    assert torch.equal(*logits)


@torch.no_grad()
def test_generated_text_and_features_computed_ahead_fit_the_counts():
    model = tiny_model("qwen2_vl")
    inputs = prompt(model, [([5, 6, 7], shown(model, 2, 100, 0.2))])
    with illava.accelerate(model, method(0.4)) as handle:
        first = model(**inputs).logits[:, -1]
        counts = handle.report.final_tokens
        made = model.generate(
            **inputs, max_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        assert handle.report.final_tokens == counts
    torch.testing.assert_close(made.logits[0], first, atol=1e-5, rtol=0)


@torch.no_grad()
def test_frames_of_a_video_have_budgets_of_their_own():
    model = tiny_model("qwen2_vl")
    inputs = video_prompt(model, [5, 6, 7], [], video(model, 3))
    pixels = inputs["pixel_values_videos"]
    pixels[24:48] = (pixels[24:48] * 0.4).round()
    patches = pixels.view(len(pixels), 3, 2, *[math.isqrt(pixels.shape[1] // 6)] * 2)
    counts = [count(0.4 * factor(part), 6) for part in patches.split(24)]
    assert len(set(counts)) == 2
    with illava.accelerate(model, method(0.4)) as handle:
        model(**inputs)
        (seen,) = handle.report.pictures
    assert [int((seen.kept[0][:, 0] == frame).sum()) for frame in range(3)] == counts


@torch.no_grad()
def test_checkpoints_keep_the_same_counts():
    grads = []
    for checkpoints in (False, True):
        model = tiny_model("qwen2_vl").train()
        if checkpoints:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        inputs = prompt(model, [([5, 6, 7], shown(model, 2, 100, 0.2))])
        with torch.enable_grad(), illava.accelerate(model, method(0.4, encoder_layers=(1, 3))):
            model(**inputs).logits.float().square().mean().backward()
        grads.append([p.grad for p in model.model.visual.blocks[0].parameters()])
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(again, plain)


@torch.no_grad()
def test_encoders_that_batch_take_one_picture_or_equal_budgets():
    model = tiny_model("llava")
    one = prompt(model, [([5, 6, 7], shown(model, 1, 0.5))])
    different = prompt(model, [([5, 6, 7], shown(model, 2, 100, 0.5))])
    n = len(units_between(model, one, 1)[0])
    with illava.accelerate(model, method(0.4)) as handle:
        model(**one)
        (patches,) = patches_of(model, one)
        assert handle.report.final_tokens == count(0.4 * factor(patches), n) != count(0.4, n)
        with pytest.raises(UnsupportedError, match="must keep equal numbers of units, got") as error:
            model(**different)
        assert "\n" not in str(error.value)
        # Nothing of the refused call is left.
        model(**one)
        assert handle.report.final_tokens == count(0.4 * factor(patches), n)
        twice = shown(model, 1, 0.5) * 2
        model(**prompt(model, [([5, 6, 7], twice)]))
        assert handle.report.final_tokens == 2 * count(0.4 * factor(patches), n)


@pytest.mark.parametrize("family", ["llava-pixtral", "mistral3"])
def test_padded_pictures_are_refused(family):
    with pytest.raises(UnsupportedError, match="whose pictures are padded") as error:
        illava.accelerate(tiny_model(family), method())
    assert "\n" not in str(error.value)
    with pytest.raises(UnsupportedError, match="whose pictures are padded"):
        calibration_of(tiny_model(family), [])


def test_without_outliers_the_reference_is_the_mean():
    values = [0.3, 0.4, 0.5, 0.6]
    reference, slope = calibrated(values)
    assert reference == pytest.approx(0.45, abs=1e-12)
    deviation = (sum((v - 0.45) ** 2 for v in values) / 4) ** 0.5
    assert slope == pytest.approx(0.25 / deviation)
    assert [
        budget_factor(v, (reference, slope)) for v in (0.45, 0.45 + deviation, 0.0, 1.0)
    ] == pytest.approx([1, 1.25, 0.5, 1.5])


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_factor_is_one_also_beyond_the_limits(seed):
    generator = torch.Generator().manual_seed(seed)
    values = (torch.rand(40, generator=generator) ** 6).tolist()
    units = torch.randint(1, 500, (40,), generator=generator).tolist()
    calibration = calibrated(values)
    factors = [budget_factor(v, calibration) for v in values]
    assert max(factors) == 1.5, "otherwise this tests nothing"
    assert sum(factors) / 40 == pytest.approx(1, abs=1e-9)
    weighted = calibrated(values, units)
    total = sum(w * budget_factor(v, weighted) for w, v in zip(units, values, strict=True))
    assert total / sum(units) == pytest.approx(1, abs=1e-9)
    assert weighted != calibration


@pytest.mark.parametrize(
    ("values", "units"), [([0.4] * 3, None), ([], None), ([0.1, 0.2], [1]), ([0.1], [0])]
)
def test_pictures_that_calibrate_nothing(values, units):
    with pytest.raises(ValueError, match=r"different complexity|one count >= 0 for each") as error:
        calibrated(values, units)
    assert "\n" not in str(error.value)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_the_pictures_of_a_calibration_keep_the_budget_together(family):
    model = tiny_model(family)
    prompts = [prompt(model, [([5, 6, 7], shown(model, 1, level))]) for level in (0.2, 0.4, 0.7, 1, 3, 100)]
    calibration = calibration_of(model, prompts)
    kept, whole, loops = 0, 0, []
    keep = 0.5
    with illava.accelerate(model, method(keep, experimental={"complexity": calibration})) as handle:
        for inputs in prompts:
            model(**inputs)
            kept, whole = kept + handle.report.final_tokens, whole + handle.report.visual_tokens
            loops.append(pixel_complexity_loop(patches_of(model, inputs)[0]))
    reference, slope = calibrated(loops, [1] * len(loops))
    assert calibration == pytest.approx((reference, slope), abs=1e-3, rel=1e-3)
    # To within the rounding of each picture.
    assert abs(kept - keep * whole) <= 0.5 * len(prompts)
    assert len(set(loops)) >= 4, "otherwise this tests nothing"


def test_predictions_are_those_of_the_mean_picture():
    model = tiny_model("qwen2_vl")
    options = {"encoder_layers": (1, 3), "llm_layers": ()}
    plain = illava.predict(model, method(0.4, experimental={"complexity": None}, **options))
    own = illava.predict(model, method(0.4, **options))
    assert own.steps == plain.steps
    assert own.final_tokens == plain.final_tokens
    assert own.cost == plain.cost


def test_the_option_is_saved(tmp_path: Path):
    one = method()
    one.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "illava_config.json").read_text())["experimental"]
    assert saved["complexity"] == list(CALIBRATION)
    assert Method.from_pretrained(tmp_path) == one
    assert hash(Method.from_pretrained(tmp_path)) == hash(one)


@pytest.mark.parametrize(
    "value", [0.5, "ab", (0.5,), (0.5, 0), (2, 1), (0.5, math.inf), (True, 1), (0.5, "1")]
)
def test_other_calibrations_are_refused(value):
    with pytest.raises(ValueError, match=r"complexity must be \(reference in") as error:
        illava.Illava(keep=0.3, experimental={"complexity": value})
    assert "\n" not in str(error.value)


def test_a_budget_needs_keep_and_a_step_in_the_encoder():
    experimental = {"complexity": CALIBRATION}
    with pytest.raises(ValueError, match="complexity needs keep"):
        illava.Illava(encoder_layers=(1,), encoder_keep=0.5, experimental=experimental)
    with pytest.raises(ValueError, match="complexity needs units='whole'"):
        illava.Illava(keep=0.3, experimental={**experimental, "units": "patches"})
    modules = locate(tiny_model("qwen2_vl"))
    for options in ({"encoder_layers": ()}, {"encoder_share": 0}):
        with pytest.raises(ValueError, match="complexity needs a step in the encoder"):
            illava.Illava(keep=0.3, llm_layers=(2,), experimental=experimental, **options).plan(modules)
