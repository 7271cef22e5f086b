"""Whole merged models with kernels, against the same models with PyTorch operations."""

from __future__ import annotations

import pytest
import torch

import illava
from tests.battery.test_battery import inputs_of
from tests.kernels.device import DEVICE
from tests.test_exact import logits_of_steps
from tests.tiny import tiny_model

# Grouped heads, windows, tiles, class tokens, soft-capped logits, masks of pictures.
NAMES = ("qwen2_vl", "qwen2_5_vl", "llava_onevision", "internvl", "paligemma-2", "gemma3")
METHODS = {
    "keep=1/3": illava.Illava.best(1 / 3),
    "published": illava.Illava(keep=1 / 3),
    "exact, diverse, recycled": illava.Illava(keep=0.5, where="middle", select="diverse"),
    "tome": illava.ToMe(keep=1 / 3),
}


@pytest.mark.parametrize(
    ("name", "method", "rows"),
    [
        *((name, "keep=1/3", "single") for name in NAMES),
        ("qwen2_vl", "keep=1/3", "batch"),
        ("paligemma-2", "keep=1/3", "batch"),
        ("qwen2_vl", "published", "batch"),
        ("llava", "exact, diverse, recycled", "single"),
        ("llava", "tome", "single"),
    ],
)
def test_kernels_change_nothing(name, method, rows, monkeypatch):
    model = tiny_model(name).to(DEVICE)
    inputs = {key: t.to(DEVICE) for key, t in inputs_of(model, "one", rows).items()}
    with illava.accelerate(model, METHODS[method]) as handle:
        found, _ = logits_of_steps(model, inputs, steps=2)
        kept = handle.report.to_dict()["steps"]
        monkeypatch.setenv("ILLAVA_KERNELS", "torch")
        expected, _ = logits_of_steps(model, inputs, steps=2)
    assert kept == handle.report.to_dict()["steps"]
    torch.testing.assert_close(found, expected, atol=1e-4 if DEVICE == "cpu" else 1e-3, rtol=0)


def test_a_trace_describes_what_kernels_merged(monkeypatch):
    model = tiny_model("qwen2_vl").to(DEVICE)
    inputs = {key: t.to(DEVICE) for key, t in inputs_of(model, "one", "single").items()}
    with illava.accelerate(model, METHODS["keep=1/3"], trace=True) as handle, torch.no_grad():
        model(**inputs)
        found = handle.report.traces
        monkeypatch.setenv("ILLAVA_KERNELS", "torch")
        model(**inputs)
        expected = handle.report.traces
    assert len(found) == len(expected) == 4
    for trace, other in zip(found, expected, strict=True):
        assert_same(trace.to_dict(), other.to_dict())


def assert_same(found, expected):
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        found, expected = [*found.values()], [*expected.values()]
    if isinstance(found, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-5) if isinstance(found, float) else expected)
