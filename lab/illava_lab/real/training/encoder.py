"""Pictures as the image encoder hands them to the projector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import Dinov2Model
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .. import BLOCKS
from ..trained import ENCODER
from .adapter import Adapter
from .recipe import ALPHA, RANK

NORMALISATION = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
"""Mean and standard deviation of RGB values in 0 to 1 that DINOv2 was trained with."""


def squares(pictures: Sequence[Image.Image], size: int) -> Tensor:
    """(N, size, size, 3) uint8: pictures stretched to a square, as the processor of zoo/R does."""
    arrays = [np.asarray(p.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)) for p in pictures]
    return torch.from_numpy(np.stack(arrays))


STORED = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}
"""Linear layers of a block whose names in the file of weights differ from those in transformers >= 5.24."""


class Encoder:
    """The blocks of DINOv2 that zoo/R uses, with adapters. LLaVA reads the last one's output as it is.

    Pictures are normalised here, on the device: as bytes they are a quarter of what would have to be moved.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu"):
        model = Dinov2Model.from_pretrained(folder, dtype=dtype)
        model.encoder.layer = model.encoder.layer[:BLOCKS]
        self.model = model.eval().requires_grad_(False)
        self._adapted: dict[str, Adapter] = {}
        for number, block in enumerate(model.encoder.layer):
            for name, module in list(block.named_modules()):
                if isinstance(module, nn.Linear):
                    adapter = Adapter(module.weight.data, RANK, ALPHA, module.bias.data)
                    block.set_submodule(name, adapter)
                    self._adapted[f"encoder.layer.{number}.{STORED.get(name, name)}"] = adapter
        self.model.to(device)
        self.mean, self.std = (torch.tensor(values, device=device)[:, None, None] for values in NORMALISATION)

    def normalised(self, pictures: Tensor) -> Tensor:
        """(N, S, S, 3) uint8 to (N, 3, S, S) float32."""
        return (pictures.permute(0, 3, 1, 2) / 255 - self.mean) / self.std

    def features(self, pictures: Tensor) -> Tensor:
        """(N, S, S, 3) uint8, as :func:`squares`, to (N, (S / 14)**2, 384) features of patches, in order."""
        hidden = self.model.embeddings(self.normalised(pictures).to(self.model.dtype))
        return self.model.encoder(hidden).last_hidden_state[:, 1:]

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """:meth:`features`, without gradients."""
        return self.features(pictures)

    def named_adapters(self) -> dict[str, nn.Parameter]:
        """The adapters' matrices, named as in the file of trained weights."""
        return {
            f"{ENCODER}.{name}.{part}": getattr(adapter, part)
            for name, adapter in self._adapted.items()
            for part in ("lora_A", "lora_B")
        }

    def freeze(self) -> None:
        """Learn no more."""
        for adapter in self._adapted.values():
            adapter.freeze()
