"""Copy a comparison's page, plots and table into docs: ``python -m illava_lab.benchmarks.comparison [FOLDER]``."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

from illava.evaluation.comparison_page import PAGE, PLOTS, TABLE
from illava.io.files import replacing

DOCS = Path("docs")
FROM = Path("out/comparison")
NOTE = (
    f"Written by `make comparison` and `python -m illava_lab.benchmarks.comparison`, never by hand; all figures are in "
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
    own = folder / "bookkeeping.json"
    if own.exists():
        rest += bookkeeping(json.loads(own.read_text(encoding="utf-8")))
    with replacing(docs / PAGE) as partial:
        partial.write_text(f"{title}\n\n{NOTE}\n{rest}", encoding="utf-8")
    return [docs / PAGE, *(folder / file.name for file in files)]


def bookkeeping(found: dict[str, Any]) -> str:
    """What each method costs by itself at a published size, as the last section of the page."""
    place, most = found["machine"], found["most"]
    rows = sorted(found["rows"].items(), key=lambda item: -item[1]["share_of_prefill"])
    costly = [label for label, row in rows if row["share_of_prefill"] > most]
    command = (
        f"python -m illava_lab.benchmarks.bookkeeping --threads {place['threads']} --rounds {found['rounds']}"
    )
    if slice_of := re.search(r"(\d+) layers", found["shape"]):
        command += f" --layers {slice_of[1]}"
    lines = [
        "",
        "## What the methods cost themselves",
        "",
        "CPU time in a method's own code - hooks and whatever looks at queries and keys beside the attention - as a",
        f"share of the plain model's prefill, at the sizes of {found['shape']} with random weights, one picture of",
        f"{found['size']} x {found['size']} pixels, float32, {place['cpu']}, threads: {place['threads']}, rounds: "
        f"{found['rounds']}. `{command}`.",
        f"Above {100 * most:g} %: {', '.join(costly) or 'none'}. What acts in the encoder is measured by the prefill "
        "of the LLM here too, of which the encoder takes a multiple."
        + (
            " This is a slice of the model: what acts at a fixed number of layers costs less of the whole one."
            if "layers" in found["shape"]
            else ""
        ),
        "",
        "| method | of prefill % | of time to first token % | times faster to the first token |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {label} | {100 * row['share_of_prefill']:.2f} | {100 * row['share_of_ttft']:.2f} | "
            f"{row['times_faster']:.2f} |"
            for label, row in rows
        ),
        *(f"| {label} | not run: {reason} | - | - |" for label, reason in found["refused"].items()),
    ]
    return "\n".join(lines) + "\n"


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
