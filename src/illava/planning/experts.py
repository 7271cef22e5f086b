"""Weights that a mixture of experts reads: those of all experts that at least one token is routed to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Experts:
    """The routed experts of an LLM; shared experts and dense layers are not among them."""

    number: int
    """In each layer with experts."""
    active: int
    """That each token is routed to."""
    width: int
    """Intermediate features of one expert."""
    share: float = 1.0
    """Share of the LLM's layers that have experts."""

    def reached(self, tokens: int) -> float:
        """Expected number of distinct experts in a layer that ``tokens`` tokens are routed to.

        Assumption: each token is routed to any ``active`` experts with the same probability, independent of
        other tokens. Tokens of one image may agree more and reach fewer.
        """
        return float(self.number * (1 - (1 - self.active / self.number) ** tokens))

    def more_width(self, tokens: int) -> float:
        """Intermediate features read beside those of one token's experts; average over all layers."""
        return self.share * (self.reached(tokens) - self.active) * self.width


def experts_of(config: Any) -> Experts | None:
    """The experts of a VLM config's language model, or None; see :mod:`illava.models.dimensions`."""
    text = config.get_text_config()
    active = getattr(text, "num_experts_per_tok", None)
    if not active:
        return None
    number = getattr(text, "num_experts", None) or text.n_routed_experts
    dense = getattr(text, "first_k_dense_replace", None) or 0
    layers = text.num_hidden_layers
    return Experts(number, active, text.moe_intermediate_size, (layers - dense) / layers)
