"""From the arguments of a harness, which are texts and numbers, to an accelerated model."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..api import Handle, accelerate
from ..ask import choose
from ..errors import InputError
from ..io.shares import parse_share
from ..methods import Method
from ..methods.base import FILE_NAME, method_from_dict, read_json
from ..models.loading import load

EXAMPLE = "pretrained=zoo/L,keep=1/9"


@dataclass(frozen=True)
class Opened:
    """An accelerated model and its processor."""

    name: str
    handle: Handle
    processor: Any

    @property
    def model(self) -> nn.Module:
        return self.handle.model

    def __str__(self) -> str:
        """The model and the method with all its fields, for logs."""
        return f"illava {__version__}: {self.name}, {json.dumps(self.handle.method.to_dict())}"


def open_accelerated(
    pretrained: str | None,
    keep: float | str | None = None,
    method: Method | str | None = None,
    config: dict[str, Any] | str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool | str = False,
) -> Opened:
    """Load and accelerate a model.

    Args:
        pretrained: as :func:`illava.models.loading.load` takes it.
        keep: share of the visual tokens left at the end, a number or a text such as "1/9"; 1 is the plain
            model.
        method: name of a method or preset, or a method itself. What ``keep`` and ``method`` mean without each
            other, and what runs without both, is what :func:`illava.ask.choose` says.
        config: a method with all its fields instead of ``keep`` and ``method``: an ``illava_config.json``,
            the folder of one, its JSON, or that as a dictionary.
        device: None or "auto": the process's own card where several processes run, else cuda if available,
            else cpu.
        dtype: None: "auto".

    Raises InputError or UnsupportedError.
    """
    if not isinstance(pretrained, str) or not pretrained:
        raise InputError(f"pretrained: name a model, as in {EXAMPLE}")
    share = None if keep is None else read_keep(keep)
    # Before the model is loaded, which takes time.
    chosen = read_method(share, method, config)
    model, processor = load(
        pretrained,
        device_of_process() if device in (None, "auto") else str(device),
        str(dtype or "auto").removeprefix("torch."),
        read_flag("trust_remote_code", trust_remote_code),
    )
    if chosen is None:
        try:
            chosen, _ = choose(model, method if isinstance(method, str) else None, share)
        except InputError as error:
            raise InputError(str(error).removeprefix("--")) from error
    try:
        handle = accelerate(model, chosen)
    except ValueError as error:
        raise InputError(f"method {chosen.name}: {error}") from error
    return Opened(pretrained, handle, processor)


def read_keep(keep: float | str) -> float:
    """A share in (0, 1]. Raises InputError."""
    share = None if isinstance(keep, bool) else parse_share(keep)
    if share is None:
        raise InputError(f"keep={keep}: give a number above 0 and up to 1, such as 0.33 or 1/9")
    return share


def read_method(share: float | None, method: Any, config: Any) -> Method | None:
    """The method if ``method`` or ``config`` has all its fields, else None. Raises InputError."""
    given = isinstance(method, Method)
    if given and (share is not None or config is not None):
        raise InputError("give either a method, which has its own keep, or keep, or config")
    if config is not None and (share is not None or method is not None):
        raise InputError("give either config, or keep and method; a config has both")
    if given:
        return method  # type: ignore[no-any-return]
    if method is not None and not isinstance(method, str):
        raise InputError(f"method={method}: give the name of a method or preset, such as illava-best")
    if config is None:
        return None
    try:
        return method_from_dict(read_config(config))
    except (TypeError, ValueError) as error:
        raise InputError(f"config: {error}") from error


def read_config(config: dict[str, Any] | str) -> Any:
    """The dictionary of a method. Raises ValueError."""
    if not isinstance(config, str):
        return config
    if config.lstrip().startswith("{"):
        return json.loads(config)
    file = Path(os.path.expanduser(config))
    return read_json(file / FILE_NAME if file.is_dir() else file)


def read_count(name: str, value: int | str, least: int = 1) -> int:
    """A whole number from ``least`` up. Raises InputError."""
    text = str(value)
    if not text.isdecimal() or int(text) < least:
        raise InputError(f"{name}={value}: give a whole number from {least} up")
    return int(text)


def read_flag(name: str, value: bool | str) -> bool:
    """True or false. Raises InputError."""
    text = str(value).lower()
    if text not in ("true", "false"):
        raise InputError(f"{name}={value}: give True or False")
    return text == "true"


def device_of_process() -> str:
    """This process's own card if a launcher has started several processes, else "auto"."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if several and torch.cuda.is_available() else "auto"
