"""Photographs of the data folder, boards of small photographs, and pixels for the encoder."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from illava.io.pictures import InputError
from illava_lab.benchmarks.pretrained.settings import CELLS, KINDS, SEED

VARIABLE = "ILLAVA_DATA"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Channel means and deviations with which DINOv2 was trained."""


@dataclass(frozen=True)
class Photograph:
    """A photograph and its class, "set: class"."""

    path: Path
    label: str


def folder() -> Path:
    """The data folder: ``$ILLAVA_DATA``, by default ``../shared/data`` beside the repository."""
    found = Path(os.environ.get(VARIABLE) or Path(__file__).resolve().parents[4] / "../shared/data")
    if not found.is_dir():
        raise InputError(f"{found}: no data folder there; set {VARIABLE} to the one that holds clothing/")
    return found


def photographs(where: Path, name: str, part: str, count: int | None = None) -> list[Photograph]:
    """Photographs of one set in a fixed order that takes the classes in turn.

    Args:
        part: "train" or "val". count: the first so many; None: all.

    Raises InputError if the set is missing, or has fewer.
    """
    file = where / name / f"{part}.jsonl"
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise InputError(f"{file}: cannot read it: {error.strerror}") from None
    found = [
        Photograph(where / name / line["pictures"][0], f"{name}: {line['answers'][0]}")
        for line in lines
        if line["kind"] == KINDS[name]
    ]
    by_class: dict[str, list[Photograph]] = {}
    for photograph in sorted(found, key=_order):
        by_class.setdefault(photograph.label, []).append(photograph)
    classes = [by_class[label] for label in sorted(by_class)]
    dealt = [photograph for turn in zip_longest(*classes) for photograph in turn if photograph is not None]
    if count is not None and len(dealt) < count:
        raise InputError(f"{file}: {count} photographs are needed, {len(dealt)} are there")
    return dealt[:count]


def boards(pools: Sequence[Sequence[Photograph]], count: int, seed: int = SEED) -> list[list[Photograph]]:
    """``count`` boards of CELLS x CELLS photographs in raster order, an equal number from each pool.

    A photograph returns only after all others of its pool; the places on a board are shuffled.
    """
    draw = random.Random(seed)
    each, rest = divmod(CELLS**2, len(pools))
    if rest:
        raise ValueError(f"{CELLS**2} places cannot be shared by {len(pools)} sets")
    dealt: list[list[Photograph]] = []
    for pool in pools:
        rounds = -(-count * each // len(pool))
        dealt.append([photo for _ in range(rounds) for photo in draw.sample(list(pool), len(pool))])
    made = []
    for number in range(count):
        board = [photo for pool in dealt for photo in pool[number * each : (number + 1) * each]]
        draw.shuffle(board)
        made.append(board)
    return made


def square(photograph: Photograph, side: int) -> Image.Image:
    """The centre square of a photograph at ``side`` pixels."""
    with Image.open(photograph.path) as image:
        return ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC)


def board_image(board: Sequence[Photograph], side: int) -> Image.Image:
    """A board as one picture without gaps."""
    image = Image.new("RGB", (side, side))
    edges = [round(side * i / CELLS) for i in range(CELLS + 1)]
    for place, photograph in enumerate(board):
        row, column = divmod(place, CELLS)
        left, top = edges[column], edges[row]
        small = square(photograph, max(edges[column + 1] - left, edges[row + 1] - top))
        image.paste(small, (left, top))
    return image


def inner_patches(grid: int) -> list[list[int]]:
    """For each cell of a board the patches that lie wholly inside it, as indices of a grid x grid raster."""
    inside = []
    for cell in range(CELLS):
        # In patches: the cell's first whole patch, and the end of its last.
        first, end = -(-cell * grid // CELLS), (cell + 1) * grid // CELLS
        if first >= end:
            raise ValueError(f"no patch of a grid of {grid} lies inside a cell; take larger pictures")
        inside.append(range(first, end))
    return [[y * grid + x for y in rows for x in columns] for rows in inside for columns in inside]


def pixels(image: Image.Image) -> Tensor:
    """(1, 3, height, width) fp32, normalised as DINOv2 was trained."""
    values = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
    return ((values - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)[None].contiguous()


def smaller(values: Tensor, grid: int, patch: int) -> Tensor:
    """(1, 3, H, W) pixels resized to ``grid`` patches a side, bicubically with antialiasing."""
    size = (grid * patch, grid * patch)
    return torch.nn.functional.interpolate(values, size, mode="bicubic", antialias=True)


def _order(photograph: Photograph) -> str:
    """A fixed order that has nothing to do with the names of the files."""
    name = f"{SEED} {photograph.path.parent.parent.name}/{photograph.path.name}"
    return hashlib.sha256(name.encode()).hexdigest()
