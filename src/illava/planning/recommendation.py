"""The result of the planner: a schedule, what it costs, and why it was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import renamed
from ..methods import Downsample, Illava
from .predict import Prediction
from .seconds import Seconds
from .sensitivity import Placement

MIN_GAIN = 1.02
"""Predicted speed-ups up to this do not count unless they reach a target for the time to the first token:
they are within the error of any prediction."""


@dataclass(frozen=True)
class Candidate:
    """A schedule with its predicted cost and divergence."""

    method: Illava | Downsample
    placement: Placement
    prediction: Prediction
    divergence: float
    """Predicted, in nats of the first token; see :mod:`illava.planning.sensitivity`."""
    seconds: tuple[Seconds, Seconds] | None = None
    """Of the schedule and of the plain model; None if ``rates`` is not given."""

    @property
    def where(self) -> Placement:
        """Deprecated name of :attr:`placement`."""
        placement: Placement = renamed(self, "where", "placement")
        return placement

    @property
    def speedup(self) -> float:
        """Speed-up to the first token, in seconds if these are known, otherwise in FLOPs."""
        if self.seconds is None:
            return self.prediction.speedup
        merged, plain = self.seconds
        return plain.ttft / merged.ttft

    @property
    def pays(self) -> bool:
        """Whether the first token is predicted sooner than without merging, by more than :data:`MIN_GAIN`."""
        return self.speedup > MIN_GAIN


@dataclass(frozen=True)
class Recommendation:
    """The result of :func:`plan`: the chosen schedule, and why it was chosen."""

    chosen: Candidate
    targets: dict[str, float]
    met: bool
    """Whether all targets are reached. If not, ``chosen`` reaches as many as possible, and is nearest to the
    others."""
    reason: str
    alternatives: tuple[Candidate, ...] = ()
    """Other candidates that reach the targets, at a cost within 5 % of the best schedule, from which
    :mod:`illava.evaluation.calibrate` can choose."""
    pays: bool | None = None
    """Whether ``chosen`` is predicted to bring the first token sooner, merging included. If not, ``chosen``
    keeps all tokens, unless the KV cache would then exceed its target. None without ``rates``, and if no
    merging is needed."""
    refused: Candidate | None = None
    """If all tokens are kept because merging does not pay: the fastest schedule tried for the targets."""

    @property
    def wishes(self) -> dict[str, float]:
        """Deprecated name of :attr:`targets`."""
        targets: dict[str, float] = renamed(self, "wishes", "targets")
        return targets

    @property
    def equals(self) -> tuple[Candidate, ...]:
        """Deprecated name of :attr:`alternatives`."""
        alternatives: tuple[Candidate, ...] = renamed(self, "equals", "alternatives")
        return alternatives

    @property
    def method(self) -> Illava | Downsample:
        """The method to pass to :func:`illava.accelerate`."""
        return self.chosen.method

    @property
    def prediction(self) -> Prediction:
        """Its predicted token counts and costs."""
        return self.chosen.prediction

    def __str__(self) -> str:
        p = self.prediction
        steps = [f"{step.place}: {step.before} -> {step.after}" for step in p.steps]
        return "\n".join(
            [
                self.reason,
                f"{p.final_tokens} of {p.visual_tokens} visual tokens left at the end, "
                f"{p.average_tokens:.1f} on average; {p.speedup:.2f}x fewer FLOPs to the first token, "
                f"{p.plain_cost.kv_bytes / p.cost.kv_bytes:.2f}x fewer KV cache bytes",
                *steps,
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values."""
        return {
            "method": self.method.to_dict(),
            "targets": self.targets,
            "met": self.met,
            "reason": self.reason,
            "speedup": self.chosen.speedup,
            "expected_divergence": self.chosen.divergence,
            "seconds": seconds_dict(self.chosen.seconds),
            "pays": self.pays,
            "refused": None
            if self.refused is None
            else {
                "method": self.refused.method.to_dict(),
                "speedup": self.refused.speedup,
                "seconds": seconds_dict(self.refused.seconds),
            },
            "prediction": self.prediction.to_dict(),
        }


def seconds_dict(seconds: tuple[Seconds, Seconds] | None) -> dict[str, Any] | None:
    """The seconds of a schedule and of the plain model as JSON-ready values."""
    return None if seconds is None else {"merged": vars(seconds[0]), "plain": vars(seconds[1])}
