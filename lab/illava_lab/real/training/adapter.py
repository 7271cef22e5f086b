"""Low-rank adapters of frozen linear layers (Hu et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Adapter(nn.Module):
    """A frozen linear layer, plus ``alpha / rank * B A``, whose matrices are float32 parameters."""

    weight: Tensor
    bias: Tensor | None
    frozen: Tensor | None
    """The weight with the change, once that is final."""

    def __init__(self, weight: Tensor, rank: int, alpha: float, bias: Tensor | None = None):
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("frozen", None, persistent=False)
        self.scale = alpha / rank
        self.lora_A = nn.Parameter(torch.empty(rank, weight.shape[1]))
        self.lora_B = nn.Parameter(torch.zeros(weight.shape[0], rank))
        nn.init.normal_(self.lora_A, std=weight.shape[1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        if self.frozen is not None:
            return F.linear(x, self.frozen, self.bias)
        low = F.linear(x, self.lora_A.to(x.dtype))
        return F.linear(x, self.weight, self.bias) + F.linear(low, (self.scale * self.lora_B).to(x.dtype))

    def freeze(self) -> None:
        """Learn no more, and compute with one matrix."""
        self.requires_grad_(False)
        change = self.scale * self.lora_B @ self.lora_A
        self.frozen = (self.weight.float() + change).to(self.weight.dtype)
