"""For mkdocs: links that only work in the repository become plain text in the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)\)")
ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to folders, and to files outside of docs/; what leads nowhere is left to the strict check."""
    here = Path(page.file.abs_src_path).parent
    docs = Path(config["docs_dir"])

    def plain(match: re.Match[str]) -> str:
        text, target = match.groups()
        place = (here / target).resolve()
        inside = place.is_relative_to(docs)
        if "://" in target or not place.is_relative_to(ROOT) or not place.exists():
            return match[0]
        return match[0] if inside and place.is_file() else text

    return LINK.sub(plain, markdown)
