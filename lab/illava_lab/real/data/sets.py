"""The folder of picture sets: its place, its lines, and which pictures belong to which split."""

from __future__ import annotations

import hashlib
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from illava.errors import InputError

from ...drawing.streams import SPLITS
from .scene import Box

VARIABLE = "ILLAVA_DATA"
DEFAULT = Path(__file__).resolve().parents[4].parent / "shared" / "data"
"""``../shared/data`` beside the repository."""
TRAINING_SETS = ("cards", "clothing", "digits_sign", "grocery", "nlvr")
"""The sets whose licences allow that weights trained on them are passed on."""
LOCAL_SETS = ("daquar", "sroie")
"""The sets that serve evaluation on this machine only; no training stream reads them."""
HELD_OUT = 6  # of every 100 groups of training pictures
CARDS_RUN, HANDS_RUN = 10, 50  # numbers of pictures that belong together
_NUMBER = re.compile(r"\d+$")


class Line(NamedTuple):
    """One question of a set."""

    picture: Path
    question: str
    answers: tuple[str, ...]
    kind: str
    boxes: tuple[tuple[str, Box], ...]
    """(label, box) of what the question is about, in pixels of the stored picture."""
    all: bool
    """Whether all answers are asked for, not any of them."""


def data_folder(folder: str | Path | None = None) -> Path:
    """``folder``, or the environment variable ``ILLAVA_DATA``, or ``../shared/data`` beside the repository.

    Raises InputError if it does not exist.
    """
    found = Path(folder or os.environ.get(VARIABLE) or DEFAULT)
    if not found.is_dir():
        raise InputError(
            f"no picture sets in {found}: set {VARIABLE} to the folder that holds {', '.join(TRAINING_SETS)}"
        )
    return found


def lines(name: str, split: str, folder: str | Path | None = None) -> tuple[Line, ...]:
    """The questions of set ``name`` in ``split``, in the order of its files.

    "test" is the set's val.jsonl. "val" holds 6 % of the groups of pictures in its train.jsonl, chosen by a
    hash of the group's name, and "train" the rest. Raises InputError for a missing or malformed file,
    ValueError for an unknown split or for the training split of a set of ``LOCAL_SETS``.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
    if split == "train" and name in LOCAL_SETS:
        raise ValueError(f"{name} is for evaluation only; its splits are val and test")
    found = _read(data_folder(folder) / name, "val" if split == "test" else "train")
    if split == "test":
        return found
    return tuple(line for line in found if held_out(name, line.picture.stem) == (split == "val"))


def held_out(name: str, stem: str) -> bool:
    """Whether the training picture ``stem`` of set ``name`` belongs to the split "val"."""
    digest = hashlib.sha256(f"{name}/{group(name, stem)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < HELD_OUT


def group(name: str, stem: str) -> str:
    """The name of the pictures that must share a split with the picture ``stem``.

    Photographs "train_IMG_2467" of cards that were taken one after another can be nearly the same, so runs of
    10 numbers belong together, and so does the whole series "train_cam_image1" of one camera on one table.
    Hand signs "4_1193" are numbered by person, digit by digit, so the number minus the digit is that of the
    person; as some numbers within a person were left out, runs of 50 belong together. Pictures "dev-1572-0-2"
    of nlvr that share the first number show the same scenes.
    """
    try:
        if name == "cards":
            return "cam_image" if "_cam_" in stem else str(int(_NUMBER.findall(stem)[0]) // CARDS_RUN)
        if name == "digits_sign":
            digit, number = stem.split("_")
            return str((int(number) - int(digit)) // HANDS_RUN)
        if name == "nlvr":
            return stem.split("-")[1]
    except (ValueError, IndexError):
        raise InputError(
            f"{name}: unexpected name of a picture: {stem}; the sets' README shows them"
        ) from None
    return stem


@lru_cache(maxsize=32)
def _read(folder: Path, part: str) -> tuple[Line, ...]:
    path = folder / f"{part}.jsonl"
    try:
        texts = path.read_text("utf-8").splitlines()
    except OSError:
        raise InputError(f"no file {path}: set {VARIABLE} to the folder that holds {folder.name}") from None
    found = []
    for number, text in enumerate(texts, 1):
        try:
            found.append(_line(folder, json.loads(text)))
        except (ValueError, KeyError, TypeError, IndexError):
            raise InputError(
                f"{path}, line {number}: not a JSON object with pictures, question, answers and kind"
            ) from None
    return tuple(found)


def _line(folder: Path, line: dict[str, Any]) -> Line:
    boxes = tuple((box["label"], tuple(box["box"])) for box in line.get("boxes", ()))
    answers = tuple(str(answer) for answer in line["answers"])
    if not answers:
        raise ValueError("no answers")
    return Line(
        folder / line["pictures"][0], line["question"], answers, line["kind"], boxes, bool(line.get("all"))
    )
