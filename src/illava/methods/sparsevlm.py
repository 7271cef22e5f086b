"""SparseVLM: the words of the prompt say which visual tokens stay, in three steps (arXiv 2410.04417).

Raters are the words after the first picture that the visual embeddings lean to more than to the average one.
At three layers of the LLM a visual token is worth the raters' attention to it, averaged over heads and
raters. Of the tokens that go, the better ones are clustered, and every cluster leaves its mean behind.

Decided here, where the paper and its code leave it open or a library must do otherwise:

* "Words" of the softmax and of its mean are those after the first picture; visual tokens are those of all
  pictures of the prompt. Without any rater the last prompt token rates.
* A cluster's mean takes one of the dropped tokens' places, the last ones of its run, in the order of the
  clusters' centres; so tokens that stay keep their own places, and the mean may stand before some of them.
* ``keep`` counts tokens and clusters at the end. Published are three patterns, by the tokens that they leave
  on average (192, 128, 64 of 576); between them, and on to nothing and to everything, the counts after each
  step (clusters included) are interpolated linearly in the final one. As many tokens stay as with their
  clusters make up the count; one always does, and should the clusters of the formula exceed what is left,
  there are fewer of them.
* A point's neighbours are others, not itself. Of equally dense points the earlier counts as the denser, so of
  copies only one becomes a centre.
* Means are plain ones: the published weights of merged tokens are not part of the specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..models.located import LocatedModules
from ..ops.merging import Merged, MergedSegments, reduce_segments
from .after_encoder import survivors, take
from .base import Method
from .checks import check_layers, check_share
from .density_peaks import cluster_shares
from .llm_layers import carry_over, check_llm_layers, places
from .steps import LlmAttention, LlmStep, Plan, Tokens, Units

PUBLISHED_LAYERS, PUBLISHED_DEPTH = (2, 6, 15), 32
# Of 576: 66 + 16, 30 + 2, 17 + 1; 303 + 9, 110 + 7, 36 + 3; 300 + 9, 200 + 4, 110 + 3 tokens and clusters.
PUBLISHED_COUNTS = ((82, 32, 18), (312, 117, 39), (309, 204, 113))
PUBLISHED_TOKENS = 576
PUBLISHED_KEEP = 113 / 576
NEIGHBOURS = 5


@dataclass(frozen=True)
class SparseVLM(Method):
    """Keep the visual tokens that the telling words of the prompt attend to, and means of the others.

    Args:
        layers: three decoder layers (0-based) whose attention rates; tokens are dropped after each of them,
            that is before the next layer. None: 2, 6, 15 of 32, scaled to the LLM's depth; one too shallow
            for three steps gets the last of them.
        keep: visual tokens and clusters at the end, as a share of each run of visual tokens, in (0, 1].
            None: 113 / 576, published as 192 tokens on average.

    Raises ValueError for values out of range, and from ``plan`` for layers that the model does not have.
    """

    name: ClassVar[str] = "sparsevlm"

    layers: tuple[int, ...] | None = None
    keep: float | None = None

    def __post_init__(self) -> None:
        if self.layers is not None:
            object.__setattr__(self, "layers", check_layers("layers", self.layers))
            if len(self.layers) != len(PUBLISHED_LAYERS):
                raise ValueError(f"layers must be three layers, or None for the published, got {self.layers}")
        if self.keep is not None:
            object.__setattr__(self, "keep", check_share("keep", self.keep))

    def plan(self, modules: LocatedModules) -> Plan:
        if self.layers is None:
            # The layer that rates is the one before.
            allowed = [place - 1 for place in places(modules, "before")]
            layers = carry_over(PUBLISHED_LAYERS, PUBLISHED_DEPTH, len(modules.layers), allowed)
        else:
            check_llm_layers("layers", self.layers, modules, offset=1)
            layers = list(self.layers)
        steps = [RatedStep(share) for share in shares(PUBLISHED_KEEP if self.keep is None else self.keep)]
        return Plan(llm={layer + 1: s for layer, s in zip(layers, steps[-len(layers) :], strict=True)})


def shares(keep: float) -> tuple[float, float, float]:
    """Shares of the original tokens left after each step, clusters included, for ``keep`` at the end."""
    knots = [(0, 0, 0), *PUBLISHED_COUNTS, (PUBLISHED_TOKENS,) * 3]
    final = keep * PUBLISHED_TOKENS
    below, above = next((a, b) for a, b in pairwise(knots) if final <= b[-1])
    part = (final - below[-1]) / (above[-1] - below[-1])
    first, second = (
        min(1.0, max(keep, (low + part * (high - low)) / PUBLISHED_TOKENS))
        for low, high in zip(below[:-1], above[:-1], strict=True)
    )
    return first, second, keep


def recycled_count(dropped: int) -> int:
    """Dropped tokens that are clustered: int(0.3 * dropped) + 1, of at least one dropped."""
    return 3 * dropped // 10 + 1


def split_count(n: int, count: int) -> tuple[int, int]:
    """How many of ``n`` tokens stay and how many clusters stand for others, ``count`` < n in all.

    The clusters of d dropped tokens are int(recycled_count(d) / 10) + 1, where that leaves room for a token.
    """
    for kept in range(count - 1, 0, -1):
        if kept + recycled_count(n - kept) // 10 + 1 <= count:
            return kept, count - kept
    return 1, count - 1


@dataclass(frozen=True)
class RatedStep(LlmStep):
    """One step: keep tokens by the raters' attention, recycle the dropped ones."""

    keep: float
    """Share of the tokens that a segment had before any step, clusters included."""

    @property
    def keeps_all(self) -> bool:
        return self.keep >= 1

    def enter(self, tokens: Tokens) -> Tensor:
        """(B, L) bool by column of the full prompt: the raters."""
        rating = raters(tokens)
        table = rating.new_zeros(len(rating), int(tokens.columns.max()) + 1)
        rows, at = rating.nonzero(as_tuple=True)
        table[rows, tokens.columns[rows, at]] = True
        return table

    def observe_llm(self, attention: LlmAttention, context: Any) -> Tensor:
        # Text always stays, so the raters are all there; columns tell which ones they are by now.
        columns = attention.tokens.columns
        rows = context.to(columns.device).gather(1, columns.clamp(min=0)) & (columns >= 0)
        return attention.by_rows(rows)

    def reduce(self, units: Units) -> MergedSegments | None:
        counts = units.counts(self.keep)
        return reduce_segments(recycle_clusters, units.lengths, counts, units.vectors, units.scores)


def raters(tokens: Tokens) -> Tensor:
    """Words that rate the visual tokens, by embeddings at the entry of the LLM.

    A word t after the first picture rates if m_t > mean(m), m_t the mean over all visual tokens v of the
    prompt of softmax_t(<v, t>), in fp32. Where none does, the last prompt token rates.

    Returns (B, n) bool.
    """
    visual = tokens.runs >= 0
    index = torch.arange(visual.shape[1], device=visual.device)
    # What was generated may follow the prompt, where there is no cache.
    asked = tokens.text & (visual.cumsum(1) > 0) & (index <= tokens.last[:, None])
    rating = torch.zeros_like(visual)
    for row, (hidden, words, shown) in enumerate(zip(tokens.hidden, asked, visual, strict=True)):
        at = words.nonzero().flatten()
        if len(at):
            leaning = (hidden[shown].float() @ hidden[at].float().T).softmax(1).mean(0)
            rating[row, at] = leaning > leaning.mean()
    return rating | ((index == tokens.last[:, None]) & ~rating.any(1, keepdim=True))


def recycle_clusters(count: int, units: Tensor, scores: Tensor) -> Merged:
    """Keep the best of (S, n, D) units by (S, n) scores, and cluster means of the better of the others.

    ``count`` in all, 1 <= count < n. Means stand at the last places that nobody keeps.
    """
    n = units.shape[1]
    p, clusters = split_count(n, count)
    order = scores.float().argsort(dim=1, descending=True, stable=True)
    free = order[:, p:].sort(1).values[:, n - p - clusters :]
    if not clusters:
        return survivors(units, torch.cat([order[:, :p], free], 1), free[:, :0])
    points = order[:, p : p + recycled_count(n - p)].sort(1).values
    shares = cluster_shares(take(units, points).float(), clusters, NEIGHBOURS)
    return survivors(units, order[:, :p], free, lambda x: shares @ take(x, points))
