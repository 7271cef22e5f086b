"""Small processors of several families, with the zoo's tokenizer: how each makes a batch differs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import transformers as hf
from illava_lab.zoo.text import build_processor

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% elif part['type'] == 'video' %}VIDEO"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
)
SQUARE = {"height": 32, "width": 32}
GRIDS = [[32, 64], [64, 32], [64, 64], [96, 32]]
IDEFICS = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
PIXELS = {"shortest_edge": 16 * 16 * 2, "longest_edge": 64 * 64 * 8}


def template(image: str = "<image>", video: str = "<video>") -> str:
    """A chat template with these placeholders."""
    return TEMPLATE.replace("IMAGE", image).replace("VIDEO", video)


def tokenizer(*tokens: str, **named: str) -> Any:
    """The zoo's tokenizer with further special tokens; those with a name are its attributes too."""
    made = copy.deepcopy(build_processor().tokenizer)
    made.add_special_tokens({"additional_special_tokens": [*tokens, *named.values()]})
    for name, token in named.items():
        setattr(made, name, token)
        setattr(made, f"{name}_id", made.convert_tokens_to_ids(token))
    return made


def llava() -> Any:
    """Pictures of one size."""
    images = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)
    options = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return hf.LlavaProcessor(images, tokenizer("<image>"), chat_template=template(), **options)


def llava_next() -> Any:
    """Tiles, as many as the largest picture of a batch has."""
    images = hf.LlavaNextImageProcessor(
        size={"shortest_edge": 32}, crop_size=SQUARE, image_grid_pinpoints=GRIDS
    )
    options = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return hf.LlavaNextProcessor(images, tokenizer("<image>"), chat_template=template(), **options)


def llava_onevision() -> Any:
    """Tiles, with one for each of several pictures."""
    images = hf.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=GRIDS)
    videos = hf.LlavaOnevisionVideoProcessor(size=SQUARE)
    options = {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
    text = tokenizer("<image>", "<video>")
    return hf.LlavaOnevisionProcessor(images, text, videos, chat_template=template(), **options)


def pixtral() -> Any:
    """Pictures of any size, filled up to the largest of a batch."""
    images = hf.PixtralImageProcessor(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8})
    text = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    options = {"patch_size": 8, "spatial_merge_size": 2}
    return hf.PixtralProcessor(images, text, chat_template=template("[IMG]"), **options)


def idefics3(split: bool = True) -> Any:
    """Prompts by pictures, with a mask of pixels."""
    images = hf.Idefics3ImageProcessor(
        size={"longest_edge": 128 if split else 64},
        max_image_size={"longest_edge": 64},
        do_image_splitting=split,
    )
    return hf.Idefics3Processor(images, tokenizer(*IDEFICS), image_seq_len=4, chat_template=template())


def internvl() -> Any:
    """Tiles of all pictures in a row."""
    text = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<context>",
        video_token="<video>",
    )
    images = hf.GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=4)
    videos = hf.InternVLVideoProcessor(size=SQUARE)
    return hf.InternVLProcessor(images, text, videos, image_seq_length=4, chat_template=template("<context>"))


def gemma3() -> Any:
    """Kinds of tokens beside the text."""
    text = tokenizer(boi_token="<boi>", eoi_token="<eoi>", image_token="<soft>")
    images = hf.Gemma3ImageProcessor(size=SQUARE)
    return hf.Gemma3Processor(images, text, image_seq_length=4, chat_template=template("<boi>"))


def qwen2_5_vl() -> Any:
    """Patches of all pictures in a row."""
    zoo = build_processor()
    return hf.Qwen2_5_VLProcessor(
        zoo.image_processor, zoo.tokenizer, zoo.video_processor, chat_template=zoo.chat_template
    )


def qwen3_vl() -> Any:
    """The same, and videos as frames with their times."""
    zoo = build_processor()
    videos = hf.Qwen3VLVideoProcessor(patch_size=8, size=PIXELS)
    return hf.Qwen3VLProcessor(zoo.image_processor, zoo.tokenizer, videos, chat_template=zoo.chat_template)


def glm4v() -> Any:
    """The same with other placeholders."""
    images = hf.Glm4vImageProcessor(patch_size=8, size=PIXELS)
    text = tokenizer("<|image|>", "<|video|>")
    videos = hf.Glm4vVideoProcessor(patch_size=8)
    return hf.Glm4vProcessor(images, text, videos, chat_template=template("<|image|>", "<|video|>"))


PROCESSORS: dict[str, Callable[[], Any]] = {
    "qwen2_vl": build_processor,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "glm4v": glm4v,
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "pixtral": pixtral,
    "idefics3": idefics3,
    "idefics3 without tiles": lambda: idefics3(split=False),
    "internvl": internvl,
    "gemma3": gemma3,
}
