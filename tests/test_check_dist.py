"""What stops a release: a wheel that is too large, untyped, missing or of another version than the tag."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from scripts.check_dist import LIMIT, problems

DATED = "# Changelog\n\n## 0.2.0 - 2026-12-01\n"


def wheel(folder: Path, project: str, version: str = "0.2.0", *names: str, size: int = 0) -> None:
    """A wheel with these files, and its source archive."""
    with zipfile.ZipFile(folder / f"{project}-{version}-py3-none-any.whl", "w") as archive:
        for name in (f"{project}/__init__.py", f"{project}-{version}.dist-info/METADATA", *names):
            archive.writestr(name, "")
        archive.writestr(f"{project}/data.bin", os.urandom(size))
    (folder / f"{project}-{version}.tar.gz").touch()


@pytest.fixture
def built(tmp_path: Path) -> Path:
    wheel(tmp_path, "illava", "0.2.0", "illava/py.typed")
    wheel(tmp_path, "illava_lab", size=LIMIT)
    return tmp_path


def test_complete(built: Path) -> None:
    assert problems(built, "") == []
    assert problems(built, DATED, "v0.2.0") == []


def test_size(built: Path) -> None:
    wheel(built, "illava", "0.2.0", "illava/py.typed", size=LIMIT)
    (found,) = problems(built, "")
    assert f"more than {LIMIT}" in found


def test_contents(built: Path) -> None:
    wheel(built, "illava", "0.2.0", "tests/__init__.py")
    untyped, more = problems(built, "")
    assert untyped.endswith("lacks illava/py.typed")
    assert more.endswith(": tests")


def test_missing(built: Path) -> None:
    next(built.glob("illava_lab-*.whl")).unlink()
    (built / "illava-0.2.0.tar.gz").unlink()
    source, lab = problems(built, "")
    assert "no source archive" in source
    assert "one wheel of illava_lab" in lab


def test_versions(built: Path) -> None:
    for path in built.glob("illava_lab-*"):
        path.unlink()
    wheel(built, "illava_lab", "0.3.0")
    assert problems(built, "") == ["versions differ: illava 0.2.0, illava_lab 0.3.0"]


@pytest.mark.parametrize("changelog", ["", "## 0.2.0 - Unreleased\n", "## 0.2.0\n"])
def test_tag(built: Path, changelog: str) -> None:
    assert problems(built, changelog, "v0.2.0") == ["CHANGELOG.md has no section '## 0.2.0 - YYYY-MM-DD'"]
    assert problems(built, DATED, "v0.2.1")[:2] == [
        "illava has version 0.2.0, the tag is v0.2.1",
        "illava_lab has version 0.2.0, the tag is v0.2.1",
    ]
