"""The notebook, and whether every page and link of the documentation leads somewhere."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from tests.test_docs import PAGES, ROOT


@pytest.mark.filterwarnings("ignore")
def test_notebook() -> None:
    pytest.importorskip("matplotlib")
    notebook = json.loads((ROOT / "examples" / "look.ipynb").read_text())
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "none are stored"
            assert cell["execution_count"] is None
            exec("".join(cell["source"]), names)
    assert names["report"].final_tokens == 16
    assert len(names["report"].traces) == 4
    assert names["sheet"].width > 1000
    assert names["chart"].width > 500


def test_site_shows_every_page() -> None:
    """And names no page or script that is not there."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

    def pages(entries: Any) -> list[str]:
        if isinstance(entries, str):
            return [entries]
        parts = entries if isinstance(entries, list) else entries.values()
        return [page for part in parts for page in pages(part)]

    assert sorted(pages(site["nav"])) == sorted(page.name for page in PAGES[1:])
    assert all((ROOT / hook).is_file() for hook in site["hooks"])


def test_links_of_readme_and_docs_lead_somewhere() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            there = page.parent / path if path else page
            assert there.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(there.read_text()), f"{page.name}: {target}"


def anchors(text: str) -> set[str]:
    """Those of the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
