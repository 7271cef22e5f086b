"""illava on torch against OpenVINO GenAI's own visual token pruning: same CPU, weights, picture, prompt.

A slice of the Qwen2-VL-2B shape with random weights, float32 on both sides. OpenVINO prunes after the image
encoder (CDPruner), illava merges inside it, down to as many tokens for the LLM, give or take one. Every row
is compared with its own plain model, and torch with OpenVINO in absolute time; the two processes take turns.
OpenVINO's cache is float32 too, and does not carry the prompt over from one answer to the next.

    python -m illava_lab.benchmarks.versus_openvino    # an hour on one thread, 13 GB of memory, 5 GB in runs/
    python -m illava_lab.benchmarks.versus_openvino --blocks 4 --layers 2 --size 224 --rounds 2  # minutes

OpenVINO lives in an environment of its own, since its exporter needs an older transformers:

    python3 -m venv .venv-openvino && .venv-openvino/bin/pip install \\
        openvino-genai==2026.4.1.0 optimum-intel==2.2.0 transformers==5.0.0

What the seconds hold, all within one ``generate``:

* encoder: torch: image encoder and projector, illava's merging with them. OpenVINO: "prepare embeddings",
  which is also picture preprocessing, tokenizing, text embeddings and, when pruning, CDPruner. In the JSON
  are its preprocessing with the patch embedding (``openvino_preparation``) and torch's preprocessing, which
  comes before ``generate`` (``torch_preprocessing``).
* ttft: from the start of ``generate`` to the first token (OpenVINO) or its logits (torch).
* prefill: ttft less encoder, so the LLM over the prompt, the head and some bookkeeping. ``llm_prefill`` in
  the JSON is the LLM alone, which has the head in it on OpenVINO's side.
* token: the seconds after ttft for each further token, in the longest answers.
* answer: all of ``generate``.

Encoder, prefill and ttft come from answers of every length. A first answer of each kind is not counted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor

import illava
from illava.bench import published
from illava.bench.machine import machine
from illava.bench.timing import Timing, interleave, measure, spread
from illava_lab.benchmarks import common
from illava_lab.benchmarks.openvino_client import INSTALL, SHAPE, Client, build, exported
from illava_lab.benchmarks.openvino_worker import SPECIAL, picture, prompt, tokenizer

ROOT = Path(__file__).resolve().parents[3]
OPENVINO = {"OpenVINO plain": 0, "OpenVINO 67 % pruned": 67, "OpenVINO 89 % pruned": 89}
"""Percent that OpenVINO prunes."""
TORCH = {
    "torch plain": None,
    "illava to 1/3": illava.Illava(encoder_layers=(2, 3), encoder_keep=(1 / 3) ** 0.5, llm_layers=()),
    "illava to 1/9": illava.Illava(encoder_layers=(2, 3), encoder_keep=(1 / 9) ** 0.5, llm_layers=()),
}
"""Each with as many tokens for the LLM as the one at its place in OPENVINO."""


def torch_inputs(size: int) -> tuple[dict[str, torch.Tensor], float]:
    """What the worker makes of the same picture and prompt, and the seconds that preprocessing took."""
    processor, noise = Qwen2VLImageProcessor(), Image.fromarray(picture(size))
    processor(noise, return_tensors="pt")
    start = time.perf_counter()
    pixels = processor(noise, return_tensors="pt")
    taken = time.perf_counter() - start
    ids = tokenizer()(prompt(pads=(size // 28) ** 2), return_tensors="pt").input_ids
    mask = {
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == SPECIAL["<|image_pad|>"]).int(),
    }
    return {"input_ids": ids, **mask, **pixels}, taken


def seconds(timing: Timing) -> dict[str, float]:
    return {
        "encoder": timing.encoder,
        "prefill": timing.ttft - timing.encoder,
        "llm_prefill": timing.prefill,
        "ttft": timing.ttft,
        "token": (timing.total - timing.ttft) / (timing.new_tokens - 1),
        "answer": timing.total,
    }


def values(raw: dict[str, list[dict[str, float]]], part: str) -> list[float]:
    """Seconds of one model, round by round; ``raw`` has a list for each length of the answers."""
    if part.startswith("answer "):
        return [figures["answer"] for figures in raw[part.removeprefix("answer ")]]
    lengths = [max(raw, key=int)] if part == "token" else list(raw)
    return [figures[part] for length in lengths for figures in raw[length]]


def times(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    return vars(spread([a / b for a, b in zip(slow, fast, strict=True)]))


def main() -> None:
    parser = common.parser(__doc__, rounds=5, output=Path("out/bench"), size=616)
    parser.add_argument("--blocks", type=int, default=12, help="of the image encoder, at least 4")
    parser.add_argument("--layers", type=int, default=10, help="of the LLM")
    parser.add_argument("--new-tokens", type=int, nargs="+", default=[16, 128], help="lengths of answers")
    parser.add_argument("--backend", choices=["PA", "SDPA"], default="PA", help="OpenVINO's attention")
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-openvino/bin/python")
    parser.add_argument("--models", type=Path, default=Path("runs/openvino"), help="folder for exports")
    options = parser.parse_args()
    deepest = published.depths(SHAPE)
    if not 4 <= options.blocks <= deepest[0] or not 1 <= options.layers <= deepest[1]:
        parser.error("--blocks must be from 4 to {}, --layers from 1 to {}".format(*deepest))
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be 1 or more")
    # Beyond 980 pixels OpenVINO would shrink the picture, as Qwen2-VL's processor does.
    if options.size % 28 or not 112 <= options.size <= 980:
        parser.error(f"--size must be a multiple of 28 from 112 to 980, got {options.size}")
    if min(options.new_tokens) < 2:
        parser.error("--new-tokens must be 2 or more")
    if not options.python.exists():
        sys.exit(f"there is no {options.python}; make it by: {INSTALL}")
    result = compare(options)
    options.output.mkdir(parents=True, exist_ok=True)
    shape = f"{options.blocks}-{options.layers}-{options.size}-{options.threads}-{options.backend}"
    common.write(options.output / f"versus_openvino-{shape}.json", result)
    show(result)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    folder = exported(options.python, options.models, options.blocks, options.layers, environment)
    given = {"size": options.size, "threads": options.threads, "backend": options.backend}
    openvino = Client(options.python, folder, given, environment)
    try:
        model = build(options.blocks, options.layers)
        inputs, preprocessing = torch_inputs(options.size)
        result = measured(model, inputs, openvino, options)
    finally:
        openvino.process.kill()
    return {
        "shape": f"Qwen2-VL-2B, a slice of {options.blocks} encoder blocks and {options.layers} LLM layers",
        "weights": "random",
        "dtype": "float32",
        **{name: value for name, value in vars(options).items() if not isinstance(value, Path)},
        "machine": machine(),
        "openvino_versions": openvino.versions,
        "torch_preprocessing": preprocessing,
        **result,
    }


def measured(
    model: Qwen2VLForConditionalGeneration,
    inputs: dict[str, torch.Tensor],
    openvino: Client,
    options: argparse.Namespace,
) -> dict[str, Any]:
    whole = inputs["input_ids"].shape[1]
    tokens: dict[str, int] = {}
    answers: dict[str, list[int]] = {}
    cpu_share: list[float] = []
    preparation: list[float] = []

    def run(name: str, length: int, warmup: bool = False) -> Timing:
        start = time.perf_counter()
        if name in OPENVINO:
            said = openvino.ask(pruning_ratio=OPENVINO[name], new_tokens=length, tokens=warmup)
            timing = Timing(**said["timing"], output=torch.empty(0))
            tokens[name], answers[name] = said["llm_tokens"], said["tokens"] or answers[name]
            if not warmup:
                cpu_share.append(said["cpu"] / timing.total)
                preparation.append(said["preparation"])
        elif method := TORCH[name]:
            with illava.accelerate(model, method) as handle:
                timing = measure(model, inputs, length)
            tokens[name] = whole - handle.report.visual_tokens + handle.report.final_tokens
        else:
            timing, tokens[name] = measure(model, inputs, length), whole
        if warmup and name in TORCH:
            answers[name] = timing.output[0, whole:].tolist()
        print(f"{name}, {length} tokens: {time.perf_counter() - start:.1f} s", file=sys.stderr)
        return timing

    names = [name for pair in zip(TORCH, OPENVINO, strict=True) for name in pair]
    for name in names:
        run(name, 8, warmup=True)
    pairs = [(name, length) for name in names for length in options.new_tokens]
    runs = {f"{name} {length}": lambda pair=(name, length): run(*pair) for name, length in pairs}
    timings = interleave(runs, options.rounds, warmup=0)
    raw: dict[str, dict[str, list[dict[str, float]]]] = {name: {} for name in names}
    for name, length in pairs:
        raw[name][str(length)] = [seconds(timing) for timing in timings[f"{name} {length}"]]
    parts = ["encoder", "prefill", "ttft", "token", *(f"answer {length}" for length in options.new_tokens)]
    rows = []
    for side in (OPENVINO, TORCH):
        for name in side:
            row: dict[str, Any] = {"model": name, "llm_tokens": [whole, tokens[name]]}
            of = {part: values(raw[name], part) for part in parts}
            plain = raw[next(iter(side))]
            row["milliseconds"] = {part: vars(spread([1000 * s for s in of[part]])) for part in parts}
            row["times_faster"] = {part: times(values(plain, part), of[part]) for part in parts}
            rows.append(row)
    versus = {
        f"{ours} / {theirs}": {p: times(values(raw[theirs], p), values(raw[ours], p)) for p in parts}
        for ours, theirs in zip(TORCH, OPENVINO, strict=True)
    }
    same = [a == b for a, b in zip(*(answers[next(iter(side))] for side in (TORCH, OPENVINO)), strict=True)]
    return {
        "first_equal_tokens": [*same, False].index(False),
        "openvino_cpu_share": vars(spread(cpu_share)),
        "openvino_preparation": vars(spread(preparation)),
        "rows": rows,
        "torch_times_faster": versus,
        "first_answers": answers,
        "seconds": raw,
    }


def show(result: dict[str, Any]) -> None:
    console = Console(width=160)
    parts = list(result["rows"][0]["milliseconds"])
    table = Table(
        title=f"{result['shape']}, {result['weights']} weights, {result['dtype']}, "
        f"{result['size']} x {result['size']}:\nmilliseconds, and speed-up over the same side's plain model"
    )
    against = Table(title="Speed-up of torch over OpenVINO (below 1: slower)")
    for heading in ("", "LLM tokens", *parts):
        table.add_column(heading)
    for heading in ("", *parts):
        against.add_column(heading)

    for number, row in enumerate(result["rows"]):
        faster, took = row["times_faster"], row["milliseconds"]
        cells = [f"{took[part]['median']:.0f} ms" for part in parts]
        if number % len(TORCH):
            cells = [f"{text}\n{common.times(faster[part])}" for text, part in zip(cells, parts, strict=True)]
        table.add_row(row["model"], "{} -> {}".format(*row["llm_tokens"]), *cells)
    for name, faster in result["torch_times_faster"].items():
        against.add_row(name.replace(" / ", " /\n"), *(common.times(faster[part]) for part in parts))
    console.print(table)
    console.print(against)
    console.print(f"median (lowest-highest) over {result['rounds']} interleaved rounds")
    equal, of = result["first_equal_tokens"], len(next(iter(result["first_answers"].values())))
    console.print(f"the plain models' answers agree in the first {equal} of {of} tokens")
    console.print(result["machine"], result["openvino_versions"])


if __name__ == "__main__":
    main()
