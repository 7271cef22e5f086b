"""Check built distributions before they are published: ``python scripts/check_dist.py dist --tag v0.2.0``."""

from __future__ import annotations

import argparse
import re
import zipfile
from pathlib import Path

PROJECTS = ("illava", "illava_lab")
LIMIT = 500_000
"""Bytes of the library's wheel: weights and drawn data belong to illava-lab."""


def problems(folder: Path, changelog: str, tag: str | None = None) -> list[str]:
    """What is wrong with the wheels and source archives below ``folder``, one line each.

    With ``tag``, such as "v0.2.0", they must have that version, and the changelog a dated section for it.
    """
    found: list[str] = []
    versions: dict[str, str] = {}
    for project in PROJECTS:
        wheels = sorted(folder.rglob(f"{project}-*.whl"))
        if len(wheels) != 1:
            found.append(f"expected one wheel of {project} below {folder}, found {len(wheels)}")
            continue
        versions[project] = wheels[0].name.split("-")[1]
        if not list(folder.rglob(f"{project}-{versions[project]}.tar.gz")):
            found.append(f"{wheels[0].name} has no source archive of its version")
        if project == "illava":
            found += _library(wheels[0])
    if len(set(versions.values())) > 1:
        found.append("versions differ: " + ", ".join(f"{name} {number}" for name, number in versions.items()))
    if tag is not None:
        found += [
            f"{name} has version {number}, the tag is {tag}"
            for name, number in versions.items()
            if tag != f"v{number}"
        ]
        if not re.search(rf"^## {re.escape(tag[1:])} - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
            found.append(f"CHANGELOG.md has no section '## {tag[1:]} - YYYY-MM-DD'")
    return found


def _library(wheel: Path) -> list[str]:
    size = wheel.stat().st_size
    found = [f"{wheel.name} has {size} bytes, more than {LIMIT}"] if size > LIMIT else []
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    if "illava/py.typed" not in names:
        found.append(f"{wheel.name} lacks illava/py.typed")
    outside = {name.split("/")[0] for name in names} - {"illava"}
    if strangers := sorted(name for name in outside if not name.endswith(".dist-info")):
        found.append(f"{wheel.name} installs more than the package illava: {', '.join(strangers)}")
    return found


def main() -> None:
    """Print what is wrong and exit with 1, or say that nothing is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tag", help="the tag of the release, such as v0.2.0")
    given = parser.parse_args()
    changelog = (Path(__file__).parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
    if found := problems(given.folder, changelog, given.tag):
        raise SystemExit("\n".join(found))
    print("distributions are complete")


if __name__ == "__main__":
    main()
