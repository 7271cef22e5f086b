"""The method published with a model, as ``illava_config.json`` beside its weights."""

from __future__ import annotations

import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]
from torch import nn

from .base import FILE_NAME, Method, method_from_dict, read_json

SECONDS = 3.0
"""How long the hub may take to say whether it has the file."""


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
        if not os.path.lexists(file):
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
    """Path of the file in the hub's cache, downloaded first if the hub has it; None if there is none.

    Warns where the hub does not answer within SECONDS: whether there is a file is then not known.
    """
    known = try_to_load_from_cache(name, FILE_NAME, revision=commit)
    if isinstance(known, str):
        return known
    # Anything else but None says that the hub has no such file.
    if known is not None or constants.HF_HUB_OFFLINE:
        return None
    url = hf_hub_url(name, FILE_NAME, revision=commit, endpoint=constants.ENDPOINT)
    try:
        # One request without retries, which the functions of the hub would make for minutes.
        answer = get_session().head(url, headers=build_hf_headers(), timeout=SECONDS)
        return hf_hub_download(name, FILE_NAME, revision=commit) if answer.status_code < 400 else None
    except Exception as error:
        # The file is optional: a connection error must not prevent the use of a loaded model.
        warnings.warn(
            f"whether {name} has an {FILE_NAME} is not known, as the hub cannot be reached "
            f"({type(error).__name__}): the default is used; pass a method, or set "
            "HF_HUB_OFFLINE=1, to skip this",
            stacklevel=2,
        )
        return None


def _from_pretrained(model: nn.Module) -> bool:
    """Whether weights were loaded into a model: ``from_pretrained`` marks it, a constructor does not."""
    return hasattr(model, "_weight_conversions") or any(
        getattr(weight, "_is_hf_initialized", False) for weight in model.parameters()
    )
