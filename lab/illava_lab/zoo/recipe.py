"""The training recipes of the zoo's models: which lessons, in which order, for how many steps."""

import math
from dataclasses import dataclass, replace

from .lessons import Syllabus

# Shares of the forms: scene, page, easy_vqa, multi_picture, video, clip; and of the scenes: crowd, count,
# number, word, mixed, text.
SCENES = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
THINGS = (0.2, 0.35, 0.0, 0.0, 0.45, 0.0)
# Forms with dense labels.
SEEING = Syllabus((0.35, 0.4, 0.0, 0.0, 0.1, 0.15), (0.3, 0.4, 0.0, 0.0, 0.3, 0.0), most=0)
# Letters take the most examples: a page full of them has four times as many as the page of a single word.
SPELLING = Syllabus((0.86, 0.0, 0.0, 0.0, 0.04, 0.1), (0.08, 0.06, 0.0, 0.0, 0.06, 0.8), most=0)
# Finding the thing that is meant comes first: every other task needs it, and with all of them at once from
# the start a model goes on guessing among what it sees.
FINDING = Syllabus(SCENES, (1.0, 0.0, 0.0, 0.0, 0.0, 0.0), ("attribute",))
RELATING = Syllabus(SCENES, THINGS, ("attribute", "existence", "spatial", "counting"))
# From then on everything together: what is not asked for is forgotten within a hundred steps.
ALL = Syllabus((0.26, 0.2, 0.08, 0.18, 0.14, 0.14), THINGS)
# Only large images have room for many things to count.
LARGE = Syllabus((0.36, 0.26, 0.05, 0.13, 0.11, 0.09), (0.1, 0.6, 0.0, 0.0, 0.3, 0.0))
# When most of it is learnt: more of what takes longest, and a little more of easy-VQA.
LAST = Syllabus((0.38, 0.26, 0.08, 0.16, 0.08, 0.04), (0.05, 0.6, 0.0, 0.0, 0.35, 0.0))
# The encoder learns the positions of characters in their word last, and reading depends on it.
READING = Syllabus((0.34, 0.34, 0.08, 0.14, 0.07, 0.03), (0.05, 0.6, 0.0, 0.0, 0.35, 0.0))
# The larger model is trained longer.
LATER = ("text-third", "settle-third", "text-fourth", "settle-fourth")
STEPS = {
    "S": {"large-192": 800, "long-192": 600, **dict.fromkeys(LATER, 0)},
    "L": {"large-192": 1300},
}


@dataclass(frozen=True)
class Stage:
    """One leg of the training: ``steps`` batches of as much as ``batch`` pictures of ``pixels`` x ``pixels``.

    A syllabus without questions trains the encoder alone, on dense labels.
    Both learning rates rise over ``warmup`` steps to their full value and fall along a cosine to the
    share ``last`` of it: ``rate`` is Muon's, for hidden matrices, ``rate / 20`` AdamW's, for the rest.
    """

    name: str
    pixels: int
    batch: int
    steps: int
    taught: Syllabus
    rate: float = 0.02
    last: float = 0.05
    warmup: int = 40
    dense: float = 0.3  # weight of the dense-label loss next to the answers' loss
    reference: float = 0.3  # weight of the loss of the facts about mentions
    pointing: float = 1.0  # weight of the losses on the attention of mentions
    frozen: bool = False  # freeze the encoder, which takes most of the time in large images


@dataclass(frozen=True)
class Recipe:
    """All settings that the weights depend on."""

    size: str = "S"
    seed: int = 0
    weight_decay: float = 0.01  # of hidden matrices
    clip: float = 1.0
    stages: tuple[Stage, ...] = (
        Stage("dense-48", 48, 64, 400, SEEING, last=1.0),
        Stage("dense-96", 96, 16, 800, SEEING),
        Stage("text-144", 144, 8, 700, SPELLING),
        Stage("find-96", 96, 16, 200, FINDING, last=1.0, frozen=True),
        Stage("relate-96", 96, 16, 400, RELATING, last=1.0, frozen=True, warmup=1),
        Stage("all-96", 96, 16, 900, ALL, last=0.5, frozen=True, warmup=1, pointing=0.5),
        Stage("large-192", 192, 8, 800, LARGE, rate=0.015, last=0.02, frozen=True, warmup=10, pointing=0.5),
        # The encoder once more, with the fonts that letters are hardest to tell apart in; then all the rest.
        Stage("text-again", 144, 8, 500, SPELLING, rate=0.015),
        Stage("long-192", 192, 8, 2400, LAST, rate=0.01, last=1.0, frozen=True, warmup=10, pointing=0.5),
        Stage("settle-192", 192, 8, 300, LAST, rate=0.01, last=0.02, frozen=True, warmup=1, pointing=0.5),
        Stage("text-third", 144, 8, 800, SPELLING, rate=0.015),
        Stage("settle-third", 192, 8, 800, READING, rate=0.01, last=0.02, frozen=True, pointing=0.5),
        Stage("text-fourth", 144, 8, 400, SPELLING, rate=0.01),
        Stage("settle-fourth", 192, 8, 800, READING, rate=0.01, last=0.02, frozen=True, pointing=0.5),
    )


def recipe(size: str, seed: int = 0) -> Recipe:
    """The recipe of a shipped model."""
    made = Recipe(size, seed)
    steps = STEPS[size]
    return replace(
        made, stages=tuple(replace(leg, steps=steps.get(leg.name, leg.steps)) for leg in made.stages)
    )


def trained(whole: dict, stage: int, step: int) -> dict:
    """The part of a recipe (as a dictionary) that has shaped the weights by ``step`` of ``stage``."""
    stages = [dict(leg) for leg in whole["stages"][: stage + (step > 0)]]
    if stages[stage:] and stages[stage]["last"] == 1.0:
        del stages[stage]["steps"]
    return {**whole, "stages": stages}


def learning_rate(stage: Stage, step: int) -> float:
    """Return the rate of ``step`` (from 0): linear warm-up, then a cosine down to ``rate * last``."""
    warm = min(1.0, (step + 1) / stage.warmup)
    fall = 0.5 * (1 + math.cos(math.pi * step / stage.steps))
    return stage.rate * warm * (stage.last + (1 - stage.last) * fall)
