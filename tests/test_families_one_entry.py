"""Everything that is particular to a model family stands in its entry: no other file names a model type."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from illava.models import families
from illava.models.families import FAMILIES, family_of
from illava.models.lookups import LLM_BY_TYPE
from illava.models.tiny_models import CONFIGS, config
from illava.models.unsupported import unsupported

SOURCE = Path(__file__).parents[1] / "src" / "illava"
TEXTS = [file for file in sorted(SOURCE.rglob("*")) if file.suffix in (".py", ".html", ".css", ".js")]
# Where model types may be named: the entries, and the config.json files of published checkpoints.
ENTRIES, PUBLISHED = SOURCE / "models", SOURCE / "bench" / "published.py"

WORDS = frozenset({"git", "aria"})
"""Model types that are also words of source code."""


@cache
def model_types() -> set[str]:
    """``model_type`` of all families, of their image encoders and of their LLMs."""
    out = {*FAMILIES, *unsupported(), *LLM_BY_TYPE} - WORDS
    for family in FAMILIES.values():
        out |= {*family.towers, *family.llm_attributes}
    for name in CONFIGS:
        tiny = config(name)
        out |= {tiny.vision_config.model_type, tiny.get_text_config().model_type}
    return out - {families.ANY}


def named(text: str, names: Iterable[str]) -> set[str]:
    """Which of the names stand in a text as whole words, as ``git grep -w`` finds them."""
    return set(names) & set(re.findall(r"\w+", text))


def test_model_types_are_those_of_transformers():
    assert {"llava", "mllama", "pixtral", "clip_vision_model", "qwen2", "qwen3_5_text"} <= model_types()
    assert {"qwen2_5_vl_text", "internvl_vision", "siglip_vision_model", "gemma2"} <= model_types()


@pytest.mark.parametrize(
    "text",
    [
        'if kind == "qwen2_vl":',
        '{"llava-next": 1, "llava": 2}',
        "import transformers.models.qwen2_vl",
        "qwen2_vl?",
    ],
)
def test_whole_words_are_found(text):
    assert named(text, ["llava", "qwen2_vl"])
    assert not named(text, ["qwen2", "qwen2_vl_text", "next_"])


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_model_type_outside_of_the_entries(file):
    if ENTRIES in file.parents or file == PUBLISHED:
        return
    assert not named(file.read_text(encoding="utf-8"), model_types())


def test_what_families_share_names_none():
    """What differs comes from the entries; only paths of modules of transformers have a family's name."""
    for file in ENTRIES.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        text = re.sub(r'"transformers\.models\.\S+"|from transformers\.models\.\S+', "", text)
        assert not named(text, FAMILIES), file


def test_a_family_in_a_file_of_its_own_is_found(tmp_path, monkeypatch):
    (tmp_path / "new_vlm.py").write_text(
        "from dataclasses import replace\n"
        "from illava.models.families.llava import ENTRIES as LIKE\n"
        'ENTRIES = (replace(LIKE[0], model_type="new_vlm"),)\n'
    )
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    assert {entry.model_type for entry in families._entries()} == {*FAMILIES, "new_vlm"}


@pytest.mark.parametrize("name", FAMILIES)
def test_an_entry_brings_its_tiny_configs(name):
    tiny = FAMILIES[name].tiny
    assert next(iter(tiny)) == name
    for variant in tiny:
        assert variant.partition("-")[0] == name
        assert family_of(config(variant)) is FAMILIES[name]
        assert FAMILIES[name].tower(config(variant)) is not None
