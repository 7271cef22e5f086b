"""What makes decoding faster on a CPU: sliced products for batches, float16 weights for one sequence.

A slice of a published shape with random weights: the plain model, with sliced products (``illava.tune``) and
with float16 weights (``half=True``), in turn, in one process. Whole answers are timed as well, plain and
merged to 1/3 of the tokens.

    python -m illava_lab.benchmarks.decoding --threads 1
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import illava
from illava.bench import prompts, published, random_weights
from illava.bench.machine import machine
from illava.bench.timing import Timing, interleave, measure, ratio, spread
from illava.io.files import replacing

PARTS = ("decode_per_token", "prefill", "ttft", "total")
PLAIN, MERGED = "plain", "merged to 1/3"
TUNED, HALF = ", tuned", ", tuned with half=True"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", choices=[*published.SHAPES], default="qwen2-vl-2b")
    parser.add_argument("--layers", type=int, default=8, help="a slice of so many layers of each")
    parser.add_argument("--size", type=int, default=336, help="pixels a side")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("docs/performance"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = random_weights.build(options.shape, options.layers, torch.float32, torch.device("cpu"))
    # As early as the published schedule for Qwen3-VL, a quarter of the encoder.
    early = illava.Illava(
        encoder_layers=(options.layers // 4 - 1,), encoder_keep=1 / 3, llm_layers=(), score="sampled"
    )
    forwards: dict[str, list[tuple[nn.Module, Any]]] = {"": []}
    for ending, half in ((TUNED, False), (HALF, True)):
        with illava.tune(model, half=half) as tuned:
            forwards[ending] = [(module, module.__dict__["forward"]) for module in tuned.modules]
    batches = []
    for batch in options.batch:
        inputs = prompts.make(model.config, size=(options.size, options.size), batch=batch)

        def run(name: str, inputs: Any = inputs) -> Timing:
            ending = next((end for end in (HALF, TUNED) if name.endswith(end)), "")
            with ExitStack() as stack:
                for module, forward in forwards[ending]:
                    module.forward = forward  # type: ignore[method-assign]
                    stack.callback(module.__dict__.pop, "forward")
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
    options.output.mkdir(parents=True, exist_ok=True)
    with replacing(options.output / "decoding.json") as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n")
    show(result)


def show(result: dict[str, Any]) -> None:
    for batch in result["batches"]:
        table = Table(title=f"batch of {batch['batch']}: milliseconds, times faster than plain")
        for heading in ("", *PARTS):
            table.add_column(heading)
        for row in batch["rows"]:
            cells = []
            for part in PARTS:
                faster = row["faster"][part]
                cells.append(
                    f"{row['milliseconds'][part]:,.1f}, {faster['median']:.2f}x "
                    f"({faster['low']:.2f}-{faster['high']:.2f})"
                )
            table.add_row(row["name"], *cells)
        Console(width=140).print(table)


if __name__ == "__main__":
    main()
