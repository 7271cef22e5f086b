"""The entry of the LLM: tokens dropped by the encoder stage are removed from embeddings, positions, masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedError
from ...methods.steps import LlmStep, Plan, Tokens, Units, reduced
from ...models.located import LocatedModules
from ...ops.marks import finite, marked, zero_or_nan
from ...ops.masks import compact_rows, occurring, take, take_positions, take_rows
from ...ops.positions import compact
from .masks import LlmMasks
from .prefill import Prefill, Prompt, Sequence


def whole(prompt: Prompt, embeds: Tensor) -> Sequence:
    """The sequence of all tokens of a prompt."""
    columns = torch.arange(embeds.shape[1], device=embeds.device).expand(embeds.shape[:2])
    if prompt.padding is not None:
        columns = columns.where(prompt.padding.to(columns.device).bool(), -1)
    return sequence_of(prompt, columns, columns, prompt.runs)


def sequence_of(prompt: Prompt, columns: Tensor, entered: Tensor, runs: Tensor) -> Sequence:
    """The sequence of a prompt's tokens at (B, n) ``columns``; see :class:`Sequence`."""
    counts = torch.bincount(runs[runs >= 0], minlength=len(prompt.lengths))
    return Sequence(columns, entered, prompt.runs.shape[1] - columns.shape[1], runs, tuple(counts.tolist()))


class LlmEntry:
    """Shortens the arguments of the language model."""

    def __init__(self, modules: LocatedModules, plan: Plan, masks: LlmMasks, *, trace: bool = False) -> None:
        self.modules, self.masks, self.trace = modules, masks, trace
        self.steps: dict[int, LlmStep] = plan.llm
        self.compact = plan.positions == "compact" and not plan.empty

    def enter(
        self, prompt: Prompt, kwargs: dict[str, Any], embeds: Tensor, dropped: Tensor, start: int
    ) -> Prefill:
        """Remove ``dropped`` tokens, (B, L) bool, and those dropped before layer 0 from ``kwargs``."""
        sequence = whole(prompt, embeds)
        alive = (sequence.columns >= 0) & ~dropped
        visual_runs = sequence.runs[alive & (sequence.runs >= 0)]
        counts = torch.bincount(visual_runs, minlength=len(prompt.lengths))
        # One transfer, since it synchronises with the device.
        *entering, marked_tokens = torch.cat([counts, dropped.sum()[None].to(counts)]).tolist()
        entering = tuple(entering)
        prefill = Prefill(prompt, sequence, traces={} if self.trace else None, marked=marked_tokens)
        prefill.context = self._context(prompt, sequence, alive, embeds)
        if 0 in self.steps:
            embeds, alive = self._choose(prefill, alive, embeds, entering)
        if bool((sequence.columns.ge(0) & ~alive).any()):
            columns = compact_rows(alive, sequence.columns)
            runs = take(prompt.runs, columns)
            index = torch.arange(columns.shape[1], device=columns.device).where(columns >= 0, -1)
            sequence = sequence_of(prompt, columns, index, runs)
            self._shorten_inputs(sequence, kwargs, embeds, start)
        prefill.begin(sequence, entering)
        if self.compact:
            prefill.positions = self._positions(kwargs, start, sequence.columns.shape[1])
        return prefill

    def _context(self, prompt: Prompt, sequence: Sequence, alive: Tensor, embeds: Tensor) -> Any:
        """The result of the first step's ``enter`` for the embeddings, without marked ones."""
        if not self.steps:
            return None
        return next(iter(self.steps.values())).enter(self._alive(prompt, sequence, alive, embeds))

    def _alive(self, prompt: Prompt, sequence: Sequence, alive: Tensor, embeds: Tensor) -> Tokens:
        """The tokens at the entry, dropped ones as filler."""
        alive = alive.to(embeds.device)
        return Tokens(
            embeds.masked_fill(~alive[..., None], 0),
            sequence.runs.where(alive, -1),
            sequence.columns.where(alive, -1),
            prompt.last.to(embeds.device),
        )

    def _choose(
        self,
        prefill: Prefill,
        alive: Tensor,
        embeds: Tensor,
        lengths: tuple[int, ...],
    ) -> tuple[Tensor, Tensor]:
        """Apply the step before layer 0. Returns embeddings, and (B, L) bool of the remaining tokens."""
        tokens = self._alive(prefill.prompt, prefill.entry, alive, embeds)
        visual = tokens.runs >= 0
        units = Units(tokens.hidden[visual], None, lengths, prefill.prompt.lengths, tokens=tokens)
        merged = reduced(self.steps[0], units)
        if merged is None:
            return embeds, alive
        prefill.trace(0, merged, units)
        places = tuple(visual.nonzero()[merged.kept].T)
        kept = (alive.to(visual.device) & ~visual).index_put(
            places, torch.ones_like(places[0], dtype=torch.bool)
        )
        return embeds.index_put(places, merged.units), kept.to(alive.device)

    def refuse(self, prompt: Prompt, mask: Any, start: int) -> None:
        """Raise UnsupportedError for a prompt that cannot be merged, before anything is modified."""
        if not self.masks.outer and mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
            raise UnsupportedError(
                "illava needs the 2-D attention mask that the processor returns, got another kind of mask"
            )
        if bool((prompt.runs.gather(1, prompt.last[:, None]) >= 0).any()):
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

    def _shorten_inputs(self, sequence: Sequence, kwargs: dict[str, Any], embeds: Tensor, start: int) -> None:
        columns, (batch, length) = sequence.columns, embeds.shape[:2]
        kwargs["inputs_embeds"] = take_rows(embeds, columns)
        mask = kwargs.get("attention_mask")
        if self.masks.outer or (isinstance(mask, Tensor) and mask.dim() > 2):
            kwargs["attention_mask"] = self.masks.at(mask, columns, embeds.dtype)
        else:
            # Always an explicit mask: without one, positions with gaps would be read as packed sequences.
            if mask is None:
                mask = torch.ones(batch, length, dtype=torch.long, device=embeds.device)
            kwargs["attention_mask"] = take_rows(mask, columns)
        positions = take_positions(self._positions(kwargs, start, length), columns)
        kwargs["position_ids"] = compact(positions, sequence.runs, columns) if self.compact else positions
        visual = kwargs.get("visual_pos_masks")
        if visual is not None and kwargs.get("deepstack_visual_embeds") is not None:
            # Features tapped early have rows of tokens that were dropped later.
            left, row = occurring(columns, length)[visual], visual.nonzero()[:, 0]
            kwargs["deepstack_visual_embeds"] = [
                _left_of_tap(rows, left.to(rows.device), row.to(rows.device), batch)
                for rows in kwargs["deepstack_visual_embeds"]
            ]
            kwargs["visual_pos_masks"] = take_rows(visual, columns)

    def _positions(self, kwargs: dict[str, Any], start: int, length: int) -> Tensor:
        """(B or 1, L) positions, or (3, B, L) of M-RoPE."""
        positions: Tensor | None = kwargs.get("position_ids")
        if positions is None:
            return torch.arange(start, start + length, device=kwargs["inputs_embeds"].device)[None]
        # (4, B, L) has a text row that serves packed sequences only.
        return positions[-3:] if positions.dim() > 2 else positions


def _left_of_tap(rows: Tensor, left: Tensor, row: Tensor, batch: int) -> Tensor:
    """(V, d) tapped features of all placeholders to those that are ``left``, (V,) bool.

    NaN and infinity in dropped features are propagated to the others of the same ``row`` of the batch, (V,)
    int64, as attention would have done. Marks are not propagated.
    """
    bad = zero_or_nan(finite(rows) | marked(rows))
    each = bad.new_zeros(batch).index_add_(0, row, bad)
    return rows[left] + each[row[left]][:, None].to(rows.dtype)
