"""One merge step: which units of a segment are kept, and what the survivors absorb of the dropped ones.

Pure tensor functions that know no model. The terms follow the paper (arXiv 2412.06263):

- A *unit* is kept or dropped as a whole: one token, or the g neighbouring tokens that a later layer merges
  into one.
- A *segment* is the set of units among which a step chooses.
- A *score* ranks the units of a segment; the highest-scored are kept.

Similarities, softmax and scores are computed in fp32 whatever the dtype of the units, also under autocast and
TF32. The result has the dtype of the units. The rules for dropped units are in :mod:`illava.ops.reductions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor

from . import kernel_merging, kernels
from .graphs import captured
from .precision import full_precision
from .reductions import SIMILARITIES as SIMILARITIES
from .reductions import LinearMap as LinearMap
from .reductions import Merged as Merged
from .reductions import Similarity as Similarity
from .reductions import fold, gather_units, rank_weighted_mean, recycling, row_index
from .segments import MergedSegments as MergedSegments
from .segments import reduce_segments as reduce_segments
from .selection import (
    chooses_in_memory,
    directions_of,
    diverse_ranking,
    nearest_in_memory,
    pairwise_distances,
    ranking_by_operations,
    ranking_in_memory,
    select_diverse,
)

Reduce = Literal["recycle", "drop", "weighted", "fold"]
REDUCTIONS: tuple[str, ...] = get_args(Reduce)
KERNEL_REDUCTIONS = ("recycle", "fold")
"""The reductions that :mod:`illava.ops.kernels` implements; the others are few operations."""


def keep_count(n: int, keep: float) -> int:
    """Number of survivors of ``n`` units at keep ratio ``keep``: max(1, round(keep * n)), at most n.

    ``round`` is Python's, which rounds half to even. Raises ValueError for n < 1 or keep outside (0, 1].
    """
    if n < 1:
        raise ValueError(f"a segment needs at least one unit, got n={n}")
    if not 0 < keep <= 1:
        raise ValueError(f"keep must lie in (0, 1], got {keep}")
    return min(n, max(1, round(keep * n)))


def recycler_count(p: int, recycle: float) -> int:
    """Number of the ``p`` survivors that recycle: min(p, max(1, round(recycle * p)))."""
    return min(p, max(1, round(recycle * p)))


@full_precision
def merge(
    units: Tensor,
    scores: Tensor,
    p: int,
    *,
    reduce: Reduce = "recycle",
    recycle: float = 0.05,
    neighbours: int = 5,
    similarity: Similarity = "dot",
    sizes: Tensor | None = None,
    counted: bool = False,
) -> Merged:
    """Reduce S segments of n units each to p units each.

    Args:
        units: (S, n, D), any floating dtype. D is g * d for units of g tokens.
        scores: (S, n), higher = keep. Of equal scores the earlier unit ranks higher.
        p: number of survivors of each segment, 1 <= p < n.
        reduce: what happens to the other units.
            ``"recycle"``: each of the c lowest-scored survivors becomes the mean of itself and a
            softmax(<x_j, x_i> / sqrt(D))-weighted sum of the ``neighbours`` dropped units most similar to it.
            ``"weighted"``: the n - p + 1 lowest-scored units become one, at the place of the highest-scored
            of them, with weights that grow from the highest-scored to the lowest-scored.
            ``"drop"``: they are lost.
            ``"fold"``: every dropped unit is merged into its most similar survivor, which becomes the mean
            of itself and the units merged into it, weighted by size.
        recycle: share of the survivors that recycle (at least one does).
        neighbours: number of dropped units that a recycler absorbs, at most.
        similarity: ``"dot"`` products, or ``"cosine"``, whose softmax weights are nearly uniform.
        sizes: (S, n) fp32, how many units each unit already stands for. If given, the sizes of the survivors
            are returned. Only ``"fold"`` changes them.
        counted: whether ``"fold"`` returns sizes even if none are given; each unit then counts as one.

    Raises ValueError for shapes that do not fit, p outside [1, n), neighbours < 1 or an unknown
    ``reduce``.
    """
    _check(units, scores, p)
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours}")
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be one of {', '.join(REDUCTIONS)}, got {reduce!r}")
    rule = _Rule(reduce, recycle, neighbours, similarity, counted)
    if reduce not in KERNEL_REDUCTIONS:
        return _by_operations(units, scores, sizes, p, rule)
    if kernels.enabled(units, scores):
        return _by_kernels(units, scores, sizes, p, rule)
    return _captured_merge(units, scores, sizes, p, rule)


class _Rule(NamedTuple):
    """The options of :func:`merge`."""

    reduce: Reduce
    recycle: float = 0.05
    neighbours: int = 5
    similarity: Similarity = "dot"
    counted: bool = False


def _check(units: Tensor, scores: Tensor, p: int) -> None:
    if units.dim() != 3 or scores.shape != units.shape[:2]:
        raise ValueError(
            f"units must be (S, n, D) and scores (S, n), got {tuple(units.shape)} and {tuple(scores.shape)}"
        )
    n = units.shape[1]
    if not 1 <= p < n:
        raise ValueError(f"a merge step must keep between 1 and {n - 1} of {n} units, got p={p}")


@full_precision
def merge_diverse(
    units: Tensor,
    scores: Tensor,
    p: int,
    *,
    sizes: Tensor | None = None,
    counted: bool = False,
    **options: Any,
) -> Merged:
    """As :func:`merge`, with the units ranked by :func:`illava.ops.selection.diverse_ranking`.

    It takes less than the two functions, since the selection already knows which survivor each unit is most
    similar to. On a CPU, copies (:data:`illava.ops.selection.TIE`) of several survivors go to the first.

    Args:
        units: (S, n, D), any floating dtype.
        scores: (S, n) fp32, not negative.
        p, sizes, counted, options: as for :func:`merge`.

    Raises ValueError as :func:`merge` does.
    """
    _check(units, scores, p)
    if options.get("reduce") == "fold" and options.get("similarity") == "cosine":
        if kernels.enabled(units, scores):
            found = select_diverse(units, scores, p)
            return Merged(*kernel_merging.fold(units, found.kept, found.target, sizes, counted=counted))
        return _captured_diverse_fold(units, scores, sizes, p, counted)
    ranking = diverse_ranking(units, scores, p)
    return merge(units, ranking, p, sizes=sizes, counted=counted, **options)


@full_precision
def merge_segments(
    units: Tensor,
    scores: Tensor,
    lengths: Sequence[int],
    counts: Sequence[int],
    *,
    reduce: Reduce = "recycle",
    recycle: float = 0.05,
    neighbours: int = 5,
    similarity: Similarity = "dot",
    sizes: Tensor | None = None,
) -> MergedSegments | None:
    """Reduce each of several consecutive segments to its own number of units.

    Args:
        units: (T, D), the segments one after the other.
        scores: (T,), higher = keep; compared within a segment only.
        lengths: number of units of each segment, summing to T. Segments of equal length are merged
            together in one call.
        counts: number of survivors of each segment, see :func:`keep_count`; 0 only for empty segments.
        reduce, recycle, neighbours, similarity: as in :func:`merge`.
        sizes: (T,) fp32, how many units each unit already stands for; None where sizes are not tracked.

    Returns None when every segment keeps all of its units, so that the caller changes nothing.
    """

    def reducer(p: int, units: Tensor, scores: Tensor, sizes: Tensor | None = None) -> Merged:
        return merge(
            units,
            scores,
            p,
            reduce=reduce,
            recycle=recycle,
            neighbours=neighbours,
            similarity=similarity,
            sizes=sizes,
        )

    if scores.shape != units.shape[:1]:
        raise ValueError(
            f"scores must be (T,), one per unit, got {tuple(scores.shape)} for units {tuple(units.shape)}"
        )
    return reduce_segments(reducer, lengths, counts, units, scores, sizes=sizes)


def _by_kernels(units: Tensor, scores: Tensor, sizes: Tensor | None, p: int, rule: _Rule) -> Merged:
    """:func:`merge` with the kernels of :mod:`illava.ops.kernels`."""
    order = scores.float().argsort(dim=1, descending=True, stable=True)
    kept = order[:, :p].sort(dim=1).values
    if rule.reduce == "fold":
        return Merged(
            *kernel_merging.fold_most_similar(units, kept, rule.similarity, sizes, counted=rule.counted)
        )
    recyclers = recycler_count(p, rule.recycle)
    return Merged(
        *kernel_merging.recycle(units, order, kept, recyclers, rule.neighbours, rule.similarity, sizes)
    )


def _by_operations(units: Tensor, scores: Tensor, sizes: Tensor | None, p: int, rule: _Rule) -> Merged:
    """:func:`merge` with PyTorch operations."""
    order = scores.float().argsort(dim=1, descending=True, stable=True)
    if rule.reduce == "fold":
        return Merged(*fold(units, order, p, rule.similarity, sizes, counted=rule.counted))
    kept = order[:, :p].sort(dim=1).values
    kept_sizes = None if sizes is None else sizes.gather(1, kept)
    if rule.reduce == "drop":
        return Merged(gather_units(units, kept), kept, kept_sizes)
    if rule.reduce == "recycle":
        changed = order[:, p - recycler_count(p, rule.recycle) : p]
        change = recycling(units.float(), changed, order[:, p:], rule.neighbours, rule.similarity)
    else:
        changed, lowest = order[:, p - 1 : p], order[:, p - 1 :]

        def change(x: Tensor) -> Tensor:
            return rank_weighted_mean(gather_units(x, lowest))

    survivors = units.scatter(1, row_index(changed, units), change(units.float()).to(units.dtype))

    def linear_map(x: Tensor) -> Tensor:
        return gather_units(x.scatter(1, row_index(changed, x), change(x)), kept)

    return Merged(gather_units(survivors, kept), kept, kept_sizes, linear_map)


def _diverse_fold(units: Tensor, scores: Tensor, sizes: Tensor | None, p: int, counted: bool) -> Merged:
    if chooses_in_memory(units):
        # Distances that the selection needs also tell which survivor is nearest.
        distances = pairwise_distances(directions_of(units))
        order = ranking_in_memory(distances, scores, p).argsort(dim=1, descending=True, stable=True)
        nearest = partial(nearest_in_memory, distances)
        return Merged(*fold(units, order, p, "cosine", sizes, counted=counted, nearest=nearest))
    ranking = ranking_by_operations(units, scores, p)
    return _by_operations(units, ranking, sizes, p, _Rule("fold", similarity="cosine", counted=counted))


_captured_merge, _captured_diverse_fold = captured(_by_operations), captured(_diverse_fold)
