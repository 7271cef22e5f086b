"""The LLM stage: drop what the encoder stage marked, then merge visual tokens before chosen layers.

A pre-hook on the language model takes the marked rows out of embeddings, positions and mask. Before a
chosen decoder layer another pre-hook merges the visual tokens by the attention that the last prompt
token pays them one layer earlier; from there on every layer gets the hidden states, rotary tables and
masks of the survivors, and the key/value cache holds only them. This happens in prefill alone; decoding
steps see a cache that is shorter than it says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from ...compat import cache_name, cache_of, output_cache, with_cache
from ...methods.steps import LlmStep, Plan, Units, reduced
from ...models.located import LocatedModules
from ...ops.marks import marked
from ...ops.masks import compact_rows, take, take_positions, take_rows
from ...ops.positions import compact
from ..cache.merged import MergedLayer, is_merged
from ..cache.setup import prepare_for_merging, refuse_filled
from ..cache.static import StaticMasks, check_room, is_static, see_padding, settle, static_refusal
from ..calls import Calls
from ..checkpoints import Checkpoints
from ..checks import check_cache, check_marks, check_output, check_source
from ..encoder.features import FeatureCalls
from ..encoder.run import EncoderRun
from ..hooks import Hooks
from .entry import LlmEntry, sequence_of, whole
from .masks import CachedMasks, LlmMasks, check_masks
from .observer import LlmObserver
from .prefill import Prefill, Sequence
from .prompt import PromptReader


class LlmStage:
    """Hooks on the language model.

    ``on_prefill`` gets every completed pass over a prompt with pictures, and the encoder runs of these.
    """

    def __init__(
        self,
        modules: LocatedModules,
        plan: Plan,
        calls: Calls,
        features: FeatureCalls,
        hooks: Hooks,
        on_prefill: Callable[[Prefill, list[EncoderRun]], None],
        *,
        trace: bool = False,
    ) -> None:
        self.modules, self.marks = modules, plan.before_llm
        self.steps: dict[int, LlmStep] = plan.llm
        self.encoder_steps = frozenset(plan.encoder)
        self.on_prefill, self.features = on_prefill, features
        self.done: Prefill | None = None
        """The pass under way, to be published when the LLM has come to its end."""
        self.owner = hooks.owner
        # Read once, since compiled code cannot.
        self.cache_name = cache_name(modules.llm)
        self.masks = LlmMasks(modules)
        self.flash = self.masks.flash
        self.state: Prefill | CachedMasks | StaticMasks | None = None
        self.entry = LlmEntry(modules, plan, self.masks, trace=trace)
        self.reader = PromptReader(modules, calls, features, hooks, active=not plan.empty)
        self.checkpoints = Checkpoints(self, "state", modules.layers, hooks)
        hooks.pre(modules.llm, self._enter)
        hooks.post(modules.llm, self._leave, always=True)
        self.watch = LlmObserver(modules, plan.llm, self.masks, self.reader, lambda: self.state, hooks)
        for index, layer in enumerate(modules.layers):
            # Before layer 0 tokens go at the entry.
            first = min((at for at in self.steps if at), default=len(modules.layers))
            wanted = index >= first or self.masks.outer or (self.flash and (self.marks or 0 in self.steps))
            if wanted and not modules.recurrent[index]:
                hooks.pre(layer, self._layer_hook(index), prepend=True)

    # -- before the LLM ---------------------------------------------------------------------------

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.state = self.done = None
        self.owner.running = True
        prompt = self.reader.take()
        self.checkpoints.prepare()
        if self.steps or self.marks:
            check_masks(self.modules, flash=self.flash)
        # Checkpointed layers are handed none.
        cache = None if self.checkpoints.without_cache else cache_of(kwargs)
        embeds = kwargs.get("inputs_embeds")
        if embeds is None:
            return None
        if prompt is None:
            return self._enter_decoding(args, kwargs, cache, embeds)
        # Without an encoder stage nothing is marked: a NaN is then the model's own affair.
        placeholders = (prompt.runs >= 0).to(embeds.device)
        dropped = marked(embeds) & placeholders if self.marks else torch.zeros_like(placeholders)
        if prompt.unknown_source:
            check_source(marked(embeds) & placeholders)
        start = 0 if cache is None else cache.get_seq_length()
        if not self.steps and not bool(dropped.any()) and not (start and is_merged(cache)):
            traces: dict[int, Any] | None = {} if self.entry.trace else None
            self.done = Prefill(prompt, whole(prompt, embeds), None, traces=traces)
            if self.marks:
                check_marks(self._runs(self.done), self.done, self.encoder_steps)
            return None
        refusal = None
        if cache is not None:
            refusal = static_refusal(self.masks, self.modules.recurrent, cache)
            refuse_filled(cache, refusal)
        self.entry.refuse(prompt, kwargs.get("attention_mask"), start)
        kwargs = dict(kwargs)
        layers = None
        if cache is None and self._uses_cache(kwargs):
            cache = DynamicCache(config=self.modules.llm.config)
            kwargs = with_cache(self.cache_name, kwargs, cache)
        if cache is not None:
            layers = prepare_for_merging(cache, self.masks.windows, self.owner, refusal)
            check_room(layers, prompt.runs.shape[1])
        self.state = self.done = prefill = self.entry.enter(prompt, kwargs, embeds, dropped, start)
        prefill.start = start
        if self.marks:
            check_marks(self._runs(prefill), prefill, self.encoder_steps)
        prefill.cache_layers, sequence = layers, prefill.entry
        if self.masks.by_window:
            kwargs["attention_mask"] = self.masks.of_windows(sequence.columns, embeds.dtype)
        self._note_cache(prefill, range(len(self.modules.layers)), 0)
        if start:
            prefill.cached = CachedMasks(
                self.masks, self.reader.padding, embeds.dtype, sequence.columns.shape[1]
            )
            kwargs["attention_mask"] = prefill.cached.at_entry(cache, None)
        return args, kwargs

    def _uses_cache(self, kwargs: dict[str, Any]) -> bool:
        wanted = False if self.checkpoints.without_cache else kwargs.get("use_cache")
        return bool(self.modules.llm.config.use_cache if wanted is None else wanted)

    def _enter_decoding(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], cache: Any, embeds: Tensor
    ) -> Any:
        if is_static(cache):
            # Asks the device for nothing, and branches on no tensor: this is what gets compiled.
            static = self.state = StaticMasks(cache, self.masks, embeds.shape[1], embeds.dtype)
            # In generate() that was done before, and what comes here was made of it.
            see_padding(cache, self.reader.padding)
            return args, {**kwargs, "attention_mask": static.for_layer(0)}
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
        state, done, self.state, self.done, self.owner.running = self.state, self.done, None, None, False
        # A pass that failed has no output.
        if done is not None and output is not None:
            if done is state:
                depth = self.modules.llm.config.num_hidden_layers
                check_output(done, output, frozenset(at for at in self.steps if 0 < at < depth))
                check_cache(done, output_cache(output), depth)
            self.on_prefill(done, self._runs(done))
        # What the report needs stays; keys, values and tables are the caller's to keep or drop, and those
        # of a backward pass that runs layers again.
        if isinstance(state, Prefill) and not self.checkpoints.active:
            state.forget()
            cache = cache_of(kwargs)
            if cache is not None:
                settle(cache)

    def _runs(self, prefill: Prefill) -> list[EncoderRun]:
        """The encoder's runs behind a pass: of features handed in, and of pictures encoded in it."""
        return [*prefill.prompt.runs_given, *self.features.runs]

    # -- at the layers ----------------------------------------------------------------------------

    def _layer_hook(self, index: int) -> Any:
        def enter_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            state = self.state
            if isinstance(state, Prefill):
                return self._prefill_layer(state, index, args, dict(kwargs))
            if isinstance(state, CachedMasks):
                layer = cache_of(kwargs).layers[index]
                # Without a merge before, the mask made at the entry is the right one.
                wanted = any(layer.group)
                return (args, {**kwargs, "attention_mask": state.for_layer(layer)}) if wanted else None
            if isinstance(state, StaticMasks) and state.differs(index):
                return args, {**kwargs, "attention_mask": state.for_layer(index)}
            return None

        return enter_layer

    def _prefill_layer(
        self, prefill: Prefill, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        if index in self.steps and index:
            if self.steps[index].asks == "itself" and index not in prefill.seen:
                tables = self._rotary(prefill, prefill.at(index - 1), hidden, kwargs)
                prefill.seen[index] = self.watch.recompute_qk(prefill, index, hidden, tables)
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
        kwargs["position_embeddings"] = self._rotary(prefill, sequence, hidden, kwargs)
        if prefill.cached is not None:
            kwargs["attention_mask"] = prefill.cached.for_layer(cache_of(kwargs).layers[index])
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

    def _rotary(
        self, prefill: Prefill, sequence: Sequence, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        """Rotary tables of the tokens of ``sequence``."""
        tables = kwargs["position_embeddings"]

        def make() -> tuple[Tensor, ...]:
            if sequence is prefill.entry:
                return tuple(tables)
            if prefill.positions is not None:
                left = take_positions(prefill.positions, sequence.entered)
                places = compact(left, sequence.runs, sequence.columns).to(hidden.device)
                made: tuple[Tensor, ...] = self.modules.llm.rotary_emb(hidden, places)  # type: ignore[operator]
                return made
            return tuple(take_rows(table, sequence.entered) for table in tables)

        return sequence.once(tables, make)

    def _merge(self, prefill: Prefill, index: int, hidden: Tensor) -> Tensor:
        step, sequence, seen = self.steps[index], prefill.at(index - 1), prefill.seen.get(index)
        prefill.visited.add(index)
        # The layers of a model may lie on several devices.
        visual = (sequence.runs >= 0).to(hidden.device)
        seen = None if seen is None else seen.to(hidden.device)
        # Row by row and left to right, so segments follow one another.
        units = Units(
            hidden[visual],
            None if seen is None else seen[visual],
            sequence.lengths,
            prefill.prompt.lengths,
            tokens=prefill.tokens(index - 1, hidden, seen),
            context=prefill.context,
        )
        merged = reduced(step, units)
        if merged is None:
            return hidden
        prefill.trace(index, merged, units)
        places = tuple(visual.nonzero()[merged.kept].T)
        stays = ~visual & (sequence.columns >= 0).to(hidden.device)
        stays = stays.index_put(places, torch.ones_like(places[0], dtype=torch.bool))
        hidden = hidden.index_put(places, merged.units)
        kept = compact_rows(stays, sequence.columns).to(sequence.columns.device)
        left = sequence_of(
            prefill.prompt,
            *(take(table, kept) for table in (sequence.columns, sequence.entered, sequence.runs)),
        )
        if prefill.record(index, left):
            self._note_cache(prefill, range(index, len(self.modules.layers)), len(prefill.history) - 1)
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
