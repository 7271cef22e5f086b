"""What merging itself costs on zoo/R: the code of its steps, and attention that knows sizes.

CPU time, so that other programs on the machine do not count, as a share of the plain model's up to the first
token. One photograph, all methods in turn in every round.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from illava import Illava, ToMe, accelerate
from illava.ask import load
from illava.bench.timing import measure as timed
from illava.evaluation.prompts import inputs_of
from illava.evaluation.samples import Sample
from illava.evaluation.summary import table
from illava.io.pictures import open_picture
from illava_lab.benchmarks.bookkeeping import own_seconds, whole
from illava_lab.demo import path
from illava_lab.real import EXAMPLE
from illava_lab.real.candidates import candidates

from .alone import MODEL, timed_on

FILE = "cost.json"
KEEP, ROUNDS, MOST = 1 / 9, 9, 0.02
"""The budget, the rounds, and the share of the plain model's time that the preset may cost."""
PRESET, UNSIZED = "illava-best", "illava-best without sizes"


def measure(rounds: int = ROUNDS, device: str = "cpu", dtype: str = "float32") -> dict[str, Any]:
    """Time all methods; the figures, JSON-ready. Raises InputError if zoo/R has not been made."""
    model, processor = load(MODEL, device, dtype)
    picture = open_picture(path(EXAMPLE[0]))
    inputs = inputs_of(model, processor, [Sample("cost", 0, EXAMPLE[1], ("yes",), (picture,))])
    best = Illava.best(KEEP)
    methods = {PRESET: best, UNSIZED: replace(best, proportional=None)}
    methods |= {**candidates(KEEP), "tome": ToMe(keep=KEEP)}
    rows: dict[str, dict[str, list[float]]] = {name: {"own": [], "took": []} for name in methods}
    timed(model, inputs, 1)
    for number in range(rounds):
        plain = whole(lambda: timed(model, inputs, 1))
        # Another one first in each round.
        names, first = list(methods), number % len(methods)
        for name in (*names[first:], *names[:first]):
            method = methods[name]
            with accelerate(model, method):
                rows[name]["took"].append(whole(lambda: timed(model, inputs, 1)) / plain)
            with accelerate(model, method), own_seconds(model) as seconds:
                timed(model, inputs, 1)
            rows[name]["own"].append(sum(seconds) / plain)
    sizes = [best - other for best, other in zip(rows[PRESET]["took"], rows[UNSIZED]["took"], strict=True)]
    return {
        **timed_on(dtype=dtype, keep=KEEP, rounds=rounds),
        "sizes": sizes,
        "rows": {
            name: {key: statistics.median(values) for key, values in some.items()}
            for name, some in rows.items()
        },
    }


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """The median in its interval of at least 95 %, by order statistics: low, median, high."""
    ordered, n = sorted(values), len(values)
    tail, outside = 0, 0.5**n
    while tail < n // 2 and 2 * outside <= 0.05:
        tail += 1
        outside += math.comb(n, tail) * 0.5**n
    least = max(0, tail - 1)
    return ordered[least], statistics.median(ordered), ordered[n - 1 - least]


def section(found: Mapping[str, Any]) -> list[str]:
    """A table, the cheapest first."""
    rows = sorted(found["rows"].items(), key=lambda item: item[1]["own"])
    cells = [[name, f"{100 * row['own']:.2f}", f"{100 * row['took']:.1f}"] for name, row in rows]
    # The preset's own code looks sizes up as well, so they are added to that of the one without.
    low, sizes, high = (found["rows"][UNSIZED]["own"] + extra for extra in spread(found["sizes"]))
    verdict = "within" if high <= MOST else "above" if low > MOST else "not told apart from"
    return [
        "## What merging itself costs",
        "",
        "CPU time at 1/9 of the tokens, as % of the plain model's up to the first token. *own code*: hooks, "
        "scores, selection and merging. *all of it*: up to the first token, merged.",
        "",
        *table(["", "own code, %", "all of it, %"], cells),
        "",
        f"{PRESET}: the own code of that without sizes, and what sizes take more, paired by round: "
        f"{100 * sizes:.2f} % ({100 * low:.2f} to {100 * high:.2f}), {verdict} the {100 * MOST:g} % that the "
        "preset may cost. `python -m "
        f"illava_lab.benchmarks.zoo_r cost`, medians of {found['rounds']} rounds, {found['dtype']}, threads: "
        f"{found['threads']}, {found['machine']['cpu']}, torch {found['machine']['torch']}.",
    ]
