"""What every method is: a frozen dataclass that turns into a plan for one model, and into JSON."""

from __future__ import annotations

import dataclasses
import json
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import Self

from ..io.files import replacing
from ..models.located import LocatedModules
from .steps import Plan

FILE_NAME = "illava_config.json"

_METHODS: dict[str, type[Method]] = {}


@dataclasses.dataclass(frozen=True)
class Method(ABC):
    """Base of all methods. Subclasses are frozen dataclasses that check their fields and make plans."""

    name: ClassVar[str]
    """How the method is called on the command line and in files."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _METHODS[cls.name] = cls

    @abstractmethod
    def plan(self, modules: LocatedModules) -> Plan:
        """The merge steps on this model. Raises ValueError where a layer does not exist on it."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values, with the method's name under ``method``."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        listed = {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}
        return {"method": self.name, **listed}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The method that :meth:`to_dict` described. Raises ValueError for unknown names or fields."""
        method = method_from_dict(values)
        if not isinstance(method, cls):
            raise ValueError(f"expected a {cls.name!r} method, got {method.name!r}")
        return method

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Method:
        """The method with these fields, lists standing for tuples."""
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        return cls(**given)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``illava_config.json`` into ``folder`` (made if missing) and return its path."""
        target = Path(folder) / FILE_NAME
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            partial.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        return target

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save_pretrained` wrote. Raises ValueError when it is not there or not valid."""
        source = Path(folder) / FILE_NAME
        try:
            values = json.loads(source.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"cannot read {source}: {error}") from error
        return cls.from_dict(values)


def methods() -> dict[str, type[Method]]:
    """Every method by name."""
    return dict(_METHODS)


def method_from_dict(values: dict[str, Any]) -> Method:
    """The method that ``to_dict`` described. Raises ValueError for unknown names or fields."""
    if not isinstance(values, dict):
        raise ValueError(f"expected a dictionary with a 'method', got {type(values).__name__}")
    name = values.get("method")
    if not isinstance(name, str) or name not in _METHODS:
        raise ValueError(f"unknown method {name!r}; known are {', '.join(sorted(_METHODS))}")
    kind = _METHODS[name]
    fields = {field.name for field in dataclasses.fields(kind)}
    unknown = set(values) - fields - {"method"}
    if unknown:
        raise ValueError(
            f"{name} has no field {', '.join(sorted(unknown))}; its fields are {', '.join(sorted(fields))}"
        )
    return kind.from_fields({key: value for key, value in values.items() if key in fields})
