"""A small trained model, with a fresh handle for every test."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from illava_lab.tasks import load as load_task

import illava
from illava.ask import load


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy() -> tuple[Any, Any]:
    """The model, whose answers are words, and its processor."""
    return load("zoo/S", "cpu")


@pytest.fixture(scope="session")
def samples() -> list[Any]:
    """Questions with one picture, one of which is answered by a word of four letters."""
    return [load_task("attribute")[0], load_task("words")[0], load_task("existence")[0]]


@pytest.fixture
def merged(toy):
    """A handle of the model at 1/9 of the visual tokens."""
    with illava.accelerate(toy[0], keep=1 / 9) as handle:
        yield handle
