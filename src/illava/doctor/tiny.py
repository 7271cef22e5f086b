"""Tiny random models of every supported family.

Weights are drawn with a standard deviation of 1 / sqrt(fan_in), so that attention is far from uniform and
selections are unambiguous.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForImageTextToText

from .tiny_configs import CONFIGS, IMAGE, PAD, VIDEO, config

# VipLLaVA cannot run in this release: it reads hidden states that it does not keep.
BROKEN = ("vipllava",) if transformers.__version__.startswith("5.19.") else ()
ALL = tuple(name for name in CONFIGS if name not in BROKEN)


def tiny_model(name: str, attention: str = "sdpa", seed: int = 0, **vision: Any) -> nn.Module:
    """A random model in eval mode, float32, on the CPU.

    Args:
        name: a key of ``CONFIGS``.
        attention: the attention implementation; Gemma 2 has only "eager".
        seed: the seed of the weights; the global generator does not change.
        vision: fields of the vision config to override.
    """
    made = config(name)
    for key, value in vision.items():
        setattr(made.vision_config, key, value)
    # The grouped matrix products of a mixture of experts do not support float64.
    experts = {"experts_implementation": "eager"} if "moe" in name else {}
    # Gemma 2 supports no other.
    attention = "eager" if name == "paligemma-2" else attention
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = AutoModelForImageTextToText.from_config(
            made, attn_implementation=attention, **experts
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(0, fan_in**-0.5, generator=generator)
    settings: Any = model.generation_config
    settings.pad_token_id = PAD
    # Without an end token, every row decodes to the full length.
    settings.eos_token_id = None
    # A generated placeholder would need an image when the sequence is recomputed.
    settings.suppress_tokens = [IMAGE, VIDEO]
    return model.eval()


def variant(made: Any) -> str:
    """The key of ``CONFIGS`` whose image encoder and LLM have the model types of the config ``made``.

    If no variant of its family matches both, the image encoder decides.
    """

    def likeness(name: str) -> tuple[bool, bool]:
        tiny = config(name)
        return _kind(tiny.vision_config) == _kind(made.vision_config), _kind(tiny.text_config) == _kind(
            made.get_text_config()
        )

    names = [name for name in CONFIGS if name.partition("-")[0] == made.model_type]
    # Of equals max returns the first, which is named after the family.
    return max(names, key=likeness)


def _kind(part: Any) -> str:
    return str(getattr(part, "model_type", ""))
