"""At which layers to merge and the share each keeps: published patterns scaled to a depth, and budgets."""

from __future__ import annotations

import math

from ..models.located import LocatedModules, feature_blocks, rescale

Shares = dict[int, float]
"""Layer -> share that its step keeps of the units that enter it."""


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
    depth, layers = len(modules.blocks), len(modules.layers)
    last, at = max(0, int(depth * encoder) - 1), int(layers * llm)
    blocks = modules.tower.full_attention_blocks(modules.config.vision_config) or tuple(range(depth))
    seen = feature_blocks(modules)[0]
    blocks = tuple(block for block in blocks if block <= seen) or blocks[:1]
    block = min(blocks, key=lambda b: (abs(b - last), b), default=0)
    encoder_steps = {block: 0.5} if blocks else {}
    first = modules.family.first_llm_layer(modules.config)
    after = [k for k in _after_full_layers(modules) or range(1, layers) if k >= first]
    if any(modules.recurrent) or not after:
        return encoder_steps, {}
    return encoder_steps, {min(after, key=lambda k: (abs(k - at), k)): 0.5}


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
