"""How merging changes the first token's distribution on zoo/R: by budget, blocks, and share left to the LLM.

Validation questions, text and places included; one thing varies at a time from ``Illava.best`` at 1/9. The
figure is the KL divergence of the first token's distribution from the plain model's, the mean over tasks. The
planner's quality rule, :mod:`illava.planning.sensitivity`, consists of these figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from illava import Illava
from illava.ask import load
from illava.bench.machine import machine
from illava.cli.console import progress
from illava.evaluation.metrics import DRAWS, Array, estimate, mean_over_tasks
from illava.evaluation.rows import Row, describe
from illava.evaluation.run import run
from illava.evaluation.store import Line, Store
from illava.evaluation.summary import number, table
from illava_lab.real.data import tasks as registry

from . import kl
from .alone import MODEL, OPTIONS, trained

KEEP = 1 / 9
REFERENCE = "preset"
KEEPS = {"1/2": 1 / 2, "1/3": 1 / 3, "1/6": 1 / 6, "1/18": 1 / 18}
DEPTH, BLOCKS, OWN_BLOCKS = 9, (0, 1, 2, 3, 5, 7), (4, 6, 8)
"""The number of encoder blocks; those (0-based) that have the only step instead of the preset's three."""
LLM_DEPTH, LAYERS, OWN_LAYER = 30, (5, 10, 20, 25), 15
"""The number of LLM layers; those (0-based) before which the step is instead of the preset's own."""
SHARES = (0.0, 0.25, 0.5, 1.0)
"""Of the reduction, on a logarithmic scale, in the encoder; the preset's is 0.75."""
BUDGET, BLOCK, SHARE, LAYER = (
    "budget",
    "encoder block of the only step",
    "share of the reduction in the encoder",
    "LLM layer of the step",
)


def rows() -> dict[str, dict[str, Illava]]:
    """Methods by what varies, and by its value; the preset itself is REFERENCE of each."""
    best = Illava.best(KEEP)
    return {
        BUDGET: {name: Illava.best(keep) for name, keep in KEEPS.items()},
        BLOCK: {f"{block}": replace(best, encoder_layers=(block,)) for block in BLOCKS},
        SHARE: {f"{share:g}": _shared(best, share) for share in SHARES},
        LAYER: {f"{layer}": replace(best, llm_layers=(layer,)) for layer in LAYERS},
    }


def _shared(best: Illava, share: float) -> Illava:
    if share == 1:
        return replace(best, encoder_share=1.0, llm_layers=())
    return replace(best, encoder_share=share, **({"encoder_layers": ()} if share == 0 else {}))


def labelled() -> dict[str, Illava]:
    """All methods by the label of their row."""
    found = {f"{what}: {value}": method for what, some in rows().items() for value, method in some.items()}
    return {REFERENCE: Illava.best(KEEP), **found}


def measure(
    names: Sequence[str], each: int, folder: Path, device: str = "cpu", dtype: str = "bfloat16"
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
            "curves": figures(store.settings, store.lines),
        }


def figures(
    settings: Mapping[str, Any], lines: Sequence[Line], draws: int = DRAWS
) -> dict[str, dict[str, Any]]:
    """By row: the mean KL over tasks in nats, and as a share of the preset's, paired; with intervals."""
    statistics: dict[str, list[Array]] = {}
    for rows_of_task in kl.by_task(settings, lines, draws).values():
        for label in labelled():
            statistics.setdefault(label, []).append(rows_of_task[label])
    means = {label: mean_over_tasks(some) for label, some in statistics.items()}
    return {
        label: {
            "kl": estimate(mean).to_dict(),
            "share": estimate(mean / means[REFERENCE]).to_dict(),
        }
        for label, mean in means.items()
    }


def rule(curves: Mapping[str, Any]) -> dict[str, tuple[tuple[float, float], ...]]:
    """The planner's tables by name, rounded: where, as a share, and the divergence or its ratio."""
    best = f"{curves[REFERENCE]['kl']['value']:.3g}"
    budgets = [(KEEPS[name], curves[f"{BUDGET}: {name}"]["kl"]["value"]) for name in KEEPS]
    points: dict[str, list[tuple[float, float]]] = {
        "BY_KEEP": [
            *((keep, float(f"{mean:.3g}")) for keep, mean in budgets),
            (KEEP, float(best)),
            (1.0, 0.0),
        ],
        # In the middle of the depths that the planner takes to this block.
        "BY_ENCODER_DEPTH": [((block + 1.5) / DEPTH, _ratio(curves, BLOCK, block)) for block in BLOCKS],
        "BY_ENCODER_SHARE": [(share, _ratio(curves, SHARE, share)) for share in SHARES],
        "BY_LLM_DEPTH": [(layer / LLM_DEPTH, _ratio(curves, LAYER, layer)) for layer in LAYERS],
    }
    points["BY_ENCODER_SHARE"].append((0.75, 1.0))
    points["BY_LLM_DEPTH"].append((OWN_LAYER / LLM_DEPTH, 1.0))
    return {name: tuple(sorted(some)) for name, some in points.items()}


def worse(curves: Mapping[str, Any], what: str) -> list[str]:
    """The values of what varies at which the divergence is significantly above the preset's."""
    return [value for value in rows()[what] if (curves[f"{what}: {value}"]["share"]["low"] or 0) > 1]


def _ratio(curves: Mapping[str, Any], what: str, value: float) -> float:
    return float(f"{curves[f'{what}: {value:g}']['share']['value']:.3g}")


def page(found: Mapping[str, Any]) -> str:
    """The curves as tables."""
    curves = found["curves"]
    lines = [
        "# How merging changes the first token",
        "",
        "Written by `make zoo-r-curves`, which measures it. On [zoo/R](zoo-r.md) at 448 pixels, with "
        f"{DEPTH} encoder blocks and {LLM_DEPTH} LLM layers, one thing is changed in `Illava.best` at 1/9, "
        f"whose steps are at encoder blocks {', '.join(map(str, OWN_BLOCKS))} and before LLM layer "
        f"{OWN_LAYER} (0-based), with three quarters of the reduction, on a logarithmic scale, in the "
        "encoder. *KL*: divergence of the first token's "
        f"distribution from the plain model's, in nats, the mean over {len(found['tasks'])} tasks; *of the "
        "preset's*: divided by that of `Illava.best` as it is, paired. In brackets 95 % intervals. The "
        "[planner](planning.md#the-rule) ranks schedules by these figures.",
        "",
        f"`Illava.best` as it is: {_shown(curves[REFERENCE]['kl'], '.3f')}.",
    ]
    for what, some in rows().items():
        cells = [
            [value, *(_shown(curves[f"{what}: {value}"][key], form) for key, form in COLUMNS.items())]
            for value in some
        ]
        lines += ["", f"## By {what}", "", *table(["", "KL", "of the preset's"], cells)]
    place = found["machine"]
    lines += [
        "",
        f"{found['each']} questions of each of {', '.join(found['tasks'])}; split {found['split']}, "
        f"{found['dtype']}, weights {found['trained']}, {place['cpu']}, torch {place['torch']}, transformers "
        f"{place['transformers']}.",
    ]
    return "\n".join(lines) + "\n"


COLUMNS = {"kl": ".3f", "share": ".2f"}


def _shown(figure: Mapping[str, float | None], form: str) -> str:
    text = number(figure["value"], form)
    return text if figure["low"] is None else f"{text} ({figure['low']:{form}}-{figure['high']:{form}})"
