"""Every image-text-to-text model type of transformers is supported, an alias, or has a reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import model_type_to_module_name

import illava
from illava.errors import UnsupportedError
from illava.models import coverage as module
from illava.models import unsupported as table
from illava.models.coverage import UNKNOWN, coverage, owners_of, stages_of
from illava.models.families import FAMILIES, family_of
from illava.models.located import locate
from illava.models.tiny_models import ALL
from illava.models.unsupported import Stage, unsupported

from .tiny import tiny_model

NEWEST = "5.24."
LINES = (Path(table.__file__).parent / "families" / table.TABLE).read_text(encoding="utf-8").splitlines()


def mapping() -> dict[str, str]:
    return dict(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def test_every_type_of_transformers_is_named():
    found = coverage()
    assert [one.model_type for one in found] == sorted(mapping())
    for one in found:
        stages = one.stages
        assert UNKNOWN not in (stages.encoder, stages.llm), f"{one.model_type} has no entry and no reason"
        for stage in (stages.encoder, stages.llm):
            assert (stage.state == "yes") == (not stage.reason)


def test_a_type_that_neither_names_is_found(monkeypatch):
    known = mapping()
    monkeypatch.setattr(
        modeling_auto,
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
        {**known, "brand_new": "BrandNewForConditionalGeneration"},
    )
    new = [one for one in coverage() if one.model_type not in known]
    assert [(one.model_type, one.stages.encoder, one.stages.llm) for one in new] == [
        ("brand_new", UNKNOWN, UNKNOWN)
    ]


def test_the_table_names_no_supported_type():
    assert not set(unsupported()) & set(FAMILIES)


@pytest.mark.skipif(not transformers.__version__.startswith(NEWEST), reason="older releases lack some")
def test_the_table_names_only_types_that_exist():
    assert set(unsupported()) <= set(mapping())


def test_the_table_is_sorted():
    names = [line.partition(" | ")[0] for line in LINES if line and not line.startswith("#")]
    assert names == sorted(names) == sorted(unsupported())


def test_supported_stages_are_those_of_the_loaded_models():
    """The LLM stage is refused for exactly the models whose layers are recurrent."""
    for name in FAMILIES:
        if name in ALL:
            stages = stages_of(name)
            assert (stages.encoder == Stage("yes")) == bool(locate(tiny_model(name)).blocks), name
            assert (stages.llm.state == "no") == any(locate(tiny_model(name)).recurrent), name
            assert (stages.llm.state == "no") == (not FAMILIES[name].schedule.llm_layers)


def test_aliases_run_the_classes_of_another_type():
    classes = {"a_b": "ABForGeneration", "old": "ABForGeneration", "c": "CForGeneration"}
    assert owners_of(classes) == {"a_b": "a_b", "old": "a_b", "c": "c"}
    found = {one.model_type: one for one in coverage()}
    for one in found.values():
        if one.alias_of is not None:
            assert found[one.alias_of].model_class == one.model_class
            assert found[one.alias_of].alias_of is None
            assert one.stages.encoder.state != "yes"
    # Two types of one file are no aliases of each other unless they share the class.
    assert found["gemma3"].alias_of is None


# A word of a reason, and what must then be in the code of its model type.
SAYS = {
    "timm": "timm",
    "indexer": "Indexer",
    "cross-attention: its": "cross",
    "short convolutions": "Conv",
    "VQ": "VQ",
    "Q-Former": "former",
    "share keys and values": "shared",
    "class token": "class_embedding|cls_token",
    "windowed": "window",
}


def code_of(name: str) -> str:
    """The files of a model type, and of those that its config names for its parts."""
    models = Path(transformers.__file__).parent / "models"
    own = "".join(file.read_text(encoding="utf-8") for file in models.joinpath(folder(name)).glob("*.py"))
    parts = {folder(part) for part in re.findall(r'model_type="(\w+)"', own)} | {
        folder(part) for part in re.findall(r"^from \.\.(\w+)\.", own, re.MULTILINE)
    }
    files = [file for part in parts - {"auto"} for file in models.joinpath(part).glob("*.py")]
    return (own + "".join(file.read_text(encoding="utf-8") for file in files)).lower()


def folder(name: str) -> str:
    return str(model_type_to_module_name(name))


@pytest.mark.skipif(not transformers.__version__.startswith(NEWEST), reason="written from the newest release")
@pytest.mark.parametrize("name", unsupported())
def test_reasons_name_what_the_code_has(name):
    code = code_of(name)
    assert code, f"no files for {name}"
    for stage in (unsupported()[name].encoder, unsupported()[name].llm):
        for word, needed in SAYS.items():
            if word in stage.reason:
                assert any(part.lower() in code for part in needed.split("|")), f"{name}: {word}"


def test_the_error_for_a_type_gives_its_reasons():
    config = transformers.AutoConfig.for_model("blip")
    with pytest.raises(
        UnsupportedError, match=r"image encoder: open: .*; LLM: no: cross-attention.*supported are"
    ) as e:
        family_of(config)
    assert "\n" not in str(e.value)
    assert all(name in str(e.value) for name in illava.supported_families())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one | no: a | no: b | no: c", "line 1: expected a new model type"),
        ("one", "line 1: expected a new model type"),
        ("one | no: a\none | no: b", "line 2: expected a new model type"),
        ("# fine\none | perhaps", "line 2: expected 'no: REASON'"),
        ("one | no:", "line 1: expected 'no: REASON'"),
    ],
)
def test_unreadable_lines_are_refused(text, message, monkeypatch, tmp_path):
    (tmp_path / "families").mkdir()
    (tmp_path / "families" / table.TABLE).write_text(text)
    monkeypatch.setattr(table, "files", lambda package: tmp_path / "families")
    with pytest.raises(ValueError, match=message):
        unsupported.__wrapped__()


def test_no_stage_is_unknown_in_the_table():
    assert module.stages_of("not_a_type").encoder == UNKNOWN
