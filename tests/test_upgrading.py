"""The page on upgrading: every new path exists, and every old one that it lists is gone."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "upgrading.md"
ROWS = re.findall(r"^\| (`.+) \| (`.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


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
