"""What each method costs by itself at the published Qwen2-VL-2B shape: its own code, not what it saves.

Counted are all hooks on the model and whatever looks at queries and keys beside the attention; random
weights, one picture, one prompt. The table shows the share of the plain model's prefill (the encoder not
included) of the same round.

    python benchmarks/bookkeeping.py                       # all methods at 1/9, 672 x 672
    python benchmarks/bookkeeping.py --layers 4 --size 448  # a slice, in a minute
"""

from __future__ import annotations

import argparse
import json
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
from benchmarks.published_shape import build, machine, prompt
from illava.bench.timing import measure
from illava.evaluation.entrants import comparison_rows
from illava.files import replacing
from illava.stages.attention import AttentionTap

MOST = 0.03
"""Share of prefill above which a method is named as costly."""


@contextmanager
def own_seconds(model: nn.Module) -> Iterator[list[float]]:
    """Seconds spent in hooks and observers, each call counted once however they are nested."""
    seconds: list[float] = []
    inside = False

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:
                return function(*args, **kwargs)
            inside, began = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                inside = False
                seconds.append(time.perf_counter() - began)

        return run

    tables = [table for m in model.modules() for table in (m._forward_pre_hooks, m._forward_hooks)]
    for table in tables:
        for key, hook in table.items():
            table[key] = timed(hook)
    # The handle takes its hooks off by key: nothing is left of the wrapped ones.
    with mock.patch.object(AttentionTap, "see", timed(AttentionTap.see)):
        yield seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=672, help="pixels a side, a multiple of 28")
    parser.add_argument("--keep", type=float, default=1 / 9)
    parser.add_argument("--layers", type=int, help="a slice: that many layers of encoder and LLM")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--output", type=Path, default=Path("docs/comparison"), help="folder of the JSON file"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, inputs = build(options.layers, torch.float32), prompt(options.size, torch.float32)
    methods = {
        row.label: row.method for row in comparison_rows(["all"], [options.keep]) if row.method is not None
    }
    measure(model, prompt(112, torch.float32), 1)
    rows: dict[str, dict[str, Any]] = {
        label: {"own": [], "prefill": [], "ttft": [], "plain_prefill": [], "plain_ttft": []}
        for label in methods
    }
    refused: dict[str, str] = {}
    for number in range(options.rounds):
        plain = measure(model, inputs, 1)
        print(f"round {number}: plain {plain.ttft:.1f} s", flush=True)
        for label, method in methods.items():
            if label in refused:
                continue
            try:
                with illava.accelerate(model, method), own_seconds(model) as seconds:
                    timing = measure(model, inputs, 1)
            except (ValueError, illava.UnsupportedError) as error:
                refused[label] = str(error)
                continue
            found = rows[label]
            found["own"].append(sum(seconds))
            for name, source in (("", timing), ("plain_", plain)):
                found[f"{name}prefill"].append(source.prefill)
                found[f"{name}ttft"].append(source.ttft)
            share = sum(seconds) / plain.prefill
            print(f"{label:28s} {share:7.2%} of prefill, TTFT {plain.ttft / timing.ttft:.2f}x", flush=True)
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
            label: {
                "share_of_prefill": statistics.median(
                    own / plain for own, plain in zip(found["own"], found["plain_prefill"], strict=True)
                ),
                "share_of_ttft": statistics.median(
                    own / plain for own, plain in zip(found["own"], found["plain_ttft"], strict=True)
                ),
                "times_faster": statistics.median(
                    plain / own for own, plain in zip(found["ttft"], found["plain_ttft"], strict=True)
                ),
            }
            for label, found in rows.items()
            if found["own"]
        },
    }
    options.output.mkdir(parents=True, exist_ok=True)
    target = options.output / "bookkeeping.json"
    with replacing(target) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {target}")


if __name__ == "__main__":
    main()
