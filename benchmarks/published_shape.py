"""Time a published model shape, plain and merged in turn, against the analytic FLOP ratios.

Random weights of the published sizes: speed does not depend on what a model has learnt, answers would be
noise. One picture, one prompt, one new token, so that TTFT = encoder + prefill + head. `illava bench`
measures other shapes, methods and batches; this keeps the way in which the figures on record were measured.

    python benchmarks/published_shape.py                      # Qwen2-VL-2B, 672 x 672
    python benchmarks/published_shape.py --layers 4 --rounds 15 --keep 1.0
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import nn

import illava
from illava.bench import prompts, published, random_weights
from illava.bench.timing import Timing, hook_seconds, interleave, measure, median_interval, ratio, ratios
from illava.files import replacing

SHAPE = "qwen2-vl-2b"
TEXT_TOKENS = 47
"""The prompt's text: the length that the KV ratios on record for this shape imply."""
PARTS = ("encoder", "prefill", "ttft")


def build(layers: int | None, dtype: torch.dtype) -> nn.Module:
    """The published sizes; ``layers`` cuts encoder and LLM down to that many each."""
    return random_weights.build(SHAPE, layers, dtype, torch.device("cpu"))


def prompt(size: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """One square picture of noise of ``size`` pixels, a multiple of 28, and a text of fixed length."""
    return prompts.make(published.config(SHAPE), (size, size), text_tokens=TEXT_TOKENS, dtype=dtype)


def machine() -> dict[str, object]:
    name = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=672, help="pixels a side, a multiple of 28")
    parser.add_argument("--keep", type=float, nargs="*", default=[1 / 3, 1 / 9], help="budgets to time too")
    parser.add_argument("--layers", type=int, help="time a slice: that many layers of each")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("out/bench"), help="folder for the JSON file")
    options = parser.parse_args()
    if options.size < 56 or options.size % 28:
        parser.error(f"--size must be a multiple of 28 from 56 up, got {options.size}")
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    model, inputs = build(options.layers, dtype), prompt(options.size, dtype)
    methods = {"published schedule": illava.Illava()}
    methods |= {f"keep {keep:.4g}": illava.Illava(keep=keep) for keep in options.keep}
    reports: dict[str, illava.Report] = {}
    hooks: dict[str, list[float]] = {name: [] for name in methods}

    def merged(name: str) -> Timing:
        with illava.accelerate(model, methods[name]) as handle, hook_seconds(model) as seconds:
            timing = measure(model, inputs, 1)
            reports[name] = handle.report
        hooks[name].append(sum(seconds) / timing.ttft)
        return timing

    runs = {"plain": lambda: measure(model, inputs, 1)}
    runs |= {name: lambda name=name: merged(name) for name in methods}
    # One small picture first: it warms allocator and kernels up at a fraction of the time.
    measure(model, prompt(112, dtype), 1)
    timings = interleave(runs, options.rounds, warmup=0)
    rows = [row(name, timings["plain"], timings[name], reports[name]) for name in methods]
    for r in rows:
        r["hooks_share_of_ttft"] = statistics.median(hooks[r["method"]])
    result = {
        "shape": f"Qwen2-VL-2B, a slice of 2 x {options.layers} layers" if options.layers else "Qwen2-VL-2B",
        "weights": "random",
        "size": options.size,
        "dtype": options.dtype,
        "rounds": options.rounds,
        "text_tokens": TEXT_TOKENS,
        "machine": machine(),
        "plain_seconds": {part: [getattr(t, part) for t in timings["plain"]] for part in PARTS},
        "rows": rows,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    target = options.output / f"published_shape-{options.dtype}-{options.size}-{options.layers or 'all'}.json"
    with replacing(target) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n")
    show(result)
    print(f"written to {target}")


def row(name: str, plain: list[Timing], fast: list[Timing], report: illava.Report) -> dict[str, object]:
    analytic = {
        "encoder": (report.plain_cost.encoder + report.plain_cost.projector)
        / (report.cost.encoder + report.cost.projector),
        "prefill": report.plain_cost.prefill / report.cost.prefill,
        "ttft": report.plain_cost.total / report.cost.total,
    }
    return {
        "method": name,
        "final_tokens": report.final_tokens,
        "visual_tokens": report.visual_tokens,
        "average_tokens": report.average_tokens,
        "kv_ratio": report.cost.kv_bytes / report.plain_cost.kv_bytes,
        "measured": {part: vars(ratio(plain, fast, part)) for part in PARTS},
        "interval": {part: median_interval(ratios(plain, fast, part)) for part in PARTS},
        "analytic": analytic,
        "seconds": {part: [getattr(t, part) for t in fast] for part in PARTS},
    }


def show(result: dict) -> None:
    table = Table(
        title=f"{result['shape']}, {result['size']} x {result['size']}, {result['dtype']}: times faster"
    )
    for heading in ("", "tokens", *PARTS, "KV bytes", "in hooks"):
        table.add_column(heading)
    for r in result["rows"]:
        cells = []
        for part in PARTS:
            m = r["measured"][part]
            spread = f"{m['low']:.2f}-{m['high']:.2f}"
            cell = f"{m['median']:.2f} ({spread}), FLOPs {r['analytic'][part]:.2f}"
            if r["interval"][part]:
                cell += "\n95 % interval {:.3f}-{:.3f}".format(*r["interval"][part])
            cells.append(cell)
        tokens = f"{r['final_tokens']} of {r['visual_tokens']}"
        table.add_row(r["method"], tokens, *cells, f"{r['kv_ratio']:.3f}", f"{r['hooks_share_of_ttft']:.2%}")
    console = Console(width=160)
    console.print(table)
    console.print(f"median (lowest-highest) over {result['rounds']} interleaved rounds")
    console.print(result["machine"])


if __name__ == "__main__":
    main()
