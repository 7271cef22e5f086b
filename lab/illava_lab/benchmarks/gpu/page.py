"""Copy a card's figures into docs/performance/gpu.json, and write docs/performance.md.

python -m illava_lab.benchmarks.gpu.page out/gpu
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from illava.io.files import replacing
from illava_lab.benchmarks import performance

from . import report


def copy(folder: Path, target: Path = performance.FOLDER) -> dict[str, Any]:
    """Write ``gpu.json``, and ``gpu.png`` if there is a plot.

    Raises SystemExit for a folder without results, and for a rehearsal, which tells nothing of a card.
    """
    found = report.gather(folder)
    if found is None:
        raise SystemExit(f"{folder}: no results; run make bench-gpu OUT={folder}")
    if found["identity"]["settings"]["rehearsal"]:
        raise SystemExit(f"{folder}: a rehearsal on the CPU; the page takes the figures of a card only")
    for part in found["parts"].values():
        # Tracebacks name folders of the machine.
        part["errors"] = {key: error.strip().splitlines()[-1] for key, error in part["errors"].items()}
    with replacing(target / "gpu.json") as partial:
        partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if (folder / "plot.png").exists():
        shutil.copyfile(folder / "plot.png", target / "gpu.png")
    return found


if __name__ == "__main__":
    copy(report.folder_of(__doc__))
    performance.main()
