"""How much sooner the first token comes at the schedules on record, against two predictions.

A published shape with random weights: speed does not depend on what a model has learnt, answers are
noise. Plain and merged in turn, in one process. Predicted are ratios of FLOPs, and ratios of seconds from
how fast this machine is on the parts of one layer (``illava.planning.machine_speed``), measured in the same process.

    python -m illava_lab.benchmarks.speed qwen2-vl-2b --threads 1 --rounds 3
    python -m illava_lab.benchmarks.speed llava-onevision-0.5b --size 384 --threads 1
"""

from __future__ import annotations

import argparse
import json
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import illava
from illava.bench import prompts, published, random_weights
from illava.bench.machine import machine
from illava.bench.timing import Timing, hook_seconds, interleave, measure, ratio
from illava.io.files import replacing
from illava.models.layout import workload
from illava.models.located import locate
from illava.planning.cost import Cost
from illava.planning.machine_speed import Rates, measure_rates

PARTS = ("encoder", "prefill", "ttft")
PLAIN = "plain"
TUNED = ", tuned"
"""Behind the name of a row: with ``illava.tune``."""


def schedules(shape: str) -> dict[str, illava.Illava]:
    """Those on record: to a share in the encoder's blocks 5 to 8, then 0.9 a step in the LLM."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("shape", choices=[*published.SHAPES])
    parser.add_argument("--size", type=int, default=672, help="pixels a side")
    parser.add_argument("--layers", type=int, help="a slice of so many layers of each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("docs/performance"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = random_weights.build(options.shape, options.layers, torch.float32, torch.device("cpu"))
    inputs = prompts.make(model.config, size=(options.size, options.size))
    methods = schedules(options.shape)
    if options.layers:
        # The steps on record lie behind a slice's end.
        methods = {name: one for name, one in methods.items() if name.startswith("keep")}
    modules = locate(model)
    patches = max(workload(modules, options.size).segments)
    rates = measure_rates(model, patches * modules.group, inputs["input_ids"].shape[1], repeats=2)
    hardest = "to 1/9, then 0.9 x4" if "to 1/9, then 0.9 x4" in methods else "keep=1/9"
    # Found out once, put on and taken off around every run.
    tuned = illava.tune(model)
    forwards = [(module, module.__dict__["forward"]) for module in tuned.modules]
    tuned.remove()
    reports: dict[str, illava.Report] = {}
    hooks: dict[str, list[float]] = {}

    def run(name: str) -> Timing:
        with ExitStack() as stack:
            if name.endswith(TUNED):
                for module, forward in forwards:
                    module.forward = forward  # type: ignore[method-assign]
                    stack.callback(module.__dict__.pop, "forward")
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
    options.output.mkdir(parents=True, exist_ok=True)
    cut = f"-{options.layers}-layers" if options.layers else ""
    target = options.output / f"speed-{options.shape}{cut}.json"
    with replacing(target) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n")
    show(result)
    print(f"written to {target}")


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
            m = made["measured"][part]
            cell = f"{m['median']:.2f} ({m['low']:.2f}-{m['high']:.2f})"
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
