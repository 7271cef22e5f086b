"""The check of the contract: all entries of the list against one model and the installed transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from ..compat import eager_attention
from ..compat.signatures import Signature, function, method_of, original
from ..compat.versions import installed, tested_range, warn_untested
from ..errors import UnsupportedError
from ..shapes import llm_shape
from .calls import Call, Fault, call_faults
from .entries import (
    FORWARDS,
    GENERATE,
    GENERATION_CONFIG,
    MASKS,
    ROW_MIXERS,
    encoder_steps,
    features_calls,
    observing,
)
from .everywhere import ATTENTION, attribute_faults, everywhere_faults, method_faults
from .lookups import CONFIG, LAYER_TYPES, LLM_CONFIG, block_paths, module_paths

if TYPE_CHECKING:
    from ..families import Family
    from ..parts import ModelParts
    from ..stages.steps import Plan
    from ..towers import Tower


def check_contract(parts: ModelParts, plan: Plan | None = None) -> None:
    """Raise UnsupportedError unless everything is there that illava relies on.

    Args:
        parts: the modules of the model, plain.
        plan: leaves out forwards that it does not touch. None: all are checked.

    Warns once (UntestedVersionWarning) where all is there, but transformers is outside of the tested range.
    """
    faults = [*everywhere_faults(helpers=False), *_model_faults(parts, plan)]
    if faults:
        raise UnsupportedError(refusal(faults))
    warn_untested()


def contract_faults(parts: ModelParts, plan: Plan | None = None) -> list[Fault]:
    """All that illava relies on and this model, or the installed transformers, lacks.

    ``plan`` leaves out forwards that it does not touch; None: all are checked, those that some method needs.
    """
    return list(dict.fromkeys([*missing_everywhere(), *_model_faults(parts, plan)]))


def missing_everywhere() -> list[Fault]:
    """What is missing in transformers whatever the model: caches, masks, attention, ``generate``, helpers."""
    return list(dict.fromkeys(everywhere_faults(helpers=True)))


def check_lookups(family: Family, tower: Tower, base: nn.Module, config: Any) -> None:
    """Raise UnsupportedError unless a model has the modules and config attributes that its family names.

    For :func:`illava.parts.find_parts`, which needs them to find anything.
    """
    faults = list(_lookup_faults(family, tower, base, config))
    if faults:
        raise UnsupportedError(refusal(faults))


def refusal(faults: list[Fault]) -> str:
    """One line that names the first fault, the installed version, the tested ones, and what to do."""
    more = f" (and {len(faults) - 1} more: see `illava doctor`)" if len(faults) > 1 else ""
    return (
        f"transformers {installed()} does not fit: {faults[0]}{more}; illava is tested with transformers "
        f"{tested_range()}: install one of these, or, if this is one, report it"
    )


def import_refusal(error: ImportError) -> UnsupportedError:
    """What to raise where a name that illava imports from transformers is gone."""
    lost = Fault(str(error.name), f"lost a name: {str(error).partition(' from ')[0]}")
    return UnsupportedError(refusal(missing_everywhere() or [lost]))


# -- modules and configs ------------------------------------------------------------------------------------


def _lookup_faults(family: Family, tower: Tower, base: nn.Module, config: Any) -> Iterator[Fault]:
    for path in module_paths(family):
        yield from _path_faults(base, path)
    encoder = _submodule(base, family.encoder)
    if encoder is not None:
        yield from _path_faults(encoder, tower.blocks)
    blocks = None if encoder is None else _submodule(encoder, tower.blocks)
    for block in [] if blocks is None else list(blocks.children())[:1]:
        for path in block_paths(tower):
            yield from _path_faults(block, path)
    for path in (*CONFIG["*"], *CONFIG.get(family.model_type, ())):
        *outer, last = path.split(".")
        owner = config
        for name in outer:
            owner = getattr(owner, name, None)
        if not hasattr(owner, last):
            yield Fault(type(owner if owner is not None else config).__name__, f"lost its attribute {last}")
    llm = _submodule(base, family.llm)
    if llm is not None:
        yield from _llm_config_faults(llm.config)
    readers: list[Callable[[Any], Any]] = [family.group, family.encoder_shape, family.first_llm_layer]
    if llm is not None and getattr(llm.config, "model_type", None) in LLM_CONFIG:
        readers.append(llm_shape)
    for read in readers:
        try:
            read(config)
        except AttributeError as error:
            yield Fault(type(config).__name__, f"does not give the sizes of the model: {error}")


def _llm_config_faults(config: Any) -> Iterator[Fault]:
    names = (*LLM_CONFIG["*"], *LLM_CONFIG.get(getattr(config, "model_type", ""), ()))
    yield from attribute_faults(type(config).__name__, config, names)
    for kind in sorted(set(getattr(config, "layer_types", None) or ()) - set(LAYER_TYPES)):
        yield Fault(
            f"{type(config).__name__}.layer_types", f"has layers {kind!r}, which illava does not know"
        )


def _submodule(owner: nn.Module, path: str) -> nn.Module | None:
    try:
        return owner.get_submodule(path)
    except AttributeError:
        return None


def _path_faults(owner: nn.Module, path: str) -> Iterator[Fault]:
    if _submodule(owner, path) is None:
        yield Fault(type(original(owner)).__name__, f"has no module {path}")


# -- forwards and methods -----------------------------------------------------------------------------------


def _model_faults(parts: ModelParts, plan: Plan | None) -> Iterator[Fault]:
    yield from _lookup_faults(parts.family, parts.tower, parts.base, parts.config)
    for entry in FORWARDS:
        if plan is None or entry.needed(plan):
            yield from _forward_faults(entry.modules(parts), entry.call_of(parts))
    attention = [_submodule(block, parts.tower.attention) for block in parts.blocks[:1]]
    attention = attention if plan is None or encoder_steps(plan) else []
    if plan is None or observing(plan):
        found = (_submodule(layer, parts.family.llm_attention) for layer in parts.layers)
        attention += [module for module in found if module is not None][:1]
    for module in attention:
        if module is not None:
            yield from _eager_faults(original(module))
    for name, call in features_calls(parts).items():
        yield from _method_faults(parts.base, name, call)
    for name in parts.family.row_mixers:
        yield from _method_faults(parts.base, name, ROW_MIXERS[name][1])
    yield from _method_faults(parts.base, "get_input_embeddings", Call(optional=True))
    model = original(parts.model)
    if hasattr(type(model), "generate"):
        for name, call in GENERATE.items():
            # What users put in their places on the one model is theirs to get right.
            yield from method_faults(type(model), name, call)
        if method_of(model, "create_masks_for_generate") is not None:
            yield from _method_faults(model, "create_masks_for_generate", MASKS)
        made = getattr(model, "generation_config", None)
        if made is not None:
            yield from attribute_faults(type(made).__name__, made, GENERATION_CONFIG)
    for module in (*parts.blocks[:1], *parts.layers[:1]):
        yield from attribute_faults(
            type(original(module)).__name__, original(module), ("gradient_checkpointing",)
        )


def _forward_faults(modules: list[tuple[nn.Module, str]], call: Call) -> Iterator[Fault]:
    seen: set[Signature] = set()
    for owner, path in modules:
        found = _submodule(owner, path)
        if found is None:
            yield from _path_faults(owner, path)
            return
        module = original(found)
        signature = method_of(module, "forward")
        assert signature is not None
        # Layers of one class are alike.
        if signature.opaque or signature in seen:
            continue
        seen.add(signature)
        yield from call_faults(f"{type(module).__name__}.forward", signature, call)


def _method_faults(owner: nn.Module, name: str, call: Call) -> Iterator[Fault]:
    signature = method_of(original(owner), name)
    if signature is None or not signature.opaque:
        yield from method_faults(original(owner), name, call)


def _eager_faults(attention: nn.Module) -> Iterator[Fault]:
    yield from attribute_faults(type(attention).__name__, attention, ("config",))
    eager = eager_attention(attention)
    if eager is None:
        yield Fault(type(attention).__module__, "lost its function eager_attention_forward")
    else:
        yield from call_faults(
            f"{type(attention).__module__}.eager_attention_forward", function(eager), ATTENTION
        )
