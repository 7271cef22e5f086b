"""How many tokens every part of a model works on, and what predictions and reports say of them alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PLACES = {
    "pixels": "smaller picture",
    "encoder": "encoder block {}",
    "projector": "behind the encoder",
    "llm": "LLM layer {}",
}


@dataclass(frozen=True)
class EncoderCounts:
    """The tokens of one call of an image encoder."""

    embedded: int
    """Tokens that are made of patches."""
    sequences: tuple[tuple[int, ...], ...]
    """Of every block, the tokens of each attention sequence (picture, tile, frame or window)."""
    behind: tuple[int, ...]
    """Of every block, the tokens that reach its MLP."""
    projected: int
    """Units that the projector turns into features of the LLM."""
    tapped: tuple[int, ...] = ()
    """Likewise for each of :attr:`EncoderDimensions.taps`."""


@dataclass(frozen=True)
class PrefillCounts:
    """The tokens of one prefill of the LLM: of one row, all rows being padded to the longest."""

    rows: int
    tokens: tuple[int, ...]
    """Of every layer."""
    held: tuple[int, ...]
    """Of every layer, the tokens whose keys and values stay in the cache; 0 for recurrent layers."""
    attends: tuple[bool, ...]
    """Of every layer, whether it attends at all, or is a recurrent one."""


@dataclass(frozen=True)
class TokenCounts:
    """The tokens that a pass works on."""

    encoder: tuple[EncoderCounts, ...]
    """One for each call: a prompt with pictures and videos makes two."""
    prefill: PrefillCounts


@dataclass(frozen=True)
class StepReport:
    """One merge step, over all pictures of the batch."""

    stage: str
    """"pixels" (a smaller picture), "encoder", "projector" or "llm"."""
    layer: int
    """Encoder block after whose attention, or LLM layer before which, tokens go; at the projector the number
    of encoder blocks, of pixels -1."""
    before: int
    """Visual tokens in the LLM, before it units of g tokens each."""
    after: int

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return PLACES[self.stage].format(self.layer)


def shared_fields(one: Any) -> dict[str, Any]:
    """What a report and a prediction have in common, JSON-ready."""
    return {
        "family": one.family,
        "method": one.method,
        "visual_tokens": one.visual_tokens,
        "final_tokens": one.final_tokens,
        "average_tokens": one.average_tokens,
        "steps": [vars(step) for step in one.steps],
        "llm_tokens": list(one.llm_tokens),
        "cost": {**vars(one.cost), "total": one.cost.total},
        "plain_cost": {**vars(one.plain_cost), "total": one.plain_cost.total},
    }
