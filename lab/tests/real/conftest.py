"""Tiny parts, converted once for all tests."""

import pytest
from illava_lab.real import dinov2, smollm2

from .tiny_parts import PATCH, write_gguf, write_onnx


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """The folders of the tiny parts by name."""
    folder = tmp_path_factory.mktemp("parts")
    write_onnx(folder / "tiny.onnx", 2 * PATCH)
    write_gguf(folder / "tiny.gguf")
    dinov2.convert(folder / "tiny.onnx", folder / "dinov2")
    smollm2.convert(folder / "tiny.gguf", folder / "smollm2")
    return {name: folder / name for name in ("dinov2", "smollm2")}
