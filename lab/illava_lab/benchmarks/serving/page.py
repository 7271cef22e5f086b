"""Writes docs/serving-figures.md from the JSON files of the measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER, PAGE = Path("docs/serving"), Path("docs/serving-figures.md")
METHOD = """\
Plain is the same server with `--keep 1`. Both servers run on the machine all the time, and one at a time gets
requests; the order changes from round to round, and what a slice measures in its first seconds is not
counted. The client runs on the same machine. Times count from when a request was due, not from when it was
sent. A percentile is an observed value, the smallest that so many percent do not exceed; brackets hold the
95 % interval of a bootstrap over rounds."""


def write(folder: Path = FOLDER, page: Path = PAGE) -> None:
    """Write the page from ``measure*.json`` and ``soak*.json``.

    Raises FileNotFoundError if there are none.
    """
    measured = [json.loads(path.read_text()) for path in sorted(folder.glob("measure*.json"))]
    soaked = [json.loads(path.read_text()) for path in sorted(folder.glob("soak*.json"))]
    if not measured and not soaked:
        raise FileNotFoundError(f"{folder}: there is no measure*.json and no soak*.json; measure first")
    parts = ["# Serving in figures", "", "Commands: [Serving](serving.md#load).", "", METHOD]
    for result in measured:
        parts += _measured(result)
    for result in soaked:
        parts += _soaked(result)
    page.write_text("\n".join(parts) + "\n")
    print(f"written to {page}")


def _heading(result: dict[str, Any], kind: str) -> list[str]:
    where = result["machine"]
    versions = ", ".join(
        f"{name} {where[name]}" for name in ("torch", "transformers", "uvicorn") if name in where
    )
    told = f"Pictures in a request: {result['pictures']}, of {result['side']} pixels a side; "
    told += f"up to {result['tokens']} new tokens."
    return [
        "",
        f"## {kind}: {result['model']}, keep {result['keep']}",
        "",
        f"{where['cpu']}; {versions}.",
        told,
    ]


def _measured(result: dict[str, Any]) -> list[str]:
    lines = _heading(result, "Plain and merged")
    equal = result.get("equal_p99")
    if equal is not None:
        lines += [
            "",
            f"Requests a second at a 99th percentile of {_ms(equal['limit_p99_ttft'])} to the first token:",
        ]
        lines += ["", "| | requests a second | times plain |", "| --- | --- | --- |"]
        for name, one in equal["variants"].items():
            rate = ("at least " if one["at_least"] else "") + _interval(one["rate"])
            lines.append(f"| {name} | {rate} | {_interval(one['times_plain'])} |")
    for loop, load in (("closed", "clients"), ("open", "arrivals a second")):
        if result.get(loop):
            lines += [
                "",
                f"| {loop} loop | {load} | answers a second | first token: median | 99 % | whole: 99 % |",
            ]
            lines.append("| --- | --- | --- | --- | --- | --- |")
        for name, loads in result.get(loop, {}).items():
            for one in loads:
                first, whole = one["ttft"], one["latency"]
                waits = " | ".join(
                    _ms(value) for value in (first.get("p50"), first.get("p99"), whole.get("p99"))
                )
                lines.append(f"| {name} | {one['load']:g} | {_interval(one['rate'])} | {waits} |")
    lines += ["", f"Requests: {_counts(result['requests'])}."]
    return lines


def _soaked(result: dict[str, Any]) -> list[str]:
    plan, memory = result["plan"], result["memory_growth"]
    lines = _heading(result, f"{plan['hours']:g} hours")
    lines += ["", "| hours | answers a second | first token: median | 99 % |", "| --- | --- | --- | --- |"]
    for one in result["windows"]:
        waits = " | ".join(_ms(one["ttft"].get(name)) for name in ("p50", "p99"))
        lines.append(f"| {one['begin'] / 3600:.2f} | {one['rate']:.2f} | {waits} |")
    lines += ["", f"Requests: {_counts({'all': result['requests']})}."]
    if memory is not None:
        lines.append(
            f"Memory after warm-up: {memory['first_mb']:.0f} MB, at the end {memory['last_mb']:.0f} MB "
            f"({memory['growth']:+.1%}; {memory['mb_per_hour']:+.1f} MB an hour)."
        )
    for event in result["events"]:
        lines.append(f"At {event['at'] / 3600:.2f} hours: `{event['command']}`.")
    lost = ", ".join(f"request {one['number']} ({'; '.join(one['troubles'])})" for one in result["lost"])
    lines.append(f"Lost: {lost or 'none'}.")
    return lines


def _ms(seconds: float | None) -> str:
    return "never" if seconds is None else f"{1000 * seconds:.0f} ms"


def _interval(figure: dict[str, float | None]) -> str:
    if figure["value"] is None:
        return "not reached"
    low, high = figure["low"], figure["high"]
    between = "" if low is None or high is None else f" ({low:.2f}-{high:.2f})"
    return f"{figure['value']:.2f}{between}"


def _counts(requests: dict[str, dict[str, int]]) -> str:
    return "; ".join(
        f"{name}: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        for name, kinds in requests.items()
    )
