"""What the benchmark needs of the machine beside a card: sizes without torchvision, and packages by name."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest
from illava_lab.benchmarks.gpu import command, requirements

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


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without torchvision."""
    found: Any = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "torchvision" else found(name, *more)
    )


def test_all_is_there() -> None:
    assert requirements.missing(["suite", "times"]) is None


def test_a_missing_package_is_named_with_what_runs_without_it(bare: None) -> None:
    assert requirements.missing(["batches", "decoding"]) is None
    assert requirements.missing(["suite", "times"]) == "torchvision is not installed (needed by suite, times)"
    assert requirements.missing(["times", "batches"]) == (
        "torchvision is not installed (needed by times); without: --parts batches"
    )


@pytest.mark.parametrize("minutes", ["-2", "nan", "inf", "1e9"])
def test_a_wrong_time_is_one_line(minutes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = command.main(["--rehearsal", "--output", str(tmp_path / "none"), f"--minutes={minutes}"])
    assert code == command.USAGE
    written = capsys.readouterr()
    assert written.out.count("\n") == 1
    assert "--minutes" in written.out
    assert not written.err
    assert not (tmp_path / "none").exists()


def test_a_missing_package_ends_the_command(
    bare: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--rehearsal", "--output", str(tmp_path / "none")]) == command.USAGE
    written = capsys.readouterr().out
    assert written.startswith("torchvision is not installed")
    assert written.count("\n") == 1
    assert not (tmp_path / "none").exists()
