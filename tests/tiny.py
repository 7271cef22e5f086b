"""Tiny random models of every supported family, and prompts with pictures and videos, without a processor.

Models and pictures are the package's own, which `illava doctor` uses; videos are made here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from illava.models.families import FAMILIES as ENTRIES
from illava.models.tiny_models import ALL as EVERY
from illava.models.tiny_models import BROKEN, tiny_model
from illava.models.tiny_prompts import SIZES, Picture, join, kind, picture, pictures, prompt, row

from .tiny_configs import END, IMAGE, PAD, START, TEXT, VIDEO, config

LLM_ONLY = tuple(
    name for of, family in ENTRIES.items() if family.encoder_refusal for name in family.tiny if name in EVERY
)
"""Models whose encoders illava does not read."""
ALL = tuple(name for name in EVERY if name not in LLM_ONLY)
"""Models that merge in the image encoder."""
RECURRENT = tuple(
    name for of, family in ENTRIES.items() if family.llm_refusal for name in family.tiny if name in EVERY
)
"""Models that merge there only."""
RESAMPLED = tuple(
    name for of, family in ENTRIES.items() if family.resampler for name in family.tiny if name in EVERY
)
"""Models whose LLM gets the outputs of queries."""
EAGER_ONLY = ("paligemma-2", "got_ocr2")
"""Models that transformers itself runs with eager attention only."""
FAMILIES = ("llava_onevision", "qwen2_vl", "qwen2_5_vl")

__all__ = [
    "ALL",
    "BROKEN",
    "EAGER_ONLY",
    "END",
    "EVERY",
    "FAMILIES",
    "IMAGE",
    "IN_ONE_RUN",
    "LLM_ONLY",
    "LLM_ONLY_WITH_VIDEO",
    "MIXED_WINDOWS",
    "PAD",
    "RECURRENT",
    "RESAMPLED",
    "SIZES",
    "START",
    "TEXT",
    "VIDEO",
    "WITH_VIDEO",
    "Picture",
    "config",
    "kind",
    "picture",
    "pictures",
    "prompt",
    "row",
    "tiny_model",
    "together",
    "video",
    "video_prompt",
]

WITH_VIDEO = (
    "llava_next_video",
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "cosmos3_omni",
    "cohere_compass",
    "qwen3_5",
    "qwen3_5_moe",
    "glm4v",
    "glm4v_moe",
    "glm46v",
    "glm_ocr",
    "qwen2_5_omni_thinker",
    "qwen3_omni_moe_thinker",
    "exaone4_5",
    "hyperclovax_vision_v2",
    "cosmos3_edge",
)
LLM_ONLY_WITH_VIDEO = ("video_llava",)

IN_ONE_RUN = ("qwen2_vl", "qwen2_5_vl", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")
IN_ONE_RUN += ("exaone4_5", "hyperclovax_vision_v2")
"""Packed encoders' families whose processors write nothing between the frames of a video."""

MIXED_WINDOWS = ("aya_vision", "cohere2_vision", "cohere_compass", "exaone4_5")
"""Models whose LLMs have layers with sliding windows and layers without, and nothing else that is special."""


def video(model: nn.Module, frames: int, seed: int = 0) -> Picture:
    """A video of 24 x 24 pixels, or of frames of 2 x 3 units, as a picture; its ids may hold text too."""
    generator = torch.Generator().manual_seed(seed)
    family, vision = model.config.model_type, model.config.vision_config
    if kind(model) == "anyres":
        pixels = torch.randn(1, frames, 3, 24, 24, generator=generator)
        # Pooled to 3 x 3; OneVision adds an end.
        tokens = frames * 9 + (family == "llava_onevision")
        return Picture({"pixel_values_videos": pixels}, [VIDEO] * tokens)
    if kind(model) == "square":
        pixels = torch.randn(1, frames, 3, 24, 24, generator=generator)
        # Class tokens stay.
        return Picture({"pixel_values_videos": pixels}, [VIDEO] * frames * 37)
    patch = 3 * getattr(vision, "temporal_patch_size", 1) * vision.patch_size**2
    pixels = torch.randn(frames * 4 * 6, patch, generator=generator)
    values = {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[frames, 4, 6]])}
    if "omni" in family and "thinker" in family:
        values["video_second_per_grid"] = torch.tensor([0.5])
    if family in IN_ONE_RUN:
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
    return inputs | {name: join(list(shown), name) for name in names}


def together(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Prompts of one row each as a left-padded batch."""
    length = max(one["input_ids"].shape[1] for one in rows)
    out = {}
    for name in dict.fromkeys(name for one in rows for name in one):
        values = [one[name] for one in rows if name in one]
        if name.endswith("_ids") or name == "attention_mask":
            values = [nn.functional.pad(v, (length - v.shape[1], 0)) for v in values]
        elif name == "pixel_values" and values[0].dim() == 5:
            most = max(tiles.shape[1] for tiles in values)
            values = [nn.functional.pad(t, (0, 0) * 3 + (0, most - t.shape[1])) for t in values]
        out[name] = torch.cat(values)
    return out
