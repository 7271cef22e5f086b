"""Write docs/comparison.md, and its figures and plots into docs/comparison.

    python -m illava_lab.benchmarks.comparison [FOLDER]

FOLDER is what ``illava compare`` wrote; by default out/comparison, or, where there is none, docs/comparison,
so that the page is written anew from the figures it was published with.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from illava.evaluation.comparison_page import FIGURES, PAGE, PLOTS, TABLE, draw, to_csv, to_markdown
from illava.evaluation.store import write_json
from illava.evaluation.summary import table
from illava.io.files import replacing
from illava_lab.benchmarks import former

DOCS = Path("docs")
FROM = Path("out/comparison")
NOTE = (
    f"Written by `make comparison` and `python -m illava_lab.benchmarks.comparison`; all figures are in "
    f"[{TABLE}]({PLOTS}/{TABLE}) and [{FIGURES}]({PLOTS}/{FIGURES})."
)
OWN_COST = "bookkeeping.json"


def publish(source: Path, docs: Path) -> list[Path]:
    """Write page, table, figures and plots from the figures in ``source``; returns the files.

    Raises FileNotFoundError, and ValueError where the plots cannot be drawn.
    """
    found = json.loads((source / FIGURES).read_text(encoding="utf-8"))
    for figures in found["models"].values():
        # Every row has its options; here they stand once more.
        figures["settings"].pop("rows", None)
    folder = docs / PLOTS
    folder.mkdir(parents=True, exist_ok=True)
    plots, hint = draw(folder, found)
    if hint:
        raise ValueError(hint)
    for stale in {path.name for path in folder.glob("*.png")} - set(plots):
        (folder / stale).unlink()
    write_json(folder / FIGURES, found)
    for path, text in ((folder / TABLE, to_csv(found)), (docs / PAGE, page(found, docs, plots))):
        with replacing(path) as partial:
            partial.write_bytes(text.encode())
    return [docs / PAGE, *(folder / name for name in (TABLE, FIGURES, *plots))]


def page(found: dict[str, Any], docs: Path, plots: Sequence[str]) -> str:
    """The page of ``illava compare``, with a note on its origin and what the methods' own code costs."""
    title, rest = to_markdown(found, plots).split("\n", 1)
    then = former.note(row for figures in found["models"].values() for row in figures["rows"])
    own = docs / PLOTS / OWN_COST
    if own.exists():
        rest += bookkeeping(json.loads(own.read_text(encoding="utf-8")))
    return f"{title}\n\n{NOTE} {then}".rstrip() + f"\n{rest}"


def bookkeeping(found: dict[str, Any]) -> str:
    """The cost of each method's own code at a published size, as the last section of the page."""
    place, most = found["machine"], found["most"]
    rows = sorted(found["rows"].items(), key=lambda item: -item[1]["share_of_prefill"])
    costly = [label for label, row in rows if row["share_of_prefill"] > most]
    command = (
        f"python -m illava_lab.benchmarks.bookkeeping --threads {place['threads']} --rounds {found['rounds']}"
    )
    if slice_of := re.search(r"(\d+) layers", found["shape"]):
        command += f" --layers {slice_of[1]}"
    cells = [
        [
            label,
            f"{row['times_faster']:.2f}",
            f"{100 * row['share_of_prefill']:.2f}",
            f"{100 * row['share_of_ttft']:.2f}",
        ]
        for label, row in rows
    ]
    cells += [[label, f"not run: {reason}", "-", "-"] for label, reason in found["refused"].items()]
    lines = [
        "",
        "## Cost of the methods' own code",
        "",
        f"CPU time in hooks and attention observers at the sizes of {found['shape']}, random weights, one",
        f"{found['size']} x {found['size']} picture, float32, {place['cpu']} (`{command}`).",
        f"Above {100 * most:g} % of the plain prefill: {', '.join(costly) or 'none'}.",
        "",
        *table(
            ["method", "speed-up of the first token", "% of plain prefill", "% of plain first token"], cells
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Publish, or say in one line what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    default = FROM if FROM.exists() else DOCS / PLOTS
    parser.add_argument("source", nargs="?", type=Path, default=default)
    try:
        written = publish(parser.parse_args().source, DOCS)
    except FileNotFoundError as error:
        raise SystemExit(f"{error.filename} is missing: run make comparison first") from None
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(f"wrote {', '.join(map(str, written))}")


if __name__ == "__main__":
    main()
