"""SparseVLM: keep the visual tokens that relevant text attends to, in three steps (arXiv 2410.04417).

Raters are the text tokens after the first picture whose relevance to the visual embeddings is above average.
At three layers of the LLM, the score of a visual token is the raters' attention to it, averaged over heads
and raters. The higher-scored of the dropped tokens are clustered, and each cluster is replaced by its mean.

Choices made where the paper and its code leave one, or where a library needs another behaviour:

* The softmax and the mean relevance are over the text tokens after the first picture, and the visual tokens
  are those of all pictures in the prompt. If there is no rater, the last prompt token is the rater.
* The means of clusters take the last indices of dropped tokens in their run, in the order of the clusters'
  centres. Kept tokens keep their indices, so a mean may come before some of them.
* ``keep`` counts kept tokens and clusters at the end. Three patterns are published, named by the average
  number of tokens that they leave (192, 128, 64 of 576). Between these patterns, 0 and 576, the counts after
  each step (clusters included) are interpolated linearly in the final count. The number of kept tokens is the
  largest that fits the count together with its clusters. At least one token is kept; if the formula's
  clusters do not fit, there are fewer of them.
* The neighbours of a point do not include the point itself. Of equally dense points, the one with the lower
  index counts as denser, so that only one of several copies becomes a centre.
* Means are unweighted: the specification does not include the published weights of merged tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..models.located import LocatedModules
from ..ops.graphs import captured
from ..ops.merging import Merged, MergedSegments, reduce_segments
from .after_encoder import survivors, take
from .base import Method
from .checks import check_layers, check_share
from .density_peaks import cluster_shares
from .llm_layers import allowed_layers, carry_over, check_llm_layers
from .steps import LlmAttention, LlmStep, Plan, Tokens, Units

PUBLISHED_LAYERS, PUBLISHED_DEPTH = (2, 6, 15), 32
# Of 576: 66 + 16, 30 + 2, 17 + 1; 303 + 9, 110 + 7, 36 + 3; 300 + 9, 200 + 4, 110 + 3 tokens and clusters.
PUBLISHED_COUNTS = ((82, 32, 18), (312, 117, 39), (309, 204, 113))
PUBLISHED_TOKENS = 576
PUBLISHED_KEEP = 113 / 576
NEIGHBOURS = 5


@dataclass(frozen=True)
class SparseVLM(Method):
    """Keep the visual tokens that relevant text tokens attend to, and cluster means of the others.

    Args:
        layers: three decoder layers (0-based) whose attention gives the scores; tokens are dropped after each
            of them, that is, before the next layer. None: 2, 6, 15 of 32, scaled to the LLM's depth; an LLM
            too shallow for three steps runs the last of them.
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
                raise ValueError(
                    f"layers must be three layers, or None for the published ones, got {self.layers}"
                )
        if self.keep is not None:
            object.__setattr__(self, "keep", check_share("keep", self.keep))

    def plan(self, modules: LocatedModules) -> Plan:
        if self.layers is None:
            # The scores come from the layer before the one at which tokens are dropped.
            allowed = [layer - 1 for layer in allowed_layers(modules, "before")]
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
    fraction = (final - below[-1]) / (above[-1] - below[-1])
    first, second = (
        min(1.0, max(keep, (low + fraction * (high - low)) / PUBLISHED_TOKENS))
        for low, high in zip(below[:-1], above[:-1], strict=True)
    )
    return first, second, keep


def recycled_count(dropped: int) -> int:
    """Number of dropped tokens that are clustered: int(0.3 * dropped) + 1, for ``dropped`` >= 1."""
    return 3 * dropped // 10 + 1


def split_count(n: int, count: int) -> tuple[int, int]:
    """How many of ``n`` tokens are kept and how many clusters are added, ``count`` < n together.

    d dropped tokens form int(recycled_count(d) / 10) + 1 clusters, if at least one token can still be kept.
    """
    for kept in range(count - 1, 0, -1):
        if kept + recycled_count(n - kept) // 10 + 1 <= count:
            return kept, count - kept
    return 1, count - 1


@dataclass(frozen=True)
class RatedStep(LlmStep):
    """One step: keep tokens by the raters' attention, and cluster dropped ones."""

    keep: float
    """Share of the tokens that a segment had before any step, clusters included."""

    @property
    def keeps_all(self) -> bool:
        return self.keep >= 1

    def enter(self, tokens: Tokens) -> Tensor:
        """(B, L) bool: which columns of the full prompt are raters."""
        is_rater = raters(tokens)
        table = is_rater.new_zeros(len(is_rater), int(tokens.columns.max()) + 1)
        rows, at = is_rater.nonzero(as_tuple=True)
        table[rows, tokens.columns[rows, at]] = True
        return table

    def observe_llm(self, attention: LlmAttention, context: Any) -> Tensor:
        # Text is never dropped, so all raters are present; look them up by column.
        columns = attention.tokens.columns
        rows = context.to(columns.device).gather(1, columns.clamp(min=0)) & (columns >= 0)
        return attention.by_rows(rows)

    def reduce(self, units: Units) -> MergedSegments | None:
        counts = units.counts(self.keep)
        return reduce_segments(recycle_clusters, units.lengths, counts, units.vectors, units.scores)


def raters(tokens: Tokens) -> Tensor:
    """The text tokens that score the visual tokens, selected by the input embeddings of the LLM.

    A text token t after the first picture is a rater if m_t > mean(m), where m_t is the mean of
    softmax_t(<v, t>) over all visual tokens v of the prompt, in fp32. If there is none, the last prompt token
    is the rater.

    Returns (B, n) bool.
    """
    visual = tokens.runs >= 0
    index = torch.arange(visual.shape[1], device=visual.device)
    # Without a cache, generated tokens follow the prompt.
    candidates = tokens.text & (visual.cumsum(1) > 0) & (index <= tokens.last[:, None])
    is_rater = torch.zeros_like(visual)
    for row, (hidden, is_text, is_visual) in enumerate(zip(tokens.hidden, candidates, visual, strict=True)):
        at = is_text.nonzero().flatten()
        if len(at):
            relevance = (hidden[is_visual].float() @ hidden[at].float().T).softmax(1).mean(0)
            is_rater[row, at] = relevance > relevance.mean()
    return is_rater | ((index == tokens.last[:, None]) & ~is_rater.any(1, keepdim=True))


@captured
def recycle_clusters(count: int, units: Tensor, scores: Tensor) -> Merged:
    """Keep the highest-scored of (S, n, D) units by (S, n) scores, and means of clusters of the next ones.

    They are ``count`` together, 1 <= count < n. Means take the last indices of dropped units.
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
