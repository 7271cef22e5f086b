"""Merging before a decoder layer, and the arguments of the layers after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...compat import cache_of
from ...methods.steps import LlmStep, Units, reduced
from ...models.located import LocatedModules
from ...ops.masks import places_of, take_positions, take_rows
from ...ops.positions import compact
from .entry import shortened, with_survivors
from .masks import LlmMasks
from .observer import LlmObserver
from .prefill import Prefill, Sequence


class LlmMerging:
    """Runs the steps of the LLM stage; its ``layer_arguments`` are those of a :class:`Prefill`."""

    def __init__(
        self,
        modules: LocatedModules,
        steps: Mapping[int, LlmStep],
        masks: LlmMasks,
        observer: LlmObserver,
        *,
        sized: bool = False,
    ) -> None:
        """``sized``: whether the sizes of visual tokens are tracked."""
        self.modules, self.steps, self.masks, self.observer = modules, steps, masks, observer
        self.flash, self.sized = masks.flash, sized

    def layer_arguments(
        self, prefill: Prefill, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the layer at ``index``, after the step before it."""
        kwargs = dict(kwargs)
        hidden = args[0] if args else kwargs["hidden_states"]
        if index in self.steps and index:
            if self.steps[index].attention_source == "itself" and index not in prefill.seen:
                tables = self._rotary(prefill, prefill.at(index - 1), hidden, kwargs)
                prefill.seen[index] = self.observer.recompute_qk(prefill, index, hidden, tables)
            tables = None
            if self.steps[index].reads_rotary:
                tables = self._rotary(prefill, prefill.at(index - 1), hidden, kwargs)
            hidden = self._merge(prefill, index, hidden, tables)
            if args:
                args = (hidden, *args[1:])
            else:
                kwargs["hidden_states"] = hidden
        if self.flash:
            # Positions with gaps would be read as packed sequences.
            kwargs["position_ids"] = None
        sequence = prefill.at(index)
        if sequence is prefill.entry:
            return args, kwargs
        columns, cached = sequence.entered, sequence.cached
        kwargs["position_embeddings"] = self._rotary(prefill, sequence, hidden, kwargs)
        if prefill.cached_masks is not None:
            kwargs["attention_mask"] = prefill.cached_masks.for_layer(cache_of(kwargs).layers[index])
        else:
            mask, tables = kwargs.get("attention_mask"), kwargs["position_embeddings"]
            dtype = hidden.dtype if tables is None else tables[0].dtype
            kwargs["attention_mask"] = cached(
                mask,
                lambda: self.masks.at_layer(index, mask, sequence.columns, columns, dtype, sequence.padded),
            )
        if kwargs.get("position_ids") is not None:
            kwargs["position_ids"] = cached(
                kwargs["position_ids"],
                lambda: take_positions(kwargs["position_ids"], columns, padded=sequence.padded),
            )
        return args, kwargs

    def _rotary(
        self, prefill: Prefill, sequence: Sequence, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, ...] | None:
        """Rotary tables of the tokens of ``sequence``; None for a layer without positions."""
        tables = kwargs["position_embeddings"]
        if tables is None:
            return None

        def make() -> tuple[Tensor, ...]:
            if sequence is prefill.entry:
                return tuple(tables)
            if prefill.positions is not None:
                left = take_positions(prefill.positions, sequence.entered, padded=sequence.padded)
                places = compact(left, sequence.runs, sequence.columns).to(hidden.device)
                made: tuple[Tensor, ...] = self.modules.llm.rotary_emb(hidden, places)  # type: ignore[operator]
                return made
            return tuple(take_rows(table, sequence.entered, padded=sequence.padded) for table in tables)

        return sequence.cached(tables, make)

    def _merge(
        self, prefill: Prefill, index: int, hidden: Tensor, tables: tuple[Tensor, ...] | None
    ) -> Tensor:
        step, sequence, seen = self.steps[index], prefill.at(index - 1), prefill.seen.get(index)
        prefill.visited.add(index)
        # The layers of a model may be on different devices.
        visual = (prefill.free_runs(sequence) >= 0).to(hidden.device)
        lengths = prefill.prompt.free(sequence.lengths)
        seen = None if seen is None else seen.to(hidden.device)
        # Row by row and left to right, so that segments are contiguous.
        places = places_of(visual.flatten(), sum(lengths))
        sizes = None if sequence.log_sizes is None else sequence.log_sizes.to(hidden.device).flatten()
        units = Units(
            hidden.flatten(0, 1)[places],
            None if seen is None else seen.flatten(0, 1)[places],
            lengths,
            prefill.prompt.free(prefill.prompt.lengths),
            None if sizes is None else sizes[places].exp(),
            tokens=prefill.tokens(index - 1, hidden, seen),
            context=prefill.context,
            rotary=None if tables is None else _means(tables, visual)[places],
        )
        merged = reduced(step, units)
        if merged is None:
            return hidden
        prefill.trace(index, merged, units)
        kept = ~visual & (sequence.columns >= 0).to(hidden.device)
        hidden, kept = with_survivors(hidden, kept, places, merged)
        lengths = prefill.prompt.with_fixed(merged.lengths)
        if self.sized and merged.sizes is not None:
            every = (
                torch.zeros(visual.numel(), dtype=torch.float32, device=hidden.device)
                if sizes is None
                else sizes
            )
            every = every.index_copy(0, places[merged.kept], merged.sizes.log())
            sequence = replace(sequence, log_sizes=every.view_as(visual).to(sequence.columns.device))
        left, order = shortened(prefill.prompt, sequence, kept.to(sequence.columns.device), lengths)
        prefill.record(index, left)
        return take_rows(hidden, order, padded=left.padded)


def _means(tables: tuple[Tensor, ...], visual: Tensor) -> Tensor:
    """(B * n, 2) fp32: the means of the cosines and sines of (B or 1, n, h) rotary tables."""
    means = torch.stack([table.to(visual.device).float().mean(-1) for table in tables], -1)
    return means.expand(*visual.shape, -1).flatten(0, 1)
