"""The base of all methods: a frozen dataclass that makes a plan for one model, and converts to JSON."""

from __future__ import annotations

import dataclasses
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import Self

from ..io.files import replacing
from ..models.located import LocatedModules
from .steps import Plan

FILE_NAME = "illava_config.json"
VERSION = 2
"""Version of the dictionaries and files written here. Those of illava 0.1 (version 1) have no ``version``."""

_METHODS: dict[str, type[Method]] = {}


@dataclasses.dataclass(frozen=True)
class Method(ABC):
    """Base of all methods. Subclasses are frozen dataclasses that check their fields and make plans."""

    name: ClassVar[str]
    """Name on the command line and in files."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _METHODS[cls.name] = cls

    @abstractmethod
    def plan(self, modules: LocatedModules) -> Plan:
        """The merge steps on this model. Raises ValueError for a layer that the model does not have."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values, with the method's name under ``method`` and the ``version``."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"method": self.name, "version": VERSION, **{k: _plain(value) for k, value in fields.items()}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`. Raises ValueError for unknown names, fields or versions."""
        method = method_from_dict(values)
        if not isinstance(method, cls):
            raise ValueError(f"expected a {cls.name!r} method, got {method.name!r}")
        return method

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Method:
        """The method with these fields; lists are converted to tuples."""
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        return cls(**given)

    @classmethod
    def from_version_1(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Convert the fields of a version 1 dictionary to those of the current version."""
        return fields

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``illava_config.json`` into ``folder`` (created if missing) and return its path.

        In the folder of a model's weights, :func:`illava.accelerate` finds it.
        """
        target = Path(folder) / FILE_NAME
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            partial.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        return target

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save_pretrained` wrote. Raises ValueError if it is missing or not valid."""
        return cls.from_dict(read_json(Path(folder) / FILE_NAME))


def methods() -> dict[str, type[Method]]:
    """All methods by name."""
    return dict(_METHODS)


def method_from_dict(values: dict[str, Any]) -> Method:
    """The inverse of ``to_dict``. Raises ValueError for unknown names, fields or versions."""
    if not isinstance(values, dict):
        raise ValueError(f"expected a dictionary with a 'method', got {type(values).__name__}")
    name = values.get("method")
    if not isinstance(name, str) or name not in _METHODS:
        raise ValueError(f"unknown method {name!r}; known are {', '.join(sorted(_METHODS))}")
    version = values.get("version", 1)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"version must be a whole number from 1 up, got {version!r}")
    if version > VERSION:
        raise ValueError(
            f"version {version} was written by a newer illava; this release reads up to version {VERSION}: "
            "pip install --upgrade illava"
        )
    kind = _METHODS[name]
    given = {key: value for key, value in values.items() if key not in ("method", "version")}
    if version == 1:
        given = kind.from_version_1(given)
    fields = {field.name for field in dataclasses.fields(kind)}
    unknown = set(given) - fields
    if unknown:
        raise ValueError(
            f"{name} has no field {', '.join(sorted(unknown))}; its fields are {', '.join(sorted(fields))}"
        )
    return kind.from_fields(given)


def read_json(file: Path) -> Any:
    """The parsed JSON of a file. If it cannot be read, raises a ValueError that names the file."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {file}: {error}") from error


def _plain(value: Any) -> Any:
    """A field's value as a JSON type."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value
