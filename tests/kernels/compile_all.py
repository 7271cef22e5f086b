"""Compiles every kernel for a graphics card, without one, at sizes of real models.

``python -m tests.kernels.compile_all ARCHITECTURE`` prints names, bytes of shared memory and of spilled
registers.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from illava.ops.kernels import attention, guarding, merging, selection
from illava.ops.selection import MAX_PAIRWISE_UNITS, TIE

WIDTHS = (64, 72, 80, 128)
"""Of attention heads: CLIP, SigLIP and Qwen3-VL, Qwen2-VL, LLMs."""
SIZES = (600, MAX_PAIRWISE_UNITS, 5000)
PTXAS = Path(triton.backends.nvidia.__file__).parent / "bin" / "ptxas"


class Driver:
    """What Triton asks about a card."""

    def __init__(self, architecture: int) -> None:
        self.target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def launch_all(dtype: torch.dtype) -> None:
    """Call every wrapper; nothing is computed, and results are what the memory held."""
    for width in WIDTHS:
        # As attention modules make them.
        query = torch.empty(1, 600, 16, width, dtype=dtype).transpose(1, 2)
        key = torch.empty(1, 600, 4, width, dtype=dtype).transpose(1, 2)
        attention.column_sums(query, key, 0.1, 256, 1.0)
        attention.column_sums(query, key, 0.1, 256, 1.0, torch.ones(1, 600))
    last, mask = torch.zeros(1, dtype=torch.int64), torch.ones(1, 600, dtype=torch.bool)
    for given in (
        None,
        mask,
        mask[:, None, None].expand(-1, 1, 600, -1),
        mask[:, None, None].expand(-1, 1, 600, -1).to(dtype),
    ):
        attention.row_weights(query, key, 0.1, last, given, None)
    attention.row_weights(query, key, 0.1, last, None, 50.0)
    attention.row_weights(query, key, 0.1, last, None, None, torch.ones(1, 600))
    for n in SIZES:
        units, scores = torch.empty(1, n, 1280, dtype=dtype), torch.ones(1, n)
        selection.select_diverse(units, scores, 3, tie=TIE, most_pairs=MAX_PAIRWISE_UNITS)
        order = torch.arange(n)[None]
        kept = order[:, : n // 3]
        merging.fold_into(units, kept, merging.nearest_kept(units, kept, cosine=True), scores)
        merging.fold_into(units, kept, torch.zeros(1, n, dtype=torch.int32), None)
        merging.recycle_into(units, order, kept, n // 60, 5, cosine=False)
    flat = units[0]
    guarding.propagate(flat[:40], flat, (2500, 2500), (20, 20))
    guarding.propagate(flat[:50], flat, (2000, 3000), (20, 30))


def main() -> None:
    architecture, run, seen = int(sys.argv[1]), JITFunction.run, set()

    def compiled(self: JITFunction, *args: object, grid: object, warmup: bool, **kwargs: object) -> None:
        made = run(self, *args, grid=grid, warmup=True, **kwargs)
        if made.hash not in seen:
            seen.add(made.hash)
            print(self.fn.__name__, made.metadata.shared, spilled(made.asm["ptx"], architecture), flush=True)

    driver.set_active(Driver(architecture))
    with mock.patch.object(JITFunction, "run", compiled):
        launch_all(torch.bfloat16)


def spilled(code: str, architecture: int) -> int:
    """Bytes of registers that the code keeps in memory for lack of registers."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(code)
        file.flush()
        name = f"sm_{architecture}{'a' * (architecture >= 90)}"
        told = subprocess.run(
            [PTXAS, "-v", f"--gpu-name={name}", file.name, "-o", "/dev/null"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    return sum(map(int, re.findall(r"(\d+) bytes spill stores", told.stderr)))


if __name__ == "__main__":
    main()
