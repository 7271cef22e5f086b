"""Methods of ``generate`` wrapped on one instance: where the prompt ends, and which cache is used."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial, wraps
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
    """Records where the prompt ends if candidates follow it, and prepares the cache for a merged prefill."""

    def __init__(self, modules: LocatedModules, calls: Calls, hooks: Hooks, *, active: bool) -> None:
        self.modules, self.calls, self.owner, self.active = modules, calls, hooks.owner, active
        wrappers: dict[str, Callable[..., Any]] = {
            "_get_candidate_generator": self._begin_assisted,
            "_valid_auto_compile_criteria": self._before_compiling,
            "_prefill": self._prefill,
        }
        for name, wrapper in wrappers.items():
            if hasattr(modules.model, name):
                hooks.attribute(modules.model, name, partial(wrapper, getattr(modules.model, name)))
        if hasattr(modules.model, "generate"):
            generate: Any = modules.model.generate
            hooks.attribute(modules.model, "generate", self._checked(generate))
            # generate() prefers a method of the model with this name.
            name = "create_masks_for_generate"
            make = getattr(modules.model, name, create_masks_for_generate)
            hooks.attribute(modules.model, name, partial(self._make_masks, make))

    def _checked(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        # Pipelines read the signature.
        @wraps(generate)
        def run(*args: Any, **kwargs: Any) -> Any:
            if self.active and picture_tensor(kwargs) is not None and self._is_contrastive(args, kwargs):
                raise UnsupportedError(
                    "contrastive search (penalty_alpha) applies the mask of the full prompt to hidden "
                    "states, so it is not supported with pictures on an accelerated model; leave it "
                    "unset, or call handle.remove() first"
                )
            return generate(*args, **kwargs)

        return run

    def _is_contrastive(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        given = kwargs.get("generation_config") or (args[1] if len(args) > 1 else None)
        config = given or self.modules.model.generation_config

        def value(name: str, default: Any) -> Any:
            found = kwargs.get(name, getattr(config, name, None))
            return default if found is None else found

        alone = value("num_beams", 1) == 1 and not value("do_sample", False)
        return alone and value("penalty_alpha", 0) > 0 and value("top_k", 50) > 1

    def _begin_assisted(self, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # The first pass of assisted decoding runs over the prompt and the candidates at once.
        generation = self.calls.generation
        if generation is not None and "input_ids" in kwargs:
            generation.prompt = kwargs["input_ids"]
            model_kwargs = kwargs.get("model_kwargs") or {}
            cache = self._empty_static(model_kwargs)
            if cache is not None:
                # Assisted decoding runs the prefill itself; the LLM stage settles the cache after it.
                prepare_for_merging(cache, LlmMasks(self.modules).windows, self.owner, None)
                generation.at_end = partial(settle, cache)
        return make(*args, **kwargs)

    def _before_compiling(
        self, criteria: Callable[..., Any], model_kwargs: dict[str, Any], generation_config: Any
    ) -> Any:
        # generate() calls this before the prefill, to decide whether to compile for a static cache.
        self._replace_static(model_kwargs, generation_config)
        return criteria(model_kwargs, generation_config)

    def _prefill(
        self,
        run: Callable[..., Any],
        input_ids: Tensor,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        *rest: Any,
        **kwargs: Any,
    ) -> Any:
        self._replace_static(model_kwargs, generation_config)
        size = getattr(generation_config, "prefill_chunk_size", None)
        with_pictures = self.active and picture_tensor(model_kwargs) is not None
        if with_pictures and size is not None and size < input_ids.shape[1]:
            raise UnsupportedError(
                f"prefill_chunk_size={size}: a prompt with pictures cannot be split into chunks, because the "
                "attention of its last token scores the pictures; leave prefill_chunk_size unset"
            )
        if with_pictures and size is not None:
            # A single chunk equals no chunking, and without chunking the features are not copied.
            generation_config = copy.copy(generation_config)
            generation_config.prefill_chunk_size = None
        cache = self._empty_static(model_kwargs)
        if cache is None:
            return run(input_ids, generation_config, model_kwargs, *rest, **kwargs)
        # With static layers, generate() would make masks of their full length.
        prepare_for_merging(cache, LlmMasks(self.modules).windows, self.owner, None)
        try:
            return run(input_ids, generation_config, model_kwargs, *rest, **kwargs)
        finally:
            settle(cache)

    def _empty_static(self, model_kwargs: dict[str, Any]) -> Any:
        """The empty static cache for a merged prompt, or None."""
        cache = cache_of(model_kwargs)
        with_pictures = picture_tensor(model_kwargs) is not None
        return cache if with_pictures and self._fits(cache) and not bool(cache.get_seq_length()) else None

    def _fits(self, cache: Any) -> bool:
        """Whether ``cache`` is a static cache that can hold a merged prompt."""
        static = self.active and type(cache) is StaticCache
        return static and static_refusal(LlmMasks(self.modules), self.modules.recurrent, cache) is None

    @staticmethod
    def _make_masks(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # Called before each step that may be compiled; later the caller's mask is not available.
        cache, padding = cache_of(kwargs), kwargs.get("attention_mask")
        if is_static(cache) and isinstance(padding, Tensor):
            update_padding(cache, padding)
        return make(*args, **kwargs)

    def _replace_static(self, model_kwargs: dict[str, Any], generation_config: Any) -> None:
        """Replace a static cache by a dynamic one if it cannot hold a merged prompt.

        This applies to caches created by ``generate`` only; one passed by the caller is refused later.
        """
        cache, implementation = cache_of(model_kwargs), generation_config.cache_implementation
        created = implementation is not None and type(cache) is StaticCache
        if not (self.active and created) or self._fits(cache):
            return
        if picture_tensor(model_kwargs) is not None and cache.get_seq_length() == 0:
            model_kwargs[generation_cache(model_kwargs)] = DynamicCache(config=self.modules.llm.config)


def picture_tensor(kwargs: Mapping[str, Any]) -> Tensor | None:
    """The tensor with the pictures of a call: pixels, or features that ``generate`` computed; or None."""
    for name in ("pixel_values", "pixel_values_videos"):
        if kwargs.get(name) is not None:
            return kwargs[name]  # type: ignore[no-any-return]
    outputs = kwargs.get("mm_encoder_outputs")
    for output in outputs.values() if isinstance(outputs, dict) else ():
        if output is not None:
            features = output.pooler_output
            return features if isinstance(features, Tensor) else features[0]
    return None
