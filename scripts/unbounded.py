"""Names of what both distributions and their tests need, without bounds on versions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

NAME = re.compile(r"([\w.-]+)(?:\[([\w,-]+)\])?")


def unbounded(project: dict[str, Any], extra: str = "dev") -> list[str]:
    """Names to install, sorted, from the table ``[project]`` of a pyproject.toml.

    The project's own extras are followed; extras of others stay, as in "mkdocstrings[python]".
    """
    names: set[str] = set()
    waiting, seen = [*project["dependencies"], *project["optional-dependencies"][extra]], {extra}
    while waiting:
        found = NAME.match(waiting.pop())
        assert found is not None
        if found[1] != project["name"]:
            names.add(found[0])
            continue
        for own in set((found[2] or "").split(",")) - {""} - seen:
            seen.add(own)
            waiting += project["optional-dependencies"][own]
    return sorted(names)


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    projects = ((root, "dev"), (root / "lab", "train"))
    wanted = {
        name
        for folder, extra in projects
        for name in unbounded(tomllib.loads((folder / "pyproject.toml").read_text())["project"], extra)
        if not name.startswith("illava")
    }
    print("\n".join(sorted(wanted)))
