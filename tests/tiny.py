"""Tiny random models of every supported family, and prompts with pictures for them, without a processor.

Random weights, drawn at 1/sqrt(fan_in) so that attention is far from uniform and choices are clear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from .tiny_configs import CONFIGS, END, IMAGE, PAD, START, TEXT, VIDEO, config

FAMILIES = ("llava_onevision", "qwen2_vl", "qwen2_5_vl")
# That release's own VipLLaVA cannot run: it reads hidden states that it has not kept.
BROKEN = ("vipllava",) if transformers.__version__.startswith("5.19.") else ()
ALL = tuple(name for name in CONFIGS if name not in BROKEN)
BREAK, LAST = 96, 97  # Pixtral's line ends

__all__ = ["ALL", "END", "FAMILIES", "IMAGE", "PAD", "START", "TEXT", "VIDEO", "config"]


def tiny_model(name: str, attention: str = "sdpa", seed: int = 0, **vision: Any) -> nn.Module:
    """``vision``: other sizes of the image encoder."""
    made = config(name)
    for key, value in vision.items():
        setattr(made.vision_config, key, value)
    # Expert by expert: the grouped products of a mixture of experts know no float64.
    experts = {"experts_implementation": "eager"} if "moe" in name else {}
    # Gemma 2 has no other.
    attention = "eager" if name == "paligemma-2" else attention
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(made, attn_implementation=attention, **experts)
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
    ids: list[int]

    @property
    def tokens(self) -> int:
        return self.ids.count(IMAGE)


IN_TILES = ("llava_onevision", "llava_next", "llava_next_video")
RUNS_OF_TILES = ("idefics3", "smolvlm")
SQUARE = ("clip_vision_model", "siglip_vision_model")


def kind(model: nn.Module) -> str:
    """How the processor of this model's family prepares pictures."""
    family = model.config.model_type
    if family in IN_TILES:
        return "anyres"
    if family in (*RUNS_OF_TILES, "internvl"):
        return family
    if model.config.vision_config.model_type == "pixtral":
        return "pixtral"
    return "square" if model.config.vision_config.model_type in SQUARE else "grid"


SIZES = {
    "anyres": ((40, 30), (20, 44), (24, 24)),
    "grid": ((5, 6), (3, 4), (4, 4)),
    "pixtral": ((5, 6), (3, 4), (4, 4)),
    "square": ((1, 1),),
    "internvl": ((3, 1), (1, 1), (2, 1)),
    "idefics3": ((3, 1), (1, 1), (2, 1)),
    "smolvlm": ((3, 1), (1, 1), (2, 1)),
}


def picture(model: nn.Module, size: tuple[int, int], seed: int = 0) -> Picture:
    """``size`` is (rows, columns): pixels for anyres, tiles for InternVL and Idefics, else units."""
    generator = torch.Generator().manual_seed(seed)
    vision, (rows, columns) = model.config.vision_config, size

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    match kind(model):
        case "anyres":
            from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

            tiles = image_size_to_num_patches(list(size), model.config.image_grid_pinpoints, 24)
            values = {"pixel_values": noise(1, tiles, 3, 24, 24), "image_sizes": torch.tensor([size])}
            with torch.no_grad():
                features = model.model.get_image_features(**values).pooler_output
            return Picture(values, [IMAGE] * sum(len(part) for part in features))
        case "square":
            extra = vision.model_type == "clip_vision_model" and (
                getattr(model.config, "vision_feature_select_strategy", "default") == "full"
            )
            tokens = getattr(model.config, "mm_tokens_per_image", 36)
            return Picture({"pixel_values": noise(1, 3, 24, 24)}, [IMAGE] * (tokens + extra))
        case "internvl":
            return Picture({"pixel_values": noise(rows * columns, 3, 24, 24)}, [IMAGE] * 9 * rows * columns)
        case "idefics3" | "smolvlm":
            tiles = rows * columns
            ids = [token for tile in range(tiles) for token in [BREAK - tile % 2, *[IMAGE] * 9]]
            return Picture({"pixel_values": noise(1, tiles, 3, 24, 24)}, ids[1:])
        case "pixtral":
            unit = vision.patch_size * (2 if model.config.model_type == "mistral3" else 1)
            sizes = torch.tensor([[rows * unit, columns * unit]])
            ids = [*([*[IMAGE] * columns, BREAK] * rows)[:-1], LAST]
            return Picture({"pixel_values": noise(1, 3, *sizes[0].tolist()), "image_sizes": sizes}, ids)
    pixels = noise(rows * columns * 4, 3 * 2 * vision.patch_size**2)
    grid = torch.tensor([[1, rows * 2, columns * 2]])
    return Picture({"pixel_values": pixels, "image_grid_thw": grid}, [IMAGE] * rows * columns)


def pictures(model: nn.Module, count: int, seed: int = 0) -> list[Picture]:
    """Pictures of different sizes, where a family has any."""
    sizes = SIZES[kind(model)]
    return [picture(model, sizes[i % len(sizes)], seed + i) for i in range(count)]


def row(text: list[int], parts: list[Picture]) -> list[int]:
    """Token ids of one prompt: every picture behind a piece of text, then the rest of the text."""
    ids = [1]
    for i, part in enumerate(parts):
        ids += [text[i % len(text)], START, *part.ids, END]
    return ids + text


def prompt(model: nn.Module, rows: list[tuple[list[int], list[Picture]]]) -> dict[str, Tensor]:
    """A left-padded batch of (text token ids, pictures)."""
    ids = [row(text, parts) for text, parts in rows]
    length = max(map(len, ids))
    inputs = {
        "input_ids": torch.tensor([[PAD] * (length - len(r)) + r for r in ids]),
        "attention_mask": torch.tensor([[0] * (length - len(r)) + [1] * len(r) for r in ids]),
    }
    prepared = kind(model)
    if prepared == "grid":
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
    elif model.config.model_type == "gemma3":
        inputs["token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
    elif model.config.model_type == "paligemma":
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    parts = [part for _, row_parts in rows for part in row_parts]
    if not parts:
        return inputs
    pixels = [part.values["pixel_values"] for part in parts]
    rest = {name: _join(parts, name) for name in parts[0].values if name != "pixel_values"}
    if prepared == "anyres":
        # The processor pads to the largest number of tiles.
        most = max(tiles.shape[1] for tiles in pixels)
        pixels = [nn.functional.pad(t, (0, 0) * 3 + (0, most - t.shape[1])) for t in pixels]
    elif prepared == "pixtral":
        high, wide = (max(p.shape[axis] for p in pixels) for axis in (2, 3))
        pixels = [nn.functional.pad(p, (0, wide - p.shape[3], 0, high - p.shape[2])) for p in pixels]
    elif prepared in RUNS_OF_TILES:
        # One row of tiles a prompt, filled up with empty ones.
        by_row = [[part.values["pixel_values"][0] for part in row_parts] for _, row_parts in rows]
        most = max(sum(map(len, tiles)) for tiles in by_row)
        pixels = [torch.cat([*tiles, torch.zeros(most, 3, 24, 24)])[None, :most] for tiles in by_row]
    return {**inputs, "pixel_values": torch.cat(pixels), **rest}


def _join(parts: list[Picture], name: str) -> Tensor:
    return torch.cat([part.values[name] for part in parts])


WITH_VIDEO = (
    "llava_next_video",
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_5",
    "qwen3_5_moe",
    "glm4v",
    "glm4v_moe",
    "glm46v",
)


def video(model: nn.Module, frames: int, seed: int = 0) -> Picture:
    """A video of 24 x 24 pixels, or of frames of 2 x 3 units, as a picture; its ids may hold text too."""
    generator = torch.Generator().manual_seed(seed)
    family = model.config.model_type
    if kind(model) == "anyres":
        pixels = torch.randn(1, frames, 3, 24, 24, generator=generator)
        # Pooled to 3 x 3; OneVision adds an end.
        tokens = frames * 9 + (family == "llava_onevision")
        return Picture({"pixel_values_videos": pixels}, [VIDEO] * tokens)
    patch = 3 * 2 * model.config.vision_config.patch_size**2
    pixels = torch.randn(frames * 4 * 6, patch, generator=generator)
    values = {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[frames, 4, 6]])}
    if family in ("qwen2_vl", "qwen2_5_vl"):
        return Picture(values, [VIDEO] * frames * 6)
    # Frames apart, each behind its time; GLM's stand for pictures between two marks.
    token = IMAGE if family.startswith("glm") else VIDEO
    ids = [i for frame in range(frames) for i in (END, 20 + frame, START, *[token] * 6)][3:]
    return Picture(values, ids)


def video_prompt(
    model: nn.Module, text: list[int], parts: list[Picture], *shown: Picture
) -> dict[str, Tensor]:
    """One prompt: pictures, text, videos, a little more text."""
    inputs = prompt(model, [(text, parts)])
    ids = []
    for one in shown:
        marked = [START, *one.ids, END]
        ids += [8, 94, *marked, 95] if model.config.model_type.startswith("glm") else [8, *marked]
    ids += [9, 10] if shown else []
    before = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids]).long()], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        kinds = (inputs["input_ids"] == IMAGE).int() + 2 * (inputs["input_ids"] == VIDEO).int()
        kinds[:, before:] = 2 * kinds[:, before:].bool()
        inputs["mm_token_type_ids"] = kinds
    names = shown[0].values if shown else ()
    return inputs | {name: _join(list(shown), name) for name in names}


def together(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Prompts of one row each as a left-padded batch."""
    length = max(row["input_ids"].shape[1] for row in rows)
    out = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if name in row]
        if name.endswith("_ids") or name == "attention_mask":
            values = [nn.functional.pad(v, (length - v.shape[1], 0)) for v in values]
        elif name == "pixel_values" and values[0].dim() == 5:
            most = max(tiles.shape[1] for tiles in values)
            values = [nn.functional.pad(t, (0, 0) * 3 + (0, most - t.shape[1])) for t in values]
        out[name] = torch.cat(values)
    return out
