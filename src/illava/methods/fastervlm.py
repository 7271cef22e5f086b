"""FasterVLM: keep the tokens that the encoder's class token attends to (arXiv 2412.01818, version 1).

After the encoder, the patches of each picture, tile or frame are ranked by the class token's attention in the
block whose output the projector receives, averaged over heads. The highest-ranked are kept unchanged; the
others are dropped.

Beyond the paper: for an encoder without a class token, the score is the mean attention that a patch receives.
Where a patch merger folds several patches into one unit, the score of the unit is their mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..models.located import LocatedModules
from ..ops.merging import MergedSegments, merge_segments
from .after_encoder import BudgetStep
from .base import Method
from .checks import check_share
from .steps import Plan, Units

DEFAULT_KEEP = 0.25
"""The paper reports 0.5, 0.25, 0.1 and 0.05, and recommends none of them."""


@dataclass(frozen=True)
class FasterVLM(Method):
    """Keep the units with the highest attention of the class token ("[CLS] Attention is All You Need for
    Training-Free Visual Token Pruning", arXiv 2412.01818v1).

    Args:
        keep: share of all visual tokens left at the end, in (0, 1]. It is exact for the projector's input of
            each picture, tile or frame; newlines that a family adds later (LLaVA-NeXT, OneVision) are all
            kept. None: 0.25.

    Raises ValueError for values out of range.
    """

    name: ClassVar[str] = "fastervlm"

    keep: float | None = None

    def __post_init__(self) -> None:
        if self.keep is not None:
            object.__setattr__(self, "keep", check_share("keep", self.keep))

    def plan(self, modules: LocatedModules) -> Plan:
        return Plan(projector=FasterVLMStep(DEFAULT_KEEP if self.keep is None else self.keep))


@dataclass(frozen=True)
class FasterVLMStep(BudgetStep):
    """The highest-scored units are kept unchanged."""

    def reduce(self, units: Units) -> MergedSegments | None:
        counts = units.counts(self.keep)
        return merge_segments(units.vectors, units.scores, units.lengths, counts, reduce="drop")
