"""The predicted time of a pass."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Seconds:
    """Predicted seconds of one ``generate``."""

    encoder: float
    """Including the projector."""
    prefill: float
    ttft: float
    """Time to the first token."""
    decode: float
    """Of the first decoding step."""
    merging: float = 0.0
    """The part of ``ttft`` that merging itself takes: scores, selection, merges, hooks."""
    launches: float = 0.0
    """What the host needs to launch the kernels up to the first token; ``ttft`` is never less. 0 if the rates
    are those of :class:`illava.planning.machine_speed.Rates`, which include launches."""
