"""Compare a merged large model with a smaller plain one: InternVL 2.5 26B and 8B, by the cost model.

The paper reports that the merged 26B is faster than the plain 8B. Here FLOPs and bytes are computed from the
published sizes, in bfloat16, for tiles of 448 pixels and 47 text tokens; nothing is run. The 8B is also
compared with the 2B, which has the same image encoder, so that only the LLMs differ.

    python -m illava_lab.benchmarks.bigger      # seconds
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import illava
from illava.bench import published
from illava.io.files import replacing
from illava.models.layout import workload
from illava.models.located import LocatedModules
from illava.planning.cost import Cost
from illava.planning.predict import Predictor, skeleton

PAIRS = (("internvl2.5-26b", "internvl2.5-8b"), ("internvl2.5-8b", "internvl2.5-2b"))
"""(bigger, smaller)."""
SIDES = (448, 896, 1344)
"""Sides of a square image in pixels: 1, 5 and 10 tiles."""
TEXT_TOKENS, ELEMENT = 47, 2
KEEPS = (1 / 2, 1 / 3, 1 / 6, 1 / 9, 1 / 18)
BEST, EARLY, PUBLISHED = "best", "early", "published"
MEASURES = ("encoder_flops", "prefill_flops", "total_flops", "kv_bytes", "decode_flops", "weight_bytes")
"""FLOPs of encoder and projector, of prefill, and of all up to the first token; bytes of the KV cache after
prefill; FLOPs of one new token; bytes of the weights."""
JUDGED = ("prefill_flops", "total_flops", "kv_bytes")
"""The measures that merging changes, which the verdict is about."""
LEAST = 1 / 256
"""The smallest budget: one visual token per tile."""


def best(modules: LocatedModules, keep: float) -> illava.Illava:
    """The preset of 0.1, with half of the reduction in the middle of each stage."""
    return replace(illava.Illava.best(keep), where="middle", encoder_share=0.5, proportional=None)


def early(modules: LocatedModules, keep: float) -> illava.Illava:
    """The whole reduction after a sixth of the encoder, the earliest layer that the planner uses."""
    blocks = (len(modules.blocks) // 6 - 1,)
    return replace(
        best(modules, keep), where="published", encoder_layers=blocks, llm_layers=(), encoder_share=1.0
    )


SCHEDULES: dict[str, Callable[[LocatedModules, float], illava.Illava]] = {BEST: best, EARLY: early}


def figures(cost: Cost, weights: int) -> dict[str, int]:
    """By the names of MEASURES."""
    values = (
        cost.encoder + cost.projector,
        cost.prefill,
        cost.total,
        cost.kv_bytes,
        cost.decode,
        weights,
    )
    return dict(zip(MEASURES, values, strict=True))


def compare(bigger: Predictor, smaller: Predictor) -> dict[str, Any]:
    """All rows of the bigger model relative to the plain smaller one, and when it is cheaper."""
    against = figures(smaller.plain_cost, smaller.weight_bytes)

    def row(label: str, cost: Cost, tokens: int, keep: float | None = None) -> dict[str, Any]:
        found = figures(cost, bigger.weight_bytes)
        ratios = {name: found[name] / against[name] for name in MEASURES}
        return {"schedule": label, "keep": keep, "final_tokens": tokens, "values": found, "ratios": ratios}

    rows = [row("plain", bigger.plain_cost, bigger.work.visual_tokens)]
    made = bigger.of(illava.Illava())
    rows.append(row(PUBLISHED, made.cost, made.final_tokens))
    for label, schedule in SCHEDULES.items():
        for keep in KEEPS:
            made = bigger.of(schedule(bigger.modules, keep))
            rows.append(row(label, made.cost, made.final_tokens, keep))
    return {
        "visual_tokens": bigger.work.visual_tokens,
        "smaller_plain": against,
        "rows": rows,
        "cheaper_from": {
            label: {name: cheaper_from(bigger, schedule, name, against[name]) for name in MEASURES}
            for label, schedule in SCHEDULES.items()
        },
    }


def cheaper_from(
    bigger: Predictor, schedule: Callable[[LocatedModules, float], illava.Illava], name: str, than: int
) -> float | None:
    """The largest budget, to a thousandth, at which a measure is below ``than``; None if there is none."""

    def below(keep: float) -> bool:
        cost = bigger.of(schedule(bigger.modules, keep)).cost
        return figures(cost, bigger.weight_bytes)[name] < than

    if not below(LEAST):
        return None
    low, high = LEAST, 1.0
    # Costs fall with the budget, so halving finds the place.
    while high - low > 0.0005:
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return low


def run() -> dict[str, Any]:
    """All pairs at all sizes, JSON-ready."""
    models = {name: skeleton(published.config(name)) for pair in PAIRS for name in pair}
    pairs = []
    for bigger, smaller in PAIRS:
        sizes = []
        for side in SIDES:
            works = [workload(models[name], side, prompt_tokens=TEXT_TOKENS) for name in (bigger, smaller)]
            both = [Predictor(models[n], w, ELEMENT) for n, w in zip((bigger, smaller), works, strict=True)]
            sizes.append({"side": side, "tiles": len(works[0].segments), **compare(*both)})
        pairs.append({"bigger": bigger, "smaller": smaller, "sizes": sizes})
    settings = {
        "source": "cost model: published sizes, no weights, nothing timed",
        "text_tokens": TEXT_TOKENS,
        "element_bytes": ELEMENT,
        "keeps": list(KEEPS),
        "least_keep_tried": LEAST,
    }
    found: dict[str, Any] = {"settings": settings, "pairs": pairs}
    return {**found, "verdict": list(verdict(found))}


def verdict(found: dict[str, Any]) -> Iterator[str]:
    """The conclusions, one sentence per line, from the results."""
    for pair in found["pairs"]:
        bigger, smaller = pair["bigger"], pair["smaller"]
        for size in pair["sizes"]:
            for label, limits in size["cheaper_from"].items():
                parts = [f"{measure_name(name)} {_from(limits[name])}" for name in JUDGED]
                yield (
                    f"{bigger} merged ({label}) against {smaller} plain, {size['side']} px, "
                    f"{size['tiles']} tile(s): {'; '.join(parts)}."
                )
            lasting = next(row for row in size["rows"] if row["schedule"] == PUBLISHED)["ratios"]
            parts = [f"{measure_name(name)} {lasting[name]:.2f}" for name in JUDGED]
            yield f"The published schedule there, times the plain {smaller}'s: {'; '.join(parts)}."
        plain = pair["sizes"][0]["rows"][0]
        weights = plain["values"]["weight_bytes"], pair["sizes"][0]["smaller_plain"]["weight_bytes"]
        limits = [
            limit[name]
            for size in pair["sizes"]
            for limit in size["cheaper_from"].values()
            for name in ("decode_flops", "weight_bytes")
        ]
        least = min(row["ratios"]["decode_flops"] for size in pair["sizes"] for row in size["rows"])
        often = "never" if least >= 1 and not any(limits) else "not always"
        yield (
            f"Weights ({weights[0] / 1e9:.1f} GB against {weights[1] / 1e9:.1f} GB) and decoding "
            f"({least:.1f} times the FLOPs a token at least) "
            f"of {bigger} are {often} below those of {smaller}."
        )
        yield from _encoders(pair)


def _encoders(pair: dict[str, Any]) -> Iterator[str]:
    """The encoder's FLOPs, relative to the smaller model's encoder and to all of the smaller model."""
    bigger, smaller = pair["bigger"], pair["smaller"]
    for size in pair["sizes"]:
        plain, small = size["rows"][0]["values"], size["smaller_plain"]
        times = plain["encoder_flops"] / small["encoder_flops"]
        of_all = plain["encoder_flops"] / small["total_flops"]
        text = f"{size['side']} px: the plain encoder of {bigger} takes {times:.1f} times the FLOPs of "
        text += f"{smaller}'s and {of_all:.2f} times all that {smaller} takes to its first token"
        hard = next(row for row in size["rows"] if row["schedule"] == BEST and row["keep"] == KEEPS[-1])
        share = hard["values"]["encoder_flops"] / small["total_flops"]
        yield f"{text}; {share:.2f} times with the preset at {fraction(KEEPS[-1])}."


def measure_name(name: str) -> str:
    """The display name of a measure, e.g. "KV bytes"."""
    return name.replace("_", " ").replace("flops", "FLOPs").replace("kv", "KV")


def fraction(keep: float) -> str:
    return f"1/{1 / keep:.3g}"


def _from(keep: float | None) -> str:
    if keep is None:
        return "never less"
    listed = [one for one in KEEPS if one <= keep]
    budget = f", so from {fraction(max(listed))}" if listed else f", below {fraction(min(KEEPS))}"
    return f"less from keep={keep:.3f}{budget}" if keep < 0.999 else "less even plain"


def show(found: dict[str, Any], console: Console) -> None:
    """The ratios as tables."""
    for pair in found["pairs"]:
        for size in pair["sizes"]:
            title = f"{pair['bigger']} / {pair['smaller']} plain, {size['side']} px, {size['tiles']} tile(s)"
            table = Table(title=f"{title}, {size['visual_tokens']} visual tokens")
            for heading in ("schedule", "keep", "tokens", *map(measure_name, MEASURES)):
                table.add_column(heading, justify="left" if heading == "schedule" else "right")
            for row in size["rows"]:
                keep = fraction(row["keep"]) if row["keep"] else "-"
                cells = [f"{row['ratios'][name]:.2f}" for name in MEASURES]
                table.add_row(row["schedule"], keep, str(row["final_tokens"]), *cells)
            console.print(table)
    for line in found["verdict"]:
        console.print(line, soft_wrap=True, highlight=False)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/performance"))
    options = parser.parse_args(arguments)
    found = run()
    options.output.mkdir(parents=True, exist_ok=True)
    target = options.output / "bigger.json"
    with replacing(target) as partial:
        partial.write_text(json.dumps(found, indent=1) + "\n")
    show(found, Console(width=140))
    print(f"{target} written")


if __name__ == "__main__":
    main()
