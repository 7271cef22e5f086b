"""What :mod:`illava.contract` finds, as text; None where there is no such module to ask."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..parts import ModelParts


def everywhere() -> list[str] | None:
    """What is missing in transformers, whatever the model."""
    contract = _contract()
    return None if contract is None else [str(fault) for fault in contract.missing_everywhere()]


def of_model(parts: ModelParts) -> list[str] | None:
    """What this model or transformers lacks."""
    contract = _contract()
    return None if contract is None else [str(fault) for fault in contract.contract_faults(parts)]


def tested() -> tuple[str, str] | None:
    """The oldest and the newest tested minor release of transformers, such as ("5.19", "5.24")."""
    contract = _contract()
    return None if contract is None else contract.TESTED


def _contract() -> Any:
    try:
        return import_module("illava.contract")
    except ModuleNotFoundError as error:
        if error.name != "illava.contract":
            raise
        return None
