"""A server on a tiny random Qwen2-VL, and pictures to upload."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from illava.demo.server import Server
from illava.zoo.model import build_model, export
from illava.zoo.text import build_processor


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("models") / "micro"
    processor = build_processor()
    export(build_model("micro", processor, seed=0), processor, target)
    return target


@pytest.fixture(scope="session")
def server(folder) -> Server:
    return Server([str(folder)])


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "picture.png"
    Image.radial_gradient("L").resize((96, 64)).convert("RGB").save(path)
    return path
