"""What is compared: the library's methods that act before, in or after the encoder, and some candidates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import illava
from illava.methods import Method
from illava_lab.benchmarks.pretrained.settings import DEEP_KEEPS, KEEPS

INSIDE, AFTER, BEFORE = "in the encoder", "after the encoder", "before the encoder"
PLAIN = "plain"
FOLD: dict[str, Any] = {"select": "diverse", "reduce": "fold", "similarity": "cosine", "score": "sampled"}
LOG: dict[str, Any] = {"proportional": "encoder"}
CANDIDATE = "diverse, fold, log"


@dataclass(frozen=True)
class Row:
    """One way to encode pictures."""

    label: str
    name: str
    """The method, shared by all budgets and blocks."""
    group: str
    keep: str | None = None
    """The budget, as a key of ``KEEPS``."""
    method: Method | None = None
    """None: the plain encoder, for the plain row and for smaller pictures."""
    block: int | None = None
    """The block (0-based) at which the sweep over depths merges, or begins to merge."""
    counts: bool = False
    """Whether the method knows how many patches each survivor stands for."""

    @property
    def shrinks(self) -> bool:
        """Whether the picture is made smaller instead."""
        return self.group == BEFORE


def _illava(keep: float, **options: Any) -> illava.Illava:
    """The encoder stage alone, which takes all of the reduction."""
    return illava.Illava(keep=keep, llm_layers=(), **options)


def _even(keep: float, **options: Any) -> illava.Illava:
    """Distance alone decides: all units have the same score, and attention is not observed."""
    return _illava(keep, **FOLD, **LOG, experimental={"encoder_score": "none"}, **options)


MIDDLE: dict[str, Any] = {"where": "middle"}
IN_ENCODER: dict[str, tuple[Callable[[float], Method], bool]] = {
    "illava": (_illava, False),
    "attention, fold": (partial(_illava, **MIDDLE, **FOLD), True),
    "attention, fold, log": (partial(_illava, **MIDDLE, **FOLD, **LOG), True),
    CANDIDATE: (partial(_even, **MIDDLE), True),
    f"{CANDIDATE}, 3 steps": (partial(_even, encoder_layers=(4, 6, 8)), True),
    "random, fold, log": (
        partial(_illava, **MIDDLE, **{**FOLD, "select": "random"}, **LOG),
        True,
    ),
    "tome": (lambda keep: illava.ToMe(keep=keep), True),
}
"""By name: from a budget to the method, and whether it knows the sizes of its survivors."""
AFTER_ENCODER: dict[str, Callable[[float], Method]] = {
    "visionzip": lambda keep: illava.VisionZip(keep=keep),
    "prumerge+": lambda keep: illava.PruMergePlus(keep=keep),
    "vispruner": lambda keep: illava.VisPruner(keep=keep),
    "fastervlm": lambda keep: illava.FasterVLM(keep=keep),
    "divprune": lambda keep: illava.DivPrune(keep=keep),
    "random": lambda keep: illava.Random(keep=keep),
    "pool": lambda keep: illava.Pool(keep=keep),
}
DEEP: dict[str, tuple[Callable[..., Method], bool]] = {
    "illava": (_illava, False),
    "attention, fold": (partial(_illava, **FOLD), True),
    "attention, fold, log": (partial(_illava, **FOLD, **LOG), True),
    CANDIDATE: (_even, True),
}
"""Rules of single steps, by name: from a budget and ``encoder_layers`` to the method."""
RULES = {
    "illava": "published blocks scaled to the depth; highest attention received; recycled",
    "attention, fold": (
        "block 5; attention times distance; dropped patches merged into the most similar survivor"
    ),
    "attention, fold, log": "the same; later blocks add the logarithm of the sizes to the attention",
    CANDIDATE: "block 5; distance alone, no attention; merged, log of the sizes",
    f"{CANDIDATE}, 3 steps": "the same at blocks 4, 6 and 8",
    "random, fold, log": "block 5; random survivors; merged, log of the sizes. A control",
    "tome": "pairs at every block",
}


def plain() -> Row:
    return Row(PLAIN, PLAIN, PLAIN)


def standard() -> list[Row]:
    """Every method at every budget, at the blocks that it chooses itself."""
    rows = []
    for budget, keep in KEEPS.items():
        for name, (make, counts) in IN_ENCODER.items():
            rows.append(Row(f"{name} {budget}", name, INSIDE, budget, make(keep), counts=counts))
        for name, after in AFTER_ENCODER.items():
            rows.append(Row(f"{name} {budget}", name, AFTER, budget, after(keep)))
        rows.append(Row(f"downsample {budget}", "downsample", BEFORE, budget))
    return rows


def deep(blocks: tuple[int, ...], depth: int) -> list[Row]:
    """A single step at each of ``blocks``, and ToMe from each on, of an encoder of ``depth`` blocks."""
    rows = []
    for budget in DEEP_KEEPS:
        for block in blocks:
            for name, (make, counts) in DEEP.items():
                method = make(KEEPS[budget], encoder_layers=(block,))
                label = f"{name} at {block} {budget}"
                rows.append(Row(label, name, INSIDE, budget, method, block, counts))
            # Each block merges at most half.
            if 2 ** (depth - block) * KEEPS[budget] >= 1:
                method = illava.ToMe(keep=KEEPS[budget], encoder_layers=tuple(range(block, depth)))
                rows.append(Row(f"tome from {block} {budget}", "tome", INSIDE, budget, method, block, True))
    return rows
