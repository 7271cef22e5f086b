"""Methods of ``generate`` shadowed on the one instance: where the prompt ends, which cache it gets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, StaticCache
from transformers.masking_utils import create_masks_for_generate

from ..compat import cache_of, generation_cache
from ..errors import UnsupportedError
from ..models.located import LocatedModules
from .cache.setup import prepare_for_merging
from .cache.static import is_static, settle, static_refusal, update_padding
from .calls import Calls
from .hooks import Hooks
from .llm.masks import LlmMasks


class Generating:
    """Where the prompt ends when candidates follow it; which cache and which prefill can be had."""

    def __init__(self, modules: LocatedModules, calls: Calls, hooks: Hooks, *, active: bool) -> None:
        self.modules, self.calls, self.owner, self.active = modules, calls, hooks.owner, active
        shadows: dict[str, Callable[..., Any]] = {
            "_get_candidate_generator": self._begin_assisted,
            "_valid_auto_compile_criteria": self._choose_compiling,
            "_prefill": self._prefill,
        }
        for name, shadow in shadows.items():
            if hasattr(modules.model, name):
                hooks.attribute(modules.model, name, partial(shadow, getattr(modules.model, name)))
        if hasattr(modules.model, "generate"):
            # generate() asks the model first for a function of that name.
            name = "create_masks_for_generate"
            make = getattr(modules.model, name, create_masks_for_generate)
            hooks.attribute(modules.model, name, partial(self._make_masks, make))

    def _begin_assisted(self, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # The first pass of assisted decoding runs over the prompt and the candidates at once.
        generation = self.calls.generation
        if generation is not None and "input_ids" in kwargs:
            generation.prompt = kwargs["input_ids"]
            model_kwargs = kwargs.get("model_kwargs") or {}
            cache = self._empty_static(model_kwargs)
            if cache is not None:
                # Assisted decoding makes the prefill by itself; the LLM settles the cache after it.
                prepare_for_merging(cache, LlmMasks(self.modules).windows, self.owner, None)
                generation.at_end = partial(settle, cache)
        return make(*args, **kwargs)

    def _choose_compiling(
        self, ask: Callable[..., Any], model_kwargs: dict[str, Any], generation_config: Any
    ) -> Any:
        # generate() calls this first, and compiles for static caches.
        self._hold_dynamically(model_kwargs, generation_config)
        return ask(model_kwargs, generation_config)

    def _prefill(
        self,
        run: Callable[..., Any],
        input_ids: Tensor,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        *rest: Any,
        **kwargs: Any,
    ) -> Any:
        self._hold_dynamically(model_kwargs, generation_config)
        size = getattr(generation_config, "prefill_chunk_size", None)
        with_pictures = self.active and picture_tensor(model_kwargs) is not None
        if with_pictures and size is not None and size < input_ids.shape[1]:
            raise UnsupportedError(
                f"prefill_chunk_size={size}: a prompt with pictures cannot be taken in chunks, because the "
                "attention of its last token scores the pictures; leave prefill_chunk_size unset"
            )
        if with_pictures and size is not None:
            # One chunk is none, and the features stay the objects that they are.
            generation_config = copy.copy(generation_config)
            generation_config.prefill_chunk_size = None
        cache = self._empty_static(model_kwargs)
        if cache is None:
            return run(input_ids, generation_config, model_kwargs, *rest, **kwargs)
        # As long as its layers are static, generate() makes masks of their whole length.
        prepare_for_merging(cache, LlmMasks(self.modules).windows, self.owner, None)
        try:
            return run(input_ids, generation_config, model_kwargs, *rest, **kwargs)
        finally:
            settle(cache)

    def _empty_static(self, model_kwargs: dict[str, Any]) -> Any:
        """The empty static cache that is to hold a merged prompt, or None."""
        cache = cache_of(model_kwargs)
        with_pictures = picture_tensor(model_kwargs) is not None
        return cache if with_pictures and self._fits(cache) and not bool(cache.get_seq_length()) else None

    def _fits(self, cache: Any) -> bool:
        """Whether this is a static cache that can hold a merged prompt."""
        static = self.active and type(cache) is StaticCache
        return static and static_refusal(LlmMasks(self.modules), self.modules.recurrent, cache) is None

    @staticmethod
    def _make_masks(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # Before a step that may be compiled, and the last to see the mask as the caller has it.
        cache, padding = cache_of(kwargs), kwargs.get("attention_mask")
        if is_static(cache) and isinstance(padding, Tensor):
            update_padding(cache, padding)
        return make(*args, **kwargs)

    def _hold_dynamically(self, model_kwargs: dict[str, Any], generation_config: Any) -> None:
        """Put a dynamic cache in the place of a static one that ``generate`` has made itself and that cannot
        hold a merged prompt. One that the caller made is left alone, and refused later.
        """
        cache, made = cache_of(model_kwargs), generation_config.cache_implementation
        if not (self.active and made is not None and type(cache) is StaticCache) or self._fits(cache):
            return
        if picture_tensor(model_kwargs) is not None and cache.get_seq_length() == 0:
            model_kwargs[generation_cache(model_kwargs)] = DynamicCache(config=self.modules.llm.config)


def picture_tensor(kwargs: Mapping[str, Any]) -> Tensor | None:
    """The tensor that stands for the pictures of a call: pixels, or the features generate made of them."""
    for name in ("pixel_values", "pixel_values_videos"):
        if kwargs.get(name) is not None:
            return kwargs[name]  # type: ignore[no-any-return]
    outputs = kwargs.get("mm_encoder_outputs")
    for output in outputs.values() if isinstance(outputs, dict) else ():
        if output is not None:
            features = output.pooler_output
            return features if isinstance(features, Tensor) else features[0]
    return None
