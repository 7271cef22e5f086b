"""Write docs/performance.md from the files in docs/performance, never by hand.

python -m illava_lab.benchmarks.performance
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from illava.bench import published
from illava.io.files import replacing
from illava.methods.base import method_from_dict
from illava.models.layout import workload
from illava.planning.machine_speed import Rates
from illava.planning.predict import predict_on, skeleton
from illava_lab.benchmarks import bigger

ROOT = Path(__file__).parents[3]
FOLDER, PAGE = ROOT / "docs" / "performance", ROOT / "docs" / "performance.md"
PARTS = ("encoder", "prefill", "ttft")
WITHIN = 0.07
"""How far measured ratios may lie from predicted ones."""
TARGETS = {
    ("qwen2-vl-2b", "0.85 x4, then 0.9 x4"): {"ttft": 1.75},
    ("qwen2-vl-2b", "to 1/3, then 0.9 x4"): {"ttft": 2.4},
    ("qwen2-vl-2b", "to 1/9, then 0.9 x4"): {"encoder": 3.5, "prefill": 6, "ttft": 4},
    ("llava-onevision-0.5b", "to 1/9, then 0.9 x4"): {"prefill": 7, "ttft": 4},
}
"""Ratios that were asked for."""


def page() -> str:
    """The whole page."""
    return "\n".join(
        line
        for part in (_head, _speed, _overhead, _throughput, _decoding, _openvino, _growth, _bigger)
        for line in part()
    )


def _read(name: str) -> Any:
    file = FOLDER / name
    return json.loads(file.read_text()) if file.exists() else None


def _head() -> Iterator[str]:
    yield "# Performance"
    yield ""
    yield (
        "Written by `python -m illava_lab.benchmarks.performance` from the files in [`docs/performance`](performance), "
        "never by hand. All of it is float32 on two cores of a shared machine without bfloat16 kernels, with "
        "random weights of published sizes unless said otherwise: ratios travel, seconds do not. Nothing here "
        "ran on a graphics card; `make bench-gpu` is ready "
        "for whoever has one. How to plan and measure on your own: [planning.md](planning.md)."
    )
    yield ""


def _on(machine: dict[str, Any]) -> str:
    return (
        f"{machine['threads']} thread{'s' * (machine['threads'] > 1)} of {machine['cpu']}, torch "
        f"{machine['torch']}, transformers {machine['transformers']}"
    )


def _speed() -> Iterator[str]:
    for file in sorted(FOLDER.glob("speed-*.json")):
        found = json.loads(file.read_text())
        cut = f", a slice of {found['layers']} layers each" if found["layers"] else ""
        yield f"## {found['shape']}, {found['size']} x {found['size']}{cut}: sooner by"
        yield ""
        yield (
            f"Median (lowest-highest) of {found['rounds']} rounds, plain and merged in turn, times faster than "
            "plain; then what the ratio of FLOPs and the machine's rates (measured on the parts of one layer in "
            f"the same process) predict. {found['prompt_tokens']} tokens in the prompt. {_on(found['machine'])}. "
            f"`python -m illava_lab.benchmarks.speed {found['shape']} --size {found['size']} --threads "
            f"{found['machine']['threads']} --rounds {found['rounds']}`"
        )
        yield ""
        yield "| | left of all | image encoder | FLOPs, rates | prefill | FLOPs, rates | first token | FLOPs, rates | KV |"
        yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        parts = skeleton(published.config(found["shape"], found["layers"]))
        work = workload(parts, found["size"])
        rates = Rates.from_dict(found["rates"])
        rows = {row["name"]: row for row in found["rows"]}
        off: dict[str, list[tuple[float, str]]] = {"FLOPs": [], "rates": []}
        for name, row in rows.items():
            cells = [name, f"{row['final_tokens']} of {row['visual_tokens']}" if "flops" in row else ""]
            for part in PARTS:
                m = row["measured"][part]
                cells.append(f"{m['median']:.2f} ({m['low']:.2f}-{m['high']:.2f})")
                if "flops" not in row:
                    cells.append("")
                    continue
                token_counts = predict_on(parts, method_from_dict(row["method"]), work).token_counts
                merged, plain = (getattr(rates.seconds(counts), part) for counts in token_counts)
                cells.append(f"{row['flops'][part]:.2f}, {plain / merged:.2f}")
                if not name.endswith("tuned"):
                    what = f"{part} of {name}"
                    off["FLOPs"].append((m["median"] / row["flops"][part] - 1, what))
                    off["rates"].append((m["median"] / (plain / merged) - 1, what))
            cells.append(f"{row['kv_ratio']:.3f}" if "flops" in row else "")
            yield f"| {' | '.join(cells)} |"
        yield ""
        yield "*tuned*: with `illava.tune(model)`, for the plain model too. " + " ".join(
            _verdicts(found, rows, off)
        )
        yield ""


def _verdicts(
    found: dict[str, Any], rows: dict[str, Any], off: dict[str, list[tuple[float, str]]]
) -> Iterator[str]:
    for (shape, name), wanted in TARGETS.items():
        if shape != found["shape"] or name not in rows:
            continue
        for part, target in wanted.items():
            reached = {
                label: rows[label]["measured"][part]["median"]
                for label in (name, f"{name}, tuned")
                if label in rows
            }
            said = ", ".join(
                f"{value:.2f}{' tuned' * label.endswith('tuned')}" for label, value in reached.items()
            )
            held = "reached" if max(reached.values()) >= target else "**not reached**"
            yield f'Asked for at "{name}": {part} {target:g}; {held}: {said}.'
    for by, values in off.items():
        outside = [(share, what) for share, what in values if abs(share) > WITHIN]
        worst = max(values, key=lambda pair: abs(pair[0]))
        yield (
            f"Measured / predicted by {by}: {len(values) - len(outside)} of {len(values)} within "
            f"{WITHIN:.0%}, the farthest {worst[0]:+.0%} ({worst[1]})."
        )


def _overhead() -> Iterator[str]:
    found = _read("overhead.json")
    if found is None:
        return
    yield "## What merging itself costs"
    yield ""
    yield (
        f"CPU time in hooks and observers, median (lowest-highest) of {found['rounds']} rounds, on a slice of "
        f"{found['slice']} layers each of {found['shape']} at {found['size']} x {found['size']}, as a share of "
        f"the whole model's stage. {_on(found['machine'])}. `python -m illava_lab.benchmarks.overhead`"
    )
    yield ""
    yield "| | of | share |"
    yield "| --- | --- | ---: |"
    for row in found["own"]:
        s = row["share"]
        yield f"| {row['what']} | {row['share_of']} | {s['median']:.2%} ({s['low']:.2%}-{s['high']:.2%}) |"
    yield ""
    yield (
        "Sampled scores (from 256 query rows) against exact ones (all 576) on the shipped models: share of the kept "
        "units that both keep at the encoder's first step, mean (lowest-highest) over pictures of five tasks. "
        "Asked for was 97 %, **not reached**: attention in these models is local and flat, so that which of two "
        "middling units has more hangs on single rows, and twice the rows do not bring it either. Accuracy does "
        "not suffer: on the validation split the preset with all rows is +0.8 (zoo/S) and -0.7 points (zoo/L) "
        "from the one with 256, neither significant ([ablations.md](ablations.md))."
    )
    yield ""
    yield "| | query rows | pictures | kept alike |"
    yield "| --- | ---: | ---: | ---: |"
    for row in found["agreement"]:
        s = row["agrees"]
        yield (
            f"| {row['model']}, {row['what']} | {row['query_rows']} | {row['pictures']} "
            f"| {s['mean']:.1%} ({s['low']:.1%}-{s['high']:.1%}) |"
        )
    yield ""


def _throughput() -> Iterator[str]:
    found = _read("throughput.json")
    if found is None:
        return
    batch, plain = found["batch"], found["plain"]
    yield "## Answers a second"
    yield ""
    best = max(row["faster"]["total"]["median"] for row in found["variants"])
    verdict = "reached" if best >= 2 else "**not reached**"
    yield (
        f"All of {found['shape']}, random weights, {found['dtype']}, {batch} prompts at once of one {found['size']} x "
        f"{found['size']} picture each, answers of {found['new_tokens']} tokens, {found['rounds']} rounds in turn; times faster than the plain "
        f"model, median (lowest-highest). {_on(found['machine'])}, on which tests ran beside it. `python -m illava_lab.benchmarks.throughput --dtype "
        f"{found['dtype']}`. Asked for was twice the answers a second at 1/3: {verdict}, {best:.2f}. The peak (resident memory "
        "of the process above what it held before) is that of the encoder's first blocks, which work on the whole "
        "picture either way; what is held between steps is the cache."
    )
    yield ""
    yield "| | answers a minute | encoder | prefill | first token | whole answers | KV bytes | peak |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    rate = 60 * plain["answers_per_second"]["median"]
    yield f"| plain | {rate:.2f} | | | | | {plain['kv_bytes'] / 1e6:,.0f} MB | {plain['peak_bytes'] / 1e9:.2f} GB |"
    for row in found["variants"]:
        cells = []
        for part in ("encoder", "prefill", "ttft", "total"):
            faster = row["faster"][part]
            cells.append(f"{faster['median']:.2f} ({faster['low']:.2f}-{faster['high']:.2f})")
        rate = 60 * row["answers_per_second"]["median"]
        memory = row["peak_bytes"] / plain["peak_bytes"]
        yield f"| {row['label']} | {rate:.2f} | {' | '.join(cells)} | {row['kv_ratio']:.3f} | {memory:.2f} |"
    yield ""


def _decoding() -> Iterator[str]:
    found = _read("decoding.json")
    if found is None:
        return
    yield "## Decoding"
    yield ""
    yield (
        f"A slice of {found['layers']} layers each of {found['shape']}, random weights, {found['size']} x "
        f"{found['size']}, answers of {found['new_tokens']} tokens, {found['rounds']} rounds in turn; times faster "
        "than the plain model, median (lowest-highest). *merged to 1/3*: in one step after a quarter of the "
        f"encoder. {_on(found['machine'])}. `python -m illava_lab.benchmarks.decoding --layers {found['layers']} --rounds {found['rounds']}`. The "
        "smaller the picture, the larger the share of decoding, which merging hardly touches."
    )
    yield ""
    for batch in found["batches"]:
        yield f"| batch of {batch['batch']} | decoding, a token | prefill | first token | whole answers |"
        yield "| --- | ---: | ---: | ---: | ---: |"
        for row in batch["rows"]:
            cells = []
            for part in ("decode_per_token", "prefill", "ttft", "total"):
                faster = row["faster"][part]
                said = f", {faster['median']:.2f}x ({faster['low']:.2f}-{faster['high']:.2f})"
                cells.append(f"{row['milliseconds'][part]:,.0f} ms{said if row['name'] != 'plain' else ''}")
            yield f"| {row['name']} | {' | '.join(cells)} |"
        yield ""


def _openvino() -> Iterator[str]:
    files = sorted(FOLDER.glob("versus_openvino*.json"))
    if not files:
        return
    found = json.loads(files[-1].read_text())
    yield "## Against OpenVINO GenAI"
    yield ""
    yield from _openvino_rows(found)
    yield ""


def _openvino_rows(found: dict[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in found["openvino_versions"].items())
    share = found["openvino_cpu_share"]
    yield (
        f"{found['shape']}, {found['weights']} weights, the same on both sides, {found['dtype']}, {found['size']} x "
        f"{found['size']} pixels, {found['rounds']} rounds in turn, each against its own plain model: OpenVINO "
        "prunes behind the encoder (CDPruner), illava merges at encoder blocks 2 and 3. Prefix caching is off. "
        f"{_on(found['machine'])}; {versions}. OpenVINO had {share['median']:.2f} ({share['low']:.2f}-"
        f"{share['high']:.2f}) of a core: well below 1 means that other programs ran beside it. "
        f"`python -m illava_lab.benchmarks.versus_openvino --rounds {found['rounds']}` says what to install."
    )
    yield ""
    parts = list(found["rows"][0]["milliseconds"])
    yield f"| | LLM tokens | {' | '.join(_NAMES.get(part, f'{part} tokens') for part in parts)} |"
    yield f"| --- | --- |{' ---: |' * len(parts)}"
    for row in found["rows"]:
        plain = row["model"].endswith("plain")
        cells = []
        for part in parts:
            took, faster = row["milliseconds"][part]["median"], row["times_faster"][part]
            said = "" if plain else f", {faster['median']:.2f}x ({faster['low']:.2f}-{faster['high']:.2f})"
            cells.append(f"{took:,.0f} ms{said}")
        yield f"| {row['model']} | {row['llm_tokens'][0]} to {row['llm_tokens'][1]} | {' | '.join(cells)} |"
    yield ""
    yield "How many times torch is faster in absolute time (below 1: slower):"
    yield ""
    yield f"| | {' | '.join(_NAMES.get(part, f'{part} tokens') for part in parts)} |"
    yield f"| --- |{' ---: |' * len(parts)}"
    for name, faster in found["torch_times_faster"].items():
        cells = [f"{faster[p]['median']:.2f} ({faster[p]['low']:.2f}-{faster[p]['high']:.2f})" for p in parts]
        yield f"| {name} | {' | '.join(cells)} |"


_NAMES = {
    "encoder": "encoder",
    "prefill": "prefill",
    "ttft": "first token",
    "token": "decoding, a token",
}


def _growth() -> Iterator[str]:
    if not (FOLDER / "growth.png").exists():
        return
    yield "## How cost grows"
    yield ""
    yield "![Time and memory against picture size, number of pictures and frames](performance/growth.png)"
    yield ""
    yield (
        "Dots are measured on a slice, dashed lines predicted; every number is in "
        "[growth.json](performance/growth.json). `python -m illava_lab.benchmarks.growth`"
    )
    yield ""


def _bigger() -> Iterator[str]:
    found = _read("bigger.json")
    if found is None:
        return
    yield "## A merged 26B against a plain 8B"
    yield ""
    yield from _bigger_rows(found)


def _bigger_rows(found: dict[str, Any]) -> Iterator[str]:
    yield (
        "By the cost model alone: no weight was made, nothing was run, and nothing is said about accuracy. *best* "
        "is the preset, halfway through both stages; *early* does all of it after a sixth of the encoder, "
        "harder than anything the shipped models took well. `python -m illava_lab.benchmarks.bigger` prints every figure."
    )
    yield ""
    for line in bigger.verdict(found):
        yield f"- {line}"
    yield ""


def main() -> None:
    with replacing(PAGE) as partial:
        partial.write_text(page() + "\n", encoding="utf-8")
    print(f"written to {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
