"""The trained weights that ship with the laboratory: a projector, and low-rank changes of encoder and LLM."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

PROJECTOR = tuple(
    f"multi_modal_projector.linear_{number}.{part}" for number in (1, 2) for part in ("weight", "bias")
)
LLM, ENCODER = "language_model", "vision_tower"
_LLM = rf"{LLM}\.layers\.\d+\.(?:self_attn\.[qkvo]|mlp\.(?:gate|up|down))_proj"
_BLOCK = r"attention\.attention\.(?:query|key|value)|attention\.output\.dense|mlp\.fc[12]"
_CHANGE = re.compile(rf"({_LLM}|{ENCODER}\.encoder\.layer\.\d+\.(?:{_BLOCK}))\.lora_([AB])")


@dataclass(frozen=True)
class TrainedWeights:
    """Trained weights, float32.

    A linear layer ``name`` becomes ``W + scale * changes[name][1] @ changes[name][0]``.
    """

    projector: dict[str, Tensor]
    """By the names in :data:`PROJECTOR`."""
    changes: dict[str, tuple[Tensor, Tensor]]
    """(rank, in) and (out, rank), by names such as ``language_model.layers.0.self_attn.q_proj`` and
    ``vision_tower.encoder.layer.0.mlp.fc1``."""
    scale: float
    """alpha / rank."""

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """The weight of the linear layer ``name``, (out, in), with its change, float32; itself without one.

        Raises ValueError if the shapes do not fit.
        """
        if name not in self.changes:
            return weight
        down, up = self.changes[name]
        if (up.shape[0], down.shape[1]) != tuple(weight.shape):
            shape = up.shape[0], down.shape[1]
            raise ValueError(f"the change of {name} has shape {shape}, its weight {tuple(weight.shape)}")
        return weight.float() + self.scale * (up @ down)


def read(file: Path) -> TrainedWeights:
    """Read trained weights. Raises ValueError, in one line, if the file is missing or not of this format."""
    if not file.is_file():
        raise ValueError(
            f"{file}: there are no trained weights; a complete checkout of the repository has them"
        )
    tensors, metadata = contents(file)
    try:
        return _parse({name: tensor.float() for name, tensor in tensors.items()}, metadata)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def contents(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, in its dtype, and its metadata.

    Raises ValueError, in one line, if it cannot be read.
    """
    try:
        with safe_open(str(file), "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return tensors, opened.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{file}: it is not a complete safetensors file: {error}") from error


def _parse(tensors: dict[str, Tensor], metadata: dict[str, str]) -> TrainedWeights:
    if missing := [name for name in PROJECTOR if name not in tensors]:
        raise ValueError(f"it lacks {missing[0]}")
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} is not finite")
        if name in PROJECTOR:
            continue
        match = _CHANGE.fullmatch(name)
        if match is None:
            raise ValueError(
                f"{name} is no weight of the projector and no change of a linear layer of encoder or LLM"
            )
        halves.setdefault(match[1], {})[match[2]] = tensor
    try:
        rank, alpha = int(metadata["rank"]), float(metadata["alpha"])
    except (KeyError, ValueError) as error:
        raise ValueError("its metadata must give rank and alpha as numbers") from error
    for name, pair in halves.items():
        shapes = {half: tuple(tensor.shape) for half, tensor in pair.items()}
        if set(shapes) != {"A", "B"} or shapes["A"][0] != rank or shapes["B"][-1] != rank:
            raise ValueError(
                f"the change of {name} needs lora_A (rank, in) and lora_B (out, rank), rank {rank}"
            )
    projector = {name: tensors[name] for name in PROJECTOR}
    return TrainedWeights(
        projector, {name: (pair["A"], pair["B"]) for name, pair in halves.items()}, alpha / rank
    )
