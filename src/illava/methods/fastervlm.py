"""FasterVLM: keep the tokens that the encoder's class token looks at (arXiv 2412.01818, version 1).

After the encoder the patches of each picture, tile or frame are ranked by the class token's attention in
the block whose output the LLM sees, the mean over heads; the best stay as they are, the others go.

Where this had to go beyond the paper: an encoder without a class token is read by the mean attention that
each patch receives, and where a patch merger folds several patches into one, that unit is scored by their
mean.
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
"""The paper reports 0.5, 0.25, 0.1 and 0.05 and singles none out."""


@dataclass(frozen=True)
class FasterVLM(Method):
    """Keep the units with the highest attention of the class token ("[CLS] Attention is All You Need for
    Training-Free Visual Token Pruning", arXiv 2412.01818v1).

    Args:
        keep: final visual tokens / all, in (0, 1]; exact for what each picture, tile or frame hands the
            projector, while line ends that a family adds after it (LLaVA-NeXT, OneVision) all stay.
            None: 0.25.

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
    """The highest-scored units stay as they are."""

    def reduce(self, units: Units) -> MergedSegments | None:
        counts = units.counts(self.keep)
        return merge_segments(units.vectors, units.scores, units.lengths, counts, reduce="drop")
