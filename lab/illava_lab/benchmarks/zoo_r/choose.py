"""The preset's choice among candidates on zoo/R, by a rule that was written before the questions were asked.

It reads what ``illava compare --speedup 2 3 4 --split val`` wrote, see ``make zoo-r-choice``, and applies
:data:`RULE`. The reference is today's preset rather than the best candidate observed, whose luck would count
against all others. Divergences count in all tasks, text and places included: they show what merging changes
also where the plain model answers too few questions for accuracies to say anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from illava.evaluation.comparison import ALPHA, DRAWS
from illava.evaluation.metrics import Array, Estimate, estimate, holm, two_sided_p
from illava.evaluation.store import Line
from illava.planning.equal_time import TOLERANCE

from .choice_figures import SPEEDS, Figures, Measured, figures_of, mean_kl, method_and_speed, parts
from .choice_figures import read as read

REFERENCE = "illava-best"
"""Today's preset."""
OFF = f"{100 * TOLERANCE:g} %"
RULE = (
    f"A candidate is out if its measured speed-up is more than {OFF} below 2x, 3x or 4x. The others are "
    f"compared with `{REFERENCE}`, today's preset, at each speed, in accuracy (the mean over the tasks that "
    "plain has learnt) and in the KL divergence of the first token's distribution from the plain model's "
    "(the mean over all tasks), by a paired bootstrap clustered by picture; Holm's correction covers all of "
    "these tests. Left are those that are significantly worse nowhere and significantly better somewhere. "
    "Of these, those stay whose KL, averaged over the three speeds, is not significantly above the lowest "
    "one, again with Holm's correction. Of these, the simplest is chosen: fewest steps in the encoder, then "
    "no step in the LLM, then no score in the encoder, then the lowest KL. If none is left, the preset stays."
)


@dataclass(frozen=True)
class Difference:
    """What a method has more than another one, paired."""

    of: Estimate
    p: float | None
    """After Holm's correction; None if it was not tested."""

    @property
    def sign(self) -> int:
        """+1 if it has significantly more, -1 if less, or else 0."""
        if self.p is None or self.p >= ALPHA or self.of.value is None:
            return 0
        return 1 if self.of.value > 0 else -1


@dataclass(frozen=True)
class Compared:
    """A method against REFERENCE at one speed."""

    accuracy: Difference
    kl: Difference

    @property
    def better(self) -> bool:
        """Significantly, in at least one of the two."""
        return self.accuracy.sign > 0 or self.kl.sign < 0

    @property
    def worse(self) -> bool:
        """Significantly, in at least one of the two."""
        return self.accuracy.sign < 0 or self.kl.sign > 0


@dataclass(frozen=True)
class Choice:
    """What was measured, and what follows from it; the page shows it and decides nothing."""

    figures: Measured
    compared: Mapping[str, Mapping[int, Compared]]
    """By method, REFERENCE left out, and speed, those left out that REFERENCE misses."""
    able: Sequence[str]
    """The candidates that reach all speeds."""
    above: Mapping[str, Difference]
    """The mean KL of each candidate that is left, over the lowest of these."""
    parts: Mapping[str, tuple[int, bool, bool] | None]
    """How simple each method is, see :func:`~.choice_figures.parts`."""
    chosen: str


def choose(
    settings: Mapping[str, Any], lines: Iterable[Line], candidates: Sequence[str], draws: int = DRAWS
) -> Choice:
    """Apply :data:`RULE`.

    Args:
        settings, lines: of a run at equal time, as :func:`read` returns them; other methods may be among its
            rows.
        candidates: names of methods that may be chosen.

    Raises ValueError where plain has learnt none of the tasks, and where REFERENCE is missing.
    """
    figures = figures_of(dict(settings), list(lines), draws)
    if REFERENCE not in figures:
        raise ValueError(f"there is no row of {REFERENCE} at 2x, 3x or 4x to compare candidates with")
    simple = {}
    for label, row in settings["rows"].items():
        if found := method_and_speed(label):
            simple[found[0]] = parts(row["options"])
    able = [name for name in candidates if name != REFERENCE and _able(figures.get(name, {}))]
    compared = _against_reference(figures, able)
    left = [
        name
        for name in able
        if any(at.better for at in compared[name].values())
        and not any(at.worse for at in compared[name].values())
    ]
    above = _above_lowest(figures, left)
    near = [name for name in left if above[name].sign <= 0]

    def complexity(name: str) -> tuple[Any, ...]:
        return simple[name] or (math.inf,), float(mean_kl(figures[name])[0])

    return Choice(figures, compared, able, above, simple, min(near, key=complexity, default=REFERENCE))


def lowest_kl(figures: Measured, names: Sequence[str]) -> str:
    """The method whose mean over the speeds is lowest."""
    return min(names, key=lambda name: float(mean_kl(figures[name])[0]))


def _able(by_speed: Mapping[int, Figures]) -> bool:
    return all(
        speed in by_speed and by_speed[speed].reaches(speed) and math.isfinite(by_speed[speed].kl[0])
        for speed in SPEEDS
    )


def _against_reference(figures: Measured, able: Sequence[str]) -> dict[str, dict[int, Compared]]:
    """All methods against REFERENCE at the speeds that it is at; only those that are able are tested."""
    reference = {speed: found for speed, found in figures[REFERENCE].items() if found.is_at(speed)}
    differences = {
        (name, speed, measure): minus(getattr(found, measure), getattr(reference[speed], measure))
        for name, rows in figures.items()
        for speed, found in rows.items()
        for measure in ("accuracy", "kl")
        if name != REFERENCE and speed in reference
    }
    tested = corrected({key: found for key, found in differences.items() if key[0] in able})
    shown = {key: Difference(estimate(found), tested.get(key)) for key, found in differences.items()}
    return {
        name: {
            speed: Compared(shown[name, speed, "accuracy"], shown[name, speed, "kl"])
            for speed in rows
            if speed in reference
        }
        for name, rows in figures.items()
        if name != REFERENCE
    }


def _above_lowest(figures: Measured, names: Sequence[str]) -> dict[str, Difference]:
    if not names:
        return {}
    lowest = lowest_kl(figures, names)
    differences = {name: minus(mean_kl(figures[name]), mean_kl(figures[lowest])) for name in names}
    tested = corrected({name: found for name, found in differences.items() if name != lowest})
    return {name: Difference(estimate(found), tested.get(name)) for name, found in differences.items()}


def minus(one: Array, other: Array) -> Array:
    """Rounded, because sums over tasks leave rounding errors where differences are exactly zero."""
    return np.round(one - other, 9)


def corrected(differences: Mapping[Any, Array]) -> dict[Any, float]:
    """Holm's p-values of statistics, where they have any."""
    found = {key: two_sided_p(difference) for key, difference in differences.items()}
    values = {key: p for key, p in found.items() if p is not None}
    return dict(zip(values, holm(list(values.values())), strict=True))
