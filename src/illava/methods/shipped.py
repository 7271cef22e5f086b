"""The method published with a model, as ``illava_config.json`` beside its weights."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from transformers.utils.hub import cached_file

from .base import FILE_NAME, Method, method_from_dict, read_json


class Shipped(NamedTuple):
    """A method and the file that it was read from."""

    method: Method
    file: Path


def shipped_with(model: nn.Module) -> Shipped | None:
    """The method beside the weights that a model was loaded from, in a folder or on the hub.

    None if there is no file, if the hub cannot be reached, and for models created from a config. If the file
    is not valid, raises a ValueError that names it.
    """
    return shipped_with_config(getattr(model, "config", None)) if _from_pretrained(model) else None


def shipped_with_config(config: Any) -> Shipped | None:
    """The same, for the config of a pretrained model."""
    name = getattr(config, "_name_or_path", None)
    if not isinstance(name, str) or not name:
        return None
    if Path(name).is_dir():
        file = Path(name) / FILE_NAME
        if not file.exists():
            return None
    else:
        # Only configs from the hub have a commit. Without one, the name may be that of a deleted folder.
        commit = getattr(config, "_commit_hash", None)
        found = None if commit is None else _on_hub(name, commit)
        if found is None:
            return None
        file = Path(found)
    values = read_json(file)
    try:
        return Shipped(method_from_dict(values), file)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error


# Cached, so that not every call of accelerate queries the hub.
@lru_cache(maxsize=256)
def _on_hub(name: str, commit: str) -> str | None:
    """Path of the file in the hub's cache; None if it is missing or the hub cannot be reached."""
    try:
        found = cached_file(
            name,
            FILE_NAME,
            revision=commit,
            _commit_hash=commit,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except Exception:
        # The file is optional: a connection error must not prevent the use of a loaded model.
        return None
    return None if found is None else str(found)


def _from_pretrained(model: nn.Module) -> bool:
    """Whether weights were loaded into a model: ``from_pretrained`` marks it, a constructor does not."""
    return hasattr(model, "_weight_conversions") or any(
        getattr(weight, "_is_hf_initialized", False) for weight in model.parameters()
    )
