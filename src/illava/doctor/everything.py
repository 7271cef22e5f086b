"""Steps that run the code path of merging but keep every unit: the result must equal the plain model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..methods import Method
from ..methods.steps import AttentionSource, EncoderStep, LlmStep, Plan, Units
from ..models.located import LocatedModules
from ..ops.merging import MergedSegments


@dataclass(frozen=True)
class Everything:
    """A stand-in for a method that keeps every unit at each of the method's layers."""

    method: Method

    def plan(self, modules: LocatedModules) -> Plan:
        """The plan of the method, with its encoder blocks and LLM layers, whose steps keep everything."""
        plan = self.method.plan(modules)
        return Plan(
            {block: _EncoderStep() for block in plan.encoder}, {layer: _LlmStep() for layer in plan.llm}
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, as a method's."""
        return {"method": "everything"}


def _all(units: Units) -> MergedSegments:
    kept = torch.arange(len(units.vectors), device=units.vectors.device)
    return MergedSegments(units.vectors, kept, units.lengths)


class _EncoderStep(EncoderStep):
    observes: ClassVar[bool] = False
    keep = 0.5  # Below 1; a step that keeps everything would be omitted from the plan.

    def reduce(self, units: Units) -> MergedSegments | None:
        return _all(units)


class _LlmStep(LlmStep):
    attention_source: ClassVar[AttentionSource] = "nothing"
    keep = 0.5

    def reduce(self, units: Units) -> MergedSegments | None:
        return _all(units)
