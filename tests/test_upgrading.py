"""The page on upgrading: every new path exists, and every old one that it lists is gone."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from illava.api import Handle
from illava.planning.plan import Candidate, Recommendation
from illava.planning.predict import Prediction
from illava.report import Report, StepTrace

PAGE = Path(__file__).parents[1] / "docs" / "upgrading.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (`[^|]+`) \| (`[^|]+`) \|$", TEXT, re.MULTILINE)
RENAMED = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `(\w+)` \|$", TEXT, re.MULTILINE)
CLASSES = {kind.__name__: kind for kind in (Handle, Report, StepTrace, Prediction, Candidate, Recommendation)}


def paths(cell: str) -> list[str]:
    return [path for path in re.findall(r"`([\w.]+)`", cell) if "." in path]


def found(path: str) -> Any:
    """What a dotted path names: a module, or a name in one. Raises ImportError or AttributeError."""
    module, _, name = path.rpartition(".")
    try:
        whole = import_module(path)
    except ModuleNotFoundError as error:
        # A missing dependency of the module is no missing path.
        if not path.startswith(error.name or "?"):
            raise
        return getattr(import_module(module), name)
    if whole.__file__ is None:
        raise ImportError(f"{path} is a folder that an older checkout left behind")
    return whole


def test_the_table_is_read() -> None:
    assert len(ROWS) > 15
    assert all(paths(old) and paths(new) for old, new in ROWS)


@pytest.mark.parametrize("path", [path for _, new in ROWS for path in paths(new)])
def test_new_paths_exist(path: str) -> None:
    found(path)


@pytest.mark.parametrize("path", [path for old, _ in ROWS for path in paths(old)])
def test_old_paths_are_gone(path: str) -> None:
    with pytest.raises((ImportError, AttributeError)):
        found(path)


def test_all_renamed_attributes_are_listed() -> None:
    deprecated = {
        (name, old)
        for name, kind in CLASSES.items()
        for old, member in vars(kind).items()
        if isinstance(member, property) and (member.__doc__ or "").startswith("Deprecated name")
    }
    assert deprecated == {(name, old) for name, old, _ in RENAMED}
    assert len(deprecated) == 9


@pytest.mark.parametrize(("name", "old", "new"), RENAMED)
def test_old_attributes_warn_and_return_the_new_ones(name: str, old: str, new: str) -> None:
    kind, value = CLASSES[name], object()
    renewed = type(name, (kind,), {new: value, "__init__": lambda self: None})
    with pytest.warns(DeprecationWarning, match=f"{name}.{old} is deprecated: use {name}.{new}") as caught:
        assert getattr(renewed(), old) is value
    # The line of the caller, not of the library.
    assert caught[0].filename == __file__
