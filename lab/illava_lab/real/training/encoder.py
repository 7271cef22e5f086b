"""Pictures as the frozen image encoder hands them to the projector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Dinov2Model

from .. import BLOCKS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's RGB values in 0 to 1, by which DINOv2 was trained."""


def pixels(pictures: Sequence[Image.Image], size: int) -> Tensor:
    """(N, 3, size, size) float32: pictures stretched to a square, as the processor of zoo/R does."""
    arrays = [np.asarray(p.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)) for p in pictures]
    values = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class Encoder:
    """The blocks of DINOv2 that zoo/R uses, without gradients. LLaVA reads the last one's output as it is."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu"):
        model = Dinov2Model.from_pretrained(folder, dtype=dtype)
        model.encoder.layer = model.encoder.layer[:BLOCKS]
        self.model = model.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, values: Tensor) -> Tensor:
        """(N, 3, S, S) pixels to (N, (S / 14)**2, 384) features of patches, in raster order."""
        hidden = self.model.embeddings(values.to(self.model.device, self.model.dtype))
        return self.model.encoder(hidden).last_hidden_state[:, 1:]
