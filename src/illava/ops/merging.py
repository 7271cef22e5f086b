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

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .precision import full_precision
from .reductions import SIMILARITIES as SIMILARITIES
from .reductions import LinearMap as LinearMap
from .reductions import Similarity as Similarity
from .reductions import fold, gather_units, rank_weighted_mean, recycling, row_index
from .transfers import upload

Reduce = Literal["recycle", "drop", "weighted", "fold"]
REDUCTIONS: tuple[str, ...] = get_args(Reduce)


class Merged(NamedTuple):
    """The result of a merge step on S segments of equal size."""

    units: Tensor
    """(S, p, D), dtype of the input: the survivors in their original order."""
    kept: Tensor
    """(S, p) int64: index of each survivor in its segment, ascending."""
    sizes: Tensor | None = None
    """(S, p) fp32: how many units each survivor stands for; None where sizes are not tracked."""
    linear_map: LinearMap | None = None
    """The map from the input units to ``units``; None where survivors are unchanged."""


class MergedSegments(NamedTuple):
    """The result of a merge step on consecutive segments of any size."""

    units: Tensor
    """(P, D), dtype of the input: the survivors of all segments, in their original order."""
    kept: Tensor
    """(P,) int64: index of each survivor among all input units, ascending."""
    lengths: tuple[int, ...]
    """Number of survivors of each segment."""
    sizes: Tensor | None = None
    """(P,) fp32: how many units each survivor stands for; None where sizes are not tracked."""
    blocks: tuple[Block, ...] = ()
    """How the survivors were made of the input units; see :func:`illava.ops.merge_weights.merge_weights`."""


class Block(NamedTuple):
    """Segments of equal size that were merged together."""

    rows: Tensor
    """(S, n) int64: index of each of their units among all input units."""
    survivors: Tensor
    """(S, p) int64: index of each of their survivors among all survivors."""
    linear_map: LinearMap | None
    """As in :class:`Merged`."""


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
        return Merged(*fold(units, order, p, similarity, sizes))
    kept = order[:, :p].sort(dim=1).values
    kept_sizes = None if sizes is None else sizes.gather(1, kept)
    if reduce == "drop":
        return Merged(gather_units(units, kept), kept, kept_sizes)
    if reduce == "recycle":
        changed = order[:, p - recycler_count(p, recycle) : p]
        change = recycling(units.float(), changed, order[:, p:], neighbours, similarity)
    elif reduce == "weighted":
        changed, lowest = order[:, p - 1 : p], order[:, p - 1 :]

        def change(x: Tensor) -> Tensor:
            return rank_weighted_mean(gather_units(x, lowest))

    else:
        raise ValueError(f"reduce must be one of {', '.join(REDUCTIONS)}, got {reduce!r}")
    survivors = units.scatter(1, row_index(changed, units), change(units.float()).to(units.dtype))

    def linear_map(x: Tensor) -> Tensor:
        return gather_units(x.scatter(1, row_index(changed, x), change(x)), kept)

    return Merged(gather_units(survivors, kept), kept, kept_sizes, linear_map)


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


@full_precision
def reduce_segments(
    reducer: Callable[..., Merged],
    lengths: Sequence[int],
    counts: Sequence[int],
    units: Tensor,
    *more: Tensor,
    sizes: Tensor | None = None,
) -> MergedSegments | None:
    """Apply ``reducer`` to each of several consecutive segments, once for all segments of equal size.

    Args:
        reducer: ``reducer(p, units, *more)`` with units (S, n, D), the others (S, n, ...) and 1 <= p < n.
        lengths: number of units of each segment, summing to T.
        counts: number of survivors of each segment; 0 only for empty segments.
        units: (T, D), the segments one after the other.
        more: (T, ...), further tensors with one entry per unit, passed on to the reducer.
        sizes: (T,) fp32, how many units each unit already stands for. The reducer gets them as ``sizes=``
            and returns the sizes of the survivors.

    Returns None when every segment keeps all of its units. Raises ValueError for shapes that do not match.
    """
    if units.dim() != 2 or sum(lengths) != len(units):
        raise ValueError(
            f"units must be (T, D) and lengths sum to T, got {tuple(units.shape)} and the sum {sum(lengths)}"
        )
    if len(counts) != len(lengths) or any(
        min(n, 1) > p or p > n for n, p in zip(lengths, counts, strict=True)
    ):
        raise ValueError(f"counts must lie between 1 and the lengths {tuple(lengths)}, got {tuple(counts)}")
    if tuple(counts) == tuple(lengths):
        return None
    starts = [0]
    for n in lengths:
        starts.append(starts[-1] + n)
    values: list[Tensor] = [units[:0]] * len(lengths)
    kept: list[Tensor] = [torch.empty(0, dtype=torch.int64, device=units.device)] * len(lengths)
    kept_sizes: list[Tensor] = [units.new_empty(0, dtype=torch.float32)] * len(lengths)
    ends = [0, *accumulate(counts)]
    blocks = []
    for n, p in sorted(set(zip(lengths, counts, strict=True))):
        if n == 0:
            continue
        members = [i for i, pair in enumerate(zip(lengths, counts, strict=True)) if pair == (n, p)]
        offsets = upload([starts[i] for i in members], units.device)
        rows = offsets[:, None] + torch.arange(n, device=units.device)
        if p == n:
            block = Merged(units[rows], rows - offsets[:, None], None if sizes is None else sizes[rows])
        else:
            sized = {} if sizes is None else {"sizes": sizes[rows]}
            block = reducer(p, units[rows], *(part[rows] for part in more), **sized)
        places = upload([ends[i] for i in members], units.device)
        blocks.append(Block(rows, places[:, None] + torch.arange(p, device=units.device), block.linear_map))
        for position, i in enumerate(members):
            values[i] = block.units[position]
            kept[i] = block.kept[position] + starts[i]
            if block.sizes is not None:
                kept_sizes[i] = block.sizes[position]
    return MergedSegments(
        torch.cat(values),
        torch.cat(kept),
        tuple(counts),
        None if sizes is None else torch.cat(kept_sizes),
        tuple(blocks),
    )
