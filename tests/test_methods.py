"""Methods as data: validation, JSON, files, and the plans they make."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import pickle

import pytest

import illava
from illava.methods import Method, method_from_dict, methods
from illava.models.families import FAMILIES as ENTRIES
from illava.models.located import locate, rescale
from tests.tiny import FAMILIES, tiny_model
from tests.tiny_configs import CONFIGS


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep": 0}, r"keep must lie in \(0, 1\], got 0"),
        ({"keep": 1.5}, "keep must lie in"),
        ({"keep": -0.1}, "keep must lie in"),
        ({"keep": "half"}, "keep must lie in"),
        ({"keep": float("nan")}, "keep must lie in"),
        ({"keep": True}, "keep must lie in"),
        ({"keep": 0.5, "encoder_keep": 0.5}, "either keep or encoder_keep"),
        ({"keep": 0.5, "llm_keep": 0.5}, "either keep or llm_keep"),
        ({"encoder_layers": (5, 6), "encoder_keep": 1.2}, "encoder_keep must lie in"),
        ({"encoder_layers": (5, 6), "encoder_keep": (0.5, 0)}, "encoder_keep must lie in"),
        ({"encoder_layers": (5, 6), "encoder_keep": (0.5,)}, "one for each layer"),
        ({"encoder_keep": (0.5,)}, "one for each layer"),
        ({"encoder_layers": (5, 6)}, "encoder_layers needs encoder_keep"),
        ({"llm_layers": (5, 6)}, "llm_layers needs llm_keep"),
        ({"encoder_layers": (6, 5), "encoder_keep": 0.5}, "ascending"),
        ({"encoder_layers": (5, 5), "encoder_keep": 0.5}, "ascending"),
        ({"encoder_layers": (-1,), "encoder_keep": 0.5}, "from 0 up"),
        ({"encoder_layers": (1.5,), "encoder_keep": 0.5}, "whole numbers"),
        ({"llm_layers": (0,), "llm_keep": 0.5}, "from 1 up"),
        ({"recycle": -0.1}, r"recycle must lie in \[0, 1\]"),
        ({"recycle": 1.1}, "recycle must lie in"),
        ({"neighbours": 0}, "neighbours must be"),
        ({"neighbours": 2.5}, "neighbours must be"),
        ({"reduce": "sum"}, "recycle, drop, weighted, fold, got 'sum'"),
        ({"score": "fast"}, "exact, sampled, got 'fast'"),
        ({"select": "best"}, "highest, diverse, coverage, lowest, random, got 'best'"),
        ({"experimental": {"seed": -1}}, "seed must be"),
        ({"experimental": {"seed": 0.5}}, "seed must be"),
        (
            {"experimental": {"encoder_score": "x"}},
            "encoder_score must be one of attention, own_row, none, size, rarity, norm",
        ),
        ({"experimental": {"sinks": "drop"}}, "sinks must be one of keep, discount, got 'drop'"),
        ({"experimental": {"score_power": -1}}, r"score_power must lie in \[0, 10\]"),
        ({"experimental": {"score_power": True}}, "score_power must lie in"),
        ({"experimental": {"llm_score": ["last"]}}, "llm_score must be one of last, text, own_row, value"),
        ({"experimental": {"encoder_score": "size"}, "select": "diverse"}, "'size' needs reduce='fold'"),
        ({"proportional": "llm"}, "proportional='llm' needs reduce='fold'"),
        (
            {"proportional": "encoder", "experimental": {"units": "patches"}, "reduce": "fold"},
            "units='whole'",
        ),
        ({"experimental": {"score_power": 2}}, "score_power needs select='diverse' or 'coverage'"),
        ({"experimental": {"sinks": "keep"}, "select": "random"}, "sinks needs select='highest', 'diverse'"),
        (
            {"experimental": {"sinks": "keep", "two_depths": 0.3}, "encoder_layers": ()},
            r"sinks, two_depths needs a step in the encoder, but encoder_layers is \(\)",
        ),
        (
            {"experimental": {"llm_score": "value"}, "llm_layers": []},
            r"llm_score needs a step in the llm, but llm_layers is \(\)",
        ),
        (
            {"experimental": {"units": "patches", "encoder_score": "rarity"}},
            "units='patches' ranks by attention or own_row, got encoder_score='rarity'",
        ),
        (
            {"experimental": {"sinks": "keep", "encoder_score": "own_row"}},
            "sinks needs scores >= 0, but encoder_score='own_row' can be negative",
        ),
        ({"experimental": {"two_depths": 1}}, r"two_depths must lie in \[0, 1\), got 1"),
        ({"experimental": {"two_depths": "0.3"}}, "two_depths must lie in"),
        ({"experimental": {"two_depths": 0.3, "units": "patches"}}, "two_depths needs units='whole'"),
        ({"experimental": {"positions": "new"}}, "positions must be one of original, compact"),
        ({"proportional": True}, "proportional must be one of encoder, llm, both, got True"),
        ({"experimental": {"proportional": "llm"}}, r"write Illava\(proportional=...\)"),
        ({"experimental": {"keep": 1}}, "experimental has no option keep; its options are encoder_score"),
        ({"experimental": "compact"}, "experimental must be a mapping"),
    ],
)
def test_bad_values_say_what_would_be_right(values, message):
    with pytest.raises(ValueError, match=message) as error:
        illava.Illava(**values)
    assert "\n" not in str(error.value)


def test_any_real_number_is_a_share():
    from fractions import Fraction

    assert illava.Illava(keep=Fraction(1, 3)) == illava.Illava(keep=1 / 3)
    json.dumps(illava.Illava(keep=Fraction(1, 3)).to_dict())
    assert illava.Illava(encoder_layers=(1,), encoder_keep=[Fraction(1, 2)]).encoder_keep == (0.5,)


def test_a_language_model_of_one_layer_has_no_layer_to_merge_before():
    assert rescale((6, 7, 8), (0.9,) * 3, 28, 1, first=1) == {}


def test_a_method_is_frozen_and_compares_by_value():
    method = illava.Illava(encoder_layers=[5, 6], encoder_keep=[0.8, 0.9])
    assert method == illava.Illava(encoder_layers=(5, 6), encoder_keep=(0.8, 0.9))
    assert hash(method) == hash(illava.Illava(encoder_layers=(5, 6), encoder_keep=(0.8, 0.9)))
    with pytest.raises(AttributeError):
        method.keep = 0.5


def test_experimental_options_are_a_frozen_mapping_that_compares_by_value():
    given = {"positions": "compact", "seed": 0}
    method = illava.Illava(experimental=given)
    given["positions"] = "original"
    assert method.experimental == {"positions": "compact"}, "defaults are left out, and nothing is shared"
    assert method == illava.Illava(experimental={"positions": "compact"}) != illava.Illava()
    assert hash(method) == hash(illava.Illava(experimental={"positions": "compact"}))
    assert illava.Illava(experimental={"seed": 0}) == illava.Illava()
    assert (
        copy.deepcopy(method) == pickle.loads(pickle.dumps(method)) == dataclasses.replace(method) == method
    )
    with pytest.raises(TypeError):
        method.experimental["seed"] = 1


EXAMPLES = [
    illava.Illava(),
    illava.Illava(keep=1 / 9),
    illava.Illava(encoder_layers=(), llm_layers=(8,), llm_keep=0.7, reduce="weighted"),
    illava.Illava(encoder_layers=(5, 6), encoder_keep=(0.8, 0.9), recycle=0.5, neighbours=3, score="sampled"),
    illava.Illava(select="random", experimental={"seed": 7, "positions": "compact"}),
]


@pytest.mark.parametrize("method", EXAMPLES)
def test_dictionaries_and_files_bring_a_method_back(method, tmp_path):
    values = json.loads(json.dumps(method.to_dict()))
    assert (values["method"], values["version"]) == ("illava", 2)
    assert method_from_dict(values) == method
    assert illava.Illava.from_dict(values) == method
    path = method.save_pretrained(tmp_path / "new" / "folder")
    assert path.name == "illava_config.json"
    assert os.listdir(path.parent) == [path.name]
    assert Method.from_pretrained(path.parent) == method
    assert illava.Illava.from_pretrained(path.parent) == method


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "nonsense"}, "unknown method 'nonsense'; known are compose, dart"),
        ({}, "unknown method None"),
        ({"method": "illava", "kep": 1}, "no field kep"),
        ({"method": "illava", "keep": 7}, "keep must lie in"),
        (
            {"method": "illava", "version": 3},
            "newer illava; this release reads up to version 2: pip install --upgrade illava",
        ),
        ({"method": "illava", "version": "2"}, "version must be a whole number from 1 up"),
        ({"method": "illava", "version": True}, "version must be a whole number from 1 up"),
        ({"method": "illava", "version": 2, "positions": "compact"}, "no field positions"),
        ({"method": "illava", "positions": "new"}, "positions must be one of"),
        ([], "expected a dictionary"),
    ],
)
def test_bad_dictionaries_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        method_from_dict(values)


def test_missing_and_broken_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot read"):
        illava.Illava.from_pretrained(tmp_path)
    (tmp_path / "illava_config.json").write_text("{broken")
    with pytest.raises(ValueError, match="cannot read"):
        illava.Illava.from_pretrained(tmp_path)


def test_illava_is_known_by_name():
    assert methods()["illava"] is illava.Illava


def test_published_schedules_are_those_of_the_paper():
    assert illava.supported_families() == tuple(sorted({name.split("-")[0] for name in CONFIGS}))
    onevision, qwen2 = ENTRIES["llava_onevision"].schedule, ENTRIES["qwen2_vl"].schedule
    assert onevision.encoder_layers == (5, 6, 7, 8)
    counts = [729]
    for keep in onevision.encoder_keep:
        counts.append(round(keep * counts[-1]))
    assert counts == [729, 637, 545, 453, 361]
    assert (onevision.llm_layers, onevision.llm_keep) == ((8,), (0.7,))
    assert (qwen2.encoder_layers, set(qwen2.encoder_keep)) == ((12, 13, 14, 15), {0.84})
    assert (qwen2.llm_layers, set(qwen2.llm_keep)) == ((6, 7, 8), {0.9})


def test_at_the_published_depth_the_schedule_is_taken_as_it_stands():
    schedule = ENTRIES["qwen2_vl"].schedule
    same = rescale(schedule.encoder_layers, schedule.encoder_keep, 32, 32)
    assert same == dict.fromkeys((12, 13, 14, 15), 0.84)


@pytest.mark.parametrize("depth", [2, 3, 5, 6, 12, 28, 64])
def test_another_depth_keeps_the_product_and_the_range(depth):
    scaled = rescale((12, 13, 14, 15), (0.84,) * 4, 32, depth, first=1)
    assert math.prod(scaled.values()) == pytest.approx(0.84**4)
    assert all(1 <= layer < depth for layer in scaled)
    assert rescale((7, 15), (0.7, 0.7), 32, depth, allowed=(1,)) == {1: pytest.approx(0.49)}


@pytest.mark.parametrize("family", FAMILIES)
def test_plans_on_a_small_model(family):
    modules = locate(tiny_model(family))
    published = illava.Illava().plan(modules)
    assert published.encoder
    assert published.llm
    assert min(published.llm) >= 1
    if family == "qwen2_5_vl":
        assert set(published.encoder) <= {1, 3}, "only blocks with full attention"
    assert illava.Illava(keep=1.0).plan(modules).encoder == {}
    assert illava.Illava(keep=1.0).plan(modules).llm == {}
    budget = illava.Illava(keep=1 / 9).plan(modules)
    steps = [*budget.encoder.values(), *budget.llm.values()]
    assert math.prod(step.share for step in steps) == pytest.approx(1 / 9)
    assert steps[-1].of_all == 1 / 9
    only_encoder = illava.Illava(keep=0.25, encoder_layers=(1, 3), llm_layers=()).plan(modules)
    assert (set(only_encoder.encoder), only_encoder.llm) == ({1, 3}, {})
    assert only_encoder.encoder[3].of_all == 0.25
    assert [s.share for s in only_encoder.encoder.values()] == pytest.approx([0.5, 0.5])
    with pytest.raises(ValueError, match="at least one layer"):
        illava.Illava(keep=0.5, encoder_layers=(), llm_layers=()).plan(modules)
    with pytest.raises(ValueError, match=r"llm_layers: this model has layers 0 to 4, got 5"):
        illava.Illava(llm_layers=(5,), llm_keep=0.5).plan(modules)


def test_a_budget_equal_to_the_published_share_is_the_published_schedule():
    modules = locate(tiny_model("qwen2_vl"))
    published = illava.Illava().plan(modules)
    budget = illava.Illava(keep=0.84**4 * 0.9**3).plan(modules)
    assert {k: s.share for k, s in budget.encoder.items()} == pytest.approx(
        {k: s.share for k, s in published.encoder.items()}
    )
