"""What illava relies on in transformers for every model: caches, masks, attention, ``generate``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from ...compat.calls import Call, Fault, attribute_faults, call_faults, use_faults
from ...compat.signatures import function, method_of
from ...models.families import FAMILIES
from .entries import GENERATE, GENERATION_CONFIG, MASKS, PREPARE_INPUTS

CACHES, MASKING = "transformers.cache_utils", "transformers.masking_utils"
MODELING, LAYERS = "transformers.modeling_utils", "transformers.modeling_layers"

KEYS_AND_VALUES = ("key_states", "value_states")
LAYER_METHODS = {
    "update": Call(KEYS_AND_VALUES, optional=True),
    "lazy_initialization": Call(KEYS_AND_VALUES, optional=True),
    "get_seq_length": Call(optional=True),
    "get_mask_sizes": Call(("query_length",), optional=True),
    "reset": Call(optional=True),
    "reorder_cache": Call(("beam_idx",), optional=True),
}
BATCH_METHODS = {
    "crop": Call(("tokens_to_remove",), optional=True),
    "batch_select_indices": Call(("indices",), optional=True),
    "batch_repeat_interleave": Call(("repeats",), optional=True),
}
CACHE: dict[str, dict[str, Call]] = {
    "DynamicLayer": {"__init__": Call(optional=True), **LAYER_METHODS, **BATCH_METHODS},
    "DynamicSlidingWindowLayer": {
        "__init__": Call(("sliding_window",), optional=True),
        "get_seq_length": Call(optional=True),
    },
    "StaticLayer": {"__init__": Call(("max_cache_len",), optional=True), **LAYER_METHODS},
    "LinearAttentionLayer": {},
    "Cache": {
        "update": Call((*KEYS_AND_VALUES, "layer_idx"), optional=True),
        "get_seq_length": Call(("layer_idx",)),
        "get_mask_sizes": Call(("query_length", "layer_idx"), optional=True),
        **BATCH_METHODS,
        "reset": Call(optional=True),
        "reorder_cache": Call(("beam_idx",), optional=True),
    },
    "DynamicCache": {"__init__": Call(names=("config",), optional=True)},
    "StaticCache": {"__init__": Call(names=("config", "max_cache_len"), optional=True)},
}
"""Classes of transformers.cache_utils and the methods that illava calls or replaces."""

INHERITED = {
    "DynamicLayer": {"offload", "prefetch", "get_max_length", "get_max_cache_shape"},
    "StaticLayer": {"offload", "prefetch", "get_max_length", "get_max_cache_shape", "crop"},
}
"""Further methods that merged layers inherit unchanged. A method that is not listed may depend on lengths."""

SAMPLES: dict[str, tuple[tuple[Any, ...], tuple[str, ...]]] = {
    "DynamicLayer": ((), ("keys", "values", "is_initialized", "is_sliding")),
    "DynamicSlidingWindowLayer": ((8,), ("sliding_window", "is_sliding")),
    "StaticLayer": (
        (8,),
        ("max_cache_len", "cumulative_length", "keys", "values", "is_initialized", "is_sliding"),
    ),
    "DynamicCache": ((), ("layers", "layer_class_to_replicate", "offloading", "is_compileable")),
}
"""For each class, arguments to create an instance, and attributes that the instance must have."""

FUNCTIONS: dict[tuple[str, str], Call] = {
    (MASKING, "create_causal_mask"): MASKS,
    (MASKING, "create_sliding_window_causal_mask"): MASKS,
    (MASKING, "create_masks_for_generate"): MASKS,
}
HELPERS: dict[tuple[str, str], Call] = {
    ("transformers.vision_utils", "get_vision_position_ids"): Call(("grid_thw", "spatial_merge_size")),
    **{name: call for family in FAMILIES.values() for name, call in family.functions.items()},
}
"""Functions called by reports, planning, the command line and the family entries. Only
:func:`missing_everywhere` imports modules to check them, since imports take time."""

ATTENTION = Call(("module", "query", "key", "value", "attention_mask"), ("scaling",))
"""Arguments of an attention implementation, in calls by taps and of taps."""
OUTPUTS = {"BaseModelOutputWithPooling": ("last_hidden_state", "pooler_output")}
"""Classes of transformers.modeling_outputs and their first fields, in order."""


def everywhere_faults(*, helpers: bool) -> Iterator[Fault]:
    """What is missing for every model. ``helpers``: whether to import and check all of ``HELPERS``."""
    yield from _cache_faults()
    for (module, name), call in {**FUNCTIONS, **HELPERS}.items():
        if helpers or module in sys.modules or (module, name) in FUNCTIONS:
            yield from _function_faults(module, name, call)
    yield from _attention_faults()
    yield from _generate_faults()
    yield from _checkpoint_faults()
    for name, fields in OUTPUTS.items():
        kind = _find("transformers.modeling_outputs", name)
        found = () if kind is None else tuple(getattr(kind, "__dataclass_fields__", ()))
        if found[: len(fields)] != fields:
            yield Fault(name, f"has the fields ({', '.join(found)}), where ({', '.join(fields)}) come first")


def method_faults(owner: Any, name: str, call: Call) -> Iterator[Fault]:
    """What a method of a class or an instance lacks."""
    kind = owner if isinstance(owner, type) else type(owner)
    signature = method_of(owner, name)
    if signature is None:
        yield Fault(kind.__name__, f"lost its method {name}")
    else:
        yield from call_faults(f"{kind.__name__}.{name}", signature, call)


def _find(module: str, name: str) -> Any:
    try:
        return getattr(import_module(module), name, None)
    except ImportError:
        return None


def _cache_faults() -> Iterator[Fault]:
    for name, methods in CACHE.items():
        kind = _find(CACHES, name)
        if kind is None:
            yield Fault(CACHES, f"lost its class {name}")
            continue
        found = [fault for method, call in methods.items() for fault in method_faults(kind, method, call)]
        yield from found
        if name in INHERITED:
            public = {attr for base in kind.__mro__ for attr, value in vars(base).items() if callable(value)}
            for attr in sorted(public - set(methods) - INHERITED[name]):
                if not attr.startswith("_"):
                    yield Fault(name, f"has a method {attr}, which illava does not know")
        if name in SAMPLES and not found:
            arguments, attributes = SAMPLES[name]
            try:
                sample = kind(*arguments)
            except TypeError as error:
                yield Fault(name, f"cannot be made: {error}")
            else:
                yield from attribute_faults(name, sample, attributes)


def _function_faults(module: str, name: str, call: Call) -> Iterator[Fault]:
    found: Callable[..., Any] | None = _find(module, name)
    if found is None:
        yield Fault(module, f"lost its function {name}")
    else:
        yield from call_faults(name, function(found), call)


def _attention_faults() -> Iterator[Fault]:
    interface, table = _find(MODELING, "AttentionInterface"), _find(MODELING, "ALL_ATTENTION_FUNCTIONS")
    if interface is None or table is None:
        yield Fault(MODELING, "lost AttentionInterface or ALL_ATTENTION_FUNCTIONS")
        return
    yield from method_faults(interface, "register", Call(("key", "value"), optional=True))
    yield from method_faults(interface, "get_interface", Call())
    for name in ("__getitem__", "__contains__"):
        if not hasattr(table, name):
            yield Fault("ALL_ATTENTION_FUNCTIONS", f"lost its method {name}")
            return
    if "sdpa" not in table:
        yield Fault("ALL_ATTENTION_FUNCTIONS", "lost the implementation 'sdpa'")
    else:
        yield from call_faults("the attention implementation 'sdpa'", function(table["sdpa"]), ATTENTION)
    requested: Callable[..., Any] | None = _find("transformers.utils.generic", "is_flash_attention_requested")
    # Packed encoders call it with the name of the implementation, which may be that of a tap.
    names = {"illava_flash": True, "illava": False}
    if requested is None:
        yield Fault("transformers.utils.generic", "lost its function is_flash_attention_requested")
    elif any(requested(SimpleNamespace(_attn_implementation=name)) != flash for name, flash in names.items()):
        yield Fault(
            "is_flash_attention_requested", "no longer looks for 'flash' in the implementation's name"
        )


def _generate_faults() -> Iterator[Fault]:
    mixin = _find("transformers.generation", "GenerationMixin")
    if mixin is None:
        yield Fault("transformers.generation", "lost its class GenerationMixin")
        return
    for name, call in {**GENERATE, "prepare_inputs_for_generation": PREPARE_INPUTS}.items():
        yield from method_faults(mixin, name, call)
    config = _find("transformers.generation", "GenerationConfig")
    init = None if config is None else method_of(config, "__init__")
    yield from use_faults("GenerationConfig", None if init is None else init.uses, GENERATION_CONFIG)


def _checkpoint_faults() -> Iterator[Fault]:
    layer = _find(LAYERS, "GradientCheckpointingLayer")
    if layer is None:
        yield Fault(LAYERS, "lost its class GradientCheckpointingLayer")
        return
    yield from attribute_faults("GradientCheckpointingLayer", layer, ("gradient_checkpointing",))
    # Called by __call__, or by the wrapper that __init_subclass__ puts around forward.
    callers = [method_of(layer, name) for name in ("__call__", "__init_subclass__")]
    names = frozenset(name for caller in callers if caller is not None for name in caller.uses or ())
    yield from use_faults("GradientCheckpointingLayer", names, ("_gradient_checkpointing_func",))
    model = _find(MODELING, "PreTrainedModel")
    setter = None if model is None else method_of(model, "_set_gradient_checkpointing")
    if setter is not None:
        yield from use_faults(
            "PreTrainedModel._set_gradient_checkpointing", setter.uses, ("_gradient_checkpointing_func",)
        )
    else:
        yield Fault("PreTrainedModel", "lost its method _set_gradient_checkpointing")
