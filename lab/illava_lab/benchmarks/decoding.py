"""Linear tuning for decoding on a CPU: sliced products for batches, float16 weights for one sequence.

A slice of a published shape with random weights: the plain model, with sliced products (``illava.tune``) and
with float16 weights (``half=True``), in turn, in one process. Whole answers are timed too, plain and merged
to 1/3 of the tokens.

    python -m illava_lab.benchmarks.decoding --threads 1
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import illava
from illava.bench import prompts, random_weights
from illava.bench.machine import machine
from illava.bench.timing import Timing, interleave, measure, ratio, spread
from illava_lab.benchmarks import common

PARTS = ("decode_per_token", "prefill", "ttft", "total")
PLAIN, MERGED = "plain", "merged to 1/3"
TUNED, HALF = ", tuned", ", tuned with half=True"


def main() -> None:
    parser = common.parser(__doc__, rounds=3, shape="qwen2-vl-2b", size=336, layers=8, new_tokens=32)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    options = common.parse(parser)
    model = random_weights.build(options.shape, options.layers, torch.float32, torch.device("cpu"))
    # As early as the published schedule for Qwen3-VL, a quarter of the encoder.
    early = illava.Illava(
        encoder_layers=(options.layers // 4 - 1,), encoder_keep=1 / 3, llm_layers=(), score="sampled"
    )
    forwards = {
        "": [],
        TUNED: common.tuned_forwards(model),
        HALF: common.tuned_forwards(model, half=True),
    }
    batches = []
    for batch in options.batch:
        inputs = prompts.make(model.config, size=(options.size, options.size), batch=batch)

        def run(name: str, inputs: Any = inputs) -> Timing:
            ending = next((end for end in (HALF, TUNED) if name.endswith(end)), "")
            with ExitStack() as stack:
                stack.enter_context(common.applied(forwards[ending]))
                if name.startswith(MERGED):
                    stack.enter_context(illava.accelerate(model, early))
                return measure(model, inputs, options.new_tokens, min_new_tokens=options.new_tokens)

        names = [PLAIN, PLAIN + TUNED, PLAIN + HALF, MERGED, MERGED + TUNED]
        timings = interleave({name: lambda name=name: run(name) for name in names}, options.rounds, warmup=0)
        batches.append(
            {
                "batch": batch,
                "rows": [
                    {
                        "name": name,
                        "milliseconds": {
                            part: 1e3 * spread([getattr(t, part) for t in timings[name]]).median
                            for part in PARTS
                        },
                        "faster": {part: vars(ratio(timings[PLAIN], timings[name], part)) for part in PARTS},
                    }
                    for name in names
                ],
            }
        )
    result = {
        "shape": options.shape,
        "layers": options.layers,
        "size": options.size,
        "weights": "random",
        "new_tokens": options.new_tokens,
        "rounds": options.rounds,
        "machine": machine(),
        "batches": batches,
    }
    common.write(options.output / "decoding.json", result)
    show(result)


def show(result: dict[str, Any]) -> None:
    for batch in result["batches"]:
        table = Table(title=f"batch of {batch['batch']}: milliseconds, speed-up")
        for heading in ("", *PARTS):
            table.add_column(heading)
        for row in batch["rows"]:
            cells = []
            for part in PARTS:
                cells.append(f"{row['milliseconds'][part]:,.1f}, {common.times(row['faster'][part])}")
            table.add_row(row["name"], *cells)
        Console(width=140).print(table)


if __name__ == "__main__":
    main()
