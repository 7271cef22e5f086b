"""The step of iLLaVA: keep the highest-scored units and merge the dropped ones into survivors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..ops.coverage import coverage_ranking
from ..ops.merging import (
    Merged,
    MergedSegments,
    Reduce,
    Similarity,
    keep_count,
    merge,
    merge_diverse,
    reduce_segments,
)
from ..ops.own_rows import own_row_scores
from ..ops.scoring import Score
from ..ops.selection import diverse_ranking
from ..ops.transfers import upload
from ..ops.two_depths import two_depths_ranking
from ..ops.value_scores import anchors, value_scores
from .budgets import Calibration, budget_factor
from .encoder_scores import ENCODER_SCORES as ENCODER_SCORES
from .encoder_scores import EncoderScore, Sinks, encoder_scores, observed
from .steps import EncoderAttention, EncoderStep, LlmAttention, LlmStep, Units

Select = Literal["highest", "diverse", "coverage", "lowest", "random"]
SELECTS: tuple[str, ...] = get_args(Select)
LlmScore = Literal["last", "text", "own_row", "value"]
LLM_SCORES: tuple[str, ...] = get_args(LlmScore)


@dataclass(frozen=True)
class MergeStep(EncoderStep, LlmStep):
    """One merge step, in the encoder or in the LLM. The other fields are those of :class:`Illava`."""

    share: float
    """Share of the units entering this step that it keeps."""
    of_all: float | None = None
    """Under a budget: share of the segment's original units left after this step. Takes precedence over
    ``share``."""
    reduction: Reduce = "recycle"
    recycle: float = 0.05
    neighbours: int = 5
    similarity: Similarity = "dot"
    score: Score = "exact"
    encoder_score: EncoderScore = "attention"
    llm_score: LlmScore = "last"
    select: Select = "highest"
    seed: int = 0
    proportional: bool = False
    rotary_keep: float = 0.0
    score_power: float = 1.0
    sinks: Sinks | None = None
    two_depths: float = 0.0
    complexity: Calibration | None = None

    @property
    def keeps_all(self) -> bool:
        return self.share >= 1

    @property
    def absorbs_all(self) -> bool:
        return self.reduction in ("fold", "weighted")

    @property
    def observes(self) -> bool:  # type: ignore[override]
        return "attention" in self.encoder_score or self.encoder_score == "own_row"

    @property
    def reads_input(self) -> bool:  # type: ignore[override]
        return self.encoder_score == "change"

    @property
    def reads_complexity(self) -> bool:  # type: ignore[override]
        return self.complexity is not None

    @property
    def reads_halfway(self) -> bool:  # type: ignore[override]
        return self.two_depths > 0

    @property
    def reads_pixels(self) -> bool:  # type: ignore[override]
        return "pixels" in self.encoder_score

    @property
    def reads_rotary(self) -> bool:  # type: ignore[override]
        return self.rotary_keep > 0

    @property
    def proportional_attention(self) -> bool:
        return self.proportional

    def observe_encoder(self, attention: EncoderAttention) -> Tensor:
        if self.encoder_score == "own_row":
            return own_row_scores(
                attention.query, attention.key, attention.scaling, bias=attention.bias, causal=False
            )
        return attention.received(self.score)

    def observe_llm(self, attention: LlmAttention, context: Any) -> Tensor:
        if self.llm_score == "last":
            return attention.by_last()
        if self.llm_score == "own_row":
            return own_row_scores(
                attention.query,
                attention.key,
                attention.scaling,
                attention.mask,
                attention.softcap,
                attention.bias,
                causal=True,
            )
        tokens = attention.tokens
        # Without a cache, generated text follows. Text before the first image does not attend to it.
        index = torch.arange(tokens.runs.shape[1], device=tokens.runs.device)
        text = tokens.text & (index <= tokens.last[:, None])
        if self.llm_score == "value":
            return value_scores(attention.value[:, :, -text.shape[1] :], text, tokens.runs >= 0)
        return attention.by_rows(text & ((tokens.runs >= 0).cumsum(1) > 0))

    def count(self, n: int, of: int, grid: tuple[int, int] | None = None) -> int:
        if n == 0:
            return 0
        return keep_count(n, self.share) if self.of_all is None else min(n, keep_count(of, self.of_all))

    def _for_each(self, units: Units) -> list[MergeStep]:
        """The step with the budget of each segment."""
        if self.complexity is None or units.complexity is None or self.of_all is None:
            return [self] * len(units.lengths)
        factors = [budget_factor(value, self.complexity) for value in units.complexity]
        return [replace(self, of_all=min(1.0, factor * self.of_all)) for factor in factors]

    def reduce(self, units: Units) -> MergedSegments | None:
        return self._whole(units)

    def _whole(self, units: Units) -> MergedSegments | None:
        counts = [
            step.count(n, before)
            for step, n, before in zip(self._for_each(units), units.lengths, units.full, strict=True)
        ]
        in_encoder = units.tokens is None
        seen = observed(self.encoder_score, units) if in_encoder else (units.scores,)
        # Last, for the reducer: at most one of them is given.
        seen = (*seen, *(part for part in (units.rotary, units.halfway) if part is not None))
        return reduce_segments(
            partial(self._reduce, in_encoder),
            units.lengths,
            counts,
            units.vectors,
            *seen,
            sizes=units.weights if self.proportional else units.sizes,
        )

    def _reduce(
        self, in_encoder: bool, p: int, units: Tensor, *given: Tensor, sizes: Tensor | None = None
    ) -> Merged:
        first = p - min(p - 1, round(self.two_depths * p)) if in_encoder else p
        if in_encoder:
            given, halfway = (given[:-1], given[-1]) if self.two_depths else (given, units)
            scores = encoder_scores(self.encoder_score, units, *given, sinks=self.sinks)
        else:
            scores = given[0]
        options: dict[str, Any] = {
            "reduce": self.reduction,
            "recycle": self.recycle,
            "neighbours": self.neighbours,
            "similarity": self.similarity,
            "sizes": sizes,
            "counted": self.reduction == "fold",
        }
        if self.select in ("diverse", "coverage") and self.score_power != 1:
            scores = scores**self.score_power
        if self.rotary_keep and not in_encoder:
            # Before all others, and among themselves by score.
            above = scores.amax(1, keepdim=True) - scores.amin(1, keepdim=True) + 1
            scores = torch.where(anchors(given[1], self.rotary_keep), scores + above, scores)
        if self.select == "diverse" and first == p:
            return merge_diverse(units, scores, p, **options)
        ranking = self._ranked(units, scores, first, sizes)
        if first < p:
            ranking = two_depths_ranking(units, halfway, ranking, first, p)
        return merge(units, ranking, p, **options)

    def _ranked(self, units: Tensor, scores: Tensor, p: int, sizes: Tensor | None) -> Tensor:
        """(S, n) values by which the units are ranked; the p with the highest values are kept."""
        if self.select == "diverse":
            return diverse_ranking(units, scores, p)
        if self.select == "coverage":
            return coverage_ranking(units, scores, p, sizes)
        if self.select == "highest":
            return scores
        if self.select == "lowest":
            return -scores
        # Depends on length and seed only, so the result of a prompt does not depend on the rest of its batch.
        random = torch.rand(scores.shape[1], generator=torch.Generator().manual_seed(self.seed))
        return upload(random, scores.device).to(scores.dtype).expand_as(scores)
