"""One engine at a time, in this process, on the CPU, without the network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import checkpoints
import pytest

# Read when vLLM is imported, by the tests' own modules.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    # Threads stay where whoever started this wants them.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}
for name in ("ILLAVA_KEEP", "ILLAVA_METHOD"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's checkpoint."""
    folder, written = tmp_path_factory.mktemp("checkpoints"), {}

    def get(family: str) -> Path:
        if family not in written:
            written[family] = checkpoints.write(family, folder / family)
        return written[family]

    return get
