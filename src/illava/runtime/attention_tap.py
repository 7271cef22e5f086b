"""Reading the queries and keys of an attention module without changing its output.

Only the attention modules whose scores are needed get a tap. A shallow copy of their config names an
attention implementation registered here, which passes the rotated queries and keys to the tap and then calls
the implementation chosen by the user. The model's own config and masks are not modified, and the model does
not materialise an attention matrix (``output_attentions`` stays off).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..compat import eager_attention
from ..errors import UnsupportedError
from ..ops.size_bias import Shared, biased_mask, with_channels

IMPLEMENTATION = "illava"
# By this name, modelling code decides whether to pass all packed sequences in one call.
FLASH_IMPLEMENTATION = "illava_flash"
SUPPORTED_BACKENDS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")


class AttentionCall(NamedTuple):
    """What one call of an attention computes with."""

    query: Tensor
    """(B, H, q, h)."""
    key: Tensor
    """(B, H_kv, k, h)."""
    scaling: float
    mask: Any
    """Of the layer: a Tensor, None, or flex attention's BlockMask."""
    softcap: float | None
    """Bound of the logits, or None."""
    value: Tensor
    """(B, H_kv, k, h')."""
    bias: Tensor | None = None
    """(B or 1, 1, 1, k) fp32, added to the logits of each key, or None."""


Observer = Callable[[AttentionCall], None]
"""Called before the attention."""


class Bias(Protocol):
    """A bias added to the logits of each key of an attention."""

    @property
    def shared(self) -> Shared | None:
        """What layers of this pass with the same bias compute once; None: nothing is shared."""

    def __call__(self, key: Tensor) -> Tensor | None:
        """For keys (B, H_kv, k, h): (B or 1, 1, 1, k) fp32, or None."""


class AttentionTap:
    """Passes the queries and keys of one attention module to observers; ``remove`` undoes it."""

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
        """Run the module with ``kwargs`` only to pass its queries and keys to ``observer``."""
        self._recomputing = observer
        try:
            self.module(**kwargs)
        finally:
            self._recomputing = None

    def observe(self, call: AttentionCall) -> tuple[bool, Tensor | None]:
        """Call the observers. Returns whether to compute the attention, and the bias to add to its logits."""
        # Scores are only used for selection: no gradients, and nothing is saved for a backward pass.
        with torch.no_grad():
            if self._recomputing is not None:
                # Its bias belongs to the tokens of the layer's own call.
                self._recomputing(call)
                return False, None
            # Once a call: it keeps count of the calls.
            bias = None if self.bias is None else self.bias(call.key)
            for observer in self.observers:
                observer(call._replace(bias=bias))
            return True, bias

    def takes_channels(self, query: Tensor, mask: Any, causal: bool | None) -> bool:
        """Whether a bias is added by channels of queries and keys (True), or by a mask.

        Flash and flex attention take no additive mask, and SDPA has its causal order from the absence of one.
        On a CPU, SDPA is as fast with a mask of one row as without, and the channels would cost a fifth of
        the attention's time. A single query makes the mask one row of numbers as well.
        """
        if is_flash(self.config) or self.config._attn_implementation == "flex_attention":
            return True
        if self.config._attn_implementation != "sdpa" or mask is not None or query.shape[2] == 1:
            return False
        causal = getattr(self.module, "is_causal", True) if causal is None else causal
        return causal or query.device.type != "cpu"

    def attend(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the module without the tap, by the backend that the user has chosen now."""
        check_backend(self.config)
        refuse_another(self.config, is_flash(self.tapped))
        backend = self.config._attn_implementation
        if backend == "eager":
            # Each modelling file of transformers has its own eager function, which is not registered.
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
    """Whether the attention implementation is flash attention, of any version and source."""
    return "flash" in config._attn_implementation


def refuse_another(config: Any, flash: bool) -> None:
    """Raise UnsupportedError if the user has switched to or from flash attention since accelerate()."""
    if is_flash(config) != flash:
        raise UnsupportedError(
            f"the attention implementation became {config._attn_implementation!r} after accelerate(); "
            "call handle.remove() first, then change it and accelerate again"
        )


def check_backend(config: Any) -> None:
    """Raise UnsupportedError unless scores can be computed with the attention backend of ``config``."""
    backend = config._attn_implementation
    # Downloaded flash attention kernels have the name of their repository.
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
    call = AttentionCall(query, key, factor, attention_mask, kwargs.get("softcap"), value)
    compute_output, bias = tap.observe(call)
    if not compute_output:
        return value.new_zeros(()).expand(*query.transpose(1, 2).shape[:3], value.shape[-1]), None
    if bias is None:
        return tap.attend(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if tap.takes_channels(query, attention_mask, kwargs.get("is_causal")):
        shared = None if tap.bias is None or torch.compiler.is_compiling() else tap.bias.shared
        wide = with_channels(query, key, value, bias, factor, shared)
        output, weights = tap.attend(module, *wide, attention_mask, scaling=factor, **kwargs)
        return output[..., : value.shape[-1]], weights
    mask = biased_mask(attention_mask, bias.to(query.dtype), query.shape[2])
    return tap.attend(module, query, key, value, mask, scaling=scaling, **kwargs)


AttentionInterface.register(IMPLEMENTATION, _observed_attention)
AttentionInterface.register(FLASH_IMPLEMENTATION, _observed_attention)
