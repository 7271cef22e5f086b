"""The same schedule on a model of another shape: steps at the same relative depths, with the same shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedError
from ..methods.steps import EncoderStep, LlmStep, Plan, Units
from ..models.located import LocatedModules, feature_blocks
from ..ops.merging import MergedSegments


@dataclass(frozen=True)
class StepsInTurn(EncoderStep, LlmStep):
    """Steps of a deeper model that fall on one layer of a shallower one. Only its counts are of use."""

    steps: tuple[Any, ...]

    def count(self, n: int, of: int, grid: tuple[int, int] | None = None) -> int:
        for step in self.steps:
            n = min(n, step.count(n, of, grid))
        return n

    def reduce(self, units: Units) -> MergedSegments | None:
        raise NotImplementedError("steps of another model's schedule predict costs and cannot run")


def mapped(plan: Plan, here: LocatedModules, there: LocatedModules) -> Plan:
    """The plan of one model on another: for predictions only.

    A step after the attention of block b of B goes to the block nearest to (b + 1) / B * B' - 1, a step
    before layer l of L to the layer nearest to l / L * L', among those where a schedule of that model may
    have steps. Every step keeps its rule for the share that it leaves.
    """
    depth, layers = len(there.blocks), len(there.layers)
    whole = there.tower.full_attention_blocks(there.config.vision_config) or range(depth)
    blocks = [block for block in whole if block <= feature_blocks(there)[0]] or [whole[0]]
    first = there.family.first_llm_layer(there.config)
    # Before layer 0 are embeddings: a step there does not depend on a depth.
    allowed = list(range(min(first, layers - 1), layers))
    encoder = {block: (block + 1) / len(here.blocks) * depth - 1 for block in plan.encoder}
    llm = {layer: layer / len(here.layers) * layers for layer in plan.llm}
    return Plan(
        _moved(plan.encoder, {block: _nearest(blocks, at) for block, at in encoder.items()}),
        _moved(plan.llm, {layer: _nearest(allowed, at) if layer else 0 for layer, at in llm.items()}),
        plan.projector,
        plan.pixels,
        plan.positions,
        llm_size_bias=plan.llm_size_bias,
    )


def check_pixels(plan: Plan, packed: bool) -> None:
    """Raise UnsupportedError for smaller images on a model whose images have a fixed size."""
    if plan.pixels is not None and not packed:
        raise UnsupportedError(
            "this method encodes a smaller image, which the clock's shape does not do: leave it out, or give "
            "a --clock that encodes images of any size"
        )


def _nearest(layers: list[int], at: float) -> int:
    return min(layers, key=lambda layer: (abs(layer - at), layer))


def _moved(steps: dict[int, Any], layers: dict[int, int]) -> dict[int, Any]:
    places: dict[int, list[Any]] = {}
    for layer, step in steps.items():
        places.setdefault(layers[layer], []).append(step)
    return {at: some[0] if len(some) == 1 else StepsInTurn(tuple(some)) for at, some in places.items()}
