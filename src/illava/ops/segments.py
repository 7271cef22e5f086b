"""Merge steps on several consecutive segments, which may differ in size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from .precision import full_precision
from .reductions import LinearMap, Merged


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
    tokens: Tensor | None = None
    """(P * g,) int64, ascending: index of each token of the survivors among the tokens of all input units, if
    survivors are made of tokens of several units. ``kept`` has then the unit of the first one."""


class Block(NamedTuple):
    """Segments of equal size that were merged together."""

    starts: tuple[int, ...]
    """Index of the first unit of each segment among all input units."""
    n: int
    """Units of each segment."""
    places: tuple[int, ...]
    """Index of the first survivor of each segment among all survivors."""
    p: int
    """Survivors of each segment."""
    linear_map: LinearMap | None
    """As in :class:`Merged`."""

    @property
    def rows(self) -> Tensor:
        """(S, n) int64, on the CPU: index of each of their units among all input units."""
        return torch.tensor(self.starts)[:, None] + torch.arange(self.n)

    @property
    def survivors(self) -> Tensor:
        """(S, p) int64, on the CPU: index of each of their survivors among all survivors."""
        return torch.tensor(self.places)[:, None] + torch.arange(self.p)


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
        sizes: (T,) fp32, how many units each unit already stands for. The reducer gets them as ``sizes=``.
            The sizes of the survivors are returned if the reducer returns them.

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
    starts, places = [0, *accumulate(lengths)], [0, *accumulate(counts)]
    values: list[Tensor] = [units[:0]] * len(lengths)
    kept: list[Tensor] = [torch.empty(0, dtype=torch.int64, device=units.device)] * len(lengths)
    kept_sizes: list[Tensor | None] = [None] * len(lengths)
    blocks = []
    for n, p in sorted(set(zip(lengths, counts, strict=True))):
        if n == 0:
            continue
        members = [i for i, pair in enumerate(zip(lengths, counts, strict=True)) if pair == (n, p)]
        first = [starts[i] for i in members]
        sized = {} if sizes is None else {"sizes": _taken(sizes, first, n)}
        if p == n:
            every = torch.arange(n, device=units.device).expand(len(members), -1)
            block = Merged(_taken(units, first, n), every, sized.get("sizes"))
        else:
            block = reducer(p, _taken(units, first, n), *(_taken(part, first, n) for part in more), **sized)
        blocks.append(Block(tuple(first), n, tuple(places[i] for i in members), p, block.linear_map))
        if len(members) == len(lengths):
            return _of_one_block(block, blocks[0], tuple(counts))
        for position, i in enumerate(members):
            values[i] = block.units[position]
            kept[i] = block.kept[position] + starts[i]
            if block.sizes is not None:
                kept_sizes[i] = block.sizes[position]
    return MergedSegments(
        torch.cat(values),
        torch.cat(kept),
        tuple(counts),
        _joined(kept_sizes, counts, units.device),
        tuple(blocks),
    )


def _joined(sizes: list[Tensor | None], counts: Sequence[int], device: torch.device) -> Tensor | None:
    """The sizes of all segments; those of unchanged segments are one. None if no segment has any."""
    if all(part is None for part in sizes):
        return None
    ones = (torch.ones(p, dtype=torch.float32, device=device) for p in counts)
    return torch.cat([one if part is None else part for part, one in zip(sizes, ones, strict=True)])


def _taken(values: Tensor, starts: Sequence[int], n: int) -> Tensor:
    """(T, ...) values to (S, n, ...) of the segments of n units at ``starts``; a view if these are
    consecutive."""
    first = starts[0]
    if list(starts) == [first + i * n for i in range(len(starts))]:
        return values[first : first + len(starts) * n].reshape(len(starts), n, *values.shape[1:])
    return torch.stack([values[start : start + n] for start in starts])


def _of_one_block(merged: Merged, block: Block, counts: tuple[int, ...]) -> MergedSegments:
    """The result if all segments are of equal size."""
    kept = merged.kept
    if len(counts) > 1:
        offsets = torch.arange(0, len(counts) * block.n, block.n, device=kept.device)
        kept = kept + offsets[:, None]
    sizes = None if merged.sizes is None else merged.sizes.flatten()
    return MergedSegments(merged.units.flatten(0, 1), kept.flatten(), counts, sizes, (block,))
