"""Does the larger model with merging beat the smaller one without, in accuracy and in time, in one run?

Every prompt goes through all contestants in turn, one prompt at a time; each answers as it likes, and both
the answer and the seconds of its ``generate`` are taken from that same call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from illava import accelerate
from illava.bench.timing import measure
from illava.evaluation.metrics import Array, Estimate, estimate, mean_over_tasks, resample
from illava.evaluation.prompts import build_batch
from illava.evaluation.samples import Sample
from illava.methods import Method
from illava_lab import tasks as registry
from illava_lab.benchmarks.evidence.rows import BUDGETS, Choice, both

Contestant = tuple[str, Method | None]  # size of the model, method


def contestants(choices: dict[str, Choice]) -> dict[str, Contestant]:
    """Both models plain, and the larger one merged, by label."""
    merged = {f"L merged to {name}": ("L", both(keep, choices["L"])) for name, keep in BUDGETS.items()}
    return {"S plain": ("S", None), "L plain": ("L", None), **merged}


def drawn_samples(each: int, first: int = 0) -> list[Sample]:
    """``each`` questions of every drawn task, from number ``first`` on, the tasks in turn."""
    return [registry.load(name)[first + n] for n in range(each) for name in registry.names()]


def compete(
    models: dict[str, tuple[nn.Module, Any]], entered: dict[str, Contestant], samples: Sequence[Sample]
) -> list[dict[str, Any]]:
    """Ask all contestants: one line a question and contestant.

    The order of the contestants turns round from one question to the next; the first question is asked
    once more beforehand, to warm up.
    """
    lines = []
    for number, sample in enumerate([samples[0], *samples]):
        for label in list(entered)[:: 1 if number % 2 else -1]:
            size, method = entered[label]
            line = _answer(*models[size], sample, method)
            if number:
                lines.append({"task": sample.task, "sample": sample.number, "row": label, **line})
    return lines


def _answer(model: nn.Module, processor: Any, sample: Sample, method: Method | None) -> dict[str, Any]:
    inputs = build_batch(processor, [sample])
    if method is None:
        timing = measure(model, inputs, 8, num_beams=1)
    else:
        with accelerate(model, method):
            timing = measure(model, inputs, 8, num_beams=1)
    new = timing.output[0, inputs["input_ids"].shape[1] :]
    prediction = processor.tokenizer.decode(new, skip_special_tokens=True)
    return {
        "correct": sample.is_right(prediction),
        "cluster": sample.cluster,
        "seconds": timing.total,
        "ttft": timing.ttft,
    }


def results(
    lines: Sequence[dict[str, Any]], counted: Sequence[str], against: str = "S plain"
) -> dict[str, Any]:
    """Accuracy and seconds an answer of every contestant, and what sets it apart from ``against``.

    Means over the tasks ``counted``, each weighing the same, with paired bootstrap intervals clustered by
    picture. ``points`` is the difference in accuracy, ``times_faster`` the ratio of mean seconds; ``wins``
    says whether both are ahead: "yes", "perhaps" where an interval reaches to no advantage, or "no".

    Raises ValueError where no task counts.
    """
    if not counted:
        raise ValueError("no task is one that both models have learnt: there is nothing to compare")
    labels = list(dict.fromkeys(line["row"] for line in lines))
    accuracy: dict[str, list[Array]] = {label: [] for label in labels}
    seconds: dict[str, list[Array]] = {label: [] for label in labels}
    for task in counted:
        rows = {label: [x for x in lines if x["task"] == task and x["row"] == label] for label in labels}
        drawn = resample([line["cluster"] for line in rows[against]], 0, task)
        for label in labels:
            accuracy[label].append(100 * drawn.mean([line["correct"] for line in rows[label]]))
            seconds[label].append(drawn.mean([line["seconds"] for line in rows[label]]))
    right = {label: mean_over_tasks(accuracy[label]) for label in labels}
    took = {label: mean_over_tasks(seconds[label]) for label in labels}
    out = {}
    for label in labels:
        points = estimate(right[label] - right[against])
        faster = estimate(np.asarray(took[against] / took[label]))
        out[label] = {
            "accuracy": estimate(right[label]).to_dict(),
            "points": points.to_dict(),
            "milliseconds": 1e3 * float(took[label][0]),
            "times_faster": faster.to_dict(),
            "wins": _wins(points, faster),
        }
    return out


def _wins(points: Estimate, faster: Estimate) -> str:
    if (points.value or 0) <= 0 or (faster.value or 0) <= 1:
        return "no"
    return "yes" if (points.low or 0) > 0 and (faster.low or 0) > 1 else "perhaps"
