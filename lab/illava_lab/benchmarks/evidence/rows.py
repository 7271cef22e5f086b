"""Which methods are measured, and the rule by which their layers are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from illava import Illava
from illava.evaluation.rows import Row, merged_row

BUDGETS = {"1/3": 1 / 3, "1/9": 1 / 9, "1/18": 1 / 18}
STAGES = {"both": "both stages", "encoder": "encoder only", "llm": "LLM only"}
CHOSEN_AT = "1/9"
MARGIN = 0.5  # points of retained accuracy within which candidates count as equal
RULE = (
    "On the validation split, at 1/9 of the tokens and with recycling, the candidate that retains most above "
    f"blank wins; of those within {MARGIN} points of it, the one with the fewest FLOPs to the first token. "
    "Allowed are candidates that cost at most half of the plain model's FLOPs; for the LLM stage alone, "
    "which cannot save that much, those that leave at most half of the visual tokens on average over the "
    "LLM's layers. First the encoder's blocks are chosen, with the encoder stage alone, then the LLM's "
    "layers, with the LLM stage alone, then how much of the reduction each takes: the encoder's share of its "
    "logarithm. Where no candidate is allowed, the cheapest wins."
)
ENCODER = ((0,), (1,), (2,), (3,), (0, 1), (1, 2), (2, 3), (1, 2, 3), (1, 2, 3, 4))
LLM = ((1,), (2,), (3,), (1, 2), (2, 3), (3, 4), (1, 2, 3), (2, 3, 4))
SHARES = (0.5, 0.65, 0.8)
RANDOM_SEEDS = (0, 1, 2)
MOST_FLOPS = MOST_AVERAGE = 0.5

Choice = dict[str, Any]  # {"encoder": [...], "llm": [...], "share": 0.5}


def encoder_only(keep: float, layers: Sequence[int], **options: Any) -> Illava:
    """All of the reduction in the encoder."""
    return Illava(keep=keep, encoder_layers=tuple(layers), llm_layers=(), **options)


def llm_only(keep: float, layers: Sequence[int], **options: Any) -> Illava:
    """All of the reduction in the LLM."""
    return Illava(keep=keep, encoder_layers=(), llm_layers=tuple(layers), **options)


def both(keep: float, choice: Choice, **options: Any) -> Illava:
    """``share`` of the reduction, on a logarithmic scale, in the encoder, the rest in the LLM; even steps."""
    encoder, llm, share = choice["encoder"], choice["llm"], choice["share"]
    return Illava(
        encoder_layers=tuple(encoder),
        encoder_keep=keep ** (share / len(encoder)),
        llm_layers=tuple(llm),
        llm_keep=keep ** ((1 - share) / len(llm)),
        **options,
    )


def candidates(stage: str, choice: Choice) -> dict[str, tuple[Choice, Illava]]:
    """What one stage of the choosing compares, by label, given what was chosen before it."""
    keep = BUDGETS[CHOSEN_AT]
    if stage == "encoder":
        return {f"encoder {list(e)}": ({"encoder": list(e)}, encoder_only(keep, e)) for e in ENCODER}
    if stage == "llm":
        return {f"llm {list(layers)}": ({"llm": list(layers)}, llm_only(keep, layers)) for layers in LLM}
    return {f"share {s}": ({"share": s}, both(keep, {**choice, "share": s})) for s in SHARES}


def allowed(stage: str, row: dict[str, float]) -> bool:
    """Whether a candidate is cheap enough to be chosen."""
    return row["average"] <= MOST_AVERAGE if stage == "llm" else row["flops"] <= MOST_FLOPS


def pick(stage: str, figures: dict[str, dict[str, float]]) -> str:
    """The label that ``RULE`` chooses.

    Args:
        figures: by label, ``above_blank`` in %, ``flops`` and ``average`` as shares of the plain model's.
    """
    cheap = {label: row for label, row in figures.items() if allowed(stage, row)}
    if not cheap:
        return min(figures, key=lambda label: figures[label]["flops"])
    best = max(row["above_blank"] for row in cheap.values())
    near = {label: row for label, row in cheap.items() if row["above_blank"] >= best - MARGIN}
    return min(near, key=lambda label: near[label]["flops"])


def main_rows(choice: Choice) -> list[Row]:
    """The rows of the main table: three ways at three budgets, and the published pattern."""
    rows = [Row("published schedule", Illava(), None)]
    for name, keep in BUDGETS.items():
        rows += [
            Row(f"both {name}", both(keep, choice), keep),
            Row(f"encoder {name}", encoder_only(keep, choice["encoder"]), keep),
            Row(f"llm {name}", llm_only(keep, choice["llm"]), keep),
            Row(f"published pattern {name}", merged_row(Illava(keep=keep), keep).method, keep),
        ]
    return rows


def control_rows(choice: Choice) -> list[Row]:
    """Other reductions and selections at the budgets and layers of "both"."""
    rows = []
    for name in ("1/3", "1/9"):
        keep = BUDGETS[name]
        rows += [
            Row(f"{reduce} {name}", both(keep, choice, reduce=reduce), keep)
            for reduce in ("drop", "weighted")
        ]
        rows.append(Row(f"inverse {name}", both(keep, choice, select="lowest"), keep))
        rows += [
            Row(
                f"random {seed} {name}",
                both(keep, choice, select="random", experimental={"seed": seed}),
                keep,
            )
            for seed in RANDOM_SEEDS
        ]
    return rows
