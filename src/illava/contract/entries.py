"""What illava relies on in a loaded model: modules, config attributes, forwards and methods.

One declarative list: an argument or attribute of transformers that illava reads or gives has an entry here,
or in :mod:`.everywhere` where it depends on no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from .calls import CACHE_NAMES, Call

if TYPE_CHECKING:
    from ..families import Family
    from ..parts import ModelParts
    from ..stages.steps import Plan
    from ..towers import Tower

# What the first argument of a projector, pooler or connector is called.
FEATURES = (
    "image_features",
    "hidden_states",
    "hidden_state",
    "vision_outputs",
    "image_hidden_states",
    "x",
    "input",
)
# How the attention of a modelling file finds its implementation: taps act through this.
LOOKS_UP = ("config", "_attn_implementation", "ALL_ATTENTION_FUNCTIONS")
# Of arguments that hold nothing for each token.
FLAGS = ("use_cache", "output_attentions", "output_hidden_states", "output_router_logits", "return_dict")


# -- modules and config attributes: before a model's parts can be looked up -------------------------------


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
"""The same of the LLM's config, by its own ``model_type``."""

LAYER_TYPES = ("full_attention", "sliding_attention", "linear_attention")
"""The kinds of LLM layers that illava has masks for."""


# -- forwards ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forward:
    """The forwards of some modules of a model."""

    modules: Callable[[ModelParts], Sequence[nn.Module]]
    call: Callable[[ModelParts], Call] | Call
    needed: Callable[[Plan], Any] = lambda plan: True
    """Whether a plan touches them."""


def _at(path: Callable[[ModelParts], str | None]) -> Callable[[ModelParts], Sequence[nn.Module]]:
    """The module of the base model at the path that a family gives, if it gives one."""

    def find(parts: ModelParts) -> Sequence[nn.Module]:
        name = path(parts)
        return () if name is None else (parts.base.get_submodule(name),)

    return find


def _attending(parts: ModelParts) -> list[nn.Module]:
    return [layer for layer, recurrent in zip(parts.layers, parts.recurrent, strict=False) if not recurrent]


def _inside(blocks: Callable[[ModelParts], Sequence[nn.Module]], path: Callable[[ModelParts], str]) -> Any:
    return lambda parts: [block.get_submodule(path(parts)) for block in blocks(parts)]


def _block_call(parts: ModelParts) -> Call:
    tower = parts.tower
    uses = tuple(path.partition(".")[0] for path in block_paths(tower))
    if not tower.packed:
        return Call(("hidden_states",), known=("attention_mask", *FLAGS), uses=uses)
    if tower.masked:
        return Call(("hidden_states", "attention_mask"), ("position_embeddings",), FLAGS, uses=uses)
    return Call(("hidden_states",), ("cu_seqlens", "position_embeddings"), ("max_seqlen", *FLAGS), uses=uses)


def _encoder_call(parts: ModelParts) -> Call:
    if not parts.tower.packed:
        return Call()
    return Call(("pixel_values", "image_sizes") if parts.tower.masked else ("hidden_states", "grid_thw"))


def _blocks_owner(parts: ModelParts) -> list[nn.Module]:
    return [parts.encoder.get_submodule(parts.tower.blocks.rpartition(".")[0])]


def _blocks_owner_call(parts: ModelParts) -> Call:
    given = ("position_embeddings",) if parts.tower.masked else ("cu_seqlens", "position_embeddings")
    return Call(uses=(parts.tower.blocks.rpartition(".")[2], *(given if parts.tower.packed else ())))


def _base_call(parts: ModelParts) -> Call:
    videos = ("pixel_values_videos",) if hasattr(parts.config, "video_token_id") else ()
    given = (
        "inputs_embeds",
        "attention_mask",
        "position_ids",
        CACHE_NAMES,
        "get_image_features",
        "pooler_output",
    )
    return Call(
        ("input_ids",),
        ("attention_mask", CACHE_NAMES, "inputs_embeds", "pixel_values", *videos, "mm_encoder_outputs"),
        uses=(*given, "image", *(("get_video_features", "video") if videos else ())),
    )


def _llm_call(parts: ModelParts) -> Call:
    taps = () if parts.family.taps is None else ("visual_pos_masks", "deepstack_visual_embeds")
    return Call(
        names=("attention_mask", "position_ids", CACHE_NAMES, "inputs_embeds", "use_cache", *taps),
        known=("input_ids", *FLAGS),
        uses=(parts.family.llm_layers, "attention_mask", "position_ids", "position_embeddings", CACHE_NAMES),
    )


def _layer_call(parts: ModelParts) -> Call:
    return Call(
        ("hidden_states",),
        ("attention_mask", "position_ids", CACHE_NAMES, "position_embeddings"),
        FLAGS,
        uses=(parts.family.llm_attention, parts.family.llm_norm),
    )


def _llm_steps(plan: Plan) -> bool:
    return bool(plan.llm)


def _encoder_steps(plan: Plan) -> bool:
    return bool(plan.encoder) or plan.projector is not None


ONE_ARGUMENT = Call(single=True)
FIRST_FEATURES = Call((FEATURES,))
HEADED = Call(
    ("input_ids",),
    (
        "attention_mask",
        CACHE_NAMES,
        "inputs_embeds",
        "pixel_values",
        "labels",
        "logits_to_keep",
        "mm_encoder_outputs",
    ),
    uses=("inputs_embeds", "attention_mask", CACHE_NAMES, "pixel_values"),
)
VISION_ATTENTION = Call(("hidden_states",), uses=LOOKS_UP)
PACKED_ATTENTION = Call(
    ("hidden_states",), ("cu_seqlens", "position_embeddings", "max_seqlen"), uses=LOOKS_UP
)
LLM_ATTENTION = Call(
    names=("hidden_states", "position_embeddings", "attention_mask"),
    optional=True,
    uses=(*LOOKS_UP, "update"),
)

FORWARDS: tuple[Forward, ...] = (
    Forward(lambda p: [p.model] if hasattr(p.model, "lm_head") and p.model is not p.base else [], HEADED),
    Forward(
        lambda p: [p.model] if hasattr(p.model, "lm_head") and _mixes_experts(p) else [],
        Call(names=("output_router_logits",)),
    ),
    Forward(lambda p: [p.base], _base_call),
    Forward(lambda p: [p.encoder], _encoder_call),
    Forward(_blocks_owner, _blocks_owner_call),
    Forward(lambda p: p.blocks, _block_call),
    Forward(
        _inside(lambda p: p.blocks, lambda p: p.tower.attention),
        lambda p: PACKED_ATTENTION if p.tower.packed and not p.tower.masked else VISION_ATTENTION,
        _encoder_steps,
    ),
    Forward(
        _inside(lambda p: p.blocks, lambda p: p.tower.second_norm), ONE_ARGUMENT, lambda plan: plan.encoder
    ),
    Forward(_inside(lambda p: p.blocks, lambda p: p.tower.mlp), ONE_ARGUMENT, lambda plan: plan.encoder),
    Forward(lambda p: [p.projector, *p.taps], FIRST_FEATURES),
    Forward(_at(lambda p: p.family.unfolds_after), ONE_ARGUMENT),
    Forward(_at(lambda p: p.family.unfolds_before), FIRST_FEATURES),
    Forward(_at(lambda p: p.family.compacts_before), FIRST_FEATURES),
    Forward(_at(lambda p: p.family.pooler), FIRST_FEATURES),
    Forward(lambda p: [p.llm], _llm_call),
    Forward(_attending, _layer_call),
    Forward(_inside(_attending, lambda p: p.family.llm_attention), LLM_ATTENTION, _llm_steps),
    Forward(_inside(_attending, lambda p: p.family.llm_norm), ONE_ARGUMENT, _llm_steps),
    Forward(
        # Called for renumbered positions; "layer_type" is what those are refused by.
        lambda p: [p.llm.rotary_emb] if hasattr(p.llm, "rotary_emb") else [],
        Call(("x", "position_ids"), known=("layer_type",)),
        lambda plan: plan.positions == "compact",
    ),
)


def _mixes_experts(parts: ModelParts) -> bool:
    return hasattr(parts.llm.config, "output_router_logits")


# -- methods -------------------------------------------------------------------------------------------------

PACK = Call(("image_features", "image_sizes"), ("image_newline",))
ROW_MIXERS: dict[str, tuple[str, Call]] = {
    "pack_image_features": ("get_image_features", PACK),
    "apply_pooling": ("get_video_features", FIRST_FEATURES),
}
"""By name, the method of the base model that calls it, and its arguments."""


def features_calls(parts: ModelParts) -> dict[str, Call]:
    """The methods of the base model that encode pictures and videos, and what they must offer."""
    mixers = [(name, ROW_MIXERS[name][0]) for name in parts.family.row_mixers]
    grid = parts.tower.packed and not parts.tower.masked
    calls = {"get_image_features": ("pixel_values", "image_grid_thw")[: 1 + grid]}
    if hasattr(parts.config, "video_token_id"):
        calls["get_video_features"] = ("pixel_values_videos", "video_grid_thw")[: 1 + grid]
    return {
        name: Call(leading, uses=tuple(mixer for mixer, caller in mixers if caller == name))
        for name, leading in calls.items()
    }


MASKS = Call(("config", "inputs_embeds", "attention_mask", CACHE_NAMES), ("position_ids",))
GENERATE: dict[str, Call] = {
    "generate": Call(
        ("inputs", "generation_config"), ("assistant_model",), uses=("_expand_inputs_for_generation",)
    ),
    "_sample": Call(("input_ids",), uses=("_prefill", "_valid_auto_compile_criteria")),
    "_beam_search": Call(("input_ids",), uses=("_prefill",)),
    "_assisted_decoding": Call(
        ("input_ids",), ("generation_config",), uses=("_get_candidate_generator", "input_ids")
    ),
    "_get_candidate_generator": Call(names=("input_ids", "generation_config", "model_kwargs")),
    "_valid_auto_compile_criteria": Call(("model_kwargs", "generation_config"), optional=True),
    "_prefill": Call(
        ("input_ids", "generation_config", "model_kwargs"), optional=True, uses=("prefill_chunk_size",)
    ),
    "_expand_inputs_for_generation": Call(names=("expand_size", "input_ids")),
}
"""Parts of ``generate`` that are replaced on the model, or that call those."""
# Families have their own in front of it.
PREPARE_INPUTS = Call(("input_ids",), (CACHE_NAMES,), uses=("create_masks_for_generate",))
GENERATION_CONFIG = ("prefill_chunk_size", "cache_implementation")
