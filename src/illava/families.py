"""One declarative entry a model family: where its parts are, and the schedule published for it.

Attribute paths are those of transformers' own classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.vision_utils import get_vision_window_index

from .cost import EncoderShape
from .errors import UnsupportedError
from .shapes import qwen2_5_vl_encoder, qwen2_vl_encoder, siglip_encoder


@dataclass(frozen=True)
class Schedule:
    """Which layers merge and how much they keep, stated for a model of a given depth."""

    encoder_depth: int
    encoder_layers: tuple[int, ...]
    encoder_keep: tuple[float, ...]
    llm_depth: int
    llm_layers: tuple[int, ...]
    llm_keep: tuple[float, ...]
    source: str


@dataclass(frozen=True)
class Family:
    """How to find the parts of one model family. Paths start at the base model (``model.model``)."""

    model_type: str
    schedule: Schedule
    encoder: str
    blocks: str
    projector: str
    encoder_attention: str
    """Relative to a block; so are the next two."""
    second_norm: str
    encoder_mlp: str
    encoder_shape: Callable[[Any], EncoderShape]
    """Model config to the encoder's sizes."""
    tower: str | None
    """``model_type`` of the vision config that ``blocks`` describes; None where the family has only one."""
    packed: bool
    """All pictures in one sequence (Qwen), or a batch of equal tiles (LLaVA)."""
    group: Callable[[Any], int] = lambda config: 1
    """Model config to g, the tokens a unit is made of."""
    full_attention_blocks: Callable[[Any], tuple[int, ...] | None] = lambda config: None
    """Model config to the encoder blocks without windows; None when no block has any."""
    unit_order: Callable[[ModelParts, Tensor], Tensor | None] = lambda parts, grid: None
    """(images, 3) token grids to (U,) the raster index of each unit in the encoder's order; None: raster."""
    row_mixers: tuple[str, ...] = ()
    """Methods of the base model between projector and LLM that may average feature rows."""
    llm: str = "language_model"
    llm_layers: str = "layers"
    llm_attention: str = "self_attn"


@dataclass(frozen=True)
class ModelParts:
    """The modules of one loaded model."""

    family: Family
    model: nn.Module
    base: nn.Module
    config: Any
    encoder: nn.Module
    blocks: list[nn.Module]
    projector: nn.Module
    llm: nn.Module
    layers: list[nn.Module]
    group: int

    def __reduce__(self) -> str:
        # Every hook leads here; a copy of the hooks would work on the original's state.
        raise UnsupportedError("an accelerated model cannot be copied or pickled; call handle.remove() first")


_QWEN: dict[str, Any] = {
    "encoder": "visual",
    "blocks": "visual.blocks",
    "projector": "visual.merger",
    "encoder_attention": "attn",
    "second_norm": "norm2",
    "encoder_mlp": "mlp",
    "tower": None,
    "packed": True,
    "group": lambda config: config.vision_config.spatial_merge_size**2,
}


def _window_order(parts: ModelParts, grid: Tensor) -> Tensor:
    """Qwen2.5-VL sorts units by window, picture by picture."""
    vision = parts.config.vision_config
    index, _ = get_vision_window_index(
        grid, vision.spatial_merge_size, window_size=vision.window_size, patch_size=vision.patch_size
    )
    return index


_PAPER = "arXiv 2412.06263"

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            "llava_onevision",
            # 92 of 729 tokens removed at each encoder block: 361 stay.
            Schedule(
                26, (5, 6, 7, 8), (637 / 729, 545 / 637, 453 / 545, 361 / 453), 28, (8,), (0.7,), _PAPER
            ),
            encoder="vision_tower",
            blocks="vision_tower.encoder.layers",
            projector="multi_modal_projector",
            encoder_attention="self_attn",
            second_norm="layer_norm2",
            encoder_mlp="mlp",
            encoder_shape=siglip_encoder,
            tower="siglip_vision_model",
            packed=False,
            row_mixers=("pack_image_features", "apply_pooling"),
        ),
        Family(
            "qwen2_vl",
            Schedule(32, (12, 13, 14, 15), (0.84,) * 4, 28, (6, 7, 8), (0.9,) * 3, _PAPER),
            encoder_shape=qwen2_vl_encoder,
            **_QWEN,
        ),
        Family(
            "qwen2_5_vl",
            # None was published for this family: Qwen2-VL's, its encoder share moved to the two
            # full-attention blocks around the same depth.
            Schedule(
                32, (7, 15), (0.84**2,) * 2, 28, (6, 7, 8), (0.9,) * 3, "Qwen2-VL's, at full-attention blocks"
            ),
            encoder_shape=qwen2_5_vl_encoder,
            unit_order=_window_order,
            full_attention_blocks=lambda config: tuple(config.vision_config.fullatt_block_indexes),
            **_QWEN,
        ),
    )
}

REFUSED: dict[str, str] = {
    "mllama": "it attends across to the picture instead of holding visual tokens in its LLM",
}


def supported_families() -> tuple[str, ...]:
    """The transformers ``model_type`` names that :func:`illava.accelerate` takes."""
    return tuple(sorted(FAMILIES))


def family_of(config: Any) -> Family:
    """The family of a transformers model config. Raises UnsupportedError naming what is supported."""
    model_type = getattr(config, "model_type", type(config).__name__)
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    reason = f": {REFUSED[model_type]}" if model_type in REFUSED else ""
    raise UnsupportedError(
        f"model type {model_type!r} is not supported{reason}; supported are {', '.join(supported_families())}"
    )


def find_parts(model: nn.Module) -> ModelParts:
    """Look up the modules of a loaded model by its family's entry.

    Args:
        model: a transformers VLM, with or without its language-model head.

    Raises UnsupportedError for another family, or a vision tower this family's entry does not describe.
    """
    config = getattr(model, "config", None)
    if config is None:
        raise UnsupportedError(
            f"expected a transformers VLM, got {type(model).__name__}; "
            f"supported are {', '.join(supported_families())}"
        )
    family = family_of(config)
    base = model if hasattr(model, family.llm) and not hasattr(model, "lm_head") else model.model
    assert isinstance(base, nn.Module)
    tower = getattr(getattr(config, "vision_config", None), "model_type", "unknown")
    if family.tower not in (None, tower):
        raise UnsupportedError(
            f"{family.model_type} with a vision tower of type {tower!r} is not supported yet"
        )
    llm = base.get_submodule(family.llm)
    return ModelParts(
        family=family,
        model=model,
        base=base,
        config=config,
        encoder=base.get_submodule(family.encoder),
        blocks=list(base.get_submodule(family.blocks).children()),
        projector=base.get_submodule(family.projector),
        llm=llm,
        layers=list(llm.get_submodule(family.llm_layers).children()),
        group=family.group(config),
    )


def check_feature_layer(parts: ModelParts, encoder_layers: Iterable[int]) -> None:
    """Raise UnsupportedError unless the LLM sees one encoder layer, at or after the last that merges."""
    feature = getattr(parts.config, "vision_feature_layer", -1)
    last = max(encoder_layers, default=-1)
    depth = len(parts.blocks)
    # Hidden state 0 is the input of block 0.
    if last >= 0 and (not isinstance(feature, int) or feature % (depth + 1) <= last):
        raise UnsupportedError(
            f"vision_feature_layer={feature}: the encoder stage needs a model that reads one encoder layer "
            f"after the last block that merges, {last} here; give earlier encoder_layers, or () for none"
        )


def rescale(
    layers: tuple[int, ...],
    keep: tuple[float, ...],
    depth: int,
    to_depth: int,
    allowed: tuple[int, ...] | None = None,
    first: int = 0,
) -> dict[int, float]:
    """Carry a published pattern of layers over to a model of another depth.

    Layer l becomes floor(l * to_depth / depth), at least ``first``; or, where only some layers are
    ``allowed``, the nearest of those. Steps that fall on one layer become one that keeps their product.
    """
    out: dict[int, float] = {}
    if to_depth <= first:
        return out
    for layer, share in zip(layers, keep, strict=True):
        target = layer * to_depth // depth
        if allowed:
            target = min(allowed, key=lambda block: (abs(block - target), block))
        target = max(first, min(target, to_depth - 1))
        out[target] = out.get(target, 1.0) * share
    return out
