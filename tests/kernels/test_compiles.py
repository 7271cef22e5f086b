"""Every kernel compiles for graphics cards, although there may be none here."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "src" / "illava" / "ops" / "kernels"
SHARED_MEMORY = 99 * 1024
"""Bytes of shared memory of a block on the cards with the least (8.6 and 8.9)."""


def written() -> set[str]:
    """The names of all kernels with a grid, which are called from Python by ``name[grid]``."""
    names = set()
    for file in KERNELS.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
                names.add(getattr(node.func.value, "id", ""))
    return {name for name in names if name.startswith("_")}


@pytest.mark.parametrize(
    "architecture", ["89", *(pytest.param(other, marks=pytest.mark.slow) for other in ("80", "90"))]
)
def test_every_kernel_compiles(architecture, tmp_path):
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path),
        "ILLAVA_KERNELS": "torch",
    }
    run = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compile_all", architecture],
        capture_output=True, text=True, cwd=ROOT, env=environment, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    rows = [line.split() for line in run.stdout.splitlines()]
    assert {name for name, *_ in rows} == written()
    for name, shared, spills in rows:
        assert int(shared) <= SHARED_MEMORY, name
        # A few registers that are read once do no harm; thousands of bytes would.
        assert int(spills) <= 256, name
