"""Copy a comparison's page, plots and table into docs: ``python -m benchmarks.comparison [FOLDER]``."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from illava.evaluation.comparison_page import PAGE, PLOTS, TABLE
from illava.files import replacing

DOCS = Path("docs")
FROM = Path("out/comparison")
NOTE = (
    f"Written by `make comparison` and `python -m benchmarks.comparison`, never by hand; all figures are in "
    f"[{TABLE}]({PLOTS}/{TABLE})."
)


def publish(source: Path, docs: Path) -> list[Path]:
    """Copy what ``illava compare`` wrote to ``source``; returns the new files. Raises FileNotFoundError."""
    title, rest = (source / PAGE).read_text(encoding="utf-8").split("\n", 1)
    files = [source / TABLE, *sorted((source / PLOTS).glob("*.png"))]
    folder = docs / PLOTS
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.png"):
        stale.unlink()
    for file in files:
        with replacing(folder / file.name) as partial:
            shutil.copyfile(file, partial)
    with replacing(docs / PAGE) as partial:
        partial.write_text(f"{title}\n\n{NOTE}\n{rest}", encoding="utf-8")
    return [docs / PAGE, *(folder / file.name for file in files)]


def main() -> None:
    """Copy, or say in one line what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", type=Path, default=FROM)
    try:
        written = publish(parser.parse_args().source, DOCS)
    except FileNotFoundError as error:
        raise SystemExit(f"{error.filename} is missing: run make comparison first") from None
    print(f"wrote {', '.join(map(str, written))}")


if __name__ == "__main__":
    main()
