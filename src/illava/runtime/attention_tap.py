"""Reading queries and keys off an attention layer without changing what it computes.

Only the attention modules that are asked for scores get a tap: a shallow copy of their config names an
attention implementation registered here, which hands the rotated queries and keys to the tap and then
calls the implementation the user chose. The model's own config and masks are never touched, and no
attention matrix is materialised by the model (``output_attentions`` stays off).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..compat import eager_attention
from ..errors import UnsupportedError

IMPLEMENTATION = "illava"
# Modelling code asks the name whether to hand over all packed sequences at once.
FLASH_IMPLEMENTATION = "illava_flash"
SUPPORTED_BACKENDS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")

Observer = Callable[[Tensor, Tensor, float, Any, float | None], None]
"""Called before the attention with query (B, H, q, h), key (B, H_kv, k, h), scaling, the layer's mask
(Tensor, None, or flex attention's BlockMask) and the softcap on its logits, if it has one."""
Bias = Callable[[Tensor], Tensor | None]
"""Key (B, H_kv, k, h) to (B or 1, 1, 1, k) fp32, what is added to the logits of each key, or None."""


class AttentionTap:
    """Shows observers the queries and keys of one attention module; ``remove`` undoes it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.observers: list[Observer] = []
        self.bias: Bias | None = None
        self._recomputing: Observer | None = None
        self.config: Any = module.config
        check_backend(self.config)
        tapped = copy.copy(self.config)
        tapped._attn_implementation = FLASH_IMPLEMENTATION if is_flash(self.config) else IMPLEMENTATION
        self.tapped = module.config = tapped
        module._illava_tap = self  # type: ignore[assignment]

    def recompute_qk(self, observer: Observer, **kwargs: Any) -> None:
        """Run the module with ``kwargs`` for its queries and keys alone, which ``observer`` is shown."""
        self._recomputing = observer
        try:
            self.module(**kwargs)
        finally:
            self._recomputing = None

    def observe(
        self, query: Tensor, key: Tensor, scaling: float, mask: Any, softcap: float | None
    ) -> tuple[Any, bool]:
        """Show the observers; returns the mask to attend with, and whether the attention itself is wanted."""
        # Scores only choose: no gradient goes through them, and nothing of them is kept for a backward pass.
        with torch.no_grad():
            if self._recomputing is not None:
                self._recomputing(query, key, scaling, mask, softcap)
                return mask, False
            for observer in self.observers:
                observer(query, key, scaling, mask, softcap)
            bias = None if self.bias is None else self.bias(key)
            return (mask if bias is None else _biased(mask, bias.to(query.dtype), query.shape[2])), True

    def attend(self, *args: Any, **kwargs: Any) -> Any:
        """What the module would have computed without the tap, by the user's current choice of backend."""
        check_backend(self.config)
        refuse_another(self.config, is_flash(self.tapped))
        backend = self.config._attn_implementation
        if backend == "eager":
            # Every modelling file of transformers has its own eager function, not a registered one.
            eager = eager_attention(self.module)
            assert eager is not None
            return eager(*args, **kwargs)
        # Flash attention looks up its kernel by the module's config.
        self.module.config = self.config
        try:
            return ALL_ATTENTION_FUNCTIONS[backend](*args, **kwargs)
        finally:
            self.module.config = self.tapped

    def remove(self) -> None:
        self.module.config = self.config
        del self.module._illava_tap


def is_flash(config: Any) -> bool:
    """Whether the attention implementation is flash attention, of whatever version and source."""
    return "flash" in config._attn_implementation


def refuse_another(config: Any, flash: bool) -> None:
    """Raise UnsupportedError if the user's choice has gone to or from flash attention since accelerate()."""
    if is_flash(config) != flash:
        raise UnsupportedError(
            f"the attention implementation became {config._attn_implementation!r} after accelerate(); "
            "call handle.remove() first, then change it and accelerate again"
        )


def check_backend(config: Any) -> None:
    """Raise UnsupportedError unless scores can be read beside the attention backend of ``config``."""
    backend = config._attn_implementation
    # Flash attention kernels that are downloaded go by the name of their repository.
    if backend in SUPPORTED_BACKENDS or ("flash" in backend and "paged" not in backend):
        return
    raise UnsupportedError(
        f"attention implementation {backend!r} is not supported; "
        f"load the model with attn_implementation={' or '.join(map(repr, SUPPORTED_BACKENDS))}"
    )


def _observed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> Any:
    tap: AttentionTap = module._illava_tap  # type: ignore[assignment]
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    mask, wanted = tap.observe(query, key, factor, attention_mask, kwargs.get("softcap"))
    if not wanted:
        return value.new_zeros(()).expand(*query.transpose(1, 2).shape[:3], value.shape[-1]), None
    return tap.attend(module, query, key, value, mask, scaling=scaling, **kwargs)


def _biased(mask: Any, bias: Tensor, rows: int) -> Tensor:
    """A (B or 1, 1, q, k) boolean or additive mask, or None, with ``bias`` on top."""
    if mask is None:
        return bias.expand(-1, -1, rows, -1)
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=bias.dtype).masked_fill(~mask, torch.finfo(bias.dtype).min)
    return mask + bias


AttentionInterface.register(IMPLEMENTATION, _observed_attention)
AttentionInterface.register(FLASH_IMPLEMENTATION, _observed_attention)
