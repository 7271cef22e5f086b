"""The section "On a graphics card" of docs/performance.md, from the figures of one folder of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from illava.bench.memory import gigabytes
from illava.evaluation.summary import table
from illava_lab.benchmarks.common import times

Found = Mapping[str, Any]
COMMAND = "`make bench-gpu OUT=out/gpu`, then `python -m illava_lab.benchmarks.gpu.page out/gpu`"
CALLS = (
    "A call takes 8 minutes and measures the most important rows; its exit code 3 (`make` prints `Error 3`) "
    "says that rows are left for a second call."
)
STAGES = {
    "ttft": "first token",
    "encoder": "encoder",
    "prefill": "prefill",
    "decode_per_token": "decoding",
}


def section(found: Found | None, plot: str | None = None) -> Iterator[str]:
    """The lines of the section. ``plot``: the address of the plot; None leaves it out."""
    yield "## On a graphics card"
    yield ""
    if found is None:
        yield f"Not run: no graphics card was available. {COMMAND}. {CALLS}"
        yield ""
        return
    yield _head(found)
    yield ""
    for name, lines in PARTS.items():
        part = found["parts"].get(name)
        if part is None:
            yield f"{name}: not run."
            yield ""
            continue
        if part["rows"]:
            yield from lines(part["rows"])
            yield ""
        yield from _missing(name, part)
    if plot is not None:
        yield f"![First token and answers per second on a graphics card]({plot})"
        yield ""


def _head(found: Found) -> str:
    """Card, driver, versions, date and settings."""
    around, settings = found["environment"], found["identity"]["settings"]
    card = around["card"]
    place = [card["name"]]
    place += [f"driver {card['driver']}"] if card.get("driver") else []
    place += [f"CUDA {card['cuda']}"] if card.get("cuda") else []
    version = f"illava {around['illava']}" + (f" at {around['commit']}" if around["commit"] else "")
    what = "**A rehearsal on the CPU at small sizes: no figure of a card.** " if settings["rehearsal"] else ""
    cut = f", {settings['layers']} layers of each" if settings["layers"] else ""
    stale = (
        f" Left out, since of another version or card: {', '.join(found['stale'])}." if found["stale"] else ""
    )
    return (
        f"{what}{', '.join(place)}; torch {around['torch']}, triton {around['triton']}, transformers "
        f"{around['transformers']}, {version}; {around['date']}. Random weights, {settings['dtype']}{cut}. "
        f"Medians of the rounds; brackets: lowest and highest. Ratios are to the plain model, measured in "
        f"turn in the same process. {COMMAND}.{stale}"
    )


def _missing(name: str, part: Found) -> Iterator[str]:
    """What failed and what was left out, in a line each."""
    failed = {key: row["failure"] for key, row in part["rows"].items() if row.get("failure")}
    for key, error in {**failed, **part["errors"]}.items():
        yield f"**Failed**: {name}, {key}: {' '.join(error.strip().splitlines()[-1].split())}"
        yield ""
    if part["not_run"]:
        # By reason: the parts of a stopped call share one.
        reasons: dict[str, list[str]] = {}
        for key, why in part["not_run"].items():
            reasons.setdefault(why, []).append(key)
        yield "; ".join(f"{name}: {'; '.join(keys)}: {why}" for why, keys in reasons.items()) + "."
        yield ""


def _suite(rows: Found) -> Iterator[str]:
    for row in rows.values():
        if "collected" in row:
            yield f"`tests/gpu`: {row['collected']} tests collected, none run."
        elif "passed" in row:
            skipped = sum(row["skipped"].values())
            why = f" ({', '.join(row['skipped'])})" if skipped else ""
            yield f"`tests/gpu`: {row['passed']} passed, {len(row['failed'])} failed, {skipped} skipped{why}."


def _equality(rows: Found) -> Iterator[str]:
    logits = [row for row in rows.values() if "largest_difference" in row]
    operations = {key: row for key, row in rows.items() if "selected" in row}
    said = []
    if logits:
        apart = max(max(row["largest_difference"].values()) for row in logits)
        said.append(
            f"Against the CPU, {len(logits)} models. fp32: logits differ by at most {apart:.1e}, "
            f"{_least(row['kept_equal'] for row in logits)} of the units of each step kept by both. bf16: "
            f"{_least(row['bf16_kept_equal'] for row in logits)}, and the same next token in "
            f"{sum(row['bf16_top_token_equal'] for row in logits)} of {len(logits)}."
        )
    for dtype in ("fp32", "bf16"):
        some = [row for key, row in operations.items() if key.endswith(dtype)]
        if some:
            merged = _least(share for row in some for share in row["merged"].values())
            selected = _least(row["selected"] for row in some)
            said.append(
                f"Operations in {dtype}, {len(some)} inputs: {selected} of the units selected by both, "
                f"{merged} merged alike."
            )
    yield " ".join(said)


def _least(shares: Any) -> str:
    """The smallest of some shares."""
    least = min(shares)
    return "100%" if least == 1 else f"at least {least:.1%}"


def _times(rows: Found) -> Iterator[str]:
    labels = [variant["label"] for variant in next(iter(rows.values()))["variants"]]
    yield (
        "Plain: seconds; FLOP/s up to the first token; decoding in milliseconds a token; memory above the "
        "weights:"
    )
    yield ""
    head = ["model", "pixels", "prompt", "encoder", "prefill", "first token", "TFLOP/s", "decoding", "memory"]
    yield from table(head, [_plain(row) for row in rows.values()])
    for part, name in STAGES.items():
        yield ""
        bounded = part != "decode_per_token"
        yield f"Speed-up, {name}" + ("; measured / FLOP bound:" if bounded else ":")
        yield ""
        yield from _by_schedule(rows, labels, lambda row, part=part: _speedup(row["faster"][part]))
    yield ""
    yield "Scoring, selection and merging, share of the time to first token; of it selection by diversity:"
    yield ""
    yield from _by_schedule(
        rows, labels, lambda row: f"{row['shares']['own']:.1%}, {row['shares']['selection']:.1%}"
    )


def _plain(row: Found) -> Sequence[str]:
    seconds = {part: sorted(row["plain"]["seconds"][part]) for part in STAGES}
    middle = {part: values[len(values) // 2] for part, values in seconds.items()}
    return [
        row["shape"],
        str(row["size"]),
        str(row["prompt_tokens"]),
        *(f"{middle[part]:.4f}" for part in ("encoder", "prefill", "ttft")),
        f"{row['plain']['flops']['ttft'] / middle['ttft'] / 1e12:.4g}",
        f"{1000 * middle['decode_per_token']:.1f}",
        gigabytes(row["plain"]["peak_bytes"]) if row["plain"]["peak_bytes"] is not None else "",
    ]


def _by_schedule(rows: Found, labels: Sequence[str], cell: Callable[[Found], str]) -> list[str]:
    """A table with a row for each model and size, and a column for each schedule."""
    lines = []
    for row in rows.values():
        variants = {variant["label"]: variant for variant in row["variants"]}
        lines.append([row["shape"], str(row["size"]), *(cell(variants[label]) for label in labels)])
    return table(["model", "pixels", *labels], lines)


def _speedup(figure: Found) -> str:
    bound = f"; {figure['of_flops']:.0%}" if figure["of_flops"] is not None else ""
    return times(figure) + bound if figure["median"] is not None else ""


def _batches(rows: Found) -> Iterator[str]:
    yield "Answers per second:"
    yield ""
    lines = []
    for row in rows.values():
        if "variants" in row:
            both = (row["plain"], *row["variants"])
            speeds = [f"{one['answers_per_second']['median']:.2f}" for one in both]
            gains = [times(variant["faster"]["total"]) for variant in row["variants"]]
            lines.append([str(row["batch"]), *speeds, *gains])
            labels = [variant["label"] for variant in row["variants"]]
    if lines:
        gains = [f"speed-up, {label}" for label in labels]
        yield from table(["batch", "plain", *labels, *gains], lines)
    for key, row in rows.items():
        if row.get("largest"):
            why = row["errors"][-1] if row["ended_by"] == "an error" else row["ended_by"]
            speed = row["answers_per_second"]
            said = "not timed" if speed is None else f"{speed:.2f} answers per second"
            yield ""
            yield f"{key.capitalize()}: {row['largest']} (not more: {why}), {said}."


def _decoding(rows: Found) -> Iterator[str]:
    labels = [*next(iter(rows.values()))["tokens_per_second"]]
    yield "Tokens per second after the first, batch 1:"
    yield ""
    lines = []
    for key, row in rows.items():
        speeds = [f"{row['tokens_per_second'][label]['median']:.1f}" for label in labels]
        step = "/".join(f"{1000 * row['median_step'][label]:.1f}" for label in labels)
        warm = "/".join(f"{row['warm_up_seconds'][label]:.0f}" for label in labels)
        traced = f"{key} (backend {row['backend']})" if row["backend"] not in (None, "inductor") else key
        lines.append([traced, *speeds, times(row["faster"]), step, warm])
    yield from table(["", *labels, "speed-up", "median step, ms", "warm-up, s"], lines)


def _profile(rows: Found) -> Iterator[str]:
    for row in (row for row in rows.values() if row["kind"] == "ceilings"):
        yield (
            f"Ceilings: {row['flops_per_second'] / 1e12:.4g} TFLOP/s in a product of matrices of "
            f"{row['side']} rows, {row['bytes_per_second'] / 1e9:.4g} GB/s in a copy, bytes read plus "
            "bytes written."
        )
        yield ""
    rows = {key: row for key, row in rows.items() if row["kind"] != "ceilings"}
    if not rows:
        return
    kind = next(iter(rows.values()))["kind"]
    yield f"One `generate` of one token: {kind}, calls that make the host wait, and where most of them are:"
    yield ""
    lines = []
    for key, row in rows.items():
        places = ", ".join(f"{place} ({count}x)" for place, count in [*row["wait_places"].items()][:3])
        busy = f"{row['busy_seconds']:.4f} of {row['span_seconds']:.4f}" if kind == "kernels" else ""
        first = row["top"][0]["name"][:60].replace("|", "/") if row["top"] else ""
        lines.append([key, str(row["count"]), busy, str(row["waits"]), places, f"`{first}`"])
    yield from table(
        ["", kind, "busy seconds", "waits", "places", "most time" if busy else "most calls"], lines
    )


PARTS: dict[str, Callable[[Found], Iterator[str]]] = {
    "suite": _suite,
    "equality": _equality,
    "times": _times,
    "batches": _batches,
    "decoding": _decoding,
    "profile": _profile,
}
