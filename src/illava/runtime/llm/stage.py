"""The LLM stage: drop the tokens marked by the encoder stage, then merge visual tokens before some layers.

A pre-hook on the language model removes the marked rows from embeddings, positions and mask. Before a layer
with a step, another pre-hook merges the visual tokens, by default by the attention of the last prompt token
at the previous layer. From there on, every layer gets the hidden states, rotary tables and masks of the
survivors, and the KV cache holds only these. Tokens merge in prefill only; in decoding, the cache is shorter
than the logical length that it reports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from ...compat import cache_name, cache_of, output_cache, with_cache
from ...methods.steps import LlmStep, Plan
from ...models.located import LocatedModules
from ...ops.marks import marked
from ..cache.merged import MergedLayer, evict, is_merged
from ..cache.setup import prepare_for_merging, refuse_filled
from ..cache.static import StaticMasks, check_room, is_static, settle, static_refusal, update_padding
from ..checkpoints import Checkpoints
from ..checks import check_cache, check_marks, check_output, check_source
from ..encoder.features import FeatureCalls
from ..hooks import Hooks
from ..passes import Pass, Passes
from .entry import LlmEntry, Marks, read_marks, whole
from .fixed import mark_fixed
from .masks import CachedMasks, LlmMasks, check_masks
from .merging import LlmMerging
from .observer import LlmObserver
from .prefill import Prefill, Prompt
from .prompt import PromptReader
from .sizes import LlmSizeBias, read_sizes


class LlmStage:
    """Hooks on the language model; ``publish`` gets every completed pass over a prompt with pictures."""

    def __init__(
        self,
        modules: LocatedModules,
        plan: Plan,
        passes: Passes,
        features: FeatureCalls,
        hooks: Hooks,
        publish: Callable[[Pass], None],
        *,
        trace: bool = False,
    ) -> None:
        self.modules, self.marks = modules, plan.before_llm
        self.steps: dict[int, LlmStep] = plan.llm
        self.encoder_steps = frozenset(plan.encoder)
        self.passes, self.publish, self.owner = passes, publish, hooks.owner
        # Read once, since compiled code cannot.
        self.cache_name = cache_name(modules.llm)
        self.masks = LlmMasks(modules)
        self.flash = self.masks.flash
        self.entry = LlmEntry(modules, plan, self.masks, trace=trace)
        PromptReader(modules, passes, features, hooks, active=not plan.empty)
        self.checkpoints = Checkpoints(passes, modules.layers, hooks)
        hooks.pre(modules.llm, self._enter)
        hooks.post(modules.llm, self._leave, always=True)
        observer = LlmObserver(modules, plan.llm, self.masks, passes, hooks)
        self.sized = plan.llm_size_bias
        self.merging = LlmMerging(modules, plan.llm, self.masks, observer, sized=self.sized)
        for index, layer in enumerate(modules.layers if self.sized else ()):
            hooks.tap(layer.get_submodule(modules.family.llm_attention), bias=LlmSizeBias(index, passes))
        for index, layer in enumerate(modules.layers):
            # A step before layer 0 runs at the entry.
            first = min((at for at in self.steps if at), default=len(modules.layers))
            needed = index >= first or self.masks.outer or (self.flash and (self.marks or 0 in self.steps))
            if needed and not modules.recurrent[index]:
                hooks.pre(layer, self._layer_hook(index), prepend=True)

    # -- before the LLM ---------------------------------------------------------------------------

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        current = self.passes.for_llm()
        self.owner.running = True
        prompt = current.prompt
        self.checkpoints.prepare()
        if self.steps or self.marks:
            check_masks(self.modules, flash=self.flash)
        # Checkpointed layers get no cache.
        cache = None if self.checkpoints.without_cache else cache_of(kwargs)
        embeds = kwargs.get("inputs_embeds")
        if embeds is None:
            return None
        if prompt is None:
            return self._enter_decoding(current, args, kwargs, cache, embeds)
        if self.steps:
            mark_fixed(prompt, self.modules, current.runs)
        marks = self._marks(current, prompt, embeds)
        start = 0 if cache is None else cache.get_seq_length()
        if not self.steps and not marks.count and not (start and is_merged(cache)):
            traces: dict[int, Any] | None = {} if self.entry.trace else None
            current.prefill = Prefill(prompt, whole(prompt, embeds), traces=traces)
            if self.marks:
                check_marks(current.runs, current.prefill, self.encoder_steps)
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
        sizes = read_sizes(prompt, self.modules, current.runs) if self.sized else None
        prefill = self.entry.enter(
            prompt, kwargs, embeds, marks, start, cached=cache is not None, sizes=sizes
        )
        current.layers = current.prefill = prefill
        prefill.start, prefill.merging = start, self.merging
        if self.marks:
            check_marks(current.runs, prefill, self.encoder_steps)
        columns, padding = prefill.entry.columns, current.padding
        if self.masks.by_window:
            padded = prefill.entry.padded
            kwargs["attention_mask"] = self.masks.of_windows(columns, embeds.dtype, padded)
        if layers is not None:
            prefill.padded = prompt.padded
            prefill.cache_layers, prefill.depth = layers, len(self.modules.layers)
            current.cache_layers = layers
            prefill.expect()
        if start:
            prefill.cached_masks = CachedMasks(self.masks, padding, embeds.dtype, columns.shape[1])
            kwargs["attention_mask"] = prefill.cached_masks.at_entry(cache, None)
        return args, kwargs

    def _marks(self, current: Pass, prompt: Prompt, embeds: Tensor) -> Marks:
        """The marks in (B, L, d) embeddings, which are read from the device if there may be any."""
        placeholders = (prompt.runs >= 0).to(embeds.device)
        if not self.marks and not prompt.unknown_source:
            # Without an encoder stage nothing is marked, and a NaN is an output of the plain model.
            return Marks(torch.zeros_like(placeholders), 0, prompt.real)
        marks = read_marks(prompt, marked(embeds) & placeholders, current.runs)
        if prompt.unknown_source:
            check_source(marks.count)
        return marks

    def _uses_cache(self, kwargs: dict[str, Any]) -> bool:
        use_cache = False if self.checkpoints.without_cache else kwargs.get("use_cache")
        return bool(self.modules.llm.config.use_cache if use_cache is None else use_cache)

    def _enter_decoding(
        self, current: Pass, args: tuple[Any, ...], kwargs: dict[str, Any], cache: Any, embeds: Tensor
    ) -> Any:
        if is_static(cache):
            # This branch is compiled: it must not synchronise with the device or branch on a tensor.
            current.cache_layers = cache.layers
            static = current.layers = StaticMasks(cache, self.masks, embeds.shape[1], embeds.dtype)
            # In generate() the padding was read before, and ``current.padding`` is None.
            update_padding(cache, current.padding)
            return args, {**kwargs, "attention_mask": static.for_layer(0)}
        if not is_merged(cache) or cache.get_seq_length() == 0:
            return None
        current.cache_layers = cache.layers
        held = [layer for layer in cache.layers if isinstance(layer, MergedLayer)]
        queries = embeds.shape[1]
        padding = current.padding
        if padding is not None and queries > 1 and not bool(padding[:, -queries:].all()):
            for layer in held:
                layer.padded = True
        current.layers = masks = CachedMasks(self.masks, padding, embeds.dtype, queries)
        if not self.masks.ready_made and not held[0].padded:
            return None
        return args, {**kwargs, "attention_mask": masks.at_entry(cache, kwargs.get("attention_mask"))}

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        current, self.owner.running = self.passes.end(), False
        prefill = None if current is None else current.prefill
        if current is None or prefill is None:
            return
        merging = prefill.merging is not None
        # A failed pass has no output.
        if output is not None:
            if merging:
                depth = self.modules.llm.config.num_hidden_layers
                check_output(prefill, output, frozenset(at for at in self.steps if 0 < at < depth))
                check_cache(prefill, output_cache(output), depth)
                evict(prefill.cache_layers or ())
                if self.passes.options.labels is not None:
                    self.passes.options.labels.align(prefill.history[-1][1])
            current.forget()
            self.publish(current)
        # Keep only what the report needs. A backward pass that reruns layers needs the rest as well.
        if merging and not self.checkpoints.active:
            prefill.forget()
            cache = cache_of(kwargs)
            if cache is not None:
                settle(cache)

    # -- at the layers ----------------------------------------------------------------------------

    def _layer_hook(self, index: int) -> Any:
        def enter_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            current = self.passes.current
            if current is None or current.layers is None:
                return None
            return current.layers.layer_arguments(index, args, kwargs)

        return enter_layer
