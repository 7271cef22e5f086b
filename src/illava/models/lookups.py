"""The module paths and config attributes that illava looks up in a loaded model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from ..compat.calls import Fault, attribute_faults, refusal
from ..compat.signatures import original
from ..errors import UnsupportedError
from .dimensions import llm_dimensions
from .family import Family
from .towers import Tower


def module_paths(family: Family) -> tuple[str, ...]:
    """Paths of modules of the base model."""
    paths = (
        family.encoder,
        family.projector,
        family.llm,
        f"{family.llm}.{family.llm_layers}",
        family.taps,
        family.row_wise,
        family.resampler,
        family.unfolds_after,
        family.unfolds_before,
        family.compacts_before,
        family.pooler,
    )
    return tuple(path for path in paths if path is not None)


def block_paths(tower: Tower) -> tuple[str, ...]:
    """Paths of modules of an encoder block."""
    return (tower.attention, tower.second_norm, tower.mlp, *tower.scale_modules)


CONFIG = ("image_token_id", "vision_config.model_type", "vision_config._attn_implementation")
"""Config attributes read for all families; :attr:`.family.Family.config_attributes` has those of one."""

LLM = ("use_cache", "_attn_implementation")
LLM_BY_TYPE: dict[str, tuple[str, ...]] = {
    "llama": (),
    "gemma": (),
    "mistral": ("sliding_window",),
    "qwen2": ("sliding_window", "layer_types"),
    "gemma2": ("sliding_window", "layer_types"),
    "cohere2": ("sliding_window", "layer_types"),
    "qwen3": ("sliding_window", "layer_types"),
}
"""Attributes of the config of an LLM, by its ``model_type``; :attr:`.family.Family.llm_attributes` has those
of LLMs that only one family uses. The sizes of other LLMs are not checked in advance."""

LAYER_TYPES = ("full_attention", "sliding_attention", "linear_attention")
"""The types of LLM layers for which illava can make masks."""


def check_lookups(family: Family, tower: Tower, base: nn.Module, config: Any) -> None:
    """Raise UnsupportedError unless a model has the modules and config attributes that its family names.

    Called by :func:`illava.models.located.locate` before it uses them.
    """
    faults = list(lookup_faults(family, tower, base, config))
    if faults:
        raise UnsupportedError(refusal(faults))


def lookup_faults(family: Family, tower: Tower, base: nn.Module, config: Any) -> Iterator[Fault]:
    """The modules and config attributes of a family's entry that a model lacks."""
    for path in module_paths(family):
        yield from path_faults(base, path)
    encoder = None if family.encoder_refusal else submodule(base, family.encoder)
    if encoder is not None:
        yield from path_faults(encoder, tower.blocks)
    blocks = None if encoder is None else submodule(encoder, tower.blocks)
    for block in [] if blocks is None else list(blocks.children())[:1]:
        for path in block_paths(tower):
            yield from path_faults(block, path)
    for path in (*CONFIG, *family.config_attributes):
        *outer, last = path.split(".")
        owner = config
        for name in outer:
            owner = getattr(owner, name, None)
        if not hasattr(owner, last):
            yield Fault(type(owner if owner is not None else config).__name__, f"lost its attribute {last}")
    llm = submodule(base, family.llm)
    readers: list[Callable[[Any], Any]] = [family.group, family.encoder_dimensions, family.first_llm_layer]
    readers.append(lambda config: tower.prefix(config.vision_config))
    if llm is not None:
        own = {**LLM_BY_TYPE, **family.llm_attributes}.get(getattr(llm.config, "model_type", ""))
        yield from _llm_config_faults(llm.config, (*LLM, *(own or ())))
        if own is not None:
            readers.append(llm_dimensions)
    for read in readers:
        try:
            read(config)
        except AttributeError as error:
            yield Fault(type(config).__name__, f"does not give the sizes of the model: {error}")


def _llm_config_faults(config: Any, names: tuple[str, ...]) -> Iterator[Fault]:
    yield from attribute_faults(type(config).__name__, config, names)
    for kind in sorted(set(getattr(config, "layer_types", None) or ()) - set(LAYER_TYPES)):
        yield Fault(
            f"{type(config).__name__}.layer_types", f"has layers {kind!r}, which illava does not know"
        )


def submodule(owner: nn.Module, path: str) -> nn.Module | None:
    """The module at ``path`` below ``owner``; None if there is none."""
    try:
        return owner.get_submodule(path)
    except AttributeError:
        return None


def path_faults(owner: nn.Module, path: str) -> Iterator[Fault]:
    """A fault if there is no module at ``path`` below ``owner``."""
    if submodule(owner, path) is None:
        yield Fault(type(original(owner)).__name__, f"has no module {path}")
