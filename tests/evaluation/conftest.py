"""The shipped model, and tasks of pictures that take no time to draw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from illava.ask import load
from illava.evaluation.rows import describe, merged_row
from illava.evaluation.run import run
from illava.evaluation.samples import Sample
from illava.evaluation.store import ANSWERS, Store
from illava.evaluation.summary import summarise
from illava.methods import Illava

COLOURS = ("red", "green", "blue", "yellow")
ROWS = tuple(merged_row(Illava(keep=keep), keep) for keep in (1.0, 1 / 3, 1 / 9))


def answers(store: Store) -> bytes:
    """What a run has written so far, to the byte."""
    return (store.folder / ANSWERS).read_bytes()


def summary(store: Store) -> str:
    """All figures of a run but times, to the byte."""
    return json.dumps(summarise(store.settings, store.lines))


class Squares:
    """Which colour a square has, in one of two pictures, in one picture or in a video; two questions each."""

    name, description = "squares", "the colour of a square"

    def __init__(self, name: str = "squares", length: int | None = None) -> None:
        self.name = name
        if length is not None:
            self.__class__ = type("Finite", (Squares,), {"__len__": lambda task: length})

    def __getitem__(self, number: int) -> Sample:
        colour, form = COLOURS[number // 2 % 4], number % 3
        first = square(colour, number // 2)
        pictures = {0: (first,), 1: (first, square("red", 0, 64)), 2: ()}[form]
        return Sample(
            task=self.name,
            number=number,
            question="What colour is the square?" if number % 2 else "Which digit is written?",
            answers=(colour,),
            pictures=pictures,
            video=(first, *(square(colour, n) for n in range(3))) if form == 2 else (),
            cluster=str(number // 2),
            kind=colour,
            small=number % 5 == 0,
        )


def square(colour: str, number: int, size: int = 80) -> Image.Image:
    picture = Image.new("RGB", (size, 80), "white")
    left = 7 * number % 40
    ImageDraw.Draw(picture).rectangle((left, 20, left + 20, 40), fill=colour)
    return picture


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def loaded():
    return load("zoo/S")


@pytest.fixture(scope="session")
def go(loaded):
    """Run, or go on with, an evaluation in a folder; returns its store."""

    def go(folder, tasks=None, rows=ROWS, limit=6, batch_size=4, **changed) -> Store:
        options = {"limit": limit, "batch_size": batch_size, "seed": 0, "split": "test", "max_new_tokens": 3}
        tasks = tasks or (Squares(),)
        settings = {**describe("zoo/S", loaded[0], tasks, rows, **options), **changed}
        with Store(folder, settings) as store:
            run(*loaded, tasks, rows, store, limit, batch_size, 3)
        return store

    return go


@pytest.fixture(scope="session")
def undisturbed(go, tmp_path_factory) -> Store:
    return go(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two pictures and a clip of eleven frames, to ask about."""
    place = tmp_path / "mine"
    (place / "clip").mkdir(parents=True)
    for name, size, colour in (("a.png", (40, 30), "red"), ("b.png", (20, 20), "blue")):
        Image.new("RGB", size, colour).save(place / name)
    for number in range(11):
        Image.new("RGB", (16, 12), (number, 0, 0)).save(place / "clip" / f"f{number}.png")
    return place
