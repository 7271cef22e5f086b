"""CI runs targets and scripts that exist, on the Pythons that are promised, with pinned actions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("*.yml"))]


def jobs(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]


def values(path: Path, key: str) -> list[str]:
    """What jobs and their steps give for a key."""
    entries = [entry for job in jobs(path).values() for entry in (job, *job.get("steps", []))]
    return [entry[key] for entry in entries if key in entry]


def test_there_are_some() -> None:
    assert {path.stem for path in FOLDER.glob("*.yml")} >= {"build", "newest", "release", "tests"}


@pytest.mark.parametrize("path", WORKFLOWS)
def test_actions_are_pinned(path: Path) -> None:
    """A tag of someone else's action can move to other code; a commit cannot."""
    for action in values(path, "uses"):
        if action.startswith("./"):
            assert (ROOT / action).is_file()
        else:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action


@pytest.mark.parametrize("path", WORKFLOWS)
def test_commands_exist(path: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for command in values(path, "run"):
        for target in re.findall(r"\bmake ([\w-]+)", command):
            assert target in targets, target
        for script in re.findall(r"\bscripts/[\w.]+", command):
            assert (ROOT / script).is_file(), script


def test_every_promised_python_is_tested() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    promised = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    assert jobs(FOLDER / "tests.yml")["tests"]["strategy"]["matrix"]["python"] == promised
    assert f'requires-python = ">={promised[0]}"' in project
