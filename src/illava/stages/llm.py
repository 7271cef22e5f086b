"""The LLM stage: drop what the encoder stage marked, then merge visual tokens before chosen layers.

A pre-hook on the language model takes the marked rows out of embeddings, positions and mask. Before a
chosen decoder layer another pre-hook merges the visual tokens by the attention that the last prompt
token pays them one layer earlier; from there on every layer gets the hidden states, rotary tables and
masks of the survivors, and the key/value cache holds only them. This happens in prefill alone; decoding
steps see a cache that is shorter than it says.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from ..errors import UnsupportedError
from ..parts import ModelParts
from ..scoring import last_row_scores
from .attention import AttentionTap
from .cache import MergedLayer, is_merged, prepare_for_merging
from .checkpoints import Checkpoints
from .hooks import Hooks
from .llm_masks import CachedMasks, LlmMasks, check_masks
from .masks import among, left_pad, take, take_positions, take_rows
from .prefill import Prefill, Sequence
from .projector import marked
from .prompt import Prompt, PromptReader
from .steps import Plan


class LlmStage:
    """Hooks on the language model; ``on_prefill`` is told of every pass over a prompt with pictures."""

    def __init__(
        self, parts: ModelParts, plan: Plan, hooks: Hooks, on_prefill: Callable[[Prefill], None]
    ) -> None:
        self.parts, self.steps, self.marks = parts, plan.llm, bool(plan.encoder)
        self.on_prefill = on_prefill
        self.owner = hooks.owner
        self.masks = LlmMasks(parts)
        self.flash = self.masks.flash
        self.state: Prefill | CachedMasks | None = None
        self.reader = PromptReader(parts, hooks, active=bool(plan.encoder or plan.llm))
        self.checkpoints = Checkpoints(self, "state", parts.layers, hooks)
        hooks.pre(parts.llm, self._enter)
        hooks.post(parts.llm, self._leave, always=True)
        for index, layer in enumerate(parts.layers):
            if index + 1 in self.steps:
                attention = layer.get_submodule(parts.family.llm_attention)
                hooks.tap(AttentionTap(attention, partial(self._observe, index)))
            first = min(self.steps, default=len(parts.layers))
            wanted = index >= first or self.masks.outer or (self.flash and self.marks)
            if wanted and not parts.recurrent[index]:
                hooks.pre(layer, self._layer_hook(index), prepend=True)

    # -- before the LLM ---------------------------------------------------------------------------

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.state = None
        prompt = self.reader.take()
        self.checkpoints.prepare()
        if self.steps or self.marks:
            check_masks(self.parts, flash=self.flash)
        cache, embeds = kwargs.get("past_key_values"), kwargs.get("inputs_embeds")
        if embeds is None:
            return None
        if prompt is None:
            return self._enter_decoding(args, kwargs, cache, embeds)
        # Without an encoder stage nothing is marked: a NaN is then the model's own affair.
        dropped = marked(embeds) if self.marks else torch.zeros_like(prompt.video)
        start = 0 if cache is None else cache.get_seq_length()
        if not self.steps and not bool(dropped.any()) and not (start and is_merged(cache)):
            self.on_prefill(Prefill(prompt, self._whole(prompt, kwargs, embeds), None))
            return None
        self._refuse(prompt, kwargs.get("attention_mask"), start)
        kwargs = dict(kwargs)
        layers = None
        if cache is None and self._uses_cache(kwargs):
            cache = kwargs["past_key_values"] = DynamicCache(config=self.parts.llm.config)
        if cache is not None:
            layers = prepare_for_merging(cache, self.masks.windows, self.owner)
        sequence = self._whole(prompt, kwargs, embeds)
        if bool(dropped.any()):
            alive = (sequence.columns >= 0) & ~dropped
            columns = left_pad([row.nonzero().flatten() for row in alive])
            runs = take(prompt.runs, columns)
            index = torch.arange(columns.shape[1], device=columns.device).where(columns >= 0, -1)
            sequence = self._sequence(prompt, columns, index, runs)
            self._shorten_inputs(sequence, kwargs, embeds, start)
        if self.masks.by_window:
            kwargs["attention_mask"] = self.masks.of_windows(sequence.columns, embeds.dtype)
        self.state = prefill = Prefill(prompt, sequence, layers)
        self.on_prefill(prefill)
        self._note_cache(prefill, range(len(self.parts.layers)), 0)
        if start:
            prefill.cached = CachedMasks(
                self.masks, self.reader.padding, embeds.dtype, sequence.columns.shape[1]
            )
            kwargs["attention_mask"] = prefill.cached.at_entry(cache, None)
        return args, kwargs

    def _refuse(self, prompt: Prompt, mask: Any, start: int) -> None:
        """Raise UnsupportedError for what cannot be merged, before anything is touched."""
        if not self.masks.outer and mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
            raise UnsupportedError(
                "illava needs the 2-D attention mask that the processor returns; static caches, which come "
                "with a mask made ready, are not supported: leave cache_implementation unset"
            )
        if bool((prompt.runs.gather(1, prompt.last[:, None]) >= 0).any()):
            raise UnsupportedError(
                "a prompt that ends with a picture is not supported: its last token must be text, as a chat "
                "template's generation prompt is, because that token's attention scores the visual ones"
            )
        if start and self.masks.outer:
            raise UnsupportedError(
                f"pictures on top of a filled cache are not supported for {self.parts.family.model_type}, "
                "whose pictures see themselves whole; pass the whole chat at once with a fresh cache"
            )

    def _whole(self, prompt: Prompt, kwargs: dict[str, Any], embeds: Tensor) -> Sequence:
        columns = torch.arange(embeds.shape[1], device=embeds.device).expand(embeds.shape[:2])
        if prompt.padding is not None:
            columns = columns.where(prompt.padding.to(columns.device).bool(), -1)
        return self._sequence(prompt, columns, columns, prompt.runs)

    def _sequence(self, prompt: Prompt, columns: Tensor, entered: Tensor, runs: Tensor) -> Sequence:
        counts = torch.bincount(runs[runs >= 0], minlength=len(prompt.lengths))
        return Sequence(
            columns, entered, prompt.runs.shape[1] - columns.shape[1], runs, tuple(counts.tolist())
        )

    def _shorten_inputs(self, sequence: Sequence, kwargs: dict[str, Any], embeds: Tensor, start: int) -> None:
        columns, (batch, length) = sequence.columns, embeds.shape[:2]
        kwargs["inputs_embeds"] = take_rows(embeds, columns)
        mask = kwargs.get("attention_mask")
        if self.masks.outer or (isinstance(mask, Tensor) and mask.dim() > 2):
            kwargs["attention_mask"] = self.masks.at(mask, columns, embeds.dtype)
        else:
            # Always an explicit mask: positions with gaps would look like packed sequences without one.
            if mask is None:
                mask = torch.ones(batch, length, dtype=torch.long, device=embeds.device)
            kwargs["attention_mask"] = take_rows(mask, columns)
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(start, start + length, device=embeds.device)[None]
        # M-RoPE: (3, B, L), or (4, B, L) with a text row that serves packed sequences only.
        kwargs["position_ids"] = take_positions(positions[-3:] if positions.dim() > 2 else positions, columns)
        shown = kwargs.get("visual_pos_masks")
        if shown is not None and kwargs.get("deepstack_visual_embeds") is not None:
            # What was tapped early has rows of tokens that went later: whoever is left decides.
            left = among(columns, length)[shown]
            kwargs["deepstack_visual_embeds"] = [
                rows[left.to(rows.device)] for rows in kwargs["deepstack_visual_embeds"]
            ]
            kwargs["visual_pos_masks"] = take_rows(shown, columns)

    def _uses_cache(self, kwargs: dict[str, Any]) -> bool:
        wanted = kwargs.get("use_cache")
        return bool(self.parts.llm.config.use_cache if wanted is None else wanted)

    def _enter_decoding(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], cache: Any, embeds: Tensor
    ) -> Any:
        if not is_merged(cache) or cache.get_seq_length() == 0:
            return None
        held = [layer for layer in cache.layers if isinstance(layer, MergedLayer)]
        queries = embeds.shape[1]
        padding = self.reader.padding
        if padding is not None and queries > 1 and not bool(padding[:, -queries:].all()):
            for layer in held:
                layer.padded = True
        self.state = state = CachedMasks(self.masks, padding, embeds.dtype, queries)
        if not self.masks.ready_made and not held[0].padded:
            return None
        return args, {**kwargs, "attention_mask": state.at_entry(cache, kwargs.get("attention_mask"))}

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        # What the report needs stays; keys, values and tables are the caller's to keep or drop, and those
        # of a backward pass that runs layers again.
        if isinstance(self.state, Prefill) and not self.checkpoints.active:
            self.state.forget()
        self.state = None

    # -- at the layers ----------------------------------------------------------------------------

    def _observe(
        self, index: int, query: Tensor, key: Tensor, scaling: float, mask: Any, softcap: float | None
    ) -> None:
        prefill = self.state
        if not isinstance(prefill, Prefill) or index + 1 in prefill.scores:
            return
        last = prefill.last(index).to(query.device)
        if mask is not None and not isinstance(mask, Tensor):
            mask = self._seen(prefill, index, last)
        # Of all keys, those that a cache held before included.
        scores = last_row_scores(query, key, scaling, last, mask, softcap)
        prefill.scores[index + 1] = scores[:, -query.shape[2] :]

    def _seen(self, prefill: Prefill, index: int, last: Tensor) -> Tensor:
        """(B, k) bool: what the asking token sees among its keys and those behind; flex attention's masks are
        functions, of which nothing can be read.
        """
        keys = prefill.at(index).columns.to(last.device)
        if prefill.cached is not None and prefill.cache_layers is not None:
            keys = prefill.cache_layers[index].attended.to(last.device)
            if self.reader.padding is not None:
                padding = self.reader.padding.to(last.device).bool()
                keys = keys.where(padding.gather(1, keys.clamp(min=0)), -1)
        seen, window = keys >= 0, self.masks.windows[index]
        if window is not None:
            asking = keys.gather(1, (keys.shape[1] - prefill.at(index).columns.shape[1] + last)[:, None])
            seen &= keys > asking - window
        return seen

    def _layer_hook(self, index: int) -> Any:
        def enter_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            state = self.state
            if isinstance(state, Prefill):
                return self._prefill_layer(state, index, args, dict(kwargs))
            if isinstance(state, CachedMasks):
                layer = kwargs["past_key_values"].layers[index]
                # Without a merge before, the mask made at the entry is the right one.
                wanted = any(layer.group)
                return (args, {**kwargs, "attention_mask": state.for_layer(layer)}) if wanted else None
            return None

        return enter_layer

    def _prefill_layer(
        self, prefill: Prefill, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if index in self.steps:
            hidden = args[0] if args else kwargs["hidden_states"]
            hidden = self._merge(prefill, index, hidden)
            if args:
                args = (hidden, *args[1:])
            else:
                kwargs["hidden_states"] = hidden
        if self.flash:
            # Positions with gaps would look like packed sequences.
            kwargs["position_ids"] = None
        sequence = prefill.at(index)
        if sequence is prefill.entry:
            return args, kwargs
        columns, once = sequence.entered, sequence.once
        kwargs["position_embeddings"] = once(
            kwargs["position_embeddings"],
            lambda: tuple(take_rows(table, columns) for table in kwargs["position_embeddings"]),
        )
        if prefill.cached is not None:
            kwargs["attention_mask"] = prefill.cached.for_layer(kwargs["past_key_values"].layers[index])
        else:
            mask, dtype = kwargs.get("attention_mask"), kwargs["position_embeddings"][0].dtype
            kwargs["attention_mask"] = once(
                mask, lambda: self.masks.at_layer(index, mask, sequence.columns, columns, dtype)
            )
        if kwargs.get("position_ids") is not None:
            kwargs["position_ids"] = once(
                kwargs["position_ids"], lambda: take_positions(kwargs["position_ids"], columns)
            )
        return args, kwargs

    def _merge(self, prefill: Prefill, index: int, hidden: Tensor) -> Tensor:
        step, sequence, scores = self.steps[index], prefill.at(index - 1), prefill.scores[index]
        # The layers of a model may lie on several devices.
        visual, scores = (sequence.runs >= 0).to(hidden.device), scores.to(hidden.device)
        # Row by row and left to right, so segments follow one another.
        merged = step.merge(hidden[visual], scores[visual], sequence.lengths, prefill.prompt.lengths)
        if merged is None:
            return hidden
        places = tuple(visual.nonzero()[merged.kept].T)
        stays = ~visual & (sequence.columns >= 0).to(hidden.device)
        stays = stays.index_put(places, torch.ones_like(places[0], dtype=torch.bool))
        hidden = hidden.index_put(places, merged.units)
        kept = left_pad([row.nonzero().flatten() for row in stays]).to(sequence.columns.device)
        left = self._sequence(
            prefill.prompt,
            *(take(table, kept) for table in (sequence.columns, sequence.entered, sequence.runs)),
        )
        if prefill.record(index, left):
            self._note_cache(prefill, range(index, len(self.parts.layers)), len(prefill.history) - 1)
        return take_rows(hidden, kept)

    def _note_cache(self, prefill: Prefill, layers: range, group: int) -> None:
        if prefill.cache_layers is None:
            return
        _, sequence = prefill.history[-1]
        # Of this prompt, whose padding has no columns, and of what the cache held before.
        given = self.reader.padding
        padded = bool((sequence.columns < 0).any()) or (given is not None and not bool(given.all()))
        for index in layers:
            layer = prefill.cache_layers[index]
            if isinstance(layer, MergedLayer):
                layer.expect(sequence.columns, prefill.prompt.runs.shape[1], group, padded=padded)
