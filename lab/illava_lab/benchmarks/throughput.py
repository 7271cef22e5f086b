"""Answers per second of a whole published shape at a batch of eight, plain and merged in turn.

Random weights, answers of 32 tokens, the schedules of ``speed.py`` that keep a third of the tokens.

    python -m illava_lab.benchmarks.throughput --dtype bfloat16
"""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from illava.bench import prompts, random_weights, run
from illava.bench.machine import machine
from illava_lab.benchmarks import common
from illava_lab.benchmarks.speed import schedules


def main() -> None:
    parser = common.parser(__doc__, rounds=3, shape="qwen2-vl-2b", size=672, new_tokens=32)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--batch", type=int, default=8)
    options = common.parse(parser)
    dtype = getattr(torch, options.dtype)
    model = random_weights.build(options.shape, None, dtype, torch.device("cpu"))
    variants = [
        run.Variant(name, method) for name, method in schedules(options.shape).items() if "1/3" in name
    ]

    def prompt(rows: int) -> run.Inputs:
        size = (options.size, options.size)
        return prompts.make(model.config, size=size, batch=rows, dtype=dtype)

    console = Console()
    found = run.run(
        model,
        prompt,
        variants,
        [options.batch],
        options.new_tokens,
        options.rounds,
        lambda runs: console.print(".", end=""),
    )
    result: dict[str, Any] = {
        "shape": options.shape,
        "dtype": options.dtype,
        "size": options.size,
        "weights": "random",
        "new_tokens": options.new_tokens,
        "rounds": options.rounds,
        "machine": machine(),
        **found[0],
    }
    common.write(options.output / "throughput.json", result)
    table = Table("", "answers per second", "first token", "whole answers", "KV", "peak")
    table.add_row("plain", f"{result['plain']['answers_per_second']['median']:.4f}")
    for row in result["variants"]:
        faster = row["faster"]
        table.add_row(
            row["label"],
            f"{row['answers_per_second']['median']:.4f}",
            *(f"{faster[part]['median']:.2f}x" for part in ("ttft", "total")),
            f"{row['kv_ratio']:.3f}",
            f"{row['peak_bytes'] / result['plain']['peak_bytes']:.2f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
