"""Table and plot of a folder of results. No card is needed.

python -m illava_lab.benchmarks.gpu.report out/gpu
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from illava.io.files import replacing

from . import plot, results, section

NAMES = ("suite", "equality", "times", "batches", "decoding", "profile")
"""The parts, in the order of the page."""


def gather(folder: Path) -> dict[str, Any] | None:
    """The results of a folder, by part; None if there are none.

    Parts of another library, card or setting than the newest file are named under "stale" and left out.
    """
    files = [path for name in NAMES if (path := folder / f"{name}.json").exists()]
    found = {path.stem: data for path in files if (data := results.read(path)) is not None}
    if not found:
        return None
    newest = max(found, key=lambda name: (folder / f"{name}.json").stat().st_mtime_ns)
    same = found[newest]["identity"]
    return {
        "identity": same,
        "environment": found[newest]["environment"],
        "stale": [name for name, data in found.items() if data["identity"] != same],
        "parts": {
            name: {key: data[key] for key in ("status", "rows", "errors", "not_run", "seconds")}
            for name, data in found.items()
            if data["identity"] == same
        },
    }


def write(folder: Path) -> None:
    """Write ``table.md`` and ``plot.png`` from the folder's results, and say what could not be written."""
    found = gather(folder)
    if found is None:
        print(f"no results in {folder}")
        return
    with replacing(folder / "table.md") as partial:
        partial.write_text("\n".join(table(found)) + "\n", encoding="utf-8")
    print(f"written to {folder / 'table.md'}")
    missing = plot.draw(found, folder / "plot.png")
    if missing is not None:
        # One of earlier results would be taken for one of these.
        (folder / "plot.png").unlink(missing_ok=True)
    print(missing or f"written to {folder / 'plot.png'}")


def table(found: Mapping[str, Any]) -> list[str]:
    """The section of the page, with all that failed in full."""
    lines = [*section.section(found)]
    for name, part in found["parts"].items():
        for key, error in part["errors"].items():
            lines += [f"## {name}, {key}", "", "```text", error.rstrip(), "```", ""]
    return lines


def folder_of(doc: str | None) -> Path:
    """The folder given on the command line. Ends the process for one that is not there."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("out/gpu"), help="out/gpu")
    folder: Path = parser.parse_args().folder
    if not folder.is_dir():
        parser.exit(2, f"{folder}: no such folder\n")
    return folder


if __name__ == "__main__":
    write(folder_of(__doc__))
