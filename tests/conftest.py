"""What all tests share: where kernels run, which models there are, and which variants are tested seldom."""

from __future__ import annotations

import os

import pytest
import torch

# No zoo/R that the user has made: it would change what there is by name.
os.environ["ILLAVA_CACHE"] = os.path.join(os.path.dirname(__file__), "no-such-cache")

if not torch.cuda.is_available():
    # Read when Triton is imported, which PyTorch may do at any time.
    os.environ.setdefault("TRITON_INTERPRET", "1")

SLOW_VARIANTS = frozenset(
    {
        "llava-dinov2-full",
        "vipllava-dinov2-registers",
        "llava_next-dinov2",
        "llava_next_video-dinov2",
        "llava_onevision-dinov2",
    }
)
"""Tiny models that join an encoder and a family which other variants test apart: all their tests are slow."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of a slow variant."""
    for item in items:
        values = getattr(getattr(item, "callspec", None), "params", {}).values()
        if any(isinstance(value, str) and value in SLOW_VARIANTS for value in values):
            item.add_marker(pytest.mark.slow)
