"""Names of the dependencies, those of the extra ``dev`` included, without bounds on their versions."""

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
    path = Path(__file__).parents[1] / "pyproject.toml"
    print("\n".join(unbounded(tomllib.loads(path.read_text())["project"])))
