"""The sections of docs/performance.md, each from the figures of one kind of result files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from illava.bench import published
from illava.evaluation.summary import table
from illava.methods.base import method_from_dict
from illava.models.layout import workload
from illava.planning.machine_speed import Rates
from illava.planning.predict import predict_on, skeleton
from illava_lab.benchmarks.bigger import BEST, EARLY, PUBLISHED
from illava_lab.benchmarks.common import times

PARTS = ("encoder", "prefill", "ttft")
WITHIN = 0.07
"""How far measured ratios may lie from predicted ones."""
EXACT = "attention from all query rows"
"""The row of the ablations that takes exact scores instead of sampled ones."""

Found = Mapping[str, Any]


def name(part: str) -> str:
    """A measured part, as tables call it."""
    return {"ttft": "first token", "token": "decoding", "decode_per_token": "decoding"}.get(part, part)


def ends(values: Sequence[float]) -> str:
    """Lowest and highest."""
    return f"{min(values):.2f}-{max(values):.2f}"


def speed(runs: Sequence[Found]) -> Iterator[str]:
    """Encoder, prefill and first token of published shapes, and how well they were predicted."""
    yield "## Speed-up of encoder, prefill and first token"
    yield ""
    yield (
        "Median of the rounds, then the ratio of FLOPs. *tuned*: with `illava.tune(model)`; *rates*: by the "
        "speed on one layer. *0.85 x4, then 0.9 x4*: 0.85 at each of encoder blocks 5 to 8, then 0.9 at each of four "
        "LLM layers, with sampled scores; *to 1/3* and *to 1/9*: so much is left after the same four blocks. The "
        "schedules published for the two families (`illava info`) are others and were not timed. The accuracy of the rows "
        "with *0.9 x4*, which merge as published, was not measured."
    )
    yield ""
    accuracy: list[Sequence[str]] = []
    for found in runs:
        cut = f", {found['layers']} layers of each" if found["layers"] else ""
        visual = next(row["visual_tokens"] for row in found["rows"] if "flops" in row)
        yield (
            f"**{found['shape']}**{cut}, {found['size']} x {found['size']}, {visual} visual tokens. `python "
            f"-m illava_lab.benchmarks.speed {found['shape']} --size {found['size']} --threads "
            f"{found['machine']['threads']} --rounds {found['rounds']}`"
        )
        yield ""
        rows = []
        for row in found["rows"]:
            merges = "flops" in row
            cells = [
                times(row["measured"][part]) + (f", {row['flops'][part]:.2f}" if merges else "")
                for part in PARTS
            ]
            tokens, kv = (str(row["final_tokens"]), f"{row['kv_ratio']:.3f}") if merges else ("", "")
            rows.append([row["name"], tokens, *cells, kv])
        yield from table(["schedule", "tokens", *map(name, PARTS), "KV bytes"], rows)
        yield ""
        cells = []
        for values in deviations(found).values():
            within = sum(abs(off) <= WITHIN for off, _ in values)
            farthest, what = max(values, key=lambda pair: abs(pair[0]))
            cells.append(f"{within} of {len(values)}, {farthest:+.0%} ({what})")
        accuracy.append((found["shape"], *cells))
    yield from table([f"predicted within {WITHIN:.0%}, farthest", "by FLOPs", "by rates"], accuracy)
    yield ""


def deviations(found: Found) -> dict[str, list[tuple[float, str]]]:
    """Measured / predicted - 1, and of what, by kind of prediction; rows with linear tuning are left out."""
    parts = skeleton(published.config(found["shape"], found["layers"]))
    work, rates = workload(parts, found["size"]), Rates.from_dict(found["rates"])
    ratios: dict[str, list[tuple[float, str]]] = {"FLOPs": [], "rates": []}
    for row in found["rows"]:
        if "flops" not in row or row["name"].endswith("tuned"):
            continue
        merged, plain = map(
            rates.seconds, predict_on(parts, method_from_dict(row["method"]), work).token_counts
        )
        for part in PARTS:
            measured, what = row["measured"][part]["median"], f"{name(part)}, {row['name']}"
            ratios["FLOPs"].append((measured / row["flops"][part] - 1, what))
            ratios["rates"].append((measured * getattr(merged, part) / getattr(plain, part) - 1, what))
    return ratios


def throughput(found: Found) -> Iterator[str]:
    """Answers per second of a batch."""
    plain = found["plain"]
    yield "## Answers per second"
    yield ""
    yield (
        f"{found['shape']}, {found['dtype']}, {found['batch']} prompts at once with one {found['size']} x "
        f"{found['size']} picture, answers of {found['new_tokens']} tokens, {found['rounds']} rounds. The "
        f"first encoder blocks decide the peak. `python -m illava_lab.benchmarks.throughput --dtype {found['dtype']}`"
    )
    yield ""
    rate = 60 * plain["answers_per_second"]["median"]
    kv, peak = f"{plain['kv_bytes'] / 1e6:,.0f} MB", f"{plain['peak_bytes'] / 1e9:.2f} GB"
    rows = [["plain", f"{rate:.2f}", "", "", kv, peak]]
    for row in found["variants"]:
        rate = 60 * row["answers_per_second"]["median"]
        speedups = [times(row["faster"][part]) for part in ("ttft", "total")]
        memory = f"{row['kv_ratio']:.3f}", f"{row['peak_bytes'] / plain['peak_bytes']:.2f}"
        rows.append([row["label"], f"{rate:.2f}", *speedups, *memory])
    head = ["speed-up", "answers a minute", "first token", "answer", "KV bytes", "peak memory"]
    yield from table(head, rows)
    yield ""


def decoding(found: Found) -> Iterator[str]:
    """Linear tuning, plain and merged."""
    yield "## Decoding with linear tuning"
    yield ""
    yield (
        f"Speed-up over plain. {found['shape']}, {found['layers']} layers of each, {found['size']} x "
        f"{found['size']}, answers of {found['new_tokens']} tokens, {found['rounds']} rounds; *merged*: in "
        "one step after a quarter of the encoder. "
        f"`python -m illava_lab.benchmarks.decoding --layers {found['layers']} --rounds {found['rounds']}`"
    )
    yield ""
    parts = ("decode_per_token", "total")
    batches = [{row["name"]: row["faster"] for row in batch["rows"]} for batch in found["batches"]]
    rows = [
        [label, *(times(faster[label][part]) for faster in batches for part in parts)]
        for label in batches[0]
        if label != "plain"
    ]
    head = [f"{what}, batch {one['batch']}" for one in found["batches"] for what in ("decoding", "answer")]
    yield from table(["", *head], rows)
    yield ""


def openvino(found: Found) -> Iterator[str]:
    """The speed of torch in terms of OpenVINO's."""
    parts = list(found["rows"][0]["milliseconds"])
    version = found["openvino_versions"]["openvino-genai"]
    yield "## Against OpenVINO GenAI"
    yield ""
    yield (
        f"Speed of torch in terms of OpenVINO's (below 1: slower). {found['shape']}, {found['size']} x "
        f"{found['size']}, {found['rounds']} rounds in turn, no prefix caching. OpenVINO GenAI {version} "
        "prunes after the encoder (CDPruner), illava merges at encoder blocks 2 and 3. "
        f"`python -m illava_lab.benchmarks.versus_openvino --rounds {found['rounds']}`"
    )
    yield ""
    rows = [
        [label, *(times(faster[part]) for part in parts)]
        for label, faster in found["torch_times_faster"].items()
    ]
    yield from table(["torch / OpenVINO", *map(name, parts)], rows)
    yield ""


def overhead(found: Found, ablations: Mapping[str, Found]) -> Iterator[str]:
    """CPU time of merging itself, and how far sampled scores agree with exact ones."""
    yield "## The cost of merging"
    yield ""
    yield (
        "CPU time in hooks and attention observers as a share of the whole model's stage. "
        f"{found['shape']}, {found['slice']} layers of each, {found['size']} x {found['size']}, "
        f"{found['rounds']} rounds. `python -m illava_lab.benchmarks.overhead`"
    )
    yield ""
    rows = []
    for row in found["own"]:
        share = row["share"]
        cell = f"{share['median']:.2%} ({share['low']:.2%}-{share['high']:.2%})"
        rows.append([row["what"], name(row["share_of"]), cell])
    yield from table(["", "stage", "share"], rows, 2)
    yield ""
    changes = []
    for size, figures in ablations.items():
        apart = figures["rows"][EXACT]["difference"]
        sure = "significant" if apart["low"] > 0 or apart["high"] < 0 else "not significant"
        changes.append(f"{apart['value']:+.1f} points on zoo/{size} ({sure})")
    yield (
        "Units kept by the first encoder step with sampled scores that exact scores keep, too, by query rows "
        f"({found['agreement'][0]['pictures']} pictures). Exact scores change the accuracy by "
        f"{', '.join(changes)}: [ablations.md](ablations.md)."
    )
    yield ""
    pivot: dict[str, dict[str, str]] = {}
    for row in found["agreement"]:
        pivot.setdefault(row["what"], {})[f"{row['model']}, {row['query_rows']}"] = (
            f"{row['agrees']['mean']:.1%}"
        )
    columns = [*next(iter(pivot.values()))]
    yield from table(["", *columns], [[what, *cells.values()] for what, cells in pivot.items()])
    yield ""


def growth(found: Found) -> Iterator[str]:
    """The plot of time and memory, and the range of speed-ups."""
    yield "## Growth with picture size, pictures and frames"
    yield ""
    points = [point for point in found["points"].values() if point["measured"]]
    gains = []
    for label in found["settings"]["methods"]:
        values = [point["measured"]["rows"][label]["faster"] for point in points]
        predicted = [point["predicted"]["slice"][label]["flops_ratio"] for point in points]
        gains.append(f"{label}: {ends(values)}x ({ends(predicted)}x by FLOPs)")
    yield (
        f"First token, {len(points)} measured points, {found['settings']['layers']} layers of each: "
        f"{'; '.join(gains)}. `python -m illava_lab.benchmarks.growth`, [growth.json](performance/growth.json)."
    )
    yield ""
    yield "![Time and memory against picture size, number of pictures and frames](performance/growth.png)"
    yield ""


def bigger(found: Found) -> Iterator[str]:
    """From which budget a merged large model takes less than a smaller one plain."""
    yield "## A large model merged against a smaller one plain"
    yield ""
    for pair in found["pairs"]:
        yield statement(pair)
    yield ""
    yield (
        "By the cost model alone: the largest `keep` at which the merged model takes less, by picture size. "
        "*preset*: that of 0.1, halfway through both stages; *early*: after a sixth of the encoder; *published*: FLOPs up "
        "to the first token in terms of the smaller model's. `python -m illava_lab.benchmarks.bigger`, "
        "[bigger.json](performance/bigger.json)."
    )
    yield ""
    rows = []
    for pair in found["pairs"]:
        limits = [
            limit(pair, label, measure)
            for label in (BEST, EARLY)
            for measure in ("prefill_flops", "total_flops", "kv_bytes")
        ]
        usual = [
            row["ratios"]["total_flops"]
            for size in pair["sizes"]
            for row in size["rows"]
            if row["schedule"] == PUBLISHED
        ]
        rows.append([f"{pair['bigger']} / {pair['smaller']}", *limits, ends(usual)])
    head = [f"{label}: {what}" for label in ("preset", "early") for what in ("prefill", "first token", "KV")]
    yield from table(["models", *head, "published"], rows)
    yield ""


def limit(pair: Found, schedule: str, measure: str) -> str:
    """The largest budgets at which something gets cheaper, over the sizes of the picture."""
    keeps = [size["cheaper_from"][schedule][measure] for size in pair["sizes"]]
    found = [keep for keep in keeps if keep is not None]
    if not found:
        return "never"
    return ends(found) + ("" if len(found) == len(keeps) else f", {len(keeps) - len(found)} never")


def statement(pair: Found) -> str:
    """The verdict on a pair of models, from the figures alone."""
    largest = limit(pair, BEST, "total_flops")
    when = "at no budget" if largest == "never" else f"only up to keep {largest}"
    weights = pair["sizes"][0]["rows"][0]["ratios"]["weight_bytes"]
    decode = min(row["ratios"]["decode_flops"] for size in pair["sizes"] for row in size["rows"])
    return (
        f"- {pair['bigger']} with the preset takes fewer FLOPs up to the first token than {pair['smaller']} "
        f"plain **{when}**. Its weights: {weights:.1f}x; FLOPs of decoding: at least {decode:.1f}x."
    )
