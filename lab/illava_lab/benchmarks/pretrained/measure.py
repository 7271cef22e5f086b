"""Encode all pictures in all rows, and time all rows; goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from illava.io.files import replacing
from illava.io.pictures import InputError
from illava_lab.benchmarks.pretrained import photographs
from illava_lab.benchmarks.pretrained.encoder import Prefix, Runner
from illava_lab.benchmarks.pretrained.owners import Encoded
from illava_lab.benchmarks.pretrained.rows import Row, plain
from illava_lab.benchmarks.pretrained.settings import ALIKE_KEEP, SEED, Amounts

GROUP = 8
"""Pictures whose blocks are recorded at a time; at 448 pixels each takes 21 MB."""
CHUNK = 8
"""Rows that are timed between two runs of the plain encoder."""
Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Measurement:
    """All that is measured at one size of pictures."""

    runner: Runner
    data: Path
    folder: Path
    """Where features and seconds are kept."""
    side: int
    amounts: Amounts
    standard: Sequence[Row]
    deep: Sequence[Row]

    def claim(self, settings: dict[str, Any]) -> None:
        """Make the folder; raise InputError if it holds a measurement with other settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "settings.json"
        if file.exists() and json.loads(file.read_text()) != settings:
            raise InputError(f"{self.folder} holds a measurement with other settings; move it away")
        file.write_text(json.dumps(settings, indent=1) + "\n")

    def encode(self) -> None:
        """Write the features of all pictures in all rows."""
        amounts, rows = self.amounts, [plain(), *self.standard]
        budgets = [row for row in rows if row.keep is None or row.keep in amounts.keeps]
        self._boards("teaching", "train", amounts.teaching_boards, rows[:1])
        self._boards("boards", "val", amounts.boards, [*rows, *self.deep])
        for name in amounts.sets:
            self._photographs(f"references-{name}", name, "train", amounts.references, rows[:1])
            self._photographs(f"photographs-{name}", name, "val", amounts.photographs, budgets)
        alike = [row for row in rows if row.keep == ALIKE_KEEP]
        for name in amounts.alike_sets:
            self._photographs(f"alike-{name}", name, "train", amounts.alike, alike)

    def encode_layers(self, name: str, counts: dict[str, int]) -> None:
        """Write the mean patch feature after every block of the plain encoder, by part of a set."""
        for part, count in counts.items():
            folder = self.folder / f"layers-{name}-{part}"
            folder.mkdir(exist_ok=True)
            chosen = photographs.photographs(self.data, name, part, count)
            for start in range(0, count, GROUP):
                file = folder / f"{_slug(plain())}.{start:04d}.npy"
                if file.exists():
                    continue
                vectors = []
                for photo in chosen[start : start + GROUP]:
                    states = self.runner.prefix(
                        photographs.pixels(photographs.square(photo, self.side))
                    ).states
                    vectors.append(torch.stack([state[0, 1:].mean(0) for state in states[1:]]).numpy())
                with replacing(file) as partial, partial.open("wb") as opened:
                    np.save(opened, np.stack(vectors))
            print(f"{self.side} px, {folder.name} done", flush=True)

    def board_photographs(self, part: str) -> list[list[photographs.Photograph]]:
        """The boards of "train" or "val", as lists of photographs."""
        count = self.amounts.teaching_boards if part == "train" else self.amounts.boards
        pools = [photographs.photographs(self.data, name, part) for name in photographs.KINDS]
        return photographs.boards(pools, count)

    def features(self, part: str, row: Row) -> Values:
        """(pictures, vectors, d): the features written for a part, in order."""
        files = sorted(self.folder.glob(f"{part}/{_slug(row)}.*.npy"))
        if not files:
            raise InputError(f"{self.folder}: {part} of {row.label} is missing: run measure again")
        return np.concatenate([np.load(file) for file in files])

    def _boards(self, part: str, split: str, count: int, rows: Sequence[Row]) -> None:
        inside = photographs.inner_patches(self.side // self.runner.patch)
        images = (photographs.board_image(board, self.side) for board in self.board_photographs(split))
        self._write(part, count, images, rows, lambda row: True, lambda found: found.cells(inside))

    def _photographs(self, part: str, name: str, split: str, count: int, rows: Sequence[Row]) -> None:
        chosen = photographs.photographs(self.data, name, split, count)
        images = (photographs.square(photo, self.side) for photo in chosen)
        self._write(part, count, images, rows, lambda row: row.counts, _pooled)

    def _write(
        self,
        part: str,
        count: int,
        images: Iterable[Image.Image],
        rows: Sequence[Row],
        located: Callable[[Row], bool],
        view: Callable[[Encoded], Tensor],
    ) -> None:
        """One file a row and group of pictures; ``located``: whether a row's ``view`` needs the owners."""
        (self.folder / part).mkdir(exist_ok=True)
        given = iter(images)
        for start in range(0, count, GROUP):
            group = [next(given) for _ in range(min(GROUP, count - start))]
            files = {row: self.folder / part / f"{_slug(row)}.{start:04d}.npy" for row in rows}
            left = [row for row in rows if not files[row].exists()]
            if left:
                pictures: list[Prefix] = [self.runner.prefix(photographs.pixels(image)) for image in group]
                for row in left:
                    vectors = [
                        view(found).numpy()
                        for found in self.runner.encode(row, pictures, located=located(row))
                    ]
                    with replacing(files[row]) as partial, partial.open("wb") as file:
                        np.save(file, np.stack(vectors))
            print(f"{self.side} px, {part}: {start + len(group)} of {count}", flush=True)

    # -- time ------------------------------------------------------------------------------------------

    def time(self) -> None:
        """Time all rows in turn, a line a round. The pictures are boards, one more each round."""
        file = self.folder / "seconds.jsonl"
        done = len(self.seconds())
        images = [photographs.board_image(board, self.side) for board in self.board_photographs("val")]
        for number in range(done, self.amounts.rounds):
            values = photographs.pixels(images[number % len(images)])
            if number == done:
                self.runner.seconds(plain(), values)
            line = json.dumps(self._round(number, values))
            with file.open("a") as lines:
                lines.write(line + "\n")
            print(f"{self.side} px, timed round {number + 1} of {self.amounts.rounds}", flush=True)

    def seconds(self) -> list[dict[str, list[float]]]:
        """For each round: by label, the seconds of the row and of the plain encoder around it."""
        file = self.folder / "seconds.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]

    def _round(self, number: int, values: Tensor) -> dict[str, list[float]]:
        rows = [*self.standard, *self.deep]
        random.Random(f"{SEED} {number}").shuffle(rows)
        found: dict[str, list[float]] = {}
        before = self.runner.seconds(plain(), values)
        for start in range(0, len(rows), CHUNK):
            chunk = {row.label: self.runner.seconds(row, values) for row in rows[start : start + CHUNK]}
            after = self.runner.seconds(plain(), values)
            found |= {label: [seconds, (before + after) / 2] for label, seconds in chunk.items()}
            before = after
        return found


def _pooled(found: Encoded) -> Tensor:
    """(2, d): the mean of the survivors, and their mean weighted by size."""
    return torch.stack([found.pooled, found.weighted])


def _slug(row: Row) -> str:
    """A file name: the label's letters, and a digest that tells labels apart."""
    letters = "".join(c if c.isalnum() else "-" for c in row.label)
    return f"{letters}-{hashlib.sha256(row.label.encode()).hexdigest()[:6]}"
