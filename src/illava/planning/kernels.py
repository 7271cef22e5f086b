"""Counts the kernels that a family launches in each part of a pass, on its tiny model.

An accelerator runs the operators of a small picture faster than Python launches them, so the number of
kernels decides the time. That number depends on the code of a family and on the number of layers, not on
their width. It is therefore counted on the tiny model of the family with most similar encoder and LLM.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import UnsupportedError
from ..models.located import LocatedModules, locate
from ..models.tiny_models import tiny_model, variant
from ..models.tiny_prompts import SIZES, kind, like, picture, prompt
from .counts import TokenCounts

WITHOUT_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_"),
    *("_unsafe_view", "_reshape_alias", "_local_scalar_dense", "sym_size", "sym_stride", "sym_numel"),
}
"""Operators of ATen that return new tensors but run nothing, or copy one number to the host."""
TEXT = 8
"""Text tokens of the prompt on which kernels are counted."""
Part = tuple[str, int]
"""A part of a pass and its index: ("block", 3), ("layer", 0), ("encoder", 0) or ("outside", 0)."""


@dataclass(frozen=True)
class KernelCounts:
    """Kernels of the parts of a pass, copies included. Operators that run on the CPU are counted as well."""

    encoder: float
    """Of the image encoder outside its blocks, of the projector and of the taps."""
    block: float
    """Of one encoder block with one attention sequence."""
    sequence: float
    """Of each further attention sequence of a block."""
    picture: float
    """Of each further picture in the encoder outside its blocks."""
    prefill: float
    """Of a prefill outside encoder and LLM layers: embeddings, masks, rotary tables, head, choice of a
    token."""
    placing: float
    """Of each further picture there."""
    layer: float
    """Of an LLM layer with attention in a prefill."""
    recurrent: float
    """Of a recurrent LLM layer in a prefill of one chunk; 0 without such layers."""
    decode: float
    """Of a decoding step outside the LLM layers."""
    decode_layer: float
    """Of an LLM layer in a decoding step, on average over all layers."""

    def of_encoder(self, counts: TokenCounts, pictures: int = 1) -> float:
        """Kernels of the image encoder and the projector on so many pictures."""
        blocks = sum(
            self.block + self.sequence * max(0, len(segments) - 1)
            for call in counts.encoder
            for segments in call.sequences
        )
        return len(counts.encoder) * self.encoder + (pictures - 1) * self.picture + blocks

    def of_prefill(self, counts: TokenCounts, pictures: int = 1) -> float:
        """Kernels of the prefill and the choice of the first token."""
        attending = sum(counts.prefill.attends)
        recurrent = len(counts.prefill.attends) - attending
        outside = self.prefill + (pictures - 1) * self.placing
        return outside + self.layer * attending + self.recurrent * recurrent

    def of_decode(self, counts: TokenCounts) -> float:
        """Kernels of one decoding step."""
        return self.decode + self.decode_layer * len(counts.prefill.attends)


def count_kernels(config: Any, dtype: torch.dtype = torch.bfloat16) -> KernelCounts:
    """Count the kernels of a model's family in a ``generate`` of two tokens; takes about a second.

    Args:
        config: the config of a supported VLM.
        dtype: norms and rotary embeddings cast to float32 and back unless the model is float32.

    Raises UnsupportedError if the tiny model does not run with the installed transformers.
    """
    return _count(variant(config), dtype)


@lru_cache(maxsize=64)
def _count(name: str, dtype: torch.dtype) -> KernelCounts:
    modules = locate(tiny_model(name, experts="grouped_mm").to(dtype))
    try:
        (one, decoded), (two, _) = _kernels(modules, 1), _kernels(modules, 2)
    except Exception as error:
        raise UnsupportedError(
            f"cannot count the kernels of {name}: its tiny model does not run here ({error}); plan without "
            "rates of an accelerator"
        ) from error
    blocks, recurrent = range(len(modules.blocks)), modules.recurrent
    # A window attention block has several sequences a picture; the other blocks have one.
    fewest = min(blocks, key=lambda block: one["block", block], default=0)
    layers = {kind: [one["layer", k] for k, is_ in enumerate(recurrent) if is_ == kind] for kind in (0, 1)}
    return KernelCounts(
        encoder=one["encoder", 0],
        block=one["block", fewest],
        sequence=two["block", fewest] - one["block", fewest],
        picture=two["encoder", 0] - one["encoder", 0],
        prefill=one["outside", 0],
        placing=two["outside", 0] - one["outside", 0],
        layer=sum(layers[0]) / max(1, len(layers[0])),
        recurrent=sum(layers[1]) / max(1, len(layers[1])),
        decode=decoded["outside", 0],
        decode_layer=sum(decoded["layer", k] for k in range(len(recurrent))) / len(recurrent),
    )


def _kernels(modules: LocatedModules, pictures: int) -> tuple[Counter[Part], Counter[Part]]:
    """Kernels of each part in a prefill with so many equal pictures, and in one decoding step."""
    model: Any = modules.model
    inputs = tiny_inputs(model, pictures)
    counting = KernelCounter()
    hooks = [model.register_forward_pre_hook(lambda *_: counting.begin_pass(), prepend=True)]
    for part, module in _parts(modules):
        hooks.append(module.register_forward_pre_hook(counting.enter(part), prepend=True))
        hooks.append(module.register_forward_hook(counting.leave))
    try:
        with torch.no_grad(), torch.random.fork_rng(), counting:
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
    finally:
        for hook in hooks:
            hook.remove()
    return counting.passes[0], counting.passes[1]


def tiny_inputs(model: nn.Module, pictures: int) -> dict[str, Tensor]:
    """A prompt for a tiny model, with equal pictures, on its device and in its dtype."""
    shown = [picture(model, SIZES[kind(model)][-1]) for _ in range(pictures)]
    return like(model, prompt(model, [(list(range(3, 3 + TEXT)), shown)]))


def _parts(modules: LocatedModules) -> list[tuple[Part, nn.Module]]:
    encoder = [modules.encoder, modules.projector, *modules.taps]
    return [
        *((("encoder", 0), module) for module in encoder),
        *((("block", k), block) for k, block in enumerate(modules.blocks)),
        *((("layer", k), layer) for k, layer in enumerate(modules.layers)),
    ]


class KernelCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that run a kernel, by pass and by the innermost part that is running."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.passes: list[Counter[Part]] = [Counter()]
        self._running: list[Part] = [("outside", 0)]
        self._begun = 0

    def begin_pass(self) -> None:
        """The model's forward begins; what precedes the first one belongs to it."""
        self._begun += 1
        if self._begun > 1:
            self.passes.append(Counter())

    def enter(self, part: Part) -> Callable[..., None]:
        """A forward pre-hook that attributes kernels to ``part``."""
        return lambda *_: self._running.append(part)

    def leave(self, *_: Any) -> None:
        """A forward hook that ends the innermost part."""
        self._running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if runs_kernel(func):
            self.passes[-1][self._running[-1]] += 1
        return func(*args, **(kwargs or {}))


def runs_kernel(func: Any) -> bool:
    """Whether an overload of an ATen operator runs a kernel: views and allocations do not."""
    schema = func._schema
    view = any(out.alias_info is not None and not out.alias_info.is_write for out in schema.returns)
    return not view and schema.name.removeprefix("aten::") not in WITHOUT_KERNEL
