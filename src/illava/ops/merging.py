"""One merge step: which units of a segment stay, and what the dropped ones leave behind.

Pure tensor functions, no model in sight. Vocabulary as in the paper's method (arXiv 2412.06263):
a *unit* is what is kept or dropped as a whole (one token, or the g neighbouring tokens that a later
layer folds into one), a *segment* is the set of units among which a choice is made, a *score* says how
much a unit is worth keeping (higher = keep). Similarities, softmax and scores are fp32 whatever the
dtype of the units, under autocast and TF32 too; the result returns to that dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .precision import full_precision

Reduce = Literal["recycle", "drop", "weighted", "fold"]
REDUCTIONS: tuple[str, ...] = get_args(Reduce)
Similarity = Literal["dot", "cosine"]
SIMILARITIES: tuple[str, ...] = get_args(Similarity)


Mix = Callable[[Tensor], Tensor]
"""(S, n, E) fp32, a row for each unit, to (S, p, E), one for each survivor: a linear map, chosen already."""


class Merged(NamedTuple):
    """What a merge step leaves of S segments of equal size."""

    units: Tensor
    """(S, p, D), dtype of the input: the surviving units in their original order."""
    kept: Tensor
    """(S, p) int64: index of each survivor in its segment, ascending."""
    sizes: Tensor | None = None
    """(S, p) fp32: how many units each of them now stands for, where that was counted."""
    linear_map: Mix | None = None
    """How ``units`` came of those that were handed in; None where survivors stay what they are."""


class MergedSegments(NamedTuple):
    """What a merge step leaves of consecutive segments of any size."""

    units: Tensor
    """(P, D), dtype of the input: the survivors of all segments, in their original order."""
    kept: Tensor
    """(P,) int64: index of each survivor among all units handed in, ascending."""
    lengths: tuple[int, ...]
    """Number of survivors of each segment."""
    sizes: Tensor | None = None
    """(P,) fp32: how many units each of them now stands for, where that was counted."""
    blocks: tuple[Block, ...] = ()
    """How they came of those that were handed in, for :func:`illava.ops.merge_weights.links`."""


class Block(NamedTuple):
    """Segments of equal size that were merged together."""

    rows: Tensor
    """(S, n) int64: their units among all that were handed in."""
    survivors: Tensor
    """(S, p) int64: theirs among all survivors."""
    linear_map: Mix | None
    """As in :class:`Merged`."""


def keep_count(n: int, keep: float) -> int:
    """Units that survive of ``n`` at keep ratio ``keep``: max(1, round(keep * n)), never more than n.

    ``round`` is Python's, half to even. Raises ValueError for n < 1 or keep outside (0, 1].
    """
    if n < 1:
        raise ValueError(f"a segment needs at least one unit, got n={n}")
    if not 0 < keep <= 1:
        raise ValueError(f"keep must lie in (0, 1], got {keep}")
    return min(n, max(1, round(keep * n)))


def recycler_count(p: int, recycle: float) -> int:
    """How many of ``p`` survivors recycle: min(p, max(1, round(recycle * p)))."""
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
) -> Merged:
    """Reduce S segments of n units each to p units each.

    Args:
        units: (S, n, D), any floating dtype. D is g * d for units of g tokens.
        scores: (S, n), higher = keep. Equal scores keep their order (the earlier unit ranks higher).
        p: units that survive, 1 <= p < n.
        reduce: ``"recycle"``: the c lowest-scored survivors each take the mean of themselves and a
            softmax(<x_j, x_i> / sqrt(D))-weighted sum of the ``neighbours`` dropped units most similar
            to them. ``"weighted"``: the n - p + 1 lowest-scored units become one, at the place of the
            highest-scored of them, weights falling with rank. ``"drop"``: the p highest-scored stay as
            they are. ``"fold"``: every dropped unit joins the survivor it is most similar to, which becomes
            the mean of all that it stands for, weighted by size.
        recycle: share of the survivors that recycle (at least one does).
        neighbours: how many dropped units a recycler takes in, at most.
        similarity: ``"dot"`` products, or ``"cosine"``, by which softmax weights hardly differ.
        sizes: (S, n) fp32, how many units each stands for already; then those of the survivors come back.
            Only ``"fold"`` changes them.

    Raises ValueError for shapes that do not fit, p outside [1, n), neighbours < 1 or an unknown
    ``reduce``.
    """
    if units.dim() != 3 or scores.shape != units.shape[:2]:
        raise ValueError(
            f"units must be (S, n, D) and scores (S, n), got {tuple(units.shape)} and {tuple(scores.shape)}"
        )
    n = units.shape[1]
    if not 1 <= p < n:
        raise ValueError(f"a merge step must keep between 1 and {n - 1} of {n} units, got p={p}")
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours}")
    order = scores.float().argsort(dim=1, descending=True, stable=True)
    if reduce == "fold":
        return _fold(units, order, p, similarity, sizes)
    kept = order[:, :p].sort(dim=1).values
    counted = None if sizes is None else sizes.gather(1, kept)
    if reduce == "drop":
        return Merged(_gather(units, kept), kept, counted)
    if reduce == "recycle":
        changed = order[:, p - recycler_count(p, recycle) : p]
        change = _recycling(units.float(), changed, order[:, p:], neighbours, similarity)
    elif reduce == "weighted":
        changed, lowest = order[:, p - 1 : p], order[:, p - 1 :]

        def change(x: Tensor) -> Tensor:
            return _rank_weighted_mean(_gather(x, lowest))

    else:
        raise ValueError(f"reduce must be one of {', '.join(REDUCTIONS)}, got {reduce!r}")
    survivors = units.scatter(1, _rows(changed, units), change(units.float()).to(units.dtype))

    def linear_map(x: Tensor) -> Tensor:
        return _gather(x.scatter(1, _rows(changed, x), change(x)), kept)

    return Merged(_gather(survivors, kept), kept, counted, linear_map)


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
        counts: units that survive of each segment, by :func:`keep_count`; 0 only for empty segments.
        reduce, recycle, neighbours, similarity: as in :func:`merge`.
        sizes: (T,) fp32, how many units each stands for already, where that is counted.

    Returns None when every segment keeps all of its units: then nothing may change, not one bit.
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
        raise ValueError(f"need one score a unit, got {tuple(units.shape)} and {tuple(scores.shape)}")
    return reduce_segments(reducer, lengths, counts, units, scores, sizes=sizes)


@full_precision
def reduce_segments(
    reducer: Callable[..., Merged],
    lengths: Sequence[int],
    counts: Sequence[int],
    units: Tensor,
    *more: Tensor,
    sizes: Tensor | None = None,
) -> MergedSegments | None:
    """Apply ``reducer`` to each of several consecutive segments, those of equal size together.

    Args:
        reducer: ``reducer(p, units, *more)`` with units (S, n, D), the others (S, n, ...) and 1 <= p < n.
        lengths: number of units of each segment, summing to T.
        counts: units that survive of each segment, 0 only for empty ones.
        units: (T, D), the segments one after the other.
        more: (T, ...), whatever else is known of each unit.
        sizes: (T,) fp32, how many units each already stands for; the reducer is handed theirs as
            ``sizes=`` and returns those of the survivors.

    Returns None when every segment keeps all of its units. Raises ValueError for sizes that do not fit.
    """
    if units.dim() != 2 or sum(lengths) != len(units):
        raise ValueError(
            f"units must be (T, D) and lengths sum to T, got {tuple(units.shape)} and a sum of {sum(lengths)}"
        )
    if len(counts) != len(lengths) or any(
        min(n, 1) > p or p > n for n, p in zip(lengths, counts, strict=True)
    ):
        raise ValueError(f"counts must lie between 1 and the segments' {tuple(lengths)}, got {tuple(counts)}")
    if tuple(counts) == tuple(lengths):
        return None
    starts = [0]
    for n in lengths:
        starts.append(starts[-1] + n)
    values: list[Tensor] = [units[:0]] * len(lengths)
    kept: list[Tensor] = [torch.empty(0, dtype=torch.int64, device=units.device)] * len(lengths)
    counted: list[Tensor] = [units.new_empty(0, dtype=torch.float32)] * len(lengths)
    ends = [0, *accumulate(counts)]
    blocks = []
    for n, p in sorted(set(zip(lengths, counts, strict=True))):
        if n == 0:
            continue
        members = [i for i, pair in enumerate(zip(lengths, counts, strict=True)) if pair == (n, p)]
        offsets = torch.tensor([starts[i] for i in members], device=units.device)
        rows = offsets[:, None] + torch.arange(n, device=units.device)
        if p == n:
            block = Merged(units[rows], rows - offsets[:, None], None if sizes is None else sizes[rows])
        else:
            held = {} if sizes is None else {"sizes": sizes[rows]}
            block = reducer(p, units[rows], *(part[rows] for part in more), **held)
        places = torch.tensor([ends[i] for i in members], device=units.device)
        blocks.append(Block(rows, places[:, None] + torch.arange(p, device=units.device), block.linear_map))
        for position, i in enumerate(members):
            values[i] = block.units[position]
            kept[i] = block.kept[position] + starts[i]
            if block.sizes is not None:
                counted[i] = block.sizes[position]
    return MergedSegments(
        torch.cat(values),
        torch.cat(kept),
        tuple(counts),
        None if sizes is None else torch.cat(counted),
        tuple(blocks),
    )


def _recycling(
    units: Tensor, recyclers: Tensor, redundant: Tensor, neighbours: int, similarity: Similarity
) -> Mix:
    """What becomes of the ``recyclers`` (S, c) among (S, n, D) fp32 units, which take in ``redundant`` ones
    (S, m): a map from (S, n, E) to (S, c, E)."""
    x, y = _gather(units, recyclers), _gather(units, redundant)
    products = _measured(x, similarity) @ _measured(y, similarity).transpose(1, 2)
    # A stable sort rather than topk: among equal similarities the choice must not depend on the kernel.
    top, nearest = products.sort(dim=2, descending=True, stable=True)
    m = min(neighbours, y.shape[1])
    weights = (top[..., :m] / x.shape[-1] ** 0.5).softmax(-1).unsqueeze(-1)
    segment = torch.arange(len(y), device=y.device)[:, None, None]
    taken = redundant[segment, nearest[..., :m]]

    def change(x: Tensor) -> Tensor:
        recycled: Tensor = (_gather(x, recyclers) + (weights * x[segment, taken]).sum(2)) / 2
        return recycled

    return change


def _measured(units: Tensor, similarity: Similarity) -> Tensor:
    """(S, n, D) fp32 to vectors whose products are the similarity."""
    return torch.nn.functional.normalize(units, dim=-1) if similarity == "cosine" else units


def _fold(units: Tensor, order: Tensor, p: int, similarity: Similarity, sizes: Tensor | None) -> Merged:
    """The first p of ``order``, each the size-weighted mean of itself and the dropped ones nearest to it."""
    kept, gone = order[:, :p].sort(dim=1).values, order[:, p:]
    x = units.float()
    weights = torch.ones_like(x[..., 0]) if sizes is None else sizes
    # Similarity chooses alone: no gradient goes through it.
    measured = _measured(x.detach(), similarity)
    products = _gather(measured, gone) @ _gather(measured, kept).transpose(1, 2)
    # The first of equally near survivors, whatever the kernel.
    nearest = products.sort(dim=2, descending=True, stable=True).indices[..., 0]
    size = weights.gather(1, kept).scatter_add(1, nearest, weights.gather(1, gone))

    def linear_map(x: Tensor) -> Tensor:
        total = _gather(x, kept) * weights.gather(1, kept)[..., None]
        joining = _gather(x, gone) * weights.gather(1, gone)[..., None]
        mean: Tensor = total.scatter_add(1, _rows(nearest, x), joining) / size[..., None]
        return mean

    # Who took in nobody stays what it is, bit for bit.
    alone = (size == weights.gather(1, kept))[..., None]
    values = torch.where(alone, _gather(units, kept), linear_map(x).to(units.dtype))
    return Merged(values, kept, None if sizes is None else size, linear_map)


def _rank_weighted_mean(lowest: Tensor) -> Tensor:
    """(S, m, D) units, highest-scored first, to (S, 1, D) fp32: weight 1 for the first, m for the last."""
    ranks = torch.arange(1, lowest.shape[1] + 1, device=lowest.device, dtype=torch.float32)
    return ((ranks / ranks.sum())[None, :, None] * lowest.float()).sum(1, keepdim=True)


def _rows(index: Tensor, units: Tensor) -> Tensor:
    return index.unsqueeze(-1).expand(-1, -1, units.shape[-1])


def _gather(units: Tensor, index: Tensor) -> Tensor:
    taken: Tensor = units.gather(1, _rows(index, units))
    return taken
