"""The attention masks of a shortened prompt, in the form required by the user's attention backend.

SDPA takes boolean masks, eager attention additive ones, and flex attention functions with their block
sparsity. Flash attention only takes a mask of real keys, since its kernel is causal.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ...compat import cache_of
from ...errors import UnsupportedError
from ...methods.steps import Plan
from ...models.located import LocatedModules
from ...ops.masks import as_additive, block_mask, causal_mask, column_mask, take_mask, take_rows
from ...ops.size_bias import WIDEST, width_with_channels
from ..attention_tap import is_flash, refuse_another
from ..cache.merged import MergedLayer


class LlmMasks:
    """Makes masks for the language model of ``modules``."""

    def __init__(self, modules: LocatedModules) -> None:
        self.config, self.windows, self.outer = (
            modules.llm.config,
            modules.windows,
            modules.family.outer_masks,
        )

    @property
    def backend(self) -> str:
        """The attention implementation that the user has chosen."""
        return str(self.config._attn_implementation)

    @property
    def flash(self) -> bool:
        """Whether it is flash attention, of any version and source."""
        return is_flash(self.config)

    @property
    def flex(self) -> bool:
        """Whether it is flex attention."""
        return self.backend == "flex_attention"

    @property
    def ready_made(self) -> bool:
        """Whether the LLM is given complete masks, because its own would use indices instead of columns."""
        return self.outer or any(self.windows)

    @property
    def by_window(self) -> bool:
        """Whether these masks depend only on sliding windows."""
        return self.ready_made and not self.outer

    @property
    def _types(self) -> list[str] | None:
        return getattr(self.config, "layer_types", None)

    def at(self, mask: Any, columns: Tensor, dtype: torch.dtype, padded: bool) -> Any:
        """Restrict the full prompt's mask to ``columns``.

        Args:
            mask: the mask that the layers received: a tensor, None, or a dictionary by type of layer.
            columns: (B, n) int64, -1 for filler and padding.
            dtype: dtype of additive masks.
            padded: whether ``columns`` may have -1.
        """
        if isinstance(mask, dict):
            return {kind: self.at(part, columns, dtype, padded) for kind, part in mask.items()}
        if isinstance(mask, Tensor):
            return take_mask(mask, columns) if mask.dim() == 4 else take_rows(mask, columns)
        if self.flex:
            # Without a mask, flex attention would not be causal.
            return block_mask(columns, columns, None, padded=padded)
        if not padded:
            return None
        real = columns >= 0
        return real if self.flash else causal_mask(real, real.shape[1], dtype, additive=self._eager)

    @property
    def _eager(self) -> bool:
        return self.backend == "eager"

    def as_wanted(self, seen: Tensor, dtype: torch.dtype) -> Tensor:
        """A boolean mask, as SDPA takes it, or additive in ``dtype`` for eager attention."""
        return as_additive(seen, dtype) if self._eager else seen

    def by_columns(
        self, keys: Tensor, queries: Tensor, window: int | None, dtype: torch.dtype, padded: bool
    ) -> Any:
        """The causal mask by columns of the full prompt: see :func:`column_mask`."""
        if self.flex:
            return block_mask(keys, queries, window, padded=padded)
        return column_mask(keys, queries, window, dtype, additive=self._eager)

    def at_layer(
        self, index: int, mask: Any, columns: Tensor, entered: Tensor, dtype: torch.dtype, padded: bool
    ) -> Any:
        """Like :meth:`at`, for the layer at ``index``; windows are counted in columns of the full prompt."""
        if self.by_window:
            return self.by_columns(columns, columns, self.windows[index], dtype, padded)
        return self.at(mask, entered, dtype, padded)

    def of_windows(self, columns: Tensor, dtype: torch.dtype, padded: bool) -> Any:
        """The masks of a prompt for a model with sliding windows, which count columns of the full prompt."""
        made = {
            window: self.by_columns(columns, columns, window, dtype, padded) for window in set(self.windows)
        }
        if not self._types:
            return made[self.windows[0]]
        return {kind: made[window] for kind, window in zip(self._types, self.windows, strict=True)}


def check_masks(modules: LocatedModules, flash: bool | None = None) -> None:
    """Raise UnsupportedError if the chosen attention backend does not support the masks that are needed.

    ``flash``: whether the backend was flash attention when the model was accelerated; None in accelerate().
    """
    masks = LlmMasks(modules)
    refuse_another(masks.config, masks.flash if flash is None else flash)
    name = modules.family.model_type
    if masks.outer and (masks.flash or masks.flex):
        raise UnsupportedError(
            f"{name} with {masks.backend!r} is not supported: its image attention is bidirectional, which "
            "needs complete masks; load it with attn_implementation='sdpa'"
        )
    if masks.flash and masks.ready_made:
        raise UnsupportedError(
            f"{name} with sliding windows and {masks.backend!r} is not supported: the kernel would count "
            "windows in remaining tokens instead of columns; load it with attn_implementation='sdpa'"
        )


def check_biases(modules: LocatedModules, plan: Plan) -> None:
    """Raise UnsupportedError if this model's attention or rotary tables do not support a plan."""
    text = modules.llm.config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if plan.llm_size_bias and is_flash(text) and width_with_channels(head_dim) > WIDEST:
        raise UnsupportedError(
            f"flash attention takes heads of at most {WIDEST} channels, and proportional attention adds to "
            f"this LLM's {head_dim}: load the model with attn_implementation='sdpa', or use a method with "
            "proportional='encoder', such as dataclasses.replace(illava.Illava.best(1 / 3), "
            "proportional='encoder')"
        )
    if plan.llm_size_bias and any(modules.recurrent):
        raise UnsupportedError(
            f"layers of {modules.family.model_type} without attention cannot weigh tokens by their size; use "
            "proportional='encoder'"
        )
    if plan.positions == "compact" and plan.pixels is None and not plan.empty:
        rotary = getattr(modules.llm, "rotary_emb", None)
        if rotary is None or "layer_type" in inspect.signature(rotary.forward).parameters:
            raise UnsupportedError(
                f"renumbered positions are not supported for {modules.family.model_type}, whose layers have "
                "different kinds of rotary tables; use a method that keeps the original positions"
            )


class CachedMasks:
    """The masks of a pass on a filled cache: for new tokens, or for an expected prefill."""

    def __init__(self, masks: LlmMasks, padding: Tensor | None, dtype: torch.dtype, queries: int) -> None:
        self.masks, self.padding, self.dtype, self.queries = masks, padding, dtype, queries
        self._made: dict[tuple[tuple[int, ...], int | None], Any] = {}

    def layer_arguments(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The arguments with the layer's own mask after a merge; None before any merge."""
        layer = cache_of(kwargs).layers[index]
        if not any(layer.group):
            return None
        return args, {**kwargs, "attention_mask": self.for_layer(layer)}

    def for_layer(self, layer: MergedLayer) -> Any:
        """(B, 1, q, k), or (B, k) for flash attention; None if all keys are attended to."""
        if not layer.padded and (self.masks.flash or (layer.window is None and self.queries == 1)):
            return None
        key = (layer.group, layer.window)
        if key not in self._made:
            self._made[key] = self._make(layer)
        return self._made[key]

    def _make(self, layer: MergedLayer) -> Any:
        if self.masks.flash:
            return layer.key_padding(self.padding, self.queries)
        keys = layer.key_columns(self.queries)
        if self.padding is not None:
            keys = keys.where(layer.key_padding(self.padding, self.queries), -1)
        if layer.expected is not None:
            queries = layer.expected.columns
        else:
            start = layer.get_seq_length()
            queries = torch.arange(start, start + self.queries, device=keys.device).expand(len(keys), -1)
        return self.masks.by_columns(keys, queries, layer.window, self.dtype, layer.padded)

    def at_entry(self, cache: Any, given: Any) -> Any:
        """The mask argument of the LLM: complete masks, or the padding mask from which it makes its own.

        Complete masks have the form of ``given``, or are a dictionary by type of layer, if it has types.
        """
        first = next(layer for layer in cache.layers if isinstance(layer, MergedLayer))
        if self.masks.ready_made:
            types = self.masks._types
            if types and (not self.masks.outer or isinstance(given, dict)):
                # The mask of the first layer of each type; layers after a merge get their own.
                return {types[i]: self.for_layer(cache.layers[i]) for i in reversed(range(len(types)))}
            return self.for_layer(first)
        if first.expected is not None and not self.masks.flash:
            return self.for_layer(first)
        # (B, logical keys) 0/1, of which a merged layer uses the last columns.
        return nn.functional.pad(first.key_padding(self.padding, self.queries).long(), (first.dropped, 0))
