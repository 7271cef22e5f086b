"""The step of iLLaVA's own Qwen code, which ranks single patches instead of units of several patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..models.located import LocatedModules
from ..ops.masks import places_of
from ..ops.merging import MergedSegments, reduce_segments
from .merge_step import MergeStep
from .steps import Units

Groups = Literal["restored", "mixed"]


def groups_of(modules: LocatedModules) -> Groups:
    """What becomes of groups of patches: the authors' first Qwen code mixes them, the second restores them.

    Raises UnsupportedError for batched encoders, whose tiles would not keep the same number of groups.
    """
    if modules.group > 1 and not modules.tower.packed:
        raise UnsupportedError(
            f"single patches cannot be ranked in the encoder of {modules.family.model_type}, whose tiles "
            "must keep the same number of groups; use a method that ranks whole groups, such as Illava()"
        )
    return "mixed" if modules.family.mixed_patches else "restored"


@dataclass(frozen=True)
class PatchStep(MergeStep):
    """A merge step on single patches. Where units are single tokens, and in the LLM, it is a MergeStep.

    Survivors of a "mixed" step form new units, neighbours in the sequence whose patches may lie anywhere in
    the picture; their number is rounded down to whole units. A "restored" step keeps each unit that has a
    surviving patch. Its dropped patches are restored as they were, although others may have absorbed them.
    How many units these are depends on the picture, so the step waits once for the device, and more are left
    than :meth:`count` says.
    """

    groups: Groups = "restored"

    @property
    def absorbs_all(self) -> bool:
        # Patches are merged into patches, but whole units are dropped with what they absorbed.
        return False

    def reduce(self, units: Units) -> MergedSegments | None:
        if units.seen is None or units.seen.dim() == 1 or units.seen.shape[1] == 1:
            return self._whole(units)
        group = units.seen.shape[1]
        lengths = [n * group for n in units.lengths]
        counts = [self.count(n, of * group) for n, of in zip(lengths, units.full, strict=True)]
        if self.groups == "mixed":
            counts = [min(n, max(group, p // group * group)) for n, p in zip(lengths, counts, strict=True)]
        patches, scores = units.vectors.reshape(sum(lengths), -1), units.seen.flatten()
        merged = reduce_segments(partial(self._reduce, True), lengths, counts, patches, scores)
        if merged is None:
            return None
        if self.groups == "mixed":
            left = tuple(p // group for p in counts)
            first = merged.kept[::group] // group
            return MergedSegments(merged.units.reshape(sum(left), -1), first, left, tokens=merged.kept)
        return _restored(units, patches, merged)


def _restored(units: Units, patches: Tensor, merged: MergedSegments) -> MergedSegments:
    """The units with a surviving patch, whole."""
    count = len(units.vectors)
    alive = torch.zeros(len(patches), dtype=torch.bool, device=patches.device)
    alive = alive.index_fill(0, merged.kept, True).view(count, -1).any(1)
    values = patches.index_copy(0, merged.kept, merged.units).view(count, -1)
    lengths = _sums(alive, units.lengths)
    kept = places_of(alive, sum(lengths))
    return MergedSegments(values[kept], kept, lengths)


def _sums(chosen: Tensor, lengths: Sequence[int]) -> tuple[int, ...]:
    """How many of each segment are chosen; waits for the device."""
    return tuple(torch.stack([part.sum() for part in torch.split(chosen, list(lengths))]).tolist())
