"""Measure the overhead of the checks of a merged prefill, on a slice of the published Qwen2-VL-2B shape.

Times the functions of :mod:`illava.runtime.checks` (lengths of the cache, marked rows, tokens returned) and,
separately, the sums in ``reduced`` and ``unmarked`` that keep NaN visible. Random weights, one image, one
prompt, float32. The target is at most 0.2 % of the CPU time of the prefill, without the encoder.

    python -m illava_lab.benchmarks.running_checks
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch

import illava
from illava.bench import prompts, random_weights
from illava.bench.machine import machine
from illava.methods import steps
from illava.runtime import projector
from illava.runtime.encoder import merging_block as encoder
from illava.runtime.llm import merging
from illava.runtime.llm import stage as llm
from illava_lab.benchmarks.bookkeeping import prefill_seconds

SHAPE = "qwen2-vl-2b"
MOST = 0.002
"""The target, as a share of the prefill."""


class Clock:
    """CPU seconds spent in functions, without nested calls of functions that are timed as well."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any], sign: int = 1) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += sign * (time.process_time() - began)

        return run


def main() -> None:
    """Print the shares; exit with 1 if the checks miss the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=672, help="pixels a side, a multiple of 28")
    parser.add_argument("--layers", type=int, default=8, help="a slice: that many layers of encoder and LLM")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = random_weights.build(SHAPE, options.layers, torch.float32, torch.device("cpu"))
    inputs = prompts.make(model.config, (options.size, options.size))
    method = illava.Illava(encoder_layers=(2, 3), encoder_keep=0.7, llm_layers=(2, 4), llm_keep=0.8)
    plain, merged, checks, finite = [], [], [], []
    with torch.no_grad():
        for _ in range(options.rounds + 1):
            with prefill_seconds(model) as seconds:
                model(**inputs)
            plain += seconds
            checking, keeping = Clock(), Clock()
            with illava.accelerate(model, method) as handle, ExitStack() as stack:

                def patch(
                    module: Any, name: str, clock: Clock, sign: int = 1, stack: ExitStack = stack
                ) -> None:
                    timed = clock.timed(getattr(module, name), sign)
                    stack.enter_context(mock.patch.object(module, name, timed))

                for name in ("check_marks", "check_output", "check_cache"):
                    patch(llm, name, checking)
                for module in (encoder, merging, projector):
                    patch(module, "reduced", keeping)
                patch(projector, "unmarked", keeping)
                for kind in {
                    type(step) for step in (*handle.plan.encoder.values(), *handle.plan.llm.values())
                }:
                    patch(kind, "reduce", keeping, -1)
                with prefill_seconds(model) as seconds:
                    model(**inputs)
            merged += seconds
            checks.append(checking.seconds)
            finite.append(keeping.seconds)
    assert steps.reduced is encoder.reduced
    # The first round warms up.
    of_plain, of_merged = (statistics.median(seconds[1:]) for seconds in (plain, merged))
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(
        f"{SHAPE}, {options.layers} layers, {options.size} x {options.size}: "
        f"prefill {of_plain:.2f} s plain, {of_merged:.2f} s merged (CPU time)"
    )
    share = statistics.median(checks[1:]) / of_merged
    for name, taken in (("checks", checks), ("keeping NaN visible", finite)):
        median = statistics.median(taken[1:])
        print(f"{name}: {1e3 * median:.2f} ms, {median / of_merged:.3%} of the merged prefill")
    print(f"wanted for the checks: at most {MOST:.1%}")
    sys.exit(share > MOST)


if __name__ == "__main__":
    main()
