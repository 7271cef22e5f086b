"""Token counts of every part of a model, and the fields that predictions and reports share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PLACES = {
    "pixels": "smaller image",
    "encoder": "encoder block {}",
    "projector": "after the encoder",
    "llm": "LLM layer {}",
}


@dataclass(frozen=True)
class EncoderCounts:
    """The tokens of one call of an image encoder."""

    embedded: int
    """Tokens that the patch embedding produces."""
    sequences: tuple[tuple[int, ...], ...]
    """For every block, the tokens of each attention sequence (image, tile, frame or window)."""
    mlp_tokens: tuple[int, ...]
    """For every block, the tokens that enter its MLP."""
    projected: int
    """Units that the projector maps to the width of the LLM."""
    tapped: tuple[int, ...] = ()
    """The same for each of :attr:`EncoderDimensions.taps`."""


@dataclass(frozen=True)
class PrefillCounts:
    """The tokens of one prefill of the LLM, for a single row: all rows are padded to the longest."""

    rows: int
    tokens: tuple[int, ...]
    """For every layer."""
    cached: tuple[int, ...]
    """For every layer, the tokens whose keys and values remain in the KV cache; 0 for recurrent layers."""
    attends: tuple[bool, ...]
    """For every layer, True if it has attention, False if it is recurrent."""


@dataclass(frozen=True)
class TokenCounts:
    """The tokens that each part of a model processes in one forward pass."""

    encoder: tuple[EncoderCounts, ...]
    """One for each call of the encoder. A prompt with images and videos needs two."""
    prefill: PrefillCounts


@dataclass(frozen=True)
class StepReport:
    """One merge step, over all images of the batch."""

    stage: str
    """"pixels" (a smaller image), "encoder", "projector" or "llm"."""
    layer: int
    """The encoder block after whose attention tokens are merged, or the LLM layer before which they are. The
    number of encoder blocks for the stage "projector", -1 for "pixels"."""
    before: int
    """Visual tokens in the LLM, without class tokens and registers, which all stay; units of g tokens each in
    the earlier stages."""
    after: int

    @property
    def place(self) -> str:
        """The place of the step in words, such as "encoder block 2"."""
        return PLACES[self.stage].format(self.layer)


def shared_fields(source: Any) -> dict[str, Any]:
    """The fields that a report and a prediction have in common, as JSON-ready values."""
    return {
        "family": source.family,
        "method": source.method,
        "visual_tokens": source.visual_tokens,
        "final_tokens": source.final_tokens,
        "average_tokens": source.average_tokens,
        "steps": [vars(step) for step in source.steps],
        "llm_tokens": list(source.llm_tokens),
        "cost": {**vars(source.cost), "total": source.cost.total},
        "plain_cost": {**vars(source.plain_cost), "total": source.plain_cost.total},
    }
