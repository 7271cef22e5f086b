"""What `import illava` alone gives: every name that README, docs and docstrings write as `illava.name`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import illava

ROOT = Path(__file__).parents[1]
# The page on upgrading lists old paths, which tests/test_upgrading.py checks.
PAGES = [page for page in (ROOT / "docs").glob("*.md") if page.name != "upgrading.md"]
TEXTS = (ROOT / "README.md", *PAGES, *(ROOT / "src/illava").rglob("*.py"))
# After a letter, a slash or a hyphen it is part of a file or a URL.
NAME = re.compile(r"(?<![\w/.-])illava\.([A-Za-z]\w*)")
ENDINGS = ("cli", "main", "py", "json", "zip", "ipynb", "tasks", "images")  # groups of entry points
RESOLVE = """
import sys
import illava
for name in sys.argv[1:]:
    # As if nothing had imported it: importing a module makes it an attribute of its package.
    vars(illava).pop(name, None)
    getattr(illava, name)
"""


def documented() -> list[str]:
    found = {name for text in TEXTS for name in NAME.findall(text.read_text(encoding="utf-8"))}
    return sorted((found | set(illava.__all__)) - set(ENDINGS))


def run(code: str, *names: str) -> None:
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr.splitlines()[-1]


def test_documented_names_resolve_after_import_illava():
    assert {"viz", "zoo", "accelerate", "ops"} <= set(documented())
    run(RESOLVE, *documented())


def test_documented_examples_of_modules():
    run("import illava; illava.viz.draw_steps; illava.zoo.path('zoo/S'); illava.planning")


def test_importing_the_package_imports_neither_torch_nor_transformers():
    run("import sys, illava; dir(illava); assert not {'torch', 'transformers'} & set(sys.modules)")


def test_dir_lists_what_is_imported_on_first_use():
    assert set(illava.__all__) <= set(dir(illava))
    assert {"viz", "zoo", "__version__"} <= set(dir(illava))


@pytest.mark.parametrize("name", ["nothing", "_nothing", "__wrapped__"])
def test_other_names_are_attribute_errors(name):
    with pytest.raises(AttributeError, match=name):
        getattr(illava, name)
    assert not hasattr(illava, name)
