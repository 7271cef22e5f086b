"""The entry of the LLM: tokens dropped by the encoder stage are removed from embeddings, positions, masks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import UnsupportedError
from ...methods.steps import LlmStep, Plan, Tokens, Units, reduced
from ...models.located import LocatedModules
from ...ops.marks import finite, marked, zero_or_nan
from ...ops.masks import compact_rows, occurring, places_of, take, take_positions, take_rows
from ...ops.merging import MergedSegments
from ...ops.positions import compact
from ..encoder.run import EncoderRun
from .masks import LlmMasks
from .prefill import Prefill, Prompt, Sequence


def whole(prompt: Prompt, embeds: Tensor) -> Sequence:
    """The sequence of all tokens of a prompt."""
    columns = torch.arange(embeds.shape[1], device=embeds.device).expand(embeds.shape[:2])
    if prompt.padding is not None and prompt.filled:
        columns = columns.where(prompt.padding.to(columns.device).bool(), -1)
    return Sequence(columns, columns, 0, prompt.runs, prompt.lengths, prompt.filled)


def shortened(
    prompt: Prompt, before: Sequence, kept: Tensor, lengths: tuple[int, ...]
) -> tuple[Sequence, Tensor]:
    """The sequence of the tokens of ``before`` that are ``kept``, (B, L) bool.

    ``lengths``: visual tokens kept in each segment. Also returns the (B, n) int64 index of each token in
    ``before``, -1 for filler.
    """
    width, padded = prompt.width(lengths)
    index = compact_rows(kept, before.columns, width, padded=padded)
    columns, entered, runs = (
        take(table, index, padded=padded) for table in (before.columns, before.entered, before.runs)
    )
    sizes = before.log_sizes
    left = None if sizes is None else take_rows(sizes, index.to(sizes.device), padded=padded)
    return Sequence(columns, entered, prompt.runs.shape[1] - width, runs, lengths, padded, left), index


class Marks(NamedTuple):
    """What is known of the features that reached the entry of the LLM."""

    dropped: Tensor
    """(B, L) bool: which tokens have a mark of the encoder stage."""
    count: int
    """How many."""
    entering: tuple[int, ...]
    """Tokens of each segment that are neither marked nor padding."""


def read_marks(prompt: Prompt, marks: Tensor, runs: list[EncoderRun]) -> Marks:
    """Count (B, L) bool ``marks`` of placeholders, in one transfer.

    It also reads the numbers of ``runs`` that the encoder stage left on the device.
    """
    placeholders = prompt.runs.to(marks.device)
    left = (placeholders >= 0) & ~marks
    if prompt.padding is not None and prompt.filled:
        left &= prompt.padding.to(marks.device).bool()
    # Other tokens count in one more segment, which is cut off.
    segments = placeholders.masked_fill(~left, len(prompt.lengths)).flatten()
    counts = segments.new_zeros(len(prompt.lengths) + 1).scatter_add_(0, segments, torch.ones_like(segments))
    open_runs = [run for run in runs if isinstance(run.marked, Tensor)]
    open_counts = [run.marked.to(counts)[None] for run in open_runs]  # type: ignore[union-attr]
    *entering, _, count = torch.cat([*open_counts, counts, marks.sum()[None]]).tolist()
    for run in open_runs:
        run.marked = int(entering.pop(0))
    return Marks(marks, count, tuple(entering))


class LlmEntry:
    """Shortens the arguments of the language model."""

    def __init__(self, modules: LocatedModules, plan: Plan, masks: LlmMasks, *, trace: bool = False) -> None:
        self.modules, self.masks, self.trace = modules, masks, trace
        self.steps: dict[int, LlmStep] = plan.llm
        self.compact = plan.positions == "compact" and not plan.empty

    def enter(
        self,
        prompt: Prompt,
        kwargs: dict[str, Any],
        embeds: Tensor,
        marks: Marks,
        start: int,
        *,
        cached: bool,
        sizes: Tensor | None = None,
    ) -> Prefill:
        """Remove the marked tokens, and those dropped before layer 0, from ``kwargs``.

        Args:
            cached: whether the LLM gets a KV cache.
            sizes: (B, L) fp32 sizes of the tokens, or None.
        """
        sequence = whole(prompt, embeds)
        sequence.log_sizes = None if sizes is None else sizes.log()
        alive, lengths = (sequence.columns >= 0) & ~marks.dropped, marks.entering
        prefill = Prefill(prompt, sequence, traces={} if self.trace else None, marked=marks.count)
        prefill.context = self._context(prompt, sequence, alive, embeds)
        if 0 in self.steps:
            embeds, alive, lengths = self._choose(prefill, alive, embeds, lengths)
        if lengths != prompt.real:
            sequence, index = shortened(prompt, sequence, alive, lengths)
            self._shorten_inputs(sequence, kwargs, embeds, start, cached)
            places = torch.arange(index.shape[1], device=index.device)
            sequence.entered = places.where(index >= 0, -1) if sequence.padded else places.expand_as(index)
        prefill.begin(sequence, marks.entering)
        if self.compact:
            prefill.positions = self._positions(kwargs, start, sequence.columns.shape[1])
        return prefill

    def _context(self, prompt: Prompt, sequence: Sequence, alive: Tensor, embeds: Tensor) -> Any:
        """The result of the first step's ``enter`` for the embeddings, without marked ones."""
        first = next(iter(self.steps.values()), None)
        if first is None or type(first).enter is LlmStep.enter:
            return None
        return first.enter(self._alive(prompt, sequence, alive, embeds))

    def _alive(self, prompt: Prompt, sequence: Sequence, alive: Tensor, embeds: Tensor) -> Tokens:
        """The tokens at the entry, dropped ones as filler."""
        alive = alive.to(embeds.device)
        free, fixed = alive, None
        if prompt.fixed is not None:
            fixed = prompt.fixed.to(embeds.device) & alive
            free = alive & ~fixed
        return Tokens(
            embeds.masked_fill(~alive[..., None], 0),
            sequence.runs.where(free, -1),
            sequence.columns.where(alive, -1),
            prompt.last.to(embeds.device),
            fixed=fixed,
        )

    def _choose(
        self,
        prefill: Prefill,
        alive: Tensor,
        embeds: Tensor,
        lengths: tuple[int, ...],
    ) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Apply the step before layer 0.

        Returns embeddings, (B, L) bool of the remaining tokens, and the visual ones left in each segment.
        """
        tokens = self._alive(prefill.prompt, prefill.entry, alive, embeds)
        prompt, free = prefill.prompt, prefill.prompt.free(lengths)
        places = places_of(tokens.runs.flatten() >= 0, sum(free))
        full = prompt.free(prompt.lengths)
        units = Units(tokens.hidden.flatten(0, 1)[places], None, free, full, tokens=tokens)
        merged = reduced(self.steps[0], units)
        if merged is None:
            return embeds, alive, lengths
        prefill.trace(0, merged, units)
        kept = alive.to(places.device) & (tokens.runs < 0)
        embeds, kept = with_survivors(embeds, kept, places, merged)
        return embeds, kept.to(alive.device), prompt.with_fixed(merged.lengths)

    def refuse(self, prompt: Prompt, mask: Any, start: int) -> None:
        """Raise UnsupportedError for a prompt that cannot be merged, before anything is modified."""
        if not self.masks.outer and mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
            raise UnsupportedError(
                "illava needs the 2-D attention mask that the processor returns, got another kind of mask"
            )
        if prompt.ends_with_picture:
            raise UnsupportedError(
                "a prompt that ends with a picture is not supported: its last token must be text, as a chat "
                "template's generation prompt is, because that token's attention scores the visual ones"
            )
        if start and self.compact:
            raise UnsupportedError(
                "pictures on top of a filled cache are not supported by methods that renumber positions: "
                "cached tokens already have positions; pass the whole chat at once with a fresh cache"
            )
        if start and self.masks.outer:
            raise UnsupportedError(
                f"pictures on top of a filled cache are not supported for {self.modules.family.model_type}, "
                "whose image attention is bidirectional; pass the whole chat at once with a fresh cache"
            )

    def _shorten_inputs(
        self, sequence: Sequence, kwargs: dict[str, Any], embeds: Tensor, start: int, cached: bool
    ) -> None:
        columns, (batch, length) = sequence.columns, embeds.shape[:2]
        kwargs["inputs_embeds"] = take_rows(embeds, columns, padded=sequence.padded)
        mask = kwargs.get("attention_mask")
        if self.masks.outer or (isinstance(mask, Tensor) and mask.dim() > 2):
            kwargs["attention_mask"] = self.masks.at(mask, columns, embeds.dtype, sequence.padded)
        elif mask is not None or sequence.padded or not cached or self.masks.flash or self.masks.flex:
            # An explicit mask: without one, positions with gaps would be read as packed sequences. With a
            # cache they are not, and without a mask the model need not read whether it is all ones.
            if mask is None:
                mask = torch.ones(batch, length, dtype=torch.long, device=embeds.device)
            kwargs["attention_mask"] = take_rows(mask, columns, padded=sequence.padded)
        positions = take_positions(self._positions(kwargs, start, length), columns, padded=sequence.padded)
        kwargs["position_ids"] = compact(positions, sequence.runs, columns) if self.compact else positions
        visual = kwargs.get("visual_pos_masks")
        taps = kwargs.get("deepstack_visual_embeds")
        if visual is not None and taps is not None:
            kwargs["visual_pos_masks"] = take_rows(visual, columns, padded=sequence.padded)
        if visual is not None and taps:
            # Features tapped early have rows of tokens that were dropped later.
            places = places_of(visual.flatten(), len(taps[0]))
            left = occurring(columns, length).to(places.device).flatten()[places]
            left, row = places_of(left, sum(sequence.lengths)), places // length
            kwargs["deepstack_visual_embeds"] = [
                _left_of_tap(rows, left.to(rows.device), row.to(rows.device), batch) for rows in taps
            ]

    def _positions(self, kwargs: dict[str, Any], start: int, length: int) -> Tensor:
        """(B or 1, L) positions, or (3, B, L) of M-RoPE."""
        positions: Tensor | None = kwargs.get("position_ids")
        if positions is None:
            return torch.arange(start, start + length, device=kwargs["inputs_embeds"].device)[None]
        # (4, B, L) has a text row that serves packed sequences only.
        return positions[-3:] if positions.dim() > 2 else positions


def with_survivors(
    hidden: Tensor, kept: Tensor, places: Tensor, merged: MergedSegments
) -> tuple[Tensor, Tensor]:
    """Put the survivors of a step into (B, L, d) ``hidden`` and into ``kept``, (B, L) bool.

    ``places``: (U,) int64, the index into B * L of each unit that entered the step.
    """
    survivors = places[merged.kept]
    if len(survivors) != sum(merged.lengths) or len(survivors) != len(merged.units):
        raise ValueError(
            f"a step returned {len(merged.units)} units, {len(survivors)} indices and lengths that sum to "
            f"{sum(merged.lengths)}"
        )
    flat = hidden.flatten(0, 1).index_copy(0, survivors.to(hidden.device), merged.units.to(hidden.device))
    kept = kept.flatten().index_fill(0, survivors, True).view_as(kept)
    return flat.view_as(hidden), kept


def _left_of_tap(rows: Tensor, left: Tensor, row: Tensor, batch: int) -> Tensor:
    """(V, d) tapped features of all placeholders to those that are ``left``, (P,) int64 indices into them.

    NaN and infinity in dropped features are propagated to the others of the same ``row`` of the batch, (V,)
    int64, as attention would have done. Marks are not propagated.
    """
    bad = zero_or_nan(finite(rows) | marked(rows))
    each = bad.new_zeros(batch).index_add_(0, row, bad)
    return rows[left] + each[row[left]][:, None].to(rows.dtype)
