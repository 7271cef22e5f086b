"""Several methods on one model, each in a stage of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..models.located import LocatedModules
from .base import Method, method_from_dict
from .steps import Plan, check_one_stage


@dataclass(frozen=True)
class Compose(Method):
    """Methods of different stages together, such as one of the image encoder and one of the LLM.

    ``Compose((ToMe(keep=1/3), FastV(layer=2, keep=1/9)))`` merges in the encoder until a third of the tokens
    is left and drops in the LLM until a ninth of all is: every ``keep`` is a share of all visual tokens.

    Args:
        methods: two or more, in any order; each stage (encoder, behind the encoder, LLM) belongs to at most
            one of them. One may renumber positions, then they are renumbered for all.

    Raises ValueError for fewer than two, for anything that is no method, and, once the model is known, for
    two methods in one stage.
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
        check_one_stage([method.name for method in self.methods], plans)
        return Plan(
            {block: step for plan in plans for block, step in plan.encoder.items()},
            {layer: step for plan in plans for layer, step in plan.llm.items()},
            next((plan.projector for plan in plans if plan.projector is not None), None),
            next((plan.pixels for plan in plans if plan.pixels is not None), None),
            "compact" if any(plan.positions == "compact" for plan in plans) else "original",
        )

    def to_dict(self) -> dict[str, Any]:
        return {"method": self.name, "methods": [method.to_dict() for method in self.methods]}

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Compose:
        """From the fields of :meth:`to_dict`."""
        given = fields.get("methods", ())
        if not isinstance(given, (list, tuple)):
            raise ValueError(f"methods must be a list of methods, got {given!r}")
        return cls(tuple(method_from_dict(values) for values in given))
