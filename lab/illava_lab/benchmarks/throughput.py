"""Answers a second of a whole published shape at a batch of eight, plain and merged in turn.

Random weights; answers of 32 tokens. The schedules are those of lab/illava_lab/benchmarks/speed.py at a third of the tokens.

    python -m illava_lab.benchmarks.throughput --dtype bfloat16
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from illava.bench import prompts, published, random_weights, run
from illava.bench.machine import machine
from illava.io.files import replacing
from illava_lab.benchmarks.speed import schedules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", choices=[*published.SHAPES], default="qwen2-vl-2b")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--size", type=int, default=672, help="pixels a side")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("docs/performance"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
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
    options.output.mkdir(parents=True, exist_ok=True)
    with replacing(options.output / "throughput.json") as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n")
    table = Table("", "answers a second", "first token", "whole answers", "KV", "peak")
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
