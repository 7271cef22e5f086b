"""What decides how much time merging saves: the size of the picture, the text beside it, and the answer.

One photograph, zoo/R plain and merged in turn in one run, batch 1. Text and answers are of given lengths;
what they say does not matter to the time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from illava import Illava, accelerate
from illava.ask import load
from illava.bench.timing import Timing, interleave, measure, ratio
from illava.evaluation.prompts import inputs_of
from illava.evaluation.samples import Sample
from illava.io.pictures import open_picture
from illava_lab.demo import path
from illava_lab.real import EXAMPLE

from .alone import timed_on

KEEP = 1 / 9
LARGEST = 448
SIZES = (224, 336, LARGEST)
"""Pixels a side of the picture."""
WORDS = (0, 250, 1000, 3000)
"""Words before the question."""
ANSWERS = (1, 16, 64, 256)
"""Tokens of the answer."""
ROUNDS = 5


@dataclass(frozen=True)
class Case:
    """What is asked."""

    label: str
    size: int = LARGEST
    words: int = 0
    answer: int = 1


def cases() -> dict[str, list[Case]]:
    """The cases by what varies; everything else is one photograph of LARGEST, a question and one token."""
    return {
        "picture": [Case(f"{size} x {size}", size=size) for size in SIZES],
        "text": [Case(f"{words:,} words" if words else "the question alone", words=words) for words in WORDS],
        "answer": [Case(f"{count} token{'s' * (count > 1)}", answer=count) for count in ANSWERS],
    }


def run(rounds: int = ROUNDS, device: str = "cpu", dtype: str = "float32") -> dict[str, Any]:
    """Time all cases; the figures, JSON-ready. Raises InputError if zoo/R has not been made."""
    models = {size: load(f"zoo/R-{size}", device, dtype) for size in SIZES}
    return {
        **timed_on(dtype=dtype, keep=KEEP, rounds=rounds),
        "cases": {
            what: {case.label: timed(*models[case.size], case, rounds) for case in some}
            for what, some in cases().items()
        },
    }


def timed(model: torch.nn.Module, processor: Any, case: Case, rounds: int) -> dict[str, Any]:
    """Tokens, seconds and speed-up of one case."""
    picture = open_picture(path(EXAMPLE[0]))
    text = f"{'word ' * case.words}{EXAMPLE[1]}"
    inputs = inputs_of(model, processor, [Sample("limits", 0, text, ("yes",), (picture,))])
    method = Illava.best(KEEP)

    def plain() -> Timing:
        return measure(model, inputs, case.answer, min_new_tokens=case.answer, num_beams=1)

    def merged() -> Timing:
        with accelerate(model, method):
            return plain()

    with torch.inference_mode(), accelerate(model, method) as handle:
        model(**inputs)
        visual = handle.report.visual_tokens
    runs: Mapping[str, Callable[[], Timing]] = {"plain": plain, "merged": merged}
    found = interleave(runs, rounds, warmup=1)
    return {
        "prompt_tokens": int(inputs["input_ids"].shape[1]),
        "visual_tokens": visual,
        "plain_seconds": statistics.median(timing.total for timing in found["plain"]),
        "faster": vars(ratio(found["plain"], found["merged"], "total")),
    }
