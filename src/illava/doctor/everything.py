"""Steps that keep every unit, on the path of those that merge: the result must be the plain model's."""

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
    """Stands for a method: keeps every unit at each of its places."""

    method: Method

    def plan(self, modules: LocatedModules) -> Plan:
        """The places of the method's own plan, in encoder blocks and before LLM layers."""
        plan = self.method.plan(modules)
        return Plan(
            {block: _EncoderStep() for block in plan.encoder}, {layer: _LlmStep() for layer in plan.llm}
        )

    def to_dict(self) -> dict[str, Any]:
        """As a method's."""
        return {"method": "everything"}


def _all(units: Units) -> MergedSegments:
    kept = torch.arange(len(units.vectors), device=units.vectors.device)
    return MergedSegments(units.vectors, kept, units.lengths)


class _EncoderStep(EncoderStep):
    observes: ClassVar[bool] = False
    keep = 0.5  # Less than all, or the step would be left out.

    def reduce(self, units: Units) -> MergedSegments | None:
        return _all(units)


class _LlmStep(LlmStep):
    attention_source: ClassVar[AttentionSource] = "nothing"
    keep = 0.5

    def reduce(self, units: Units) -> MergedSegments | None:
        return _all(units)
