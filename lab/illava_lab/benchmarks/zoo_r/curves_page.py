"""The page of the curves, :mod:`.curves`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from illava.evaluation.comparison import ALPHA
from illava.evaluation.summary import number, table
from illava.planning.sensitivity import divergence

from .curves import (
    BOTH,
    DEPTH,
    ENCODER,
    JOINT,
    LAYERS,
    LEFT,
    LLM,
    LLM_DEPTH,
    LLM_LEFT,
    MIDDLE,
    PICTURE,
    PLACES,
    THREE,
    THREE_BLOCKS,
    picture_share,
    placement,
)


def page(found: Mapping[str, Any]) -> str:
    """The curves as tables."""
    curves = found["curves"]
    places = found["places"]
    lines = [
        "# How merging changes the first token",
        "",
        "Written by `make zoo-r-curves`, which measures it. On [zoo/R](zoo-r.md) at 448 pixels, with "
        f"{DEPTH} encoder blocks and {LLM_DEPTH} LLM layers; merging as in `Illava.best`, but at the places "
        "named. *KL*: divergence of the first token's distribution from the plain model's, in nats, the mean "
        f"over {len(found['tasks'])} tasks, in brackets 95 % intervals. The [planner](planning.md#the-rule) "
        "ranks schedules by these figures.",
        "",
        "## In the encoder alone",
        "",
        "KL by the place of the only step (after the attention of a block, 0-based; *three late*: three "
        f"steps, at blocks {', '.join(map(str, THREE_BLOCKS))}, each with the same share) and by the share "
        "of visual tokens that the encoder leaves.",
        "",
        *table(
            ["", *LEFT, "mean", f"more than {THREE}"],
            [
                [
                    place,
                    *(_shown(curves[f"{ENCODER}: {place}: {name}"]) for name in LEFT),
                    _shown(places[place]["kl"]),
                    _more(places[place]),
                ]
                for place in PLACES
            ],
        ),
        "",
        f"Paired by question; bold: p < {ALPHA:.2g} after Holm's correction. The preset has the three late "
        "steps.",
        "",
        "## In the LLM alone",
        "",
        "By the layer (0-based) before which the only step is, and by the share of visual tokens left.",
        "",
        *table(["", *LLM_LEFT], [[str(layer), *_llm_cells(curves, layer)] for layer in LAYERS]),
        "",
        "## A smaller picture",
        "",
        "Of the share of tokens named, but whole rows of patches: "
        f"{', '.join(f'{picture_share(keep):.3f}' for keep in LEFT.values())}.",
        "",
        *table([*LEFT], [[_shown(curves[f"{PICTURE}: {name}"]) for name in LEFT]]),
        "",
        "## In both stages",
        "",
        "By the encoder's place, its part of the reduction on a logarithmic scale, and the budget; the rest "
        f"is left to one step before LLM layer {MIDDLE}. *Predicted*: by the planner, the sum of the stages.",
        "",
        *table(
            ["", "KL", "predicted"],
            [[name, _shown(curves[f"{BOTH}: {name}"]), _predicted(name)] for name in JOINT],
        ),
    ]
    place = found["machine"]
    lines += [
        "",
        f"{found['each']} questions of each of {', '.join(found['tasks'])}; split {found['split']}, "
        f"{found['dtype']}, weights {found['trained']}, {place['cpu']}, torch {place['torch']}, transformers "
        f"{place['transformers']}.",
    ]
    return "\n".join(lines) + "\n"


def _more(place: Mapping[str, Any]) -> str:
    more = place.get("more")
    if more is None or more["low"] is None:
        return "-"
    text = f"{more['value']:+.3f} ({more['low']:+.3f} to {more['high']:+.3f})"
    return f"**{text}**" if place["p"] is not None and place["p"] < ALPHA else text


def _predicted(name: str) -> str:
    keep, place, share = JOINT[name]
    return f"{divergence(keep, placement(place, share)):.3f}"


def _llm_cells(curves: Mapping[str, Any], layer: int) -> list[str]:
    labels = (f"{LLM}: {layer}: {name}" for name in LLM_LEFT)
    return [_shown(curves[label]) if label in curves else "-" for label in labels]


def _shown(figure: Mapping[str, float | None]) -> str:
    text = number(figure["value"], ".3f")
    return text if figure["low"] is None else f"{text} ({figure['low']:.3f}-{figure['high']:.3f})"
