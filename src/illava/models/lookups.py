"""What illava looks up in a loaded model: module paths and config attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from ..compat.calls import Fault, attribute_faults, refusal
from ..compat.signatures import original
from ..errors import UnsupportedError
from .dimensions import llm_dimensions
from .families import Family
from .towers import Tower


def module_paths(family: Family) -> tuple[str, ...]:
    """Modules of the base model, as paths."""
    paths = (
        family.encoder,
        family.projector,
        family.llm,
        f"{family.llm}.{family.llm_layers}",
        family.taps,
        family.unfolds_after,
        family.unfolds_before,
        family.compacts_before,
        family.pooler,
    )
    return tuple(path for path in paths if path is not None)


def block_paths(tower: Tower) -> tuple[str, ...]:
    """Modules of an encoder block, as paths."""
    return (tower.attention, tower.second_norm, tower.mlp)


_TILED = ("image_grid_pinpoints", "vision_config.image_size")
_LLAVA = ("vision_feature_layer", "vision_feature_select_strategy")
_PATCHES = (
    "vision_config.patch_size",
    "vision_config.spatial_merge_size",
    "vision_config.temporal_patch_size",
)
CONFIG: dict[str, tuple[str, ...]] = {
    "*": ("image_token_id", "vision_config.model_type", "vision_config._attn_implementation"),
    "llava": _LLAVA,
    "vipllava": ("vision_feature_layer",),
    "llava_next": (*_LLAVA, *_TILED),
    "llava_next_video": (*_LLAVA, *_TILED, "video_token_id"),
    "llava_onevision": (*_LLAVA, *_TILED, "video_token_id"),
    "qwen2_vl": (*_PATCHES, "video_token_id"),
    "qwen2_5_vl": (
        *_PATCHES,
        "video_token_id",
        "vision_config.window_size",
        "vision_config.fullatt_block_indexes",
    ),
    "qwen3_vl": (*_PATCHES, "video_token_id", "vision_config.deepstack_visual_indexes"),
    "qwen3_vl_moe": (*_PATCHES, "video_token_id", "vision_config.deepstack_visual_indexes"),
    "qwen3_5": (*_PATCHES, "video_token_id"),
    "qwen3_5_moe": (*_PATCHES, "video_token_id"),
    "glm4v": (*_PATCHES, "video_token_id"),
    "glm4v_moe": (*_PATCHES, "video_token_id"),
    "glm46v": (*_PATCHES, "video_token_id"),
    "internvl": (*_LLAVA, "downsample_ratio"),
    "idefics3": ("scale_factor",),
    "smolvlm": ("scale_factor",),
    "mistral3": ("vision_feature_layer", "spatial_merge_size", "vision_config.patch_size"),
    "gemma3": ("mm_tokens_per_image", "vision_config.image_size", "vision_config.patch_size"),
    "paligemma": (),
}
"""Config attributes by the family's ``model_type``; "*": of all families. Many are read with a default, so
that a new name would go unnoticed."""

LLM_CONFIG: dict[str, tuple[str, ...]] = {
    "*": ("use_cache", "_attn_implementation"),
    "llama": (),
    "gemma": (),
    "qwen3_vl_text": (),
    "glm4v_text": (),
    "mistral": ("sliding_window",),
    "qwen2": ("sliding_window", "layer_types"),
    "qwen2_vl_text": ("sliding_window", "layer_types"),
    "qwen2_5_vl_text": ("sliding_window", "layer_types"),
    "gemma2": ("sliding_window", "layer_types"),
    "gemma3_text": ("sliding_window", "layer_types"),
    "qwen3_5_text": ("layer_types",),
    "qwen3_5_moe_text": ("layer_types", "output_router_logits"),
    "qwen3_vl_moe_text": ("output_router_logits",),
    "glm4v_moe_text": ("output_router_logits",),
}
"""The same of the LLM's config, by its own ``model_type``. The sizes of others are not read beforehand."""

LAYER_TYPES = ("full_attention", "sliding_attention", "linear_attention")
"""The kinds of LLM layers that illava has masks for."""


def check_lookups(family: Family, tower: Tower, base: nn.Module, config: Any) -> None:
    """Raise UnsupportedError unless a model has the modules and config attributes that its family names.

    For :func:`illava.models.located.locate`, which needs them to find anything.
    """
    faults = list(lookup_faults(family, tower, base, config))
    if faults:
        raise UnsupportedError(refusal(faults))


def lookup_faults(family: Family, tower: Tower, base: nn.Module, config: Any) -> Iterator[Fault]:
    for path in module_paths(family):
        yield from path_faults(base, path)
    encoder = submodule(base, family.encoder)
    if encoder is not None:
        yield from path_faults(encoder, tower.blocks)
    blocks = None if encoder is None else submodule(encoder, tower.blocks)
    for block in [] if blocks is None else list(blocks.children())[:1]:
        for path in block_paths(tower):
            yield from path_faults(block, path)
    for path in (*CONFIG["*"], *CONFIG.get(family.model_type, ())):
        *outer, last = path.split(".")
        owner = config
        for name in outer:
            owner = getattr(owner, name, None)
        if not hasattr(owner, last):
            yield Fault(type(owner if owner is not None else config).__name__, f"lost its attribute {last}")
    llm = submodule(base, family.llm)
    if llm is not None:
        yield from _llm_config_faults(llm.config)
    readers: list[Callable[[Any], Any]] = [family.group, family.encoder_dimensions, family.first_llm_layer]
    if llm is not None and getattr(llm.config, "model_type", None) in LLM_CONFIG:
        readers.append(llm_dimensions)
    for read in readers:
        try:
            read(config)
        except AttributeError as error:
            yield Fault(type(config).__name__, f"does not give the sizes of the model: {error}")


def _llm_config_faults(config: Any) -> Iterator[Fault]:
    names = (*LLM_CONFIG["*"], *LLM_CONFIG.get(getattr(config, "model_type", ""), ()))
    yield from attribute_faults(type(config).__name__, config, names)
    for kind in sorted(set(getattr(config, "layer_types", None) or ()) - set(LAYER_TYPES)):
        yield Fault(
            f"{type(config).__name__}.layer_types", f"has layers {kind!r}, which illava does not know"
        )


def submodule(owner: nn.Module, path: str) -> nn.Module | None:
    try:
        return owner.get_submodule(path)
    except AttributeError:
        return None


def path_faults(owner: nn.Module, path: str) -> Iterator[Fault]:
    if submodule(owner, path) is None:
        yield Fault(type(original(owner)).__name__, f"has no module {path}")
