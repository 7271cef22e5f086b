"""The cost of each method's own code at the published Qwen2-VL-2B shape, apart from the time it saves.

Measured is the CPU time in all hooks on the model and in attention observers, as a share of the plain model's
prefill (without the encoder) in the same round. Random weights, one picture, one prompt. CPU time, so that
other programs on the machine do not count.

    python -m illava_lab.benchmarks.bookkeeping                        # all methods at 1/9, 672 x 672
    python -m illava_lab.benchmarks.bookkeeping --layers 4 --size 448  # a slice, in a minute
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import illava
from illava.bench import prompts, random_weights
from illava.bench.machine import machine
from illava.bench.timing import measure
from illava.evaluation.compared_methods import comparison_rows
from illava.runtime.attention_tap import AttentionTap
from illava_lab.benchmarks import common

SHAPE = "qwen2-vl-2b"
MOST = 0.03
"""Share of prefill above which a method is named as costly."""


@contextmanager
def own_seconds(model: nn.Module) -> Iterator[list[float]]:
    """CPU seconds spent in hooks and observers, each call counted once however they are nested."""
    seconds: list[float] = []
    inside = False

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:
                return function(*args, **kwargs)
            inside, began = True, time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                inside = False
                seconds.append(time.process_time() - began)

        return run

    tables = [table for m in model.modules() for table in (m._forward_pre_hooks, m._forward_hooks)]
    for table in tables:
        for key, hook in table.items():
            table[key] = timed(hook)
    # The handle takes its hooks off by key: nothing is left of the wrapped ones.
    with mock.patch.object(AttentionTap, "observe", timed(AttentionTap.observe)):
        yield seconds


@contextmanager
def prefill_seconds(model: nn.Module) -> Iterator[list[float]]:
    """CPU seconds that each call of the language model takes."""
    seconds: list[float] = []
    began: list[float] = []
    llm = model.model.language_model
    hooks = [
        llm.register_forward_pre_hook(lambda *_: began.append(time.process_time())),
        llm.register_forward_hook(lambda *_: seconds.append(time.process_time() - began.pop())),
    ]
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()


def whole(run: Callable[[], Any]) -> float:
    """CPU seconds of a run."""
    began = time.process_time()
    run()
    return time.process_time() - began


def main() -> None:
    folder = Path("docs/comparison")
    parser = common.parser(__doc__, rounds=2, output=folder, threads=os.cpu_count(), size=672)
    parser.add_argument("--keep", type=float, default=1 / 9)
    parser.add_argument("--layers", type=int, help="a slice: that many layers of encoder and LLM")
    options = common.parse(parser)
    model = random_weights.build(SHAPE, options.layers, torch.float32, torch.device("cpu"))
    inputs = prompts.make(model.config, (options.size, options.size))
    methods = {
        row.label: row.method for row in comparison_rows(["all"], [options.keep]) if row.method is not None
    }
    measure(model, prompts.make(model.config, (112, 112)), 1)
    rows: dict[str, dict[str, list[float]]] = {
        label: {"share_of_prefill": [], "share_of_ttft": [], "times_faster": []} for label in methods
    }
    refused: dict[str, str] = {}
    for number in range(options.rounds):
        with prefill_seconds(model) as prefill:
            plain = whole(lambda: measure(model, inputs, 1))
        print(f"round {number}: plain {plain:.1f} s, prefill {prefill[0]:.1f} s", flush=True)
        for label, method in methods.items():
            if label in refused:
                continue
            try:
                with illava.accelerate(model, method), own_seconds(model) as seconds:
                    took = whole(lambda: measure(model, inputs, 1))
            except (ValueError, illava.UnsupportedError) as error:
                refused[label] = str(error)
                continue
            found = rows[label]
            found["share_of_prefill"].append(sum(seconds) / prefill[0])
            found["share_of_ttft"].append(sum(seconds) / plain)
            found["times_faster"].append(plain / took)
            print(f"{label:28s} {found['share_of_prefill'][-1]:7.2%} of prefill", flush=True)
    shape = f"Qwen2-VL-2B, {options.layers} layers each" if options.layers else "Qwen2-VL-2B"
    result = {
        "shape": shape,
        "size": options.size,
        "keep": options.keep,
        "machine": machine(),
        "rounds": options.rounds,
        "most": MOST,
        "refused": refused,
        "rows": {
            label: {key: statistics.median(values) for key, values in found.items()}
            for label, found in rows.items()
            if label not in refused
        },
    }
    common.write(options.output / "bookkeeping.json", result)


if __name__ == "__main__":
    main()
