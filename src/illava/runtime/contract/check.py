"""The check of the contract: all entries of the list against one model and the installed transformers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from ...compat import eager_attention
from ...compat.calls import Call, Fault, attribute_faults, call_faults, refusal
from ...compat.signatures import Signature, function, method_of, original
from ...compat.versions import warn_untested
from ...errors import UnsupportedError
from ...models.lookups import lookup_faults, path_faults, submodule
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
from .everywhere import ATTENTION, everywhere_faults, method_faults

if TYPE_CHECKING:
    from ...methods.steps import Plan
    from ...models.located import LocatedModules


def check_contract(modules: LocatedModules, plan: Plan | None = None) -> None:
    """Raise UnsupportedError unless everything that illava relies on is present.

    Args:
        modules: the modules of the plain model.
        plan: forwards that this plan does not use are not checked. None: all are checked.

    If everything is present but transformers is outside of the tested range, warns once
    (UntestedVersionWarning).
    """
    faults = [*everywhere_faults(helpers=False), *_model_faults(modules, plan)]
    if faults:
        raise UnsupportedError(refusal(faults))
    warn_untested()


def contract_faults(modules: LocatedModules, plan: Plan | None = None) -> list[Fault]:
    """Everything that illava relies on and that this model, or the installed transformers, lacks.

    Forwards that ``plan`` does not use are not checked. None: all that any method needs are checked.
    """
    return list(dict.fromkeys([*missing_everywhere(), *_model_faults(modules, plan)]))


def missing_everywhere() -> list[Fault]:
    """What transformers lacks for every model: caches, masks, attention, ``generate``, helpers."""
    return list(dict.fromkeys(everywhere_faults(helpers=True)))


def import_refusal(error: ImportError) -> UnsupportedError:
    """The error to raise if a name that illava imports from transformers is missing."""
    lost = Fault(str(error.name), f"lost a name: {str(error).partition(' from ')[0]}")
    return UnsupportedError(refusal(missing_everywhere() or [lost]))


# -- modules and configs ------------------------------------------------------------------------------------


def _model_faults(modules: LocatedModules, plan: Plan | None) -> Iterator[Fault]:
    yield from lookup_faults(modules.family, modules.tower, modules.base, modules.config)
    for entry in FORWARDS:
        if plan is None or entry.needed(plan):
            yield from _forward_faults(entry.targets(modules), entry.call_of(modules))
    attention = [submodule(block, modules.tower.attention) for block in modules.blocks[:1]]
    attention = attention if plan is None or encoder_steps(plan) else []
    if plan is None or observing(plan):
        found = (submodule(layer, modules.family.llm_attention) for layer in modules.layers)
        attention += [module for module in found if module is not None][:1]
    for module in attention:
        if module is not None:
            yield from _eager_faults(original(module))
    for name, call in features_calls(modules).items():
        yield from _method_faults(modules.base, name, call)
    for name in modules.family.row_mixers:
        yield from _method_faults(modules.base, name, ROW_MIXERS[name][1])
    yield from _method_faults(modules.base, "get_input_embeddings", Call(optional=True))
    model = original(modules.model)
    if hasattr(type(model), "generate"):
        for name, call in GENERATE.items():
            # Read from the class: methods that users have replaced on the instance are not checked.
            yield from method_faults(_working(type(model), name), name, call)
        if method_of(model, "create_masks_for_generate") is not None:
            yield from _method_faults(model, "create_masks_for_generate", MASKS)
        config = getattr(model, "generation_config", None)
        if config is not None:
            yield from attribute_faults(type(config).__name__, config, GENERATION_CONFIG)
    for module in (*modules.blocks[:1], *modules.layers[:1]):
        yield from attribute_faults(
            type(original(module)).__name__, original(module), ("gradient_checkpointing",)
        )


def _working(kind: type, name: str) -> type:
    """The class whose method does the work: a family's own may take ``**kwargs`` for the one it overrides."""
    owners = [owner for owner in kind.__mro__ if name in vars(owner)]
    for owner in owners[:-1]:
        signature = method_of(owner, name)
        if signature is None or not signature.keywords or name not in (signature.uses or ()):
            return owner
    return owners[-1] if owners else kind


def _forward_faults(targets: list[tuple[nn.Module, str]], call: Call) -> Iterator[Fault]:
    seen: set[Signature] = set()
    for owner, path in targets:
        found = submodule(owner, path)
        if found is None:
            yield from path_faults(owner, path)
            return
        module = original(found)
        signature = method_of(module, "forward")
        assert signature is not None
        # Layers of one class have the same signature.
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
