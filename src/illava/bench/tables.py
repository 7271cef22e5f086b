"""The tables that ``illava bench`` prints, at most 80 columns wide."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from ..io.tables import new_table
from .memory import gigabytes

NAMES = {
    "encoder": "image encoder",
    "prefill": "prefill",
    "ttft": "time to first token",
    "decode_per_token": "decode, per token",
    "total": "whole answer",
}


def tables(result: dict[str, Any]) -> list[tuple[str, Table]]:
    """Titles and tables of what :func:`illava.bench.result.collect` returned, in the order to print."""
    batches = result["batches"]
    first = min(batches, key=lambda part: part["batch"])
    most = max(batches, key=lambda part: part["batch"])
    rounds = len(first["plain"]["seconds"]["total"])
    how = f"batch size {first['batch']}, median (range) of {rounds} round{'s' * (rounds > 1)}"
    out = [(f"{row['label']} vs plain: {how}", _speed(first["plain"], row)) for row in first["variants"]]
    # The title of the first table also names the model and the prompt.
    count = result["parameters"] / 1e6
    many = f"{count / 1e3:.3g} billion" if count >= 1e3 else f"{count:.3g} million"
    weights = f"{many} parameters, {gigabytes(result['weight_bytes'])}"
    out[0] = (f"{result['title']}, {weights}\n\n{out[0][0]}", out[0][1])
    title = f"Answers per second by batch size, {result['new_tokens']} tokens each"
    out.append((title, _throughput(batches)))
    title = f"Batch size {most['batch']}: visual tokens, and memory above the weights"
    if result["largest_batch"] is not None:
        title += f"; largest batch in {gigabytes(result['largest_batch']['bytes'])} (computed, not run)"
    out.append((title, _memory(most, result["largest_batch"])))
    return out


def _speed(plain: dict[str, Any], row: dict[str, Any]) -> Table:
    table = new_table("", "plain", "merged", "speed-up", "FLOP bound", "measured / FLOP bound")
    # The headings wrap instead.
    table.columns[0].no_wrap = table.columns[3].no_wrap = True
    for part, name in NAMES.items():
        gain = row["faster"][part]
        table.add_row(
            name,
            _seconds(_median(plain["seconds"][part])),
            _seconds(_median(row["seconds"][part])),
            _gain(gain),
            "-" if gain["flops"] is None else f"{gain['flops']:.2f}x",
            "-" if gain["of_flops"] is None else f"{gain['of_flops']:.2f}",
        )
    return table


def _gain(gain: dict[str, Any]) -> str:
    if gain["median"] is None:
        return "-"
    text = f"{gain['median']:.2f}x ({gain['low']:.2f}-{gain['high']:.2f})"
    # Below nine rounds the interval equals the range.
    if gain["interval"] not in (None, (gain["low"], gain["high"])):
        text += "\n95 % {:.2f}-{:.2f}".format(*gain["interval"])
    return text


def _throughput(batches: list[dict[str, Any]]) -> Table:
    table = new_table("", *(str(part["batch"]) for part in batches))
    plain = [part["plain"]["answers_per_second"]["median"] for part in batches]
    table.add_row("plain", *(f"{speed:.3g}" for speed in plain))
    for number, row in enumerate(batches[0]["variants"]):
        speeds = [part["variants"][number]["answers_per_second"]["median"] for part in batches]
        cells = [f"{fast:.3g} ({fast / slow:.2f}x)" for fast, slow in zip(speeds, plain, strict=True)]
        table.add_row(row["label"], *cells)
    return table


def _memory(found: dict[str, Any], largest: dict[str, Any] | None) -> Table:
    columns = ["", "visual tokens", "KV cache after prefill", "peak"]
    columns += [] if largest is None else ["largest batch"]
    table = new_table(*columns)
    visual, plain = found["variants"][0]["visual_tokens"], found["plain"]
    for row in (plain, *found["variants"]):
        label = row.get("label", "plain")
        cells = [label, str(visual), gigabytes(row["kv_bytes"])]
        if row is not plain:
            cells[1:] = [f"{row['final_tokens']} of {visual}", f"{cells[2]} ({row['kv_ratio']:.3f})"]
        cells.append("-" if row["peak_bytes"] is None else gigabytes(row["peak_bytes"]))
        if largest is not None:
            fit = largest["computed_not_tried"][label]
            cells.append("-" if fit is None else str(fit))
        table.add_row(*cells)
    return table


def _median(values: list[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    if len(known) < len(values):
        return None
    middle = len(known) // 2
    return known[middle] if len(known) % 2 else (known[middle - 1] + known[middle]) / 2


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f} s" if value >= 0.9995 else f"{value * 1e3:.3g} ms"
