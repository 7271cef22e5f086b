"""Several methods on one model, at most one in each stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..models.located import LocatedModules
from .base import VERSION, Method, method_from_dict
from .steps import Plan


@dataclass(frozen=True)
class Compose(Method):
    """Combine methods of different stages, such as one of the image encoder and one of the LLM.

    ``Compose((ToMe(keep=1/3), FastV(layer=2, keep=1/9)))`` merges tokens in the encoder until a third is
    left, and drops tokens in the LLM until a ninth is left. Every ``keep`` is a share of all visual tokens.

    Args:
        methods: two or more, in any order, at most one for each stage (encoder, after the encoder, LLM).
            Positions are renumbered if any of them renumbers positions.

    Raises ValueError for fewer than two methods, for values that are not methods, and from ``plan`` for two
    methods in one stage.
    """

    name: ClassVar[str] = "compose"

    methods: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        given = tuple(self.methods) if isinstance(self.methods, Iterable) else ()
        if len(given) < 2 or any(not isinstance(method, Method) for method in given):
            raise ValueError(f"methods must be two or more methods, got {self.methods!r}")
        object.__setattr__(self, "methods", given)

    def plan(self, modules: LocatedModules) -> Plan:
        plans = [method.plan(modules) for method in self.methods]
        _check_one_stage([method.name for method in self.methods], plans)
        return Plan(
            {block: step for plan in plans for block, step in plan.encoder.items()},
            {layer: step for plan in plans for layer, step in plan.llm.items()},
            next((plan.projector for plan in plans if plan.projector is not None), None),
            next((plan.pixels for plan in plans if plan.pixels is not None), None),
            "compact" if any(plan.positions == "compact" for plan in plans) else "original",
            "first" if any(plan.placement == "first" for plan in plans) else "own",
            any(plan.llm_size_bias for plan in plans),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "method": self.name,
            "version": VERSION,
            "methods": [method.to_dict() for method in self.methods],
        }

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Compose:
        """The inverse of :meth:`to_dict`, given its fields."""
        given = fields.get("methods", ())
        if not isinstance(given, (list, tuple)):
            raise ValueError(f"methods must be a list of methods, got {given!r}")
        return cls(tuple(method_from_dict(values) for values in given))


def _check_one_stage(names: Sequence[str], plans: Sequence[Plan]) -> None:
    """Raise ValueError if two plans have steps in one stage."""
    for stage in ("encoder", "projector", "llm"):
        users = [name for name, plan in zip(names, plans, strict=True) if getattr(plan, stage)]
        if len(users) > 1:
            raise ValueError(f"only one method can act in the {stage}, got {' and '.join(users)}")
    resizing = [name for name, plan in zip(names, plans, strict=True) if plan.pixels is not None]
    others = [name for name, plan in zip(names, plans, strict=True) if plan.before_llm]
    if resizing and len(others) > 1:
        raise ValueError(
            f"{resizing[0]} can only be combined with a method of the LLM, got {' and '.join(others)}"
        )
