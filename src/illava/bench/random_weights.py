"""Models of published sizes with random weights.

Speed and memory do not depend on the values of the weights, so both can be measured without a download.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ..io.pictures import InputError
from .memory import free_bytes, gigabytes
from .published import config, depths


def on_meta(made: Any, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model of a config on the meta device, without memory for its weights."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(made, dtype=dtype, trust_remote_code=False).eval()


def build(name: str, layers: int | None, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A model of a published shape in eval mode, with reproducible random weights.

    Matrices are uniform with a standard deviation of 1 / sqrt(fan_in), norms are 1, biases 0. There is no end
    token, so every answer has the maximum length.

    Raises InputError as :func:`config` does, and if the weights do not fit in the device's free memory.
    """
    from transformers import AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    made = config(name, layers)
    check_fits(name, layers, dtype, free_bytes(device))
    with no_init_weights(), torch.device(device):
        model = AutoModelForImageTextToText.from_config(made, dtype=dtype, trust_remote_code=False)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                # Uniform: normal numbers take four times as long on a CPU.
                bound = math.sqrt(3 / parameter[0].numel())
                parameter.uniform_(-bound, bound, generator=generator)
            else:
                parameter.fill_(0.0 if parameter_name.endswith("bias") else 1.0)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    # A generated placeholder would stand for an image that does not exist.
    placeholders = [getattr(made, name, None) for name in ("image_token_id", "video_token_id")]
    model.generation_config.suppress_tokens = [token for token in placeholders if token is not None]
    return model.eval()


def check_fits(name: str, layers: int | None, dtype: torch.dtype, free: int | None) -> None:
    """Raise InputError unless a shape's weights fit in ``free`` bytes; None means unknown."""
    needed = weight_bytes(on_meta(config(name, layers), dtype))
    if free is None or needed <= free:
        return
    low, high = 0, (layers or max(depths(name))) - 1
    while low < high:
        middle = (low + high + 1) // 2
        fits = weight_bytes(on_meta(config(name, middle), dtype)) <= free
        low, high = (middle, high) if fits else (low, middle - 1)
    hint = f"give --layers {low} or less" if low else "not even --layers 1 fits"
    raise InputError(
        f"--shape {name}: its weights take {gigabytes(needed)} in {str(dtype).removeprefix('torch.')}, "
        f"and {gigabytes(free)} are free; {hint}"
    )


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers; shared ones count once."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())
