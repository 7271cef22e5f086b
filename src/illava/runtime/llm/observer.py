"""The observations of the LLM's attention by the steps of the LLM stage, in a prefill."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ...methods.steps import LlmAttention, LlmStep, Tokens
from ...models.located import LocatedModules
from ..attention_tap import AttentionCall
from ..hooks import Hooks
from ..passes import Passes
from .masks import LlmMasks
from .prefill import Prefill


class LlmObserver:
    """Passes the attention that steps use for scoring to them."""

    def __init__(
        self,
        modules: LocatedModules,
        steps: dict[int, LlmStep],
        masks: LlmMasks,
        passes: Passes,
        hooks: Hooks,
    ) -> None:
        self.modules, self.steps, self.masks, self.passes = modules, steps, masks, passes
        self.recomputing: dict[int, Callable[..., None]] = {}
        for index, layer in enumerate(modules.layers):
            if index + 1 in steps and steps[index + 1].attention_source == "before":
                attention = layer.get_submodule(modules.family.llm_attention)
                hooks.tap(attention, partial(self._observe, index))
            if index and index in steps and steps[index].attention_source == "itself":
                attention = layer.get_submodule(modules.family.llm_attention)
                self.recomputing[index] = hooks.tap(attention).recompute_qk

    def _observe(self, index: int, call: AttentionCall) -> None:
        current = self.passes.current
        prefill = None if current is None else current.prefill
        if current is None or prefill is None or index + 1 in prefill.seen:
            return
        tokens, mask = prefill.tokens(index, call.query.new_empty(0)), call.mask
        if mask is not None and not isinstance(mask, Tensor):
            mask = self._seen(prefill, current.padding, index, tokens.last)
        bias = None if call.bias is None else call.bias[:, 0, 0]
        attention = _attention(call, mask, tokens, bias)
        prefill.seen[index + 1] = self.steps[index + 1].observe_llm(attention, prefill.context)

    def recompute_qk(
        self, prefill: Prefill, index: int, hidden: Tensor, tables: tuple[Tensor, ...] | None
    ) -> Tensor:
        """The observations of the step before ``index`` in that layer's recomputed attention."""
        layer, step, found = self.modules.layers[index], self.steps[index], list[Tensor]()
        path, input_device = self.modules.family.llm_norm, hidden.device
        norm = None if path is None else layer.get_submodule(path)
        # Inputs are moved to the device of a layer only when it is called.
        device = _device_of(norm or layer.get_submodule(self.modules.family.llm_attention), layer)
        hidden = hidden.to(device)
        tables = None if tables is None else tuple(table.to(device) for table in tables)
        sequence = prefill.at(index - 1)
        tokens = prefill.tokens(index - 1, hidden)
        seen = (sequence.columns >= 0).to(hidden.device)
        window = self.masks.windows[index]
        if window is not None:
            last_column = tokens.columns.gather(1, tokens.last[:, None])
            seen &= tokens.columns > last_column - window

        sizes = sequence.log_sizes
        bias = None if sizes is None else sizes.to(hidden.device)

        def observe(call: AttentionCall) -> None:
            found.append(step.observe_llm(_attention(call, seen, tokens, bias), prefill.context))

        with torch.no_grad():
            self.recomputing[index](
                observe,
                hidden_states=hidden if norm is None else norm(hidden),
                position_embeddings=tables,
                attention_mask=None,
            )
        return found[0].to(input_device)

    def _seen(self, prefill: Prefill, padding: Tensor | None, index: int, last: Tensor) -> Tensor:
        """(B, k) bool: which keys the last prompt token attends to, ignoring causality.

        Used for flex attention, whose masks are functions and cannot be read.
        """
        keys = prefill.at(index).columns.to(last.device)
        if prefill.cached_masks is not None and prefill.cache_layers is not None:
            keys = prefill.cache_layers[index].attended.to(last.device)
            if padding is not None:
                padding = padding.to(last.device).bool()
                keys = keys.where(padding.gather(1, keys.clamp(min=0)), -1)
        seen, window = keys >= 0, self.masks.windows[index]
        if window is not None:
            last_column = keys.gather(1, (keys.shape[1] - prefill.at(index).columns.shape[1] + last)[:, None])
            seen &= keys > last_column - window
        return seen


def _attention(call: AttentionCall, mask: Tensor | None, tokens: Tokens, bias: Tensor | None) -> LlmAttention:
    return LlmAttention(call.query, call.key, call.scaling, mask, call.softcap, tokens, call.value, bias)


def _device_of(module: nn.Module, parent: nn.Module) -> torch.device | str | int:
    """The device on which a module computes.

    Between calls, the weights of an offloaded module are on "meta". The device to which inputs and weights
    are moved is then in the hook that the accelerate library attached to the module or to its parent.
    """
    for owner in (module, parent):
        hook = getattr(owner, "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):
            device: torch.device | str | int | None = getattr(each, "execution_device", None)
            if device is not None:
                return device
    return next(module.parameters()).device
