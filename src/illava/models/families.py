"""One declarative entry a model family: where its parts are, and the schedule published for it.

Attribute paths are those of transformers' own classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UnsupportedError
from .dimensions import (
    EncoderDimensions,
    gemma_encoder,
    glm4v_encoder,
    idefics3_encoder,
    internvl_encoder,
    llava_encoder,
    mistral3_encoder,
    qwen2_5_vl_encoder,
    qwen2_vl_encoder,
    qwen3_vl_encoder,
)
from .towers import (
    CLIP,
    GLM4V,
    INTERNVL,
    PIXTRAL,
    QWEN2_5_VL,
    QWEN2_VL,
    QWEN3_VL,
    SIGLIP,
    SIGLIP_IN_SQUARES,
    Tower,
)

ANY = "*"
"""Stands for every kind of image encoder, where a family has but one."""


@dataclass(frozen=True)
class Schedule:
    """Which layers merge and how much they keep, stated for a model of a given depth."""

    encoder_depth: int
    encoder_layers: tuple[int, ...]
    encoder_keep: tuple[float, ...]
    llm_depth: int
    llm_layers: tuple[int, ...]
    llm_keep: tuple[float, ...]
    source: str


@dataclass(frozen=True)
class Family:
    """How to find the parts of one model family. Paths start at the base model (``model.model``)."""

    model_type: str
    schedule: Schedule
    encoder: str
    projector: str
    """What turns units into features of the LLM row by row, and where dropped ones get their places back."""
    towers: dict[str, Tower]
    """By the ``model_type`` of the vision config, the image encoders that this family comes with."""
    encoder_dimensions: Callable[[Any], EncoderDimensions]
    """Model config to the encoder's sizes."""
    group: Callable[[Any], int] = lambda config: 1
    """Model config to g, the tokens a unit is made of."""
    row_mixers: tuple[str, ...] = ()
    """Methods of the base model between projector and LLM that may average feature rows."""
    taps: str | None = None
    """A list of more such projectors, fed from inside the encoder (deepstack)."""
    unfolds_after: str | None = None
    """Where the tokens of a unit are a square of a grid: the module behind which the grid is cut up."""
    unfolds_before: str | None = None
    """The same, where it is the module itself that cuts up its input."""
    compacts_before: str | None = None
    """The first module after that which works row by row, so that it need not see dropped units."""
    pooler: str | None = None
    """A module before the projector that averages the rows of a video's frames."""
    first_llm_layer: Callable[[Any], int] = lambda config: 1
    """Model config to the first decoder layer before which tokens may merge."""
    outer_masks: bool = False
    """Whether the outer model makes the LLM's attention masks, because pictures see themselves whole."""
    llm: str = "language_model"
    llm_layers: str = "layers"
    llm_attention: str = "self_attn"
    llm_norm: str = "input_layernorm"


def _patch_group(config: Any) -> int:
    return int(config.vision_config.spatial_merge_size**2)


def _gemma3_group(config: Any) -> int:
    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    return (side // math.isqrt(config.mm_tokens_per_image)) ** 2


_QWEN: dict[str, Any] = {"encoder": "visual", "projector": "visual.merger", "group": _patch_group}
_LLAVA: dict[str, Any] = {
    "encoder": "vision_tower",
    "projector": "multi_modal_projector",
    "encoder_dimensions": llava_encoder,
}
_IDEFICS: dict[str, Any] = {
    "encoder": "vision_model",
    "projector": "connector.modality_projection",
    "unfolds_before": "connector",
    "compacts_before": "connector.modality_projection",
    "towers": {ANY: SIGLIP_IN_SQUARES},
    "encoder_dimensions": idefics3_encoder,
    "group": lambda config: int(config.scale_factor**2),
    "llm": "text_model",
}
_CLIP_OR_SIGLIP = {"clip_vision_model": CLIP, "siglip_vision_model": SIGLIP}
_PAPER = "arXiv 2412.06263"
# 92 of 729 tokens removed at each encoder block: 361 stay.
_ONEVISION_KEEP = (637 / 729, 545 / 637, 453 / 545, 361 / 453)
# Where none was published. Vicuna's and Mistral's 32 layers: OneVision's layer 8 of 28 lies at 9.
_LIKE_ONEVISION = Schedule(
    26, (5, 6, 7, 8), _ONEVISION_KEEP, 28, (8,), (0.7,), "LLaVA-OneVision's, none was published for it"
)

_QWEN3_VL = Schedule(27, (5, 6, 7, 8), (0.85,) * 4, 36, (19, 21, 23, 25), (0.9,) * 4, _PAPER)
_LIKE_QWEN3_VL = replace(_QWEN3_VL, source="Qwen3-VL's, none was published for it")
_DEEPSTACK: dict[str, Any] = {
    **_QWEN,
    "towers": {ANY: QWEN3_VL},
    "encoder_dimensions": qwen3_vl_encoder,
    "taps": "visual.deepstack_merger_list",
    # What is tapped is added to the first layers' outputs, at the places of the full prompt.
    "first_llm_layer": lambda config: max(1, len(config.vision_config.deepstack_visual_indexes)),
}
_QWEN3_5: dict[str, Any] = {**_QWEN, "towers": {ANY: QWEN3_VL}, "encoder_dimensions": qwen3_vl_encoder}
# A recurrent layer behind a merge would have to take back what it has taken in.
_ENCODER_ONLY = replace(
    _QWEN3_VL, llm_layers=(), llm_keep=(), source="Qwen3-VL's encoder stage, none was published for it"
)
_GLM: dict[str, Any] = {**_QWEN, "towers": {ANY: GLM4V}, "encoder_dimensions": glm4v_encoder}

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("llava", _LIKE_ONEVISION, towers={**_CLIP_OR_SIGLIP, "pixtral": PIXTRAL}, **_LLAVA),
        Family(
            "vipllava",
            # Its LLM sees what comes out of block 5, beside later ones: nothing may merge behind that.
            replace(_LIKE_ONEVISION, encoder_depth=24, encoder_layers=(2, 3, 4, 5)),
            towers=_CLIP_OR_SIGLIP,
            **_LLAVA,
        ),
        Family(
            "llava_next",
            _LIKE_ONEVISION,
            towers=_CLIP_OR_SIGLIP,
            row_mixers=("pack_image_features",),
            **_LLAVA,
        ),
        Family(
            "llava_next_video",
            _LIKE_ONEVISION,
            towers=_CLIP_OR_SIGLIP,
            row_mixers=("pack_image_features",),
            pooler="vision_resampler",
            **_LLAVA,
        ),
        Family(
            "llava_onevision",
            Schedule(26, (5, 6, 7, 8), _ONEVISION_KEEP, 28, (8,), (0.7,), _PAPER),
            towers=_CLIP_OR_SIGLIP,
            row_mixers=("pack_image_features", "apply_pooling"),
            **_LLAVA,
        ),
        Family(
            "qwen2_vl",
            Schedule(32, (12, 13, 14, 15), (0.84,) * 4, 28, (6, 7, 8), (0.9,) * 3, _PAPER),
            towers={ANY: QWEN2_VL},
            encoder_dimensions=qwen2_vl_encoder,
            **_QWEN,
        ),
        Family(
            "qwen2_5_vl",
            # None was published for this family: Qwen2-VL's, its encoder share moved to the two
            # full-attention blocks around the same depth.
            Schedule(
                32, (7, 15), (0.84**2,) * 2, 28, (6, 7, 8), (0.9,) * 3, "Qwen2-VL's, at full-attention blocks"
            ),
            towers={ANY: QWEN2_5_VL},
            encoder_dimensions=qwen2_5_vl_encoder,
            **_QWEN,
        ),
        Family("qwen3_vl", _QWEN3_VL, **_DEEPSTACK),
        Family("qwen3_vl_moe", _LIKE_QWEN3_VL, **_DEEPSTACK),
        Family("qwen3_5", _ENCODER_ONLY, **_QWEN3_5),
        Family("qwen3_5_moe", _ENCODER_ONLY, **_QWEN3_5),
        Family("glm4v", _LIKE_QWEN3_VL, **_GLM),
        Family("glm4v_moe", _LIKE_QWEN3_VL, **_GLM),
        Family("glm46v", _LIKE_QWEN3_VL, **_GLM),
        Family(
            "internvl",
            _LIKE_ONEVISION,
            encoder="vision_tower",
            projector="multi_modal_projector",
            unfolds_after="vision_tower.layernorm",
            compacts_before="multi_modal_projector",
            towers={ANY: INTERNVL},
            encoder_dimensions=internvl_encoder,
            group=lambda config: round(1 / config.downsample_ratio) ** 2,
        ),
        Family("idefics3", _LIKE_ONEVISION, **_IDEFICS),
        Family("smolvlm", _LIKE_ONEVISION, **_IDEFICS),
        Family(
            "mistral3",
            _LIKE_ONEVISION,
            encoder="vision_tower",
            projector="multi_modal_projector",
            unfolds_before="multi_modal_projector",
            compacts_before="multi_modal_projector.patch_merger.merging_layer",
            towers={"pixtral": PIXTRAL},
            encoder_dimensions=mistral3_encoder,
            group=lambda config: int(config.spatial_merge_size**2),
        ),
        Family(
            "gemma3",
            # Every sixth layer sees the whole prompt; the others' windows may not reach the pictures.
            replace(_LIKE_ONEVISION, llm_depth=34, llm_layers=(12,)),
            encoder="vision_tower",
            projector="multi_modal_projector",
            unfolds_before="multi_modal_projector",
            compacts_before="multi_modal_projector.mm_soft_emb_norm",
            towers={"siglip_vision_model": SIGLIP_IN_SQUARES},
            encoder_dimensions=gemma_encoder,
            group=_gemma3_group,
            outer_masks=True,
        ),
        Family(
            "paligemma",
            _LIKE_ONEVISION,
            encoder="vision_tower",
            projector="multi_modal_projector",
            towers={"siglip_vision_model": SIGLIP},
            encoder_dimensions=gemma_encoder,
            outer_masks=True,
        ),
    )
}

REFUSED: dict[str, str] = {
    "mllama": "it attends across to the picture instead of holding visual tokens in its LLM",
}


def supported_families() -> tuple[str, ...]:
    """The transformers ``model_type`` names that :func:`illava.accelerate` takes."""
    return tuple(sorted(FAMILIES))


def family_of(config: Any) -> Family:
    """The family of a transformers model config. Raises UnsupportedError naming what is supported."""
    model_type = getattr(config, "model_type", type(config).__name__)
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    reason = f": {REFUSED[model_type]}" if model_type in REFUSED else ""
    raise UnsupportedError(
        f"model type {model_type!r} is not supported{reason}; supported are {', '.join(supported_families())}"
    )
