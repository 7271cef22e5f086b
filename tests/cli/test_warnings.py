"""Warnings of the libraries below: one line each on stderr, each text once, none on stdout."""

from __future__ import annotations

import json
import logging
import warnings

import pytest
from safetensors.torch import load_file, save_file
from torch import zeros

from illava.cli.console import hush, one_line_errors
from illava.io.warning_lines import HARMLESS

from .conftest import call, invoke

SMALL = ("--max-new-tokens", "2")
# Said while the answer is made, as transformers 5.24 says that an argument was renamed.
NOISE = """
import logging, warnings, illava.bench.timing as timing
real = timing.measure
def measure(*args, **options):
    for _ in range(3):
        warnings.warn("`past_key_values` is deprecated,\\nuse `cache`", FutureWarning)
        logging.getLogger("transformers.models.qwen2_vl.modeling_qwen2_vl").warning("seen by\\n the logger")
        logging.getLogger("huggingface_hub.file_download").warning("of the hub")
        logging.getLogger("accelerate.big_modeling").warning("of accelerate")
        logging.getLogger("transformers.generation").info("chatter")
        # What Python itself leaves out of everything but a script's own lines.
        warnings.warn_explicit("old", DeprecationWarning, "functional.py", 7, module="torch.functional")
    return real(*args, **options)
timing.measure = measure
import illava.ask
illava.ask.measure = measure
"""
SEEN = [
    "illava: warning: `past_key_values` is deprecated, use `cache`",
    "illava: warning: seen by the logger",
    "illava: warning: of the hub",
    "illava: warning: of accelerate",
]


def test_each_text_once_on_stderr_as_a_process(folder, picture):
    result = call("ask", picture, "What?", "--model", folder, "--json", *SMALL, before=NOISE)
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines() == SEEN
    assert isinstance(json.loads(result.stdout)["answer"], str)


def test_the_filters_are_the_user_s(folder, picture, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "ignore::FutureWarning")
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    result = call("ask", picture, "What?", "--model", folder, *SMALL, before=NOISE)
    assert result.stderr.splitlines() == SEEN[2:]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("info", "{folder}"), marks=pytest.mark.slow, id="info"),
        ("ask", "demo/word.png", "What?", "--model", "{folder}", "--keep", "1/3", *SMALL),
        pytest.param(
            ("look", "demo/word.png", "--model", "{folder}", "--output", "{out}", *SMALL),
            marks=pytest.mark.slow,
            id="look",
        ),
        pytest.param(
            ("plan", "{folder}", "--keep", "1/3", "--size", "96"), marks=pytest.mark.slow, id="plan"
        ),
    ],
    ids=lambda words: words[0],
)
def test_usual_runs_say_nothing(folder, tmp_path, words):
    words = [word.format(folder=folder, out=tmp_path / "out") for word in words]
    result = call(*words)
    assert (result.returncode, result.stderr) == (0, "")


def test_within_a_command_and_not_after(capsys):
    root, before = logging.getLogger(), warnings.showwarning
    handlers = root.handlers[:], logging.getLogger("transformers").handlers[:]
    with one_line_errors():
        hush()
        warnings.warn("one\ntwo\x1b[31m", UserWarning, stacklevel=1)
        logging.getLogger("transformers.x").error("bad")
    assert capsys.readouterr() == ("", "illava: warning: one two\nillava: error: bad\n")
    assert warnings.showwarning is before
    assert (root.handlers, logging.getLogger("transformers").handlers) == handlers


def test_weights_without_a_place_are_one_line_of_our_own(copy, picture):
    weights = load_file(copy / "model.safetensors")
    save_file({**weights, "extra.weight": zeros(2)}, copy / "model.safetensors", metadata={"format": "pt"})
    result = call("ask", picture, "What?", "--model", copy, *SMALL)
    assert result.returncode == 0
    line = f"model {copy}: 1 of its weights do not belong to the model, for example extra.weight"
    assert result.stderr.splitlines() == [f"illava: warning: {line}"]


def test_what_is_left_out_is_the_load_report_alone(capsys):
    assert list(HARMLESS) == ["transformers.modeling_utils"]
    logger = logging.getLogger("transformers.modeling_utils")
    with one_line_errors():
        hush()
        logger.warning("\x1b[1mQwen2VLModel LOAD REPORT\x1b[0m from: here\nKey | Status")
        logger.warning("Some weights were not used. See the LOAD REPORT")
    assert capsys.readouterr().err == ("illava: warning: Some weights were not used. See the LOAD REPORT\n")


def test_pillow_is_heard_too(folder, tmp_path):
    from PIL import Image

    path = tmp_path / "exif.jpg"
    Image.new("RGB", (64, 64)).save(path, exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x05\x00")
    result = invoke("ask", path, "What?", "--model", folder, *SMALL)
    assert result.exit_code == 0
    assert result.stderr.startswith("illava: warning: Corrupt EXIF data")
    assert result.stderr.count("\n") == 1
