"""The file of one part: its rows, what failed and what was left out, and what they all depend on."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import illava
from illava.bench.machine import machine
from illava.io.files import replacing

from .settings import Settings

ROOT = Path(__file__).parents[4]
TIME, STOPPED = "not run: time", "not run: stopped before"


def identity(settings: Settings) -> dict[str, Any]:
    """What rows depend on: those of a file with another identity are not used again."""
    import transformers

    return {
        "illava": illava.__version__,
        "source": source_digest(),
        "card": card(settings)["name"],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "settings": settings.to_dict(),
    }


def source_digest() -> str:
    """A digest of the library and of what measures it. Copies without git have no commit."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    folders = (Path(illava.__file__).parent, here / "parts")
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    for file in (*files, here / "context.py"):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def card(settings: Settings) -> dict[str, Any]:
    """Name, memory, compute capability and driver of the card; of the CPU in a rehearsal."""
    if settings.device == "cpu":
        return {"name": f"none: rehearsed on {machine()['cpu']}"}
    properties = torch.cuda.get_device_properties(settings.device)
    return {
        "name": properties.name,
        "bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": _line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
    }


def environment(settings: Settings) -> dict[str, Any]:
    """The machine, versions, commit and date, for the reader."""
    versions: dict[str, Any] = {}
    try:
        import triton

        versions["triton"] = triton.__version__
    except ImportError:
        versions["triton"] = None
    return {
        "card": card(settings),
        **machine(),
        **versions,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "commit": _line("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
    }


def _line(*command: str) -> str | None:
    """The first line that a command prints; None if there is no such command or it fails."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return (found.stdout.splitlines() or [""])[0].strip() or None


class PartFile:
    """``<part>.json``. Written, all at once or not at all, after every change."""

    def __init__(
        self, path: Path, identity: Mapping[str, Any], environment: Mapping[str, Any], part: str
    ) -> None:
        self.path = path
        self.data: dict[str, Any] = {
            "part": part,
            "identity": dict(identity),
            "environment": dict(environment),
            "rows": {},
            "errors": {},
            "not_run": {},
            "seconds": {},
            "digests": {},
        }
        found = read(path)
        if found is not None and found.get("identity") == self.data["identity"]:
            self.data |= {key: found[key] for key in ("rows", "seconds", "digests", "environment")}

    def begin(self, keys: Sequence[str], digests: Mapping[str, str] | None = None) -> None:
        """State all rows that there are to be: what has no result yet counts as left out.

        ``digests``: of what single rows depend on; results with another digest are dropped.
        """
        before, self.data["digests"] = self.data["digests"], dict(digests or {})
        for key in keys:
            if before.get(key) != self.data["digests"].get(key):
                self.data["rows"].pop(key, None)
                self.data["seconds"].pop(key, None)
        self.data["not_run"] = {key: STOPPED for key in keys if key not in self.data["rows"]}
        self.data["errors"] = {}
        self.write()

    def has(self, key: str) -> bool:
        """Whether the result of a row is there, also one that says that a check failed."""
        return key in self.data["rows"]

    def add(self, key: str, row: Mapping[str, Any], seconds: float) -> None:
        """The result of a row."""
        self.data["rows"][key] = dict(row)
        self.data["seconds"][key] = seconds
        self.data["not_run"].pop(key, None)
        self.write()

    def fail(self, key: str, error: str) -> None:
        """A row that raised."""
        self.data["errors"][key] = error
        self.data["not_run"].pop(key, None)
        self.write()

    def leave_out(self, key: str, expected: float, left: float) -> None:
        """A row for which there is no time."""
        self.data["not_run"][key] = f"{TIME}: {expected:.0f} s expected, {max(0.0, left):.0f} s left"
        self.write()

    @property
    def failures(self) -> dict[str, str]:
        """Errors, and the rows whose own check failed."""
        failed = {key: row["failure"] for key, row in self.data["rows"].items() if row.get("failure")}
        return {**failed, **self.data["errors"]}

    @property
    def status(self) -> str:
        """ "failed", "incomplete" or "done"."""
        return "failed" if self.failures else "incomplete" if self.data["not_run"] else "done"

    def write(self) -> None:
        self.data["status"] = self.status
        with replacing(self.path) as partial:
            partial.write_text(json.dumps(self.data, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any] | None:
    """The content of a part's file; None if there is none, or something else."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and {"part", "identity", "environment", "rows"} <= found.keys()
    return found if whole else None


def conflict(folder: Path, parts: Iterable[str], same: Mapping[str, Any]) -> str | None:
    """One line on what this run would overwrite in ``folder``: results that depend on something else, or
    files of somebody else; None if there is nothing."""
    for path in (folder / f"{name}.json" for name in parts):
        if not path.exists():
            continue
        found = read(path)
        if found is None:
            return f"{path} holds no results of this command; give another --output"
        other = [key for key, value in same.items() if found["identity"].get(key) != value]
        if other and found["rows"]:
            return (
                f"{path} holds results of another {' and '.join(other)}; give another --output, or --discard "
                "to measure anew"
            )
    return None
