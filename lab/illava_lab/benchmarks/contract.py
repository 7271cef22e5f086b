"""Measure the contract check of ``accelerate()``, which inspects transformers, for every family.

Models are on the meta device: tiny ones of every family, and published sizes at full depth, because the check
visits all blocks and layers. The first check of a process inspects every signature; later ones reuse those of
known classes. The target is at most 20 ms of CPU time.

    python -m illava_lab.benchmarks.contract
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from illava.bench.machine import machine
from illava.bench.published import config as published
from illava.compat import signatures
from illava.models.located import locate
from illava.runtime.contract import check_contract
from tests.tiny import ALL, config

SHAPES = ("qwen2-vl-2b", "qwen2.5-vl-7b", "qwen3-vl-8b", "llava-onevision-7b", "internvl3-8b")
MOST = 20.0
"""The target in milliseconds."""


def models() -> Iterator[tuple[str, nn.Module]]:
    """Names and models without weights."""
    for name, made in [*((n, config(n)) for n in ALL), *((n, published(n)) for n in SHAPES)]:
        # Gemma 2 has no other.
        options = {"attn_implementation": "eager"} if name == "paligemma-2" else {}
        with torch.device("meta"):
            yield name, AutoModelForImageTextToText.from_config(made, **options)


def milliseconds(run: Callable[[], object], rounds: int, before: Callable[[], None] | None = None) -> float:
    """The median over ``rounds``; ``before`` is called first and not timed."""
    taken = []
    for _ in range(rounds):
        if before is not None:
            before()
        began = time.process_time()
        run()
        taken.append(1e3 * (time.process_time() - began))
    return statistics.median(taken)


def main() -> None:
    """Print one row per model; exit with 1 if a first check misses the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"{'model':24}{'blocks':>8}{'layers':>8}{'first ms':>10}{'later ms':>10}")
    worst = 0.0
    for name, model in models():
        modules = locate(model)
        first = milliseconds(lambda modules=modules: check_contract(modules), rounds, signatures.forget)
        later = milliseconds(lambda modules=modules: check_contract(modules), rounds)
        worst = max(worst, first)
        print(f"{name:24}{len(modules.blocks):8}{len(modules.layers):8}{first:10.1f}{later:10.1f}")
    print(f"slowest first check: {worst:.1f} ms, wanted at most {MOST:.0f}")
    sys.exit(worst > MOST)


if __name__ == "__main__":
    main()
