"""What merging itself costs, beside what it saves: scores, merges, hooks, decoding; and sampled scores.

Own cost is CPU time in hooks and in whatever looks at queries and keys beside the attention, so that other
programs do not count. It is measured on a slice of the Qwen2-VL-2B shape (random weights) that holds all
steps of the stage; blocks that come on top merge nothing, so that shares of the whole model are those of the
slice times its share of the blocks. Sampled scores (256 query rows) are held against exact ones on the
shipped models, whose 576 patches a picture are more than those rows.

    python -m illava_lab.benchmarks.overhead
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import illava
from illava.ask import load
from illava.bench import prompts, published, random_weights
from illava.bench.machine import machine
from illava.evaluation.prompts import build_batch
from illava.models.located import locate
from illava.ops import scoring
from illava_lab import tasks
from illava_lab.benchmarks import common
from illava_lab.benchmarks.bookkeeping import own_seconds

SHAPE, LAYERS = "qwen2-vl-2b", 10
TASKS = ("attribute", "digits", "words", "spatial", "easy_vqa")


@contextmanager
def cpu_seconds(module: nn.Module) -> Iterator[list[float]]:
    """CPU seconds that each call of a module takes, its hooks included."""
    seconds: list[float] = []
    began: list[float] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_: began.append(time.process_time()), prepend=True),
        module.register_forward_hook(lambda *_: seconds.append(time.process_time() - began.pop())),
    ]
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()


def stage_costs(rounds: int, size: int) -> list[dict[str, Any]]:
    """Own seconds of each stage, as shares of the plain model's stage at its whole depth."""
    model = random_weights.build(SHAPE, LAYERS, torch.float32, torch.device("cpu"))
    parts = locate(model)
    blocks, layers = published.depths(SHAPE)
    inputs = prompts.make(model.config, size=(size, size))
    early = dict(encoder_layers=(5, 6, 7, 8), encoder_keep=0.85, llm_layers=())
    late = dict(encoder_layers=(), llm_layers=(5, 6, 7, 8), llm_keep=0.9)
    methods = {
        "encoder 0.85 x4, exact scores": ("encoder", illava.Illava(**early)),
        "encoder 0.85 x4, sampled scores": ("encoder", illava.Illava(**early, score="sampled")),
        "encoder, one step to 1/3 (keep=1/9)": (
            "encoder",
            illava.Illava(
                keep=1 / 3,
                encoder_layers=(5,),
                llm_layers=(),
                **dict(score="sampled", select="diverse", reduce="fold", similarity="cosine"),
            ),
        ),
        "LLM 0.9 x4": ("prefill", illava.Illava(**late)),
        "keep=1.0": ("ttft", illava.Illava(keep=1.0)),
    }
    found: dict[str, list[float]] = {name: [] for name in methods}
    with torch.no_grad():
        for _ in range(rounds):
            with cpu_seconds(parts.encoder) as encoder, cpu_seconds(parts.llm) as llm:
                model(**inputs, logits_to_keep=1)
            whole = {"encoder": encoder[0] * blocks / LAYERS, "prefill": llm[0] * layers / LAYERS}
            whole["ttft"] = whole["encoder"] + whole["prefill"]
            for name, (stage, method) in methods.items():
                with illava.accelerate(model, method), own_seconds(model) as own:
                    model(**inputs, logits_to_keep=1)
                found[name].append(sum(own) / whole[stage])
    return [
        {"what": name, "share_of": methods[name][0], "share": spread(values)}
        for name, values in found.items()
    ]


def decode_costs(rounds: int, new_tokens: int = 12) -> list[dict[str, Any]]:
    """Own seconds of decoding steps, as shares of those steps, on a slice: the more layers, the smaller."""
    model = random_weights.build(SHAPE, LAYERS, torch.float32, torch.device("cpu"))
    parts = locate(model)
    one = prompts.make(model.config, size=(224, 224))
    padded = prompts.make(model.config, size=(224, 224), batch=2)
    # The second prompt has ten tokens of text less.
    padded["attention_mask"][1, :10] = 0
    method = illava.Illava(encoder_layers=(5,), encoder_keep=0.4, llm_layers=(5, 7), llm_keep=0.6)
    out = []
    for name, inputs in (("decoding, one prompt", one), ("decoding, a padded batch of two", padded)):
        shares = []
        for _ in range(rounds):
            with (
                illava.accelerate(model, method),
                own_seconds(model) as own,
                cpu_seconds(parts.llm) as llm,
            ):
                length = [0]
                # All that follows the prefill belongs to decoding.
                mark = parts.llm.register_forward_hook(lambda *_, own=own, length=length: _first(own, length))
                model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
                mark.remove()
            shares.append(sum(own[length[0] :]) / sum(llm[1:]))
        out.append({"what": name, "share_of": "decoding steps", "share": spread(shares)})
    return out


def _first(own: list[float], length: list[int]) -> None:
    length[0] = length[0] or len(own)


def agreement(size: str, count: int, sampled: int) -> list[dict[str, Any]]:
    """Share of the units that exact scores keep in the encoder which ``sampled`` query rows keep too."""
    with mock.patch.object(scoring, "SAMPLED_ROWS", sampled):
        return _agreement(size, count, sampled)


def _agreement(size: str, count: int, sampled: int) -> list[dict[str, Any]]:
    model, processor = load(f"zoo/{size}")
    out = []
    for name, fields in {
        "published schedule": {},
        "highest of the published pattern, keep=1/3": {"keep": 1 / 3, "reduce": "drop"},
        "highest, halfway, keep=1/3": {"keep": 1 / 3, "where": "middle", "encoder_share": 0.5},
        "keep=1/3 (diverse)": vars(illava.Illava.best(1 / 3)),
        "keep=1/9 (diverse)": vars(illava.Illava.best(1 / 9)),
    }.items():
        shares = []
        for task in TASKS:
            supply = tasks.load(task, "test")
            for number in range(count):
                inputs = build_batch(processor, [supply[number]])
                kept = [
                    units_kept(model, illava.Illava(**{**fields, "score": score}), inputs)
                    for score in ("exact", "sampled")
                ]
                shares.append(len(kept[0] & kept[1]) / len(kept[0]))
        found = {"query_rows": sampled, "pictures": len(shares), "agrees": spread(shares)}
        out.append({"model": f"zoo/{size}", "what": name, **found})
    return out


def units_kept(model: nn.Module, method: illava.Illava, inputs: Any) -> set[int]:
    """The units kept by the encoder's first step, up to which both scores see the same."""
    with torch.no_grad(), illava.accelerate(model, method) as handle:
        model(**inputs, logits_to_keep=1)
        assert handle._last is not None
    return set(handle._last.runs[0].history[0][1].tolist())


def spread(values: list[float]) -> dict[str, float]:
    """Median and extremes, and the mean."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "mean": statistics.fmean(values),
    }


def main() -> None:
    parser = common.parser(__doc__, rounds=5, size=672)
    parser.add_argument("--pictures", type=int, default=12, help="of each task, for sampled scores")
    parser.add_argument("--only", choices=["own", "agreement"], help="measure that anew, keep the other")
    options = common.parse(parser)
    known = options.output / "overhead.json"
    result: dict[str, Any] = json.loads(known.read_text()) if options.only else {}
    if options.only != "agreement":
        result |= {
            "shape": SHAPE,
            "slice": LAYERS,
            "size": options.size,
            "weights": "random, but for the shipped models",
            "rounds": options.rounds,
            "machine": machine(),
            "own": [*decode_costs(options.rounds), *stage_costs(options.rounds, options.size)],
        }
    if options.only != "own":
        result["agreement"] = [
            row
            for sampled in (256, 512)
            for size in ("S", "L")
            for row in agreement(size, options.pictures, sampled)
        ]
    common.write(options.output / "overhead.json", result)
    table = Table("what", "median", "range")
    for row in result["own"]:
        s = row["share"]
        table.add_row(
            f"{row['what']}: of {row['share_of']}", f"{s['median']:.2%}", f"{s['low']:.2%}-{s['high']:.2%}"
        )
    for row in result["agreement"]:
        s = row["agrees"]
        name = f"{row['model']} {row['what']}, {row['query_rows']} rows: kept alike, mean"
        table.add_row(name, f"{s['mean']:.2%}", f"{s['low']:.2%}-{s['high']:.2%}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
