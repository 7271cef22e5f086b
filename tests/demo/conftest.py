"""A server on the command line's tiny random Qwen2-VL, and pictures to upload."""

from __future__ import annotations

import pytest

from illava.demo.server import Server
from tests.cli.conftest import folder, picture

__all__ = ["folder", "picture", "server"]


@pytest.fixture(scope="session")
def server(folder) -> Server:
    return Server([str(folder)])
