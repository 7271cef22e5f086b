"""Tiny random models of every supported family.

Weights are drawn with a standard deviation of 1 / sqrt(fan_in), so that attention is far from uniform and
selections are unambiguous.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForImageTextToText

from .families import FAMILIES, family_of
from .tiny_configs import IMAGE, PAD, VIDEO

CONFIGS = {name: make for family in FAMILIES.values() for name, make in family.tiny.items()}
"""Functions that make the config of a tiny model, by the names of families and of their variants."""
BROKEN = tuple(
    name
    for name, family in FAMILIES.items()
    if any(transformers.__version__.startswith(f"{release}.") for release in family.broken_releases)
    or any(find_spec(package) is None for package in family.requires)
)
"""Families whose implementation in the installed transformers does not run, or lacks a package."""
ALL = tuple(name for of, family in FAMILIES.items() if of not in BROKEN for name in family.tiny)


def config(name: str) -> transformers.PretrainedConfig:
    """A fresh config: a family's name, or that and a variant of it."""
    made: transformers.PretrainedConfig = CONFIGS[name]()
    return made


def tiny_model(
    name: str, attention: str = "sdpa", seed: int = 0, experts: str = "eager", **vision: Any
) -> nn.Module:
    """A random model in eval mode, float32, on the CPU.

    Args:
        name: a key of ``CONFIGS``.
        attention: the attention implementation, unless the config itself states one.
        seed: of the weights. The global generator is left as it is.
        experts: the implementation of a mixture of experts. Expert by expert ("eager"), because the grouped
            products ("grouped_mm", the default of transformers) do not support float64.
        vision: fields of the vision config to change.
    """
    made = config(name)
    for key, value in vision.items():
        setattr(made.vision_config, key, value)
    mixture = {"experts_implementation": experts} if family_of(made).experts else {}
    attention = made._attn_implementation or attention
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
            made, attn_implementation=attention, **mixture
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

    # The first of equals, which is the family's own name.
    return max(FAMILIES[made.model_type].tiny, key=likeness)


def _kind(part: Any) -> str:
    return str(getattr(part, "model_type", ""))
