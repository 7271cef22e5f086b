"""Tiny shapes under names of their own, and the command line's model folder."""

from __future__ import annotations

import pytest

from illava.bench import published
from tests.cli.conftest import folder, one_thread
from tests.tiny import config

__all__ = ["FAMILIES", "folder", "one_thread", "tiny_shapes"]

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl")


@pytest.fixture
def tiny_shapes(monkeypatch) -> None:
    """Shapes of a few thousand weights, one a family, named "tiny-" and the family."""
    for family in FAMILIES:
        stated = config(family).to_dict()
        shape = published.Shape(f"nobody/tiny-{family}", stated)
        monkeypatch.setitem(published.SHAPES, f"tiny-{family}", shape)
