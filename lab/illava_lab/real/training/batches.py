"""Batches by number, so that a run that was stopped goes on with the scenes it would have had."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from ..data import Scene, Turn, stream
from .encoder import squares
from .packing import Packed, Packer
from .recipe import PATCH, Stage, place


class Batch(NamedTuple):
    """Pictures (B, S, S, 3) uint8, and the questions about them."""

    pictures: Tensor
    packed: Packed

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device; from pinned memory without waiting for what the device still does."""
        return Batch(self.pictures.to(device, non_blocking=True), self.packed.to(device))


class Batches(Dataset):
    """``batches[step]`` is a pure function of recipe, seed and step."""

    def __init__(
        self, stages: Sequence[Stage], tokenizer: PreTrainedTokenizerBase, folder: Path | None, seed: int = 0
    ):
        self._stages, self._folder, self._seed = tuple(stages), folder, seed
        self._packer = Packer(tokenizer)
        self._streams: dict[str, Callable[[int], Scene]] = {}

    def __getitem__(self, step: int) -> Batch:
        found = place(self._stages, step)
        if found is None:
            raise IndexError(f"the recipe ends before step {step}")
        stage, _ = found
        rng = np.random.default_rng((self._seed, step))
        sizes, chances = zip(*stage.chances().items(), strict=True)
        size = int(rng.choice(sizes, p=chances))
        names, shares = zip(*stage.streams(size).items(), strict=True)
        drawn = rng.choice(len(names), size=stage.rows(size), p=np.array(shares) / sum(shares))
        scenes = [
            self._scene(names[name], step * 1000 + row, stage.turns, rng) for row, name in enumerate(drawn)
        ]
        return pack(self._packer, scenes, size)

    def _scene(self, name: str, number: int, most: int, rng: np.random.Generator) -> Scene:
        if name not in self._streams:
            self._streams[name] = stream(name, "train", self._seed, self._folder)
        scene = self._streams[name](number)
        turns = [scene.turns[i] for i in rng.permutation(len(scene.turns))]
        return scene._replace(turns=_balanced(turns)[:most])


def _balanced(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The first turn of each kind, then the second of each, and so on."""
    seen: Counter[str] = Counter()
    rounds = []
    for turn in turns:
        rounds.append(seen[turn.kind])
        seen[turn.kind] += 1
    order = sorted(range(len(turns)), key=rounds.__getitem__)
    return tuple(turns[i] for i in order)


def pack(packer: Packer, scenes: Sequence[Scene], size: int) -> Batch:
    """Scenes as a batch at a picture size of ``size`` pixels."""
    packed = packer(scenes, (size // PATCH) ** 2)
    return Batch(squares([scene.picture for scene in scenes], size), packed)
