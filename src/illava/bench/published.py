"""Sizes of published checkpoints, from their config.json files, by short name.

Further checkpoints that the project supports are in tests/published.py, which builds on this file.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from ..io.pictures import InputError

Json = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """The sizes of a published checkpoint."""

    checkpoint: str
    """Its id on the Hugging Face hub."""
    config: Json
    """The fields of its config.json; :func:`config` returns them as a transformers config."""


def sizes(layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, **more: Any) -> Json:
    """The text config of a language model."""
    return dict(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        **more,
    )


def vit(layers: int, hidden: int, intermediate: int, heads: int, image: Any, patch: Any, **more: Any) -> Json:
    """The vision config of an encoder for images or tiles of one size."""
    return dict(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        image_size=image,
        patch_size=patch,
        **more,
    )


def packed(depth: int, hidden: int, intermediate: int, heads: int, patch: int, **more: Any) -> Json:
    """The vision config of an encoder that packs images of any size into one sequence."""
    return dict(
        depth=depth,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_heads=heads,
        patch_size=patch,
        spatial_merge_size=2,
        temporal_patch_size=2,
        **more,
    )


def mrope(*section: int, **more: Any) -> Json:
    """Rotary positions over time, height and width."""
    return {"rope_type": "default", "mrope_section": list(section), **more}


def composed(model_type: str, vision: Json, text: Json, **more: Any) -> Json:
    """A config with a vision config and a text config."""
    return dict(model_type=model_type, vision_config=vision, text_config=text, **more)


# -- Language models ------------------------------------------------------------------------------------

QWEN2_72B = sizes(80, 8192, 29568, 64, 8)
QWEN2_7B = sizes(28, 3584, 18944, 28, 4)
QWEN2_3B = sizes(36, 2048, 11008, 16, 2)
QWEN2_1_5B = sizes(28, 1536, 8960, 12, 2)
QWEN2_HALF_B = sizes(24, 896, 4864, 14, 2)
QWEN3_TEXT = dict(
    head_dim=128,
    vocab_size=151936,
    rope_scaling=mrope(24, 20, 20, mrope_interleaved=True),
    rope_theta=5000000,
)
# InternLM 2.5 is a Llama with grouped-query attention that stores queries, keys and values in one matrix.
# transformers' InternVL accepts any text config, so Llama stands for it here.
INTERNLM = dict(model_type="llama", max_position_embeddings=32768)
INTERNLM_1_8B = sizes(24, 2048, 8192, 16, 8, **INTERNLM)
INTERNLM_7B = sizes(32, 4096, 14336, 32, 8, **INTERNLM)
INTERNLM_20B = sizes(48, 6144, 16384, 48, 8, **INTERNLM)

# -- Image encoders -------------------------------------------------------------------------------------

SO400M = vit(27, 1152, 4304, 16, 224, 14, model_type="siglip_vision_model", vision_use_head=False)
SO400M_384 = {**SO400M, "num_hidden_layers": 26, "image_size": 384}  # OneVision drops the last block.
QWEN2_5_VISION = packed(32, 1280, 3420, 16, 14, window_size=112, fullatt_block_indexes=[7, 15, 23, 31])
QWEN3_VISION = packed(27, 1152, 4304, 16, 16, num_position_embeddings=2304)
QWEN3_TAPPED = {**QWEN3_VISION, "deepstack_visual_indexes": [8, 16, 24]}
QWEN3_SMALL_TAPPED = packed(24, 1024, 4096, 16, 16, deepstack_visual_indexes=[5, 11, 17])
INTERN_300M = vit(24, 1024, 4096, 16, [448, 448], [14, 14], attention_bias=True)
INTERN_6B = vit(45, 3200, 12800, 25, [448, 448], [14, 14], norm_type="rms_norm", use_qk_norm=True)


def qwen2_vision(width: int) -> Json:
    """Qwen2-VL's encoder for an LLM of hidden size ``width``."""
    return dict(
        depth=32,
        embed_dim=1280,
        mlp_ratio=4,
        num_heads=16,
        hidden_size=width,
        patch_size=14,
        spatial_merge_size=2,
        temporal_patch_size=2,
    )


# -- Whole models ---------------------------------------------------------------------------------------

TIED = dict(tie_word_embeddings=True)


def flat(model_type: str, vision: Json, text: Json, vocabulary: int, **more: Any) -> Json:
    """Qwen2-VL and 2.5-VL keep the fields of the LLM at the top level, beside vision_config."""
    rope = {"type": "mrope", "mrope_section": [16, 24, 24]}
    return dict(
        text, model_type=model_type, vision_config=vision, vocab_size=vocabulary, rope_scaling=rope, **more
    )


def qwen2_5(text: Json, vocabulary: int, **more: Any) -> Json:
    vision = {**QWEN2_5_VISION, "out_hidden_size": text["hidden_size"]}
    return flat("qwen2_5_vl", vision, text, vocabulary, max_position_embeddings=128000, **more)


def qwen3(model_type: str, vision: Json, text: Json, **more: Any) -> Json:
    """Qwen3-VL and 3.5, whose vision config holds the LLM's hidden size."""
    return composed(model_type, {**vision, "out_hidden_size": text["hidden_size"]}, text, **more)


def onevision(text: Json, **more: Any) -> Json:
    text = {**text, "model_type": "qwen2", "vocab_size": 152000, **more}
    last = dict(vision_feature_layer=-1, vision_feature_select_strategy="full")
    return composed("llava_onevision", SO400M_384, text, **last)


def internvl(vision: Json, text: Json, vocabulary: int, token: int) -> Json:
    """``token``: the id of the placeholder; the marks around an image have the two ids before it."""
    text = {"model_type": "qwen2", **text, "vocab_size": vocabulary}
    return composed(
        "internvl",
        vision,
        text,
        downsample_ratio=0.5,
        image_seq_length=256,
        image_token_id=token,
        # Untied even if the LLM alone is tied: the published parameter counts include a separate head.
        tie_word_embeddings=False,
    )


def _qwen2_5_internvl(text: Json) -> Json:
    return internvl(INTERN_300M, text, 151674, 151667)


def _internlm_internvl(vision: Json, text: Json) -> Json:
    return internvl(vision, text, 92553, 92546)


SHAPES: dict[str, Shape] = {
    "qwen2-vl-2b": Shape(
        "Qwen/Qwen2-VL-2B-Instruct", flat("qwen2_vl", qwen2_vision(1536), QWEN2_1_5B, 151936, **TIED)
    ),
    "qwen2-vl-7b": Shape("Qwen/Qwen2-VL-7B-Instruct", flat("qwen2_vl", qwen2_vision(3584), QWEN2_7B, 152064)),
    "qwen2.5-vl-3b": Shape("Qwen/Qwen2.5-VL-3B-Instruct", qwen2_5(QWEN2_3B, 151936, **TIED)),
    "qwen2.5-vl-7b": Shape("Qwen/Qwen2.5-VL-7B-Instruct", qwen2_5(QWEN2_7B, 152064)),
    "qwen3-vl-2b": Shape(
        "Qwen/Qwen3-VL-2B-Instruct",
        qwen3("qwen3_vl", QWEN3_SMALL_TAPPED, sizes(28, 2048, 6144, 16, 8, **QWEN3_TEXT), **TIED),
    ),
    "qwen3-vl-4b": Shape(
        "Qwen/Qwen3-VL-4B-Instruct",
        qwen3("qwen3_vl", QWEN3_SMALL_TAPPED, sizes(36, 2560, 9728, 32, 8, **QWEN3_TEXT), **TIED),
    ),
    "qwen3-vl-8b": Shape(
        "Qwen/Qwen3-VL-8B-Instruct",
        qwen3("qwen3_vl", QWEN3_TAPPED, sizes(36, 4096, 12288, 32, 8, **QWEN3_TEXT)),
    ),
    "llava-onevision-0.5b": Shape(
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf", onevision(QWEN2_HALF_B, **TIED)
    ),
    "llava-onevision-7b": Shape("llava-hf/llava-onevision-qwen2-7b-ov-hf", onevision(QWEN2_7B)),
    "internvl2.5-1b": Shape("OpenGVLab/InternVL2_5-1B", _qwen2_5_internvl(QWEN2_HALF_B)),
    "internvl2.5-2b": Shape("OpenGVLab/InternVL2_5-2B", _internlm_internvl(INTERN_300M, INTERNLM_1_8B)),
    "internvl2.5-4b": Shape("OpenGVLab/InternVL2_5-4B", _qwen2_5_internvl(QWEN2_3B)),
    "internvl2.5-8b": Shape("OpenGVLab/InternVL2_5-8B", _internlm_internvl(INTERN_300M, INTERNLM_7B)),
    "internvl2.5-26b": Shape("OpenGVLab/InternVL2_5-26B", _internlm_internvl(INTERN_6B, INTERNLM_20B)),
    "internvl3-1b": Shape("OpenGVLab/InternVL3-1B-hf", _qwen2_5_internvl(QWEN2_HALF_B)),
    "internvl3-2b": Shape("OpenGVLab/InternVL3-2B-hf", _qwen2_5_internvl(QWEN2_1_5B)),
    "internvl3-8b": Shape("OpenGVLab/InternVL3-8B-hf", _qwen2_5_internvl(QWEN2_7B)),
}
"""Short name -> shape."""


def shape(name: str) -> Shape:
    """A published shape by its short name. Raises InputError that lists the names."""
    if name not in SHAPES:
        raise InputError(f"--shape {name}: unknown shape; give one of {', '.join(SHAPES)}")
    return SHAPES[name]


def depths(name: str) -> tuple[int, int]:
    """The number of encoder blocks and of LLM layers of a shape. Raises InputError."""
    stated = shape(name).config
    vision, text = stated["vision_config"], stated.get("text_config", stated)
    return vision.get("depth", vision.get("num_hidden_layers")), text["num_hidden_layers"]


def config(name: str, layers: int | None = None) -> Any:
    """The transformers config of a shape.

    Args:
        layers: cut the encoder and the LLM to at most this many first layers each. Qwen2.5-VL's blocks with
            full attention stay where they were; if none is left, the last block gets it. Qwen3-VL's deepstack
            layers are redistributed in proportion, at least one of them.

    Raises InputError for an unknown name, and for layers below 1 or above the deeper part's.
    """
    from transformers import CONFIG_MAPPING

    # Configs modify the dictionaries they are constructed from.
    stated, most = copy.deepcopy(shape(name).config), max(depths(name))
    if layers is not None:
        if not 1 <= layers <= most:
            raise InputError(f"--layers {layers}: give a number from 1 to {most}, the depth of {name}")
        _cut(stated, layers)
    return CONFIG_MAPPING[stated.pop("model_type")](**stated)


def _cut(stated: Json, layers: int) -> None:
    vision, text = stated["vision_config"], stated.get("text_config", stated)
    depth = "depth" if "depth" in vision else "num_hidden_layers"
    before, left = vision[depth], min(layers, vision[depth])
    vision[depth], text["num_hidden_layers"] = left, min(layers, text["num_hidden_layers"])
    if kinds := text.get("layer_types"):
        text["layer_types"] = kinds[: text["num_hidden_layers"]]
    if full := vision.get("fullatt_block_indexes"):
        vision["fullatt_block_indexes"] = [block for block in full if block < left] or [left - 1]
    if taps := vision.get("deepstack_visual_indexes"):
        count = max(1, len(taps) * left // before)
        vision["deepstack_visual_indexes"] = sorted({tap * left // before for tap in taps})[:count]
