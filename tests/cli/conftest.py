"""A tiny random Qwen2-VL in a folder, demo pictures, and two ways to run the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from illava_lab.zoo.model import build_model, export
from illava_lab.zoo.text import build_processor
from PIL import Image
from typer.testing import CliRunner, Result

from illava.ask import load
from illava.cli.app import app

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A model of two encoder blocks and two LLM layers with random weights."""
    target = tmp_path_factory.mktemp("models") / "micro"
    processor = build_processor()
    export(build_model("micro", processor, seed=0), processor, target)
    return target


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """A copy of the model that a test may break."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture(scope="session")
def loaded(folder):
    model, processor = load(str(folder))
    # No end token: answers are as long as they may be.
    model.generation_config.eos_token_id = None
    return model, processor


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "picture.png"
    Image.radial_gradient("L").resize((96, 64)).convert("RGB").save(path)
    return path


def invoke(*words: object) -> Result:
    """Run ``illava WORDS`` in this process."""
    return CliRunner().invoke(app, [str(word) for word in words])


def call(*words: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``illava WORDS`` in a process of its own, after the Python code ``before``; slow with torch."""
    code = f"import sys; sys.argv[0] = 'illava'\n{before}\nfrom illava.cli import main; main()"
    paths = [str(SRC), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


def assert_error(result: Result | subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit code 2, nothing on stdout, and one line on stderr that holds all ``parts``."""
    code = result.exit_code if isinstance(result, Result) else result.returncode
    if isinstance(result, Result) and result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("illava: ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith("\n")
    for part in parts:
        assert part in result.stderr
