"""A random LLaVA with DINOv2 in a folder, whose processor's pictures have fewer patches than positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from illava.models.tiny_models import CONFIGS, tiny_model

PATCH, LEARNT = 14, 37
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %} this <image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %} answer"
)
WORDS = ("<pad>", "<s>", "</s>", "<unk>", "what", "is", "this", "answer")


def processor_of(pixels: int, *, registers: int = 0, full: bool = False, crop: bool = True) -> Any:
    """A LlavaProcessor that crops pictures to squares of ``pixels``, or only resizes their shorter side."""
    vocabulary = {word: number for number, word in enumerate((*WORDS, *map(str, range(82))))}
    tokenizer = Tokenizer(models.WordLevel({**vocabulary, "<image>": 90}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": pixels},
            crop_size={"height": pixels, "width": pixels},
            do_center_crop=crop,
        ),
        tokenizer=fast,
        patch_size=PATCH,
        vision_feature_select_strategy="full" if full else "default",
        num_additional_image_tokens=1 + registers,
        chat_template=TEMPLATE,
        image_token="<image>",
    )


def save(folder: Path, pixels: int, *, registers: int = 0, full: bool = False, crop: bool = True) -> Path:
    """A model and a processor in ``folder``; the processor knows how many tokens are no patches."""
    name = "llava-dinov2-registers" if registers else "llava-dinov2"
    made = CONFIGS[name]()
    made.vision_feature_select_strategy = "full" if full else "default"
    vision = {"patch_size": PATCH, "image_size": LEARNT * PATCH}
    model = tiny_model(name, **vision, **({"num_register_tokens": registers} if registers else {}))
    model.config.vision_feature_select_strategy = made.vision_feature_select_strategy
    model.save_pretrained(folder)
    processor_of(pixels, registers=registers, full=full, crop=crop).save_pretrained(folder)
    return folder
