"""Speed-up of encoder, prefill and first token, measured against two predictions.

A published shape with random weights: speed does not depend on training, and answers are noise. Plain and
merged in turn, in one process. Predictions: ratios of FLOPs, and ratios of seconds by the speed of this
machine on the parts of one layer (``illava.planning.machine_speed``), measured in the same process.

    python -m illava_lab.benchmarks.speed qwen2-vl-2b --threads 1 --rounds 3
    python -m illava_lab.benchmarks.speed llava-onevision-0.5b --size 384 --threads 1
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import illava
from illava.bench import prompts, published, random_weights
from illava.bench.machine import machine
from illava.bench.timing import Timing, hook_seconds, interleave, measure, ratio
from illava.models.layout import workload
from illava.models.located import locate
from illava.planning.cost import Cost
from illava.planning.machine_speed import Rates, measure_rates
from illava_lab.benchmarks import common

PARTS = ("encoder", "prefill", "ttft")
PLAIN = "plain"
TUNED = ", tuned"
"""At the end of a row's name: with ``illava.tune``."""


def schedules(shape: str) -> dict[str, illava.Illava]:
    """Three at encoder blocks 5 to 8 and four LLM layers, with sampled scores, and the preset at two budgets.

    None is the schedule published for a family: that of Qwen2-VL merges at encoder blocks 12 to 15 and LLM
    layers 6, 7 and 8, and was not timed.
    """
    depth = published.depths(shape)[1]
    late = tuple(layer * depth // 28 for layer in (15, 17, 19, 21))

    def early(keep: float) -> illava.Illava:
        return illava.Illava(
            encoder_layers=(5, 6, 7, 8), encoder_keep=keep, llm_layers=late, llm_keep=0.9, score="sampled"
        )

    return {
        "0.85 x4, then 0.9 x4": early(0.85),
        "to 1/3, then 0.9 x4": early((1 / 3) ** 0.25),
        "to 1/9, then 0.9 x4": early((1 / 9) ** 0.25),
        "keep=1/3": illava.Illava.best(1 / 3),
        "keep=1/9": illava.Illava.best(1 / 9),
    }


def main() -> None:
    parser = common.parser(__doc__, rounds=3, size=672)
    parser.add_argument("shape", choices=[*published.SHAPES])
    parser.add_argument("--layers", type=int, help="a slice of so many layers of each")
    options = common.parse(parser)
    model = random_weights.build(options.shape, options.layers, torch.float32, torch.device("cpu"))
    inputs = prompts.make(model.config, size=(options.size, options.size))
    methods = schedules(options.shape)
    if options.layers:
        # A slice may end before the layers of the others.
        methods = {name: one for name, one in methods.items() if name.startswith("keep")}
    parts = locate(model)
    patches = max(workload(parts, options.size).segments)
    rates = measure_rates(model, patches * parts.group, inputs["input_ids"].shape[1], repeats=2)
    hardest = "to 1/9, then 0.9 x4" if "to 1/9, then 0.9 x4" in methods else "keep=1/9"
    forwards = common.tuned_forwards(model)
    reports: dict[str, illava.Report] = {}
    hooks: dict[str, list[float]] = {}

    def run(name: str) -> Timing:
        with ExitStack() as stack:
            if name.endswith(TUNED):
                stack.enter_context(common.applied(forwards))
            method = methods.get(name.removesuffix(TUNED))
            if method is None:
                return measure(model, inputs, 1)
            handle = stack.enter_context(illava.accelerate(model, method))
            seconds = stack.enter_context(hook_seconds(model))
            timing = measure(model, inputs, 1)
            reports[name] = handle.report
            hooks.setdefault(name, []).append(sum(seconds) / timing.ttft)
            return timing

    names = [PLAIN, *methods, PLAIN + TUNED, hardest + TUNED]
    measure(model, prompts.make(model.config, size=(112, 112)), 1)
    timings = interleave({name: lambda name=name: run(name) for name in names}, options.rounds, warmup=0)
    rows = [row(name, timings, reports.get(name), rates) for name in names[1:]]
    for made in rows:
        made["hooks_share"] = statistics.median(hooks[made["name"]]) if made["name"] in hooks else None
    result = {
        "shape": options.shape,
        "layers": options.layers,
        "size": options.size,
        "dtype": "float32",
        "weights": "random",
        "rounds": options.rounds,
        "prompt_tokens": inputs["input_ids"].shape[1],
        "machine": machine(),
        "plain_seconds": {part: [getattr(t, part) for t in timings[PLAIN]] for part in PARTS},
        "rows": rows,
        "rates": rates.to_dict(),
    }
    cut = f"-{options.layers}-layers" if options.layers else ""
    common.write(options.output / f"speed-{options.shape}{cut}.json", result)
    show(result)


def row(
    name: str, timings: dict[str, list[Timing]], report: illava.Report | None, rates: Rates
) -> dict[str, Any]:
    """Measured and predicted ratios of one row to the plain model."""
    made: dict[str, Any] = {
        "name": name,
        "measured": {part: vars(ratio(timings[PLAIN], timings[name], part)) for part in PARTS},
        "seconds": {part: [getattr(t, part) for t in timings[name]] for part in PARTS},
    }
    if report is None:
        return made
    merged, plain = (rates.seconds(counts) for counts in report.token_counts)
    flops, full = stages(report.cost), stages(report.plain_cost)
    return made | {
        "method": report.method,
        "visual_tokens": report.visual_tokens,
        "final_tokens": report.final_tokens,
        "average_tokens": report.average_tokens,
        "kv_ratio": report.cost.kv_bytes / report.plain_cost.kv_bytes,
        "flops": {part: full[part] / flops[part] for part in PARTS},
        "rates": {part: getattr(plain, part) / getattr(merged, part) for part in PARTS},
    }


def stages(cost: Cost) -> dict[str, int]:
    """FLOPs of what is timed."""
    return {"encoder": cost.encoder + cost.projector, "prefill": cost.prefill, "ttft": cost.total}


def show(result: dict[str, Any]) -> None:
    table = Table(title=f"{result['shape']}, {result['size']} x {result['size']}, random weights, float32")
    for heading in ("", "tokens", *PARTS, "KV", "in hooks"):
        table.add_column(heading)
    for made in result["rows"]:
        cells = []
        for part in PARTS:
            cell = common.times(made["measured"][part])
            if "flops" in made:
                cell += f"\nFLOPs {made['flops'][part]:.2f} rates {made['rates'][part]:.2f}"
            cells.append(cell)
        tokens = f"{made['final_tokens']} of {made['visual_tokens']}" if "flops" in made else ""
        kv = f"{made['kv_ratio']:.3f}" if "flops" in made else ""
        share = "" if made["hooks_share"] is None else f"{made['hooks_share']:.2%}"
        table.add_row(made["name"], tokens, *cells, kv, share)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
