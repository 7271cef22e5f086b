"""What illava relies on in a loaded model: the forwards of its modules, and its methods.

Together with :mod:`illava.models.lookups` (module paths, config attributes) and :mod:`.everywhere` (what does
not depend on a model) this is one declarative list: every argument of transformers that illava reads or
passes has an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from ...compat import CACHE_NAMES
from ...compat.calls import Call
from ...models.lookups import block_paths

if TYPE_CHECKING:
    from ...methods.steps import Plan
    from ...models.located import LocatedModules

# Names of the first argument of a projector, pooler or connector.
FEATURES = (
    *("image_features", "hidden_states", "hidden_state", "vision_outputs", "vision_encodings"),
    *("image_hidden_states", "key_value_states", "hidden", "x", "input"),
)
PATCH_MASKS = ("attention_mask", "attn_mask")
"""Names of the mask of patches among the arguments of a resampler."""
# How the attention of a modelling file looks up its implementation, which taps rely on.
LOOKS_UP = ("config", "_attn_implementation", "ALL_ATTENTION_FUNCTIONS")
# Arguments without values per token.
FLAGS = ("use_cache", "output_attentions", "output_hidden_states", "output_router_logits", "return_dict")


@dataclass(frozen=True)
class Forward:
    """The forwards of some modules of a model."""

    owners: Callable[[LocatedModules], Sequence[nn.Module]]
    call: Callable[[LocatedModules], Call] | Call
    path: Callable[[LocatedModules], str | None] = lambda modules: ""
    """Path from each owner to the module; "" for the owner itself, None if the family has no such module."""
    needed: Callable[[Plan], Any] = lambda plan: True
    """Whether a plan uses these forwards."""

    def targets(self, modules: LocatedModules) -> list[tuple[nn.Module, str]]:
        """The owners and the path from each, which may not exist."""
        path = self.path(modules)
        return [] if path is None else [(owner, path) for owner in self.owners(modules)]

    def call_of(self, modules: LocatedModules) -> Call:
        """The arguments that the forwards must have."""
        return self.call if isinstance(self.call, Call) else self.call(modules)


def _attending(modules: LocatedModules) -> list[nn.Module]:
    return [
        layer for layer, recurrent in zip(modules.layers, modules.recurrent, strict=False) if not recurrent
    ]


def _block_call(modules: LocatedModules) -> Call:
    tower = modules.tower
    uses = tuple(path.partition(".")[0] for path in block_paths(tower))
    if not tower.packed:
        return Call(("hidden_states",), known=("attention_mask", *FLAGS), uses=uses)
    if tower.masked:
        return Call(("hidden_states", "attention_mask"), ("position_embeddings",), FLAGS, uses=uses)
    given = ("cu_seqlens", *_tables(modules))
    return Call(("hidden_states",), given, ("max_seqlen", *FLAGS), uses=uses)


def _tables(modules: LocatedModules) -> tuple[str, ...]:
    return ("position_embeddings",) if modules.tower.rotary else ()


def _encoder_call(modules: LocatedModules) -> Call:
    if modules.family.encoder_refusal:
        return Call()
    if not modules.tower.packed:
        return Call(("pixel_values",) if modules.tower.any_size else ())
    if modules.tower.masked:
        return Call(("pixel_values", "image_sizes"))
    taps = () if modules.family.taps is None else ("deepstack_features",)
    outputs = ("pooler_output",) if modules.projector_inside else ()
    return Call((("hidden_states", "pixel_values"), "grid_thw"), uses=(*outputs, *taps))


def _blocks_owner_call(modules: LocatedModules) -> Call:
    given = (*(() if modules.tower.masked else ("cu_seqlens",)), *_tables(modules))
    return Call(uses=(modules.tower.blocks.rpartition(".")[2], *(given if modules.tower.packed else ())))


def _takes_videos(modules: LocatedModules) -> bool:
    return modules.family.video is not None and hasattr(modules.config, "video_token_id")


def _base_call(modules: LocatedModules) -> Call:
    videos = ("pixel_values_videos",) if _takes_videos(modules) else ()
    names = ("attention_mask", "position_ids", CACHE_NAMES, "inputs_embeds")
    return Call(
        ("input_ids",),
        (*names, "pixel_values", *videos, "mm_encoder_outputs"),
        uses=(
            *(*names, "get_image_features", "pooler_output", "image"),
            *(("get_video_features", "video") if videos else ()),
        ),
    )


def _llm_call(modules: LocatedModules) -> Call:
    taps = () if modules.family.taps is None else ("visual_pos_masks", "deepstack_visual_embeds")
    return Call(
        names=("attention_mask", "position_ids", CACHE_NAMES, "inputs_embeds", "use_cache", *taps),
        known=("input_ids", *FLAGS),
        uses=(
            modules.family.llm_layers,
            "attention_mask",
            "position_ids",
            "position_embeddings",
            CACHE_NAMES,
        ),
    )


def _base(modules: LocatedModules) -> list[nn.Module]:
    return [modules.base]


def _blocks(modules: LocatedModules) -> list[nn.Module]:
    return modules.blocks


def _headed(modules: LocatedModules) -> list[nn.Module]:
    return [modules.model] if modules.model is not modules.base and hasattr(modules.model, "lm_head") else []


def _headed_call(modules: LocatedModules) -> Call:
    sliced = () if modules.family.all_logits else ("logits_to_keep",)
    return Call(
        ("input_ids",),
        (
            *("attention_mask", CACHE_NAMES, "inputs_embeds", "pixel_values", "labels", "mm_encoder_outputs"),
            *sliced,
        ),
        # Training kernels replace the forward of transformers by one without these arguments.
        foreign=("mm_encoder_outputs", *sliced),
        uses=("inputs_embeds", "attention_mask", CACHE_NAMES, "pixel_values"),
    )


def observing(plan: Plan) -> bool:
    """Whether a plan reads attention of the LLM, or adds to it."""
    return plan.llm_size_bias or any(
        index and step.attention_source != "nothing" for index, step in plan.llm.items()
    )


def _recomputing(plan: Plan) -> bool:
    return any(index and step.attention_source == "itself" for index, step in plan.llm.items())


def encoder_steps(plan: Plan) -> bool:
    """Whether a plan merges in the image encoder or reads its attention."""
    return bool(plan.encoder) or plan.projector is not None


ONE_ARGUMENT = Call(single=True)
FIRST_FEATURES = Call((FEATURES,))
VISION_ATTENTION = Call(("hidden_states",), uses=LOOKS_UP)
PACKED_ATTENTION = Call(
    ("hidden_states",), ("cu_seqlens", "position_embeddings", "max_seqlen"), uses=LOOKS_UP
)
NO_TABLES = Call(("hidden_states",), ("cu_seqlens", "max_seqlen"), uses=LOOKS_UP)
LLM_ATTENTION = Call(
    names=("hidden_states", "position_embeddings", "attention_mask"),
    optional=True,
    uses=(*LOOKS_UP, "update"),
)


def _attention_call(modules: LocatedModules) -> Call:
    if not modules.tower.packed or modules.tower.masked:
        return VISION_ATTENTION
    return PACKED_ATTENTION if modules.tower.rotary else NO_TABLES


LAYER = Call(
    ("hidden_states",), ("attention_mask", CACHE_NAMES, "position_embeddings"), ("position_ids", *FLAGS)
)

FORWARDS: tuple[Forward, ...] = (
    Forward(_headed, _headed_call),
    Forward(
        lambda modules: _headed(modules) if modules.family.experts else [],
        Call(names=("output_router_logits",)),
    ),
    Forward(_base, _base_call),
    Forward(_base, _encoder_call, lambda modules: modules.family.encoder),
    Forward(
        lambda modules: [] if modules.family.encoder_refusal else [modules.encoder],
        _blocks_owner_call,
        lambda modules: modules.tower.blocks.rpartition(".")[0],
    ),
    Forward(_blocks, _block_call),
    Forward(
        _blocks,
        _attention_call,
        lambda modules: modules.tower.attention,
        encoder_steps,
    ),
    Forward(_blocks, ONE_ARGUMENT, lambda modules: modules.tower.second_norm, lambda plan: plan.encoder),
    Forward(_blocks, ONE_ARGUMENT, lambda modules: modules.tower.mlp, lambda plan: plan.encoder),
    Forward(
        _blocks,
        ONE_ARGUMENT,
        lambda modules: modules.tower.first_norm,
        lambda plan: any(step.reads_input or step.reads_halfway for step in plan.encoder.values()),
    ),
    Forward(
        lambda modules: [] if modules.family.encoder_refusal else [modules.projector, *modules.taps],
        FIRST_FEATURES,
    ),
    Forward(_base, FIRST_FEATURES, lambda modules: modules.family.row_wise),
    Forward(_base, Call(names=(PATCH_MASKS,)), lambda modules: modules.family.resampler),
    Forward(_base, ONE_ARGUMENT, lambda modules: modules.family.unfolds_after),
    Forward(_base, FIRST_FEATURES, lambda modules: modules.family.unfolds_before),
    Forward(_base, FIRST_FEATURES, lambda modules: modules.family.compacts_before),
    Forward(_base, FIRST_FEATURES, lambda modules: modules.family.pooler),
    Forward(lambda modules: [modules.llm], _llm_call),
    Forward(_attending, LAYER),
    Forward(_attending, LLM_ATTENTION, lambda modules: modules.family.llm_attention, observing),
    Forward(_attending, ONE_ARGUMENT, lambda modules: modules.family.llm_norm, _recomputing),
    Forward(
        # Called for renumbered positions, which are refused if it has a "layer_type" argument.
        lambda modules: [modules.llm] if hasattr(modules.llm, "rotary_emb") else [],
        Call(("x", "position_ids"), known=("layer_type",)),
        lambda modules: "rotary_emb",
        lambda plan: plan.positions == "compact",
    ),
)


# -- methods -------------------------------------------------------------------------------------------------

PACK = Call(("image_features", "image_sizes"), ("image_newline",))
ROW_MIXERS: dict[str, tuple[str, Call]] = {
    "pack_image_features": ("get_image_features", PACK),
    "apply_pooling": ("get_video_features", FIRST_FEATURES),
}
"""By name: the method of the base model that calls the row mixer, and the arguments of the row mixer."""


def features_calls(modules: LocatedModules) -> dict[str, Call]:
    """The methods of the base model that encode pictures and videos, and the arguments they must have."""
    mixers = [(name, ROW_MIXERS[name][0]) for name in modules.family.row_mixers]
    # Some families encode videos by the method for pictures.
    mixers.append(("pooler_output", "get_image_features"))
    grid = modules.tower.packed and not modules.tower.masked
    calls = {"get_image_features": ("pixel_values", "image_grid_thw")[: 1 + grid]}
    if _takes_videos(modules):
        calls["get_video_features"] = ("pixel_values_videos", "video_grid_thw")[: 1 + grid]
    return {
        name: Call(leading, uses=tuple(mixer for mixer, caller in mixers if caller == name))
        for name, leading in calls.items()
    }


MASKS = Call(("config", "inputs_embeds", "attention_mask", CACHE_NAMES), ("position_ids",))
GENERATE: dict[str, Call] = {
    "generate": Call(
        ("inputs", "generation_config"), ("assistant_model",), uses=("_expand_inputs_for_generation",)
    ),
    "_sample": Call(("input_ids",), uses=("_prefill", "_valid_auto_compile_criteria")),
    "_beam_search": Call(("input_ids",), uses=("_prefill",)),
    "_assisted_decoding": Call(
        ("input_ids",), ("generation_config",), uses=("_get_candidate_generator", "input_ids")
    ),
    "_get_candidate_generator": Call(names=("input_ids", "generation_config", "model_kwargs")),
    "_valid_auto_compile_criteria": Call(("model_kwargs", "generation_config"), optional=True),
    "_prefill": Call(
        ("input_ids", "generation_config", "model_kwargs"), optional=True, uses=("prefill_chunk_size",)
    ),
    "_expand_inputs_for_generation": Call(names=("expand_size", "input_ids")),
}
"""Methods of ``generate`` that are replaced on the model, or that call these."""
# Families override it and call it.
PREPARE_INPUTS = Call(("input_ids",), (CACHE_NAMES,), uses=("create_masks_for_generate",))
GENERATION_CONFIG = ("prefill_chunk_size", "cache_implementation")
