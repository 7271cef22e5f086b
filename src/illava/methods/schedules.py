"""At which layers to merge and the share each keeps: published patterns scaled to a depth, and budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..models.located import LocatedModules, feature_blocks, rescale

Shares = dict[int, float]
"""Layer -> share that its step keeps of the units that enter it."""
LATE = (5 / 9, 7 / 9, 1.0)
"""Shares of the encoder's depth after which the steps of :func:`late` come."""


def published(modules: LocatedModules) -> tuple[Shares, Shares]:
    """The schedule published for the family, scaled to this model's depth: encoder and LLM."""
    schedule = modules.family.schedule
    encoder = rescale(
        schedule.encoder_layers,
        schedule.encoder_keep,
        schedule.encoder_depth,
        len(modules.blocks),
        allowed=modules.tower.full_attention_blocks(modules.config.vision_config),
    )
    llm = rescale(
        schedule.llm_layers,
        schedule.llm_keep,
        schedule.llm_depth,
        len(modules.layers),
        allowed=_after_full_layers(modules),
        first=modules.family.first_llm_layer(modules.config),
    )
    return encoder, llm


def middle(modules: LocatedModules, encoder: float = 0.5, llm: float = 0.5) -> tuple[Shares, Shares]:
    """One step in the middle of each stage, each keeping half.

    In the encoder this is the block without windows nearest to the middle, at most the first block whose
    output the projector receives. In the LLM it is the layer nearest to the middle that follows a layer
    attending to the whole prompt; LLMs with recurrent layers have none.

    Args:
        encoder, llm: relative depth of the two steps.
    """
    return _at_blocks(modules, [max(0, int(len(modules.blocks) * encoder) - 1)]), _at_layer(modules, llm)


def late(modules: LocatedModules, llm: float = 0.5) -> tuple[Shares, Shares]:
    """Three steps in the second half of the encoder and one in the LLM, each keeping half.

    They come after :data:`LATE` of the blocks up to the first whose output the projector receives, at the
    nearest blocks without windows, and before the layer of :func:`middle`.
    """
    depth = feature_blocks(modules)[0] + 1 if len(modules.blocks) else 0
    return _at_blocks(modules, [round(depth * share) - 1 for share in LATE]), _at_layer(modules, llm)


def _at_blocks(modules: LocatedModules, wanted: Sequence[int]) -> Shares:
    depth = len(modules.blocks)
    if not depth:
        return {}
    blocks = modules.tower.full_attention_blocks(modules.config.vision_config) or tuple(range(depth))
    seen = feature_blocks(modules)[0]
    blocks = tuple(block for block in blocks if block <= seen) or blocks[:1]
    return dict.fromkeys(sorted({min(blocks, key=lambda b: (abs(b - at), b)) for at in wanted}), 0.5)


def _at_layer(modules: LocatedModules, depth: float) -> Shares:
    layers = len(modules.layers)
    first = modules.family.first_llm_layer(modules.config)
    after = [k for k in _after_full_layers(modules) or range(1, layers) if k >= first]
    if any(modules.recurrent) or not after:
        return {}
    return {min(after, key=lambda k: (abs(k - int(layers * depth)), k)): 0.5}


def to_budget(keep: float, encoder: Shares, llm: Shares, encoder_share: float | None) -> list[float]:
    """The share of each step, encoder steps first, so that their product is ``keep``.

    All shares are raised to the same power, or, with ``encoder_share``, to one power per stage. Raises
    ValueError if both stages are off.
    """
    if keep == 1:
        return [1.0] * (len(encoder) + len(llm))
    logs = [sum(map(math.log, stage.values())) for stage in (encoder, llm)]
    if not any(logs):
        raise ValueError("keep needs at least one layer to merge at: both stages are off")
    fraction = logs[0] / sum(logs) if encoder_share is None or not all(logs) else encoder_share
    powers = [
        math.log(keep) * share / log if log else 0.0
        for share, log in zip((fraction, 1 - fraction), logs, strict=True)
    ]
    return [
        share**power for stage, power in zip((encoder, llm), powers, strict=True) for share in stage.values()
    ]


def _after_full_layers(modules: LocatedModules) -> tuple[int, ...] | None:
    """Layers that follow a full-attention layer, in LLMs that also have sliding windows; None for others."""
    if not any(modules.windows) or all(modules.windows):
        return None
    return tuple(i + 1 for i, window in enumerate(modules.windows[:-1]) if window is None)
