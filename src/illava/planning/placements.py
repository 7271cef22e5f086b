"""The placements that the planner tries, and the method at each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..methods import Downsample, Illava
from ..methods.schedules import Shares, late, middle
from ..models.located import LocatedModules
from .sensitivity import PRESET, Placement

ENCODER_DEPTHS = (None, 7 / 8, 3 / 4, 2 / 3, 7 / 12, 1 / 2, 5 / 12, 1 / 3, 1 / 4, 1 / 6)
"""None: the preset's three late steps."""
LLM_DEPTHS = (2 / 3, 1 / 2)
"""An earlier step has a larger divergence and saves little."""
ENCODER_SHARES: tuple[float, ...] = (0.0, 0.35, 0.5, 0.65, 0.75, 0.85, 1.0)


def placements(modules: LocatedModules, keep: float) -> Iterator[Placement]:
    """The placements to try, the preset's first, without those that give the same layers."""
    yield PRESET
    if keep == 1:
        return
    shares = ENCODER_SHARES
    if not has_llm_layer(modules) or not len(modules.blocks):
        # One stage does the whole reduction.
        shares = (1.0,) if len(modules.blocks) else (0.0,)
    seen = {_layers_of(modules, PRESET)}
    for llm in LLM_DEPTHS:
        for encoder in ENCODER_DEPTHS:
            for share in shares:
                placement = Placement(encoder, llm, share)
                if (key := _layers_of(modules, placement)) not in seen:
                    seen.add(key)
                    yield placement


def has_llm_layer(modules: LocatedModules) -> bool:
    """Whether the LLM has a layer to merge before."""
    return bool(middle(modules)[1])


def effective(modules: LocatedModules, placement: Placement) -> Placement:
    """``placement`` at the depths where this model can merge: not within windows, for example."""
    if placement.smaller_picture:
        return placement
    blocks, layers = _layers(modules, placement)
    share = placement.encoder_share
    if not blocks or not layers:
        share = 1.0 if blocks else 0.0
    encoder, llm = placement.encoder, placement.llm
    if encoder is not None and blocks:
        encoder = (max(blocks) + 1) / len(modules.blocks)
    if layers:
        llm = min(layers) / len(modules.layers)
    return Placement(encoder, llm, share)


def method_at(modules: LocatedModules, keep: float, placement: Placement) -> Illava | Downsample:
    """The preset at a budget, with its steps and shares where ``placement`` says; or a smaller picture."""
    method = Illava.best(keep)
    if placement == PRESET or keep == 1:
        return method
    if placement.smaller_picture:
        return Downsample(keep=keep)
    blocks, layers = _layers(modules, placement)
    return replace(
        method,
        encoder_layers=tuple(blocks) if placement.encoder_share else (),
        llm_layers=tuple(layers) if placement.encoder_share < 1 else (),
        encoder_share=placement.encoder_share,
    )


def _layers_of(modules: LocatedModules, placement: Placement) -> tuple[Any, ...]:
    """What placements with the same steps have in common."""
    blocks, layers = _layers(modules, placement)
    share = placement.encoder_share if layers else 1.0
    return tuple(blocks) if share else (), tuple(layers) if share < 1 else (), share


def _layers(modules: LocatedModules, placement: Placement) -> tuple[Shares, Shares]:
    if placement.encoder is None:
        return late(modules, placement.llm)
    return middle(modules, placement.encoder, placement.llm)
