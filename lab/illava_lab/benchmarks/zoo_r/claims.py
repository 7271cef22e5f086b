"""The paper's claims about speed and accuracy, held against the rows of zoo/R that merge as it does."""

from __future__ import annotations

from typing import Any

from illava.evaluation.summary import escape, interval, table

Figures = dict[str, Any]
ROWS = (
    "published-literal-shares as saved",
    "published-in-proportion-shares as saved",
    "illava 1/9",
    "published-literal 1/9",
    "published-in-proportion 1/9",
    "illava-best 1/9",
    "candidate-encoder 1/9",
)
"""The published schedule with its shares, then at 1/9, then with this project's changes."""
FASTER, KEPT = 4.0, 95.0
"""Times to the first token, and % of the accuracy at 1/9."""


def lines(figures: Figures, again: Figures | None) -> list[str]:
    """A table of the rows of one model, and what the columns claim.

    Args:
        again: times in another dtype, or None.
    """
    by_label = {row["label"]: row for row in figures["rows"] if row["refused"] is None}
    cells = []
    for name in ROWS:
        row = by_label.get(name)
        if row is None:
            continue
        shares = [row["ttft"], *([again["ttft"].get(row["label"])] if again else [])]
        cells.append(
            [
                escape(row["label"]),
                *(faster(share) for share in shares),
                reached(shares),
                interval(row["above_blank"]),
                held(row["above_blank"]),
            ]
        )
    head = ["row", "speed-up", *([f"in {again['dtype']}"] if again else []), "4x", "above blank, %", "95 %"]
    note = (
        f"*4x*: a first token {FASTER:g} times earlier, in either dtype. *95 %*: so much of the accuracy "
        "above blank is kept; *perhaps*: the interval reaches to both sides. *literal*: the published blocks "
        "5 6 7 8 and layers 15 17 19 21; *in proportion*: at the same share of zoo/R's depth, rounded down, "
        "and where one is taken the next, so blocks 1 2 3 4 and layers 12 14 15 17; *-shares*: a step leaves "
        "the published 0.9 of the units and 0.85 of the tokens, whatever the budget."
    )
    return [*table(head, cells), "", note]


def faster(share: Figures | None) -> str:
    """A time as a share of plain's, as a speed-up."""
    return "-" if share is None or share["value"] is None else f"{1 / share['value']:.2f}"


def reached(shares: list[Figures | None]) -> str:
    """Whether one of the times is short enough."""
    known = [share["value"] for share in shares if share is not None and share["value"] is not None]
    return "-" if not known else "yes" if min(known) <= 1 / FASTER else "no"


def held(kept: Figures) -> str:
    """Whether a share of the accuracy is large enough."""
    if kept["value"] is None or kept["low"] is None:
        return "-"
    return "yes" if kept["low"] >= KEPT else "no" if kept["high"] < KEPT else "perhaps"
