"""Small random checkpoints of the three models, with tokenizer and processor, and pictures for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import pre_tokenizers
from transformers import Qwen2Tokenizer, Qwen2VLImageProcessor

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PATCH = 4
"""Pixels; units have twice as many along each side."""
TEXT: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0},
}
VISION: dict[str, Any] = {"depth": 6, "num_heads": 4, "patch_size": PATCH}
_WIDTHS = {"hidden_size": 64, "intermediate_size": 96, "out_hidden_size": 64}


def tokenizer() -> Qwen2Tokenizer:
    """Bytes and the special tokens."""
    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Qwen2Tokenizer(
        vocab=alphabet,
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )
    made.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    return made


def special_ids(text: Qwen2Tokenizer) -> dict[str, int]:
    """Fields of a config."""
    return {
        f"{field}_token_id": text.convert_tokens_to_ids(token)
        for field, token in (
            ("image", "<|image_pad|>"),
            ("video", "<|video_pad|>"),
            ("vision_start", "<|vision_start|>"),
            ("vision_end", "<|vision_end|>"),
            ("eos", "<|im_end|>"),
            ("pad", "<|endoftext|>"),
        )
    }


def processor(
    family: str, text: Qwen2Tokenizer, patch: int = PATCH, limits: dict[str, int] | None = None
) -> Any:
    """A family's processor. ``limits``: smallest and largest area of a picture, in pixels."""
    _, name, video = FAMILIES[family]
    limits = limits or {"shortest_edge": 16 * 16, "longest_edge": 96 * 96}
    # Of pictures and videos alike: vLLM normalizes both with the values of the former.
    colours = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    common = {"patch_size": patch, "merge_size": 2, "temporal_patch_size": 2, **colours}
    many = {**limits, "longest_edge": 8 * limits["longest_edge"]}
    return getattr(transformers, name)(
        image_processor=Qwen2VLImageProcessor(size=limits, **common),
        tokenizer=text,
        video_processor=getattr(transformers, video)(size=many, do_sample_frames=False, **common),
        chat_template="{{ messages[0]['content'] }}",
    )


def _qwen2_vl(ids: dict[str, int]) -> Any:
    vision = {**VISION, "embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2}
    return transformers.Qwen2VLConfig(text_config=TEXT, vision_config=vision, **ids)


def _qwen2_5_vl(ids: dict[str, int]) -> Any:
    vision = {**VISION, **_WIDTHS, "window_size": 16, "fullatt_block_indexes": [2, 4], "tokens_per_second": 2}
    return transformers.Qwen2_5_VLConfig(text_config=TEXT, vision_config=vision, **ids)


def _qwen3_vl(ids: dict[str, int]) -> Any:
    vision = {**VISION, **_WIDTHS, "num_position_embeddings": 36, "deepstack_visual_indexes": [1, 3]}
    rope = {**TEXT["rope_parameters"], "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    text = {**TEXT, "head_dim": 32, "rope_parameters": rope}
    return transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **ids)


FAMILIES: dict[str, tuple[Callable[[dict[str, int]], Any], str, str]] = {
    # Config, processor, video processor.
    "qwen2_vl": (_qwen2_vl, "Qwen2VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen2_5_vl": (_qwen2_5_vl, "Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen3_vl": (_qwen3_vl, "Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
}


def write(family: str, folder: Path) -> Path:
    """Write a checkpoint in fp32. Weights have a standard deviation of 1 / sqrt(fan_in)."""
    make, text = FAMILIES[family][0], tokenizer()
    config = make(special_ids(text))
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").float()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                scale = parameter[0].numel() ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.save_pretrained(folder)
    processor(family, text).save_pretrained(folder)
    return folder


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Smooth noise: blocks of random colours."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def video(frames: int, width: int, height: int, seed: int) -> np.ndarray:
    """(frames, height, width, 3) uint8."""
    return np.stack([np.asarray(picture(width, height, seed * 100 + i)) for i in range(frames)])
