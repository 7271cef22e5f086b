"""The modules of a loaded model, by its family's entry, and the schedule scaled to its depth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import UnsupportedError
from .families import family_of, supported_families
from .family import Family
from .lookups import check_lookups
from .refusals import check_adapter, check_class, check_whole
from .towers import Tower


@dataclass(frozen=True)
class LocatedModules:
    """The modules of one loaded model."""

    family: Family
    tower: Tower
    model: nn.Module
    base: nn.Module
    config: Any
    encoder: nn.Module
    blocks: list[nn.Module]
    projector: nn.Module
    taps: list[nn.Module]
    llm: nn.Module
    layers: list[nn.Module]
    group: int

    @property
    def prefix(self) -> int:
        """Tokens before the patches of each tile in the image encoder."""
        return self.tower.prefix(self.config.vision_config)

    @property
    def projector_inside(self) -> bool:
        """Whether the image encoder itself calls the projector."""
        return self.family.projector.startswith(f"{self.family.encoder}.")

    @property
    def windows(self) -> list[int | None]:
        """The sliding window of each LLM layer, None for layers without one."""
        text = self.llm.config
        window = getattr(text, "sliding_window", None)
        types = getattr(text, "layer_types", None) or ["sliding_attention"] * len(self.layers)
        return [window if kind == "sliding_attention" else None for kind in types]

    @property
    def recurrent(self) -> list[bool]:
        """Whether each LLM layer is a recurrent one, without keys and values."""
        types = getattr(self.llm.config, "layer_types", None) or [""] * len(self.layers)
        return [kind == "linear_attention" for kind in types]

    def attending(self, sequences: Sequence[int]) -> tuple[int, ...]:
        """Token counts of each attention matrix of an encoder block, given the tokens of each sequence."""
        if self.tower.masked and "flash" not in str(self.config.vision_config._attn_implementation):
            return (sum(sequences),)
        return tuple(sequences)

    def __reduce__(self) -> str:
        # Every hook references this object; copied hooks would act on the state of the original.
        raise UnsupportedError("an accelerated model cannot be copied or pickled; call handle.remove() first")


def locate(model: nn.Module) -> LocatedModules:
    """Look up the modules of a loaded model by its family's entry.

    Args:
        model: a transformers VLM, with or without its language-model head, or peft's wrapper of one.

    Raises UnsupportedError for an unsupported family; for a class other than the bare model and the model
    with a language-model head; for a model split over processes; for a vision tower that the family's entry
    does not describe; and if transformers lacks modules or config attributes that the entry names.
    """
    if callable(getattr(model, "get_base_model", None)):
        check_adapter(model)
        wrapper: Any = model
        model = wrapper.get_base_model()
    config = getattr(model, "config", None)
    if config is None:
        raise UnsupportedError(
            f"expected a transformers VLM, got {type(model).__name__}; "
            f"supported are {', '.join(supported_families())}"
        )
    family = family_of(config)
    check_class(model, family.model_type)
    check_whole(model)
    base: Any = model if hasattr(model, family.llm) and not hasattr(model, "lm_head") else model.model
    assert isinstance(base, nn.Module)
    tower = family.tower(config)
    if tower is None:
        kind = getattr(getattr(config, "vision_config", None), "model_type", "unknown")
        raise UnsupportedError(
            f"{family.model_type} with a vision tower of type {kind!r} is not supported; "
            f"supported are {', '.join(family.towers)}"
        )
    check_lookups(family, tower, base, config)
    encoder = base.get_submodule(family.encoder)
    llm = base.get_submodule(family.llm)
    return LocatedModules(
        family=family,
        tower=tower,
        model=model,
        base=base,
        config=config,
        encoder=encoder,
        blocks=[] if family.encoder_refusal else list(encoder.get_submodule(tower.blocks).children()),
        projector=base.get_submodule(family.projector),
        taps=[] if family.taps is None else list(base.get_submodule(family.taps).children()),
        llm=llm,
        layers=list(llm.get_submodule(family.llm_layers).children()),
        group=family.group(config),
    )


def feature_blocks(modules: LocatedModules) -> list[int]:
    """The encoder blocks whose outputs the projector receives, ascending; -1 for the input of block 0."""
    given = getattr(modules.config, "vision_feature_layer", -1)
    depth = len(modules.blocks)
    # Hidden state 0 is the input of block 0.
    return sorted(feature % (depth + 1) - 1 for feature in ([given] if isinstance(given, int) else given))


def feature_block(modules: LocatedModules) -> int:
    """The encoder block whose output the projector receives; the last of several."""
    return max(0, feature_blocks(modules)[-1])


def check_projector(modules: LocatedModules) -> None:
    """Raise UnsupportedError if the encoder itself calls the projector, where another module is expected."""
    family = modules.family
    if (
        not modules.projector_inside
        and not family.encoder_refusal
        and any(module is modules.projector for module in modules.encoder.modules())
    ):
        raise UnsupportedError(
            f"{family.projector} is a module of {family.encoder} too, so that its two calls cannot be told "
            "apart: give each its own copy (copy.deepcopy), or use a method of the LLM"
        )


def check_feature_layer(modules: LocatedModules, encoder_layers: Iterable[int]) -> None:
    """Raise UnsupportedError if the projector receives the output of a block before the last merge."""
    given = getattr(modules.config, "vision_feature_layer", -1)
    features = [given] if isinstance(given, int) else list(given)
    last, depth = max(encoder_layers, default=-1), len(modules.blocks)
    if last >= 0 and modules.family.unfolds_after is not None and given != -1:
        raise UnsupportedError(
            f"vision_feature_layer={given}: the encoder stage of {modules.family.model_type} needs -1, the "
            "encoder's own output; use encoder_layers=() to switch the encoder stage off"
        )
    # Hidden state 0 is the input of block 0.
    if last >= 0 and any(feature % (depth + 1) <= last for feature in features):
        raise UnsupportedError(
            f"vision_feature_layer={given}: the encoder stage needs a model that reads encoder layers after "
            f"the last block that merges, {last} here; give earlier encoder_layers, or () for none"
        )


def rescale(
    layers: tuple[int, ...],
    keep: tuple[float, ...],
    depth: int,
    to_depth: int,
    allowed: tuple[int, ...] | None = None,
    first: int = 0,
) -> dict[int, float]:
    """Scale a published pattern of layers to a model of another depth.

    Layer l becomes floor(l * to_depth / depth), at least ``first``; or, if only some layers are ``allowed``,
    the nearest of those. Steps that map to the same layer are combined; the product of their shares is kept.
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
