"""How merging changes the first token's distribution on zoo/R: by stage, place and number of tokens left.

Validation questions, text and places included. Each stage merges alone, so that its part of the divergence
is seen; some schedules of both stages show whether the parts add up. The figure is the KL divergence of the
first token's distribution from the plain model's, the mean over tasks. The planner's quality rule,
:mod:`illava.planning.sensitivity`, consists of these figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from illava import Downsample, Illava, Method
from illava.ask import load
from illava.bench.machine import machine
from illava.cli.console import progress
from illava.evaluation.metrics import DRAWS, Array, estimate, mean_over_tasks
from illava.evaluation.rows import Row, describe
from illava.evaluation.run import run
from illava.evaluation.store import Line, Store
from illava.ops.grids import coarse_shape
from illava.planning.sensitivity import Placement
from illava_lab.real.data import tasks as registry

from . import kl
from .alone import MODEL, OPTIONS, trained
from .choose import corrected, minus

DEPTH, BLOCKS = 9, (1, 3, 4, 5, 7)
"""The number of encoder blocks; those (0-based) that have the only step."""
THREE, THREE_BLOCKS = "three late", (4, 6, 8)
"""Three steps in the second half of the encoder."""
LLM_DEPTH, LAYERS = 30, (10, 15, 20)
"""The number of LLM layers; those (0-based) before which the step is."""
PLACES: Mapping[str, tuple[int, ...]] = {
    **{f"block {block}": (block,) for block in BLOCKS},
    THREE: THREE_BLOCKS,
}
GRID = (32, 32)
"""Rows and columns of the patches of a picture."""
LEFT = {"1/2": 1 / 2, "1/4": 1 / 4, "1/8": 1 / 8}
"""Shares of visual tokens that the encoder leaves, or a smaller picture has."""
LLM_LEFT = {"1/3": 1 / 3, "1/9": 1 / 9}
"""Shares that the LLM leaves of those that enter it."""
MIDDLE = 15
"""The layer at which the LLM's shares are compared; elsewhere only the smallest."""
ENCODER, LLM, PICTURE, BOTH = "encoder", "LLM layer", "smaller picture", "both stages"


def placed(keep: float, blocks: tuple[int, ...], share: float, layer: int = MIDDLE) -> Illava:
    """The preset with its encoder steps at ``blocks`` and its LLM step before ``layer``."""
    method = replace(Illava.best(keep), encoder_layers=blocks, llm_layers=(layer,), encoder_share=share)
    if share == 1:
        return replace(method, llm_layers=())
    return replace(method, encoder_layers=()) if share == 0 else method


JOINT: Mapping[str, tuple[float, str, float]] = {
    "three late, 3/4 of 1/3": (1 / 3, THREE, 0.75),
    "three late, 3/4 of 1/9": (1 / 9, THREE, 0.75),
    "block 5, 3/4 of 1/9": (1 / 9, "block 5", 0.75),
    "block 4, 1/2 of 1/9": (1 / 9, "block 4", 0.5),
}
"""Steps in both stages: the budget, the place in the encoder, and the encoder's part of the reduction."""


def rows() -> dict[str, dict[str, Method]]:
    """Methods by what merges, and by where and how many tokens are left."""
    shares = {layer: LLM_LEFT if layer == MIDDLE else {"1/9": 1 / 9} for layer in LAYERS}
    return {
        ENCODER: {
            f"{place}: {name}": placed(keep, blocks, 1)
            for place, blocks in PLACES.items()
            for name, keep in LEFT.items()
        },
        LLM: {
            f"{layer}: {name}": placed(keep, (), 0, layer)
            for layer, some in shares.items()
            for name, keep in some.items()
        },
        PICTURE: {name: Downsample(keep=keep) for name, keep in LEFT.items()},
        BOTH: {name: placed(keep, PLACES[place], share) for name, (keep, place, share) in JOINT.items()},
    }


def picture_share(keep: float) -> float:
    """The share of the tokens that a smaller picture of nominally ``keep`` has: whole rows of patches."""
    down, across = coarse_shape(*GRID, keep)
    return down * across / (GRID[0] * GRID[1])


def placement(place: str, share: float) -> Placement:
    """The planner's placement of a row of both stages."""
    depth = None if place == THREE else (PLACES[place][0] + 1) / DEPTH
    return Placement(depth, MIDDLE / LLM_DEPTH, share)


def labelled() -> dict[str, Method]:
    """All methods by the label of their row."""
    return {f"{what}: {value}": method for what, some in rows().items() for value, method in some.items()}


def measure(
    names: Sequence[str], each: int, folder: Path, device: str = "cpu", dtype: str = "float32"
) -> dict[str, Any]:
    """Ask ``each`` validation questions of every task; the figures, JSON-ready. Goes on where it was stopped.

    Raises ValueError for unknown tasks, and InputError if the model has not been made or the folder holds
    another run.
    """
    options = {**OPTIONS, "split": "val", "max_new_tokens": 1}
    tasks = [registry.load(name, split="val") for name in names]
    model, processor = load(MODEL, device, dtype)
    asked = [Row(label, method, method.keep, name=label) for label, method in labelled().items()]
    with Store(folder, describe(MODEL, model, tasks, asked, limit=each, **options)) as store:
        with progress("curves", (2 + len(asked)) * each * len(tasks)) as advance:
            run(model, processor, tasks, asked, store, each, options["batch_size"], 1, advance)
        return {
            "machine": machine(),
            "trained": trained(),
            "dtype": dtype,
            "split": options["split"],
            "each": each,
            "tasks": list(names),
            **figures(store.settings, store.lines),
        }


def figures(settings: Mapping[str, Any], lines: Sequence[Line], draws: int = DRAWS) -> dict[str, Any]:
    """The mean KL over tasks in nats, with intervals.

    ``curves``: by row. ``places``: by place of the encoder's step, averaged over :data:`LEFT`, and what it is
    more than that of :data:`THREE`, paired by question, with p-values after Holm's correction.
    """
    statistics: dict[str, list[Array]] = {}
    for rows_of_task in kl.by_task(settings, lines, draws).values():
        for label in labelled():
            statistics.setdefault(label, []).append(rows_of_task[label])
    means = {label: mean_over_tasks(some) for label, some in statistics.items()}
    places = {
        place: np.mean([means[f"{ENCODER}: {place}: {name}"] for name in LEFT], axis=0) for place in PLACES
    }
    more = {place: minus(mean, places[THREE]) for place, mean in places.items() if place != THREE}
    tested = corrected(more)
    return {
        "curves": {label: estimate(mean).to_dict() for label, mean in means.items()},
        "places": {
            place: {
                "kl": estimate(mean).to_dict(),
                **(
                    {"more": estimate(more[place]).to_dict(), "p": tested.get(place)} if place in more else {}
                ),
            }
            for place, mean in places.items()
        },
    }


def rule(curves: Mapping[str, Any]) -> dict[str, Any]:
    """The planner's tables by name, rounded; ascending, and with the plain model at their end."""

    def found(what: str, value: str) -> float:
        return _rounded(curves[f"{what}: {value}"]["value"])

    def by_left(what: str, place: str, left: Mapping[str, float]) -> tuple[tuple[float, float], ...]:
        return (*sorted((keep, found(what, f"{place}{name}")) for name, keep in left.items()), (1.0, 0.0))

    return {
        "THREE_LATE": by_left(ENCODER, f"{THREE}: ", LEFT),
        "BY_DEPTH": tuple(
            ((block + 1) / DEPTH, by_left(ENCODER, f"block {block}: ", LEFT)) for block in BLOCKS
        ),
        "IN_LLM": by_left(LLM, f"{MIDDLE}: ", LLM_LEFT),
        "BY_LLM_DEPTH": tuple(
            (layer / LLM_DEPTH, _rounded(found(LLM, f"{layer}: 1/9") / found(LLM, f"{MIDDLE}: 1/9")))
            for layer in LAYERS
        ),
        "SMALLER_PICTURE": (
            *sorted((picture_share(keep), found(PICTURE, name)) for name, keep in LEFT.items()),
            (1.0, 0.0),
        ),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
