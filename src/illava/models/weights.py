"""Bytes of the weights of a model, which may be quantized: packed integers, or floats of 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def activation_size(llm: nn.Module) -> int:
    """Bytes per element of the activations and of the KV cache of an LLM.

    Those of its first weight that is not quantized: norms and embeddings rarely are.
    """
    weights = list(llm.parameters())
    return next((weight for weight in weights if _is_plain(weight)), weights[0]).element_size()


def stored_bytes(model: nn.Module, size: int) -> int:
    """Bytes of all weights, with ``size`` bytes per element of those that are not quantized.

    Packed weights are parameters in some formats and integer buffers in others. Buffers of 64-bit integers
    are indices.
    """
    packed = [b for b in model.buffers() if not _is_plain(b) and b.dtype not in (torch.bool, torch.int64)]
    weights = {*model.parameters(), *packed}
    return sum(w.numel() * (size if _is_plain(w) else w.element_size()) for w in weights)


def _is_plain(weight: Tensor) -> bool:
    return weight.is_floating_point() and weight.element_size() > 1
