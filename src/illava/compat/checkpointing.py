"""Detects when transformers applies gradient checkpointing to a layer, which then gets no KV cache."""

from __future__ import annotations

from functools import lru_cache

from .signatures import method_of


@lru_cache(maxsize=1)
def checkpoints_need_grad() -> bool:
    """Whether layers in training mode are checkpointed only if gradients are enabled, as since 5.24."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    methods = (method_of(GradientCheckpointingLayer, name) for name in ("__call__", "__init_subclass__"))
    return any(method is not None and "is_grad_enabled" in (method.uses or ()) for method in methods)
