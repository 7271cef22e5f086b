"""LLaVA 1.5, models of the same architecture, and ViP-LLaVA: a fixed picture size, or Pixtral's encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import transformers

from .. import tiny_configs as tiny
from ..dimensions import EncoderDimensions, tiled_encoder
from ..family import Family, Schedule
from ..picture_layouts import picture_in_lines, whole_picture
from ..towers import CLIP, DINOV2, DINOV2_WITH_REGISTERS, PIXTRAL, SIGLIP
from ..workload import Size, Workload

if TYPE_CHECKING:
    from ..located import LocatedModules

# 92 of 729 tokens removed at each encoder block: 361 are kept.
ONEVISION_KEEP = (637 / 729, 545 / 637, 453 / 545, 361 / 453)
# For families without a published schedule. OneVision's layer 8 of 28 becomes 9 of Vicuna's and Mistral's 32.
LIKE_ONEVISION = Schedule(
    26, (5, 6, 7, 8), ONEVISION_KEEP, 28, (8,), (0.7,), "LLaVA-OneVision's, none was published for it"
)
TILED = {"clip_vision_model": CLIP, "siglip_vision_model": SIGLIP, "dinov2": DINOV2}
"""Image encoders whose patches, after a class token if they have one, form a square."""
# Transformers drops the class token only, so that registers reach the LLM.
WITH_REGISTERS = {**TILED, "dinov2_with_registers": DINOV2_WITH_REGISTERS}
FEATURES = ("vision_feature_layer", "vision_feature_select_strategy")
"""Config attributes that select the encoder features that the projector receives."""


def dimensions(config: Any) -> EncoderDimensions:
    """The sizes of an encoder and a LLaVA projector, whose input may concatenate several encoder layers."""
    layers = getattr(config, "vision_feature_layer", -1)
    read = 1 if isinstance(layers, int) else len(layers)
    hidden, width = config.vision_config.hidden_size, config.get_text_config().hidden_size
    projector = ((hidden * read, width), (width, width))
    return tiled_encoder(config.vision_config, projector, 3 if _in_lines(config) else 2)


def _in_lines(config: Any) -> bool:
    return bool(config.vision_config.model_type == "pixtral")


def _picture(modules: LocatedModules, size: Size, single: bool) -> Workload:
    return (picture_in_lines if _in_lines(modules.config) else whole_picture)(modules, size, single)


def tiny_llava(kind: Any, vision: Any, text: Any, **more: Any) -> Any:
    """A config of a LLaVA class."""
    return kind(vision_config=vision, text_config=text, image_token_index=tiny.IMAGE, **more)


_FULL: dict[str, Any] = {"vision_feature_select_strategy": "full"}

ENTRIES = (
    Family(
        "llava",
        LIKE_ONEVISION,
        towers={**WITH_REGISTERS, "pixtral": PIXTRAL},
        encoder_dimensions=dimensions,
        config_attributes=FEATURES,
        picture=_picture,
        picture_format=lambda config: "lines" if _in_lines(config) else "square",
        tiny={
            "llava": lambda: tiny_llava(transformers.LlavaConfig, tiny.CLIP, tiny.LLAMA),
            "llava-siglip": lambda: tiny_llava(
                transformers.LlavaConfig, tiny.SIGLIP, tiny.QWEN2, vision_feature_layer=-1, **_FULL
            ),
            "llava-full": lambda: tiny_llava(transformers.LlavaConfig, tiny.CLIP, tiny.LLAMA, **_FULL),
            "llava-pixtral": lambda: tiny_llava(
                transformers.LlavaConfig, tiny.PIXTRAL, tiny.MISTRAL, vision_feature_layer=-1, **_FULL
            ),
            "llava-dinov2": lambda: tiny_llava(
                transformers.LlavaConfig, tiny.DINOV2, tiny.LLAMA, vision_feature_layer=-1
            ),
            "llava-dinov2-full": lambda: tiny_llava(
                transformers.LlavaConfig,
                {**tiny.DINOV2, "use_swiglu_ffn": True},
                tiny.QWEN2,
                vision_feature_layer=-1,
                **_FULL,
            ),
            "llava-dinov2-registers": lambda: tiny_llava(
                transformers.LlavaConfig,
                tiny.DINOV2_WITH_REGISTERS,
                tiny.LLAMA,
                vision_feature_layer=-1,
            ),
            "llava-windows": lambda: tiny_llava(
                transformers.LlavaConfig, tiny.CLIP, {**tiny.MISTRAL, "sliding_window": 30}
            ),
        },
    ),
    Family(
        "vipllava",
        # The projector receives the output of block 5 and of later blocks, so merging must end at block 5.
        replace(LIKE_ONEVISION, encoder_depth=24, encoder_layers=(2, 3, 4, 5)),
        towers=WITH_REGISTERS,
        encoder_dimensions=dimensions,
        config_attributes=("vision_feature_layer",),
        # The model code of that release reads hidden states that it does not collect.
        broken_releases=("5.19",),
        tiny={
            "vipllava": lambda: tiny_llava(
                transformers.VipLlavaConfig, tiny.CLIP, tiny.LLAMA, vision_feature_layer=[-1, -2]
            ),
            "vipllava-dinov2-registers": lambda: tiny_llava(
                transformers.VipLlavaConfig,
                tiny.DINOV2_WITH_REGISTERS,
                tiny.LLAMA,
                vision_feature_layer=[-1, -2],
            ),
        },
    ),
)
