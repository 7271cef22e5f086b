"""Tiny random models of every supported family, and prompts with pictures for them, without a processor.

Random weights, drawn at 1/sqrt(fan_in) so that attention is far from uniform and choices are clear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForImageTextToText,
    LlavaOnevisionConfig,
    PretrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
)

FAMILIES = ("llava_onevision", "qwen2_vl", "qwen2_5_vl")
IMAGE, VIDEO, START, END, PAD = 90, 91, 92, 93, 0

TEXT = dict(
    vocab_size=100,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    pad_token_id=PAD,
    bos_token_id=1,
    eos_token_id=2,
)
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}


def config(family: str) -> PretrainedConfig:
    if family == "llava_onevision":
        return LlavaOnevisionConfig(
            text_config={"model_type": "qwen2", **TEXT},
            vision_config={
                "model_type": "siglip_vision_model",
                "hidden_size": 24,
                "intermediate_size": 36,
                "num_hidden_layers": 5,
                "num_attention_heads": 3,
                "image_size": 24,
                "patch_size": 4,
                "vision_use_head": False,
            },
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            image_grid_pinpoints=[[24, 48], [48, 24], [48, 48], [24, 24], [96, 96]],
            vision_feature_layer=-1,
        )
    tokens = dict(
        image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END
    )
    if family == "qwen2_vl":
        vision = dict(depth=5, embed_dim=24, hidden_size=32, num_heads=3, mlp_ratio=2, patch_size=4)
        return Qwen2VLConfig(text_config={**TEXT, "rope_parameters": MROPE}, vision_config=vision, **tokens)
    if family == "qwen2_5_vl":
        vision = dict(
            depth=5,
            hidden_size=24,
            intermediate_size=36,
            out_hidden_size=32,
            num_heads=3,
            patch_size=4,
            window_size=16,
            fullatt_block_indexes=[1, 3],
        )
        text = {**TEXT, "rope_parameters": MROPE}
        return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
    raise ValueError(family)


def tiny_model(family: str, attention: str = "sdpa", seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config(family), attn_implementation=attention)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(0, fan_in**-0.5, generator=generator)
    model.generation_config.pad_token_id = PAD
    # No end token: every row decodes as far as it is asked to.
    model.generation_config.eos_token_id = None
    # A placeholder among the generated tokens would want a picture when the sequence is run again.
    model.generation_config.suppress_tokens = [IMAGE, VIDEO]
    return model.eval()


@dataclass
class Picture:
    """One picture as a family's processor would hand it over."""

    values: dict[str, Tensor]
    tokens: int


def picture(model: nn.Module, size: tuple[int, int], seed: int = 0) -> Picture:
    """``size`` is (rows, columns): units for the Qwen families, pixels for OneVision."""
    generator = torch.Generator().manual_seed(seed)
    if model.config.model_type == "llava_onevision":
        from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

        tiles = image_size_to_num_patches(list(size), model.config.image_grid_pinpoints, 24)
        pixels = torch.randn(1, tiles, 3, 24, 24, generator=generator)
        values = {"pixel_values": pixels, "image_sizes": torch.tensor([size])}
        with torch.no_grad():
            features = model.model.get_image_features(**values).pooler_output
        return Picture(values, sum(len(rows) for rows in features))
    rows, columns = size
    vision = model.config.vision_config
    pixels = torch.randn(rows * columns * 4, 3 * 2 * vision.patch_size**2, generator=generator)
    grid = torch.tensor([[1, rows * 2, columns * 2]])
    return Picture({"pixel_values": pixels, "image_grid_thw": grid}, rows * columns)


SIZES = {"llava_onevision": ((40, 30), (20, 44), (24, 24)), "qwen2_vl": ((5, 6), (3, 4), (4, 4))}
SIZES["qwen2_5_vl"] = SIZES["qwen2_vl"]


def pictures(model: nn.Module, count: int, seed: int = 0) -> list[Picture]:
    """Pictures of different sizes."""
    sizes = SIZES[model.config.model_type]
    return [picture(model, sizes[i % len(sizes)], seed + i) for i in range(count)]


def row(text: list[int], parts: list[Picture]) -> list[int]:
    """Token ids of one prompt: every picture behind a piece of text, then the rest of the text."""
    ids = [1]
    for i, part in enumerate(parts):
        ids += [text[i % len(text)], START, *[IMAGE] * part.tokens, END]
    return ids + text


def prompt(model: nn.Module, rows: list[tuple[list[int], list[Picture]]]) -> dict[str, Tensor]:
    """A left-padded batch of (text token ids, pictures)."""
    ids = [row(text, parts) for text, parts in rows]
    length = max(map(len, ids))
    inputs = {
        "input_ids": torch.tensor([[PAD] * (length - len(r)) + r for r in ids]),
        "attention_mask": torch.tensor([[0] * (length - len(r)) + [1] * len(r) for r in ids]),
    }
    parts = [part for _, row_parts in rows for part in row_parts]
    if model.config.model_type != "llava_onevision":
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
    elif parts:
        # The processor pads to the largest number of tiles.
        pixels = [part.values["pixel_values"] for part in parts]
        most = max(tiles.shape[1] for tiles in pixels)
        padded = [nn.functional.pad(t, (0, 0) * 3 + (0, most - t.shape[1])) for t in pixels]
        return {**inputs, "pixel_values": torch.cat(padded), "image_sizes": _join(parts, "image_sizes")}
    if parts:
        inputs |= {name: _join(parts, name) for name in parts[0].values}
    return inputs


def _join(parts: list[Picture], name: str) -> Tensor:
    return torch.cat([part.values[name] for part in parts])
