"""Kernels on for every test of this folder."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def use_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton has no wheel for this platform")
    monkeypatch.setenv("ILLAVA_KERNELS", "triton")
