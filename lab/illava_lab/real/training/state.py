"""What a run needs to go on, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from illava.io.files import replacing


def write(file: Path, state: dict[str, Any]) -> None:
    """Write a state, whole or not at all. Raises OSError if the folder does not exist."""
    with replacing(file) as partial:
        torch.save(state, partial)


def read(file: Path) -> dict[str, Any]:
    """Read what :func:`write` wrote, to the host. Raises ValueError, in one line, if it cannot be read."""
    try:
        # AdamW counts steps on the host: on the device it would wait for each count.
        held: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises whatever its readers of archives and pickles do.
        raise ValueError(f"{file} cannot be read; move it away to begin anew") from error
    return held


def restored(weights: Mapping[str, Tensor], held: Mapping[str, Tensor], file: Path) -> None:
    """Copy what ``file`` held into ``weights``, in place. Raises ValueError if names or shapes differ."""
    if {k: v.shape for k, v in held.items()} != {k: v.shape for k, v in weights.items()}:
        raise ValueError(f"{file} does not hold the weights of this model")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(held[name])
