"""Arrows point down: a folder of src/illava imports only what lies below it, and never the laboratory."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "illava"
# From the bottom to the top; what stands in one row does not know its neighbours.
LAYERS = (
    ("errors",),
    ("compat", "plugins"),
    ("io", "zoo"),
    ("ops",),
    ("models",),
    ("methods",),
    ("planning", "runtime"),
    ("report",),
    ("viz", "api"),
    ("bench",),
    ("ask", "evaluation"),
    ("demo", "doctor", "serving"),
    ("batch",),
    ("cli", "integrations"),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# No module of the first may know one of the second.
FREE = (("ops", "transformers"), ("planning/cost.py", "transformers"), ("planning/counts.py", "transformers"))


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything that a file imports, wherever and for whatever reason."""
    package = ("illava", *file.relative_to(SOURCE).parent.parts)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def layer(dotted: str) -> str | None:
    """The folder or file of src/illava that a name lies in; None for the package itself and for others."""
    first, _, rest = dotted.partition(".")
    name = rest.partition(".")[0]
    return name if first == "illava" and name in LEVEL else None


FILES = sorted(SOURCE.rglob("*.py"))


def test_every_module_has_a_layer():
    found = {file.relative_to(SOURCE).parts[0].removesuffix(".py") for file in FILES} - {"__init__"}
    assert found == set(LEVEL)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_arrows_point_down(file):
    own = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for line, name in imports(file):
        assert not name.startswith("illava_lab"), f"{file}:{line}: the library does not know the laboratory"
        other = layer(name)
        if other is not None and other != own:
            assert LEVEL[other] < LEVEL[own], f"{file}:{line}: {own} must not import {other}"


@pytest.mark.parametrize(("place", "name"), FREE)
def test_arithmetic_knows_no_model(place, name):
    files = [file for file in FILES if str(file.relative_to(SOURCE)).startswith(place)]
    assert files
    for file in files:
        for line, found in imports(file):
            assert found.partition(".")[0] != name, f"{file}:{line}"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("from ..api import accelerate", "illava.api"),
        ("def f():\n    from . import hooks", "illava.runtime.hooks"),
        ("import illava.cli.app", "illava.cli.app"),
    ],
)
def test_imports_are_found(tmp_path, monkeypatch, text, name):
    monkeypatch.setattr("tests.test_layers.SOURCE", tmp_path)
    file = tmp_path / "runtime" / "x.py"
    file.parent.mkdir()
    file.write_text(text)
    assert name in [found for _, found in imports(file)]
