"""What the benchmark needs of the machine beside a card: sizes without torchvision, and packages by name."""

from __future__ import annotations

import random

import pytest

from illava.models.picture_layouts import multiples_within

LIMITS = [(28, 3136, 28**2 * 1280), (28, 4 * 784, 16384 * 784), (32, 65536, 16777216), (8, 256, 4096)]
"""Factor, least and most pixels: those of Qwen2-VL and Qwen3-VL, and some that tiny pictures reach."""


@pytest.mark.parametrize(("unit", "least", "most"), LIMITS)
def test_sizes_are_those_of_transformers(unit: int, least: int, most: int) -> None:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    draw = random.Random(0)
    sizes = [(a, b) for a in range(1, 200, 3) for b in range(1, 200, 7)]
    sizes += [(draw.randint(1, 8000), draw.randint(1, 8000)) for _ in range(5000)]
    # Halves of a unit, and products at the limits.
    sizes += [(unit * a // 2, unit * b // 2) for a in range(1, 60) for b in range(1, 60)]
    sizes = [size for size in sizes if max(size) <= 200 * min(size)]
    cases = {"small": 0, "large": 0}
    for width, height in sizes:
        high, wide = smart_resize(height, width, factor=unit, min_pixels=least, max_pixels=most)
        assert multiples_within((width, height), unit, least, most) == (wide, high), (width, height)
        cases["small"] += wide > width + unit or high > height + unit
        cases["large"] += wide < width - unit or high < height - unit
    assert len(sizes) > 8000
    assert cases["small"] or cases["large"]
