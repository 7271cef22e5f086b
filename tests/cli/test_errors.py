"""Everything a user can get wrong: exit code 2, one line on stderr that says what and what would be right."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from .conftest import assert_error, call, invoke

QUESTION = "What is it?"


# -- pictures --------------------------------------------------------------------------------------


def test_missing(tmp_path):
    assert_error(invoke("ask", tmp_path / "no.png", QUESTION), "no.png: no such file")


def test_missing_as_a_process(tmp_path):
    assert_error(call("ask", tmp_path / "no.png", QUESTION), "no.png: no such file")


def test_folder(tmp_path):
    assert_error(invoke("ask", tmp_path, QUESTION), "this is a folder")


def test_empty(tmp_path):
    (tmp_path / "e.png").touch()
    assert_error(invoke("ask", tmp_path / "e.png", QUESTION), "e.png: the file is empty")


def test_no_permission(picture, monkeypatch):
    # The superuser may read everything, so the refusal is made up.
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert_error(invoke("ask", picture, QUESTION), "picture.png: the file cannot be read: Permission denied")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_no_permission_for_real(picture):
    picture.chmod(0)
    assert_error(invoke("ask", picture, QUESTION), "Permission denied")


def test_truncated(picture):
    content = picture.read_bytes()
    picture.write_bytes(content[: len(content) // 2])
    assert_error(invoke("ask", picture, QUESTION), "picture.png: the picture is broken or truncated")


@pytest.mark.parametrize(
    "content", [b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\0" * 99]
)
def test_not_a_picture(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    assert_error(invoke("ask", tmp_path / "x.png", QUESTION), "x.png: this is not a picture")


def test_one_bad_picture_among_good_ones(picture, tmp_path):
    assert_error(invoke("ask", picture, tmp_path / "no.png", picture, QUESTION), "no.png")


@pytest.mark.parametrize("limit", [96 * 64 - 1, 1000])
def test_bomb(picture, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert_error(invoke("ask", picture, QUESTION), f"more than {limit} pixels", "smaller")


def test_odd_names_stay_on_one_line():
    assert_error(invoke("ask", "two\nlines\x1b[31m.png", QUESTION), "two lines?[31m.png")


def test_shape_the_processor_refuses(folder, tmp_path):
    Image.new("RGB", (3000, 2)).save(tmp_path / "thin.png")
    assert_error(invoke("ask", tmp_path / "thin.png", QUESTION, "--model", folder), "aspect ratio")


def test_picture_in_place_of_the_question(picture):
    assert_error(invoke("ask", picture, picture), "the last argument must be the question")


def test_empty_question(picture, folder):
    assert_error(invoke("ask", picture, " ", "--model", folder), "a question")


# -- models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["ask", "demo/word.png", QUESTION, "--model"], ["info"]], ids=["ask", "info"]
)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "no such folder"),
        ("/no/where", "no such folder"),
        ("~nobody-of-that-name/m", "no such folder"),
        ("a/b/c", "no such folder"),
        ("x" * 5000, "its config cannot be read"),
        ("", "no such folder"),
        ("zoo/nothing", "the zoo; it holds"),
        (__file__, "this is a file"),
    ],
)
def test_unknown_model(command, name, message):
    assert_error(invoke(*command, name), message)


def test_folder_without_a_model(tmp_path):
    assert_error(
        invoke("ask", "demo/word.png", QUESTION, "--model", tmp_path), "the folder has no config.json"
    )


@pytest.mark.parametrize(
    "command", [["ask", "demo/word.png", QUESTION, "--model"], ["info"]], ids=["ask", "info"]
)
def test_hub_out_of_reach(command, monkeypatch):
    # Asking the hub in vain takes half a minute.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = invoke(*command, "some-company/some-model")
    assert_error(result, "some-company/some-model", "give a folder, a hub id or one of zoo/L, zoo/S")


@pytest.mark.parametrize(
    "config",
    [
        "{oops",
        "[]",
        "{}",
        '{"model_type": "nothing"}',
        '{"model_type": "x", "auto_map": {"AutoConfig": "x.Y"}}',
    ],
)
def test_broken_config(copy, config):
    (copy / "config.json").write_text(config)
    assert_error(invoke("ask", "demo/word.png", QUESTION, "--model", copy), "its config cannot be read")
    assert_error(invoke("info", copy), "its config cannot be read")


@pytest.mark.parametrize("size", [0, 5, 4000, 20_000])
def test_broken_weights(copy, size):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    assert_error(invoke("ask", "demo/word.png", QUESTION, "--model", copy), "its weights cannot be loaded")


def test_no_weights(copy):
    (copy / "model.safetensors").unlink()
    assert_error(invoke("ask", "demo/word.png", QUESTION, "--model", copy), "its weights cannot be loaded")


@pytest.mark.parametrize("cut", [False, True], ids=["missing", "misshapen"])
def test_weights_that_do_not_fit(copy, cut):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    name = next(name for name in sorted(weights) if name.endswith("gate_proj.weight"))
    kept = weights.pop(name)
    if cut:
        weights[name] = kept[:3].clone()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    # Once as a process: transformers' report on the weights must not show up.
    result = (invoke if cut else call)("ask", "demo/word.png", QUESTION, "--model", copy)
    assert_error(result, "1 are missing or of another shape", "gate_proj")


@pytest.mark.parametrize(
    "files", [["processor_config.json"], ["tokenizer.json"], ["tokenizer.json", "tokenizer_config.json"]]
)
def test_missing_processor_files(copy, files):
    for name in files:
        (copy / name).unlink()
    assert_error(invoke("ask", "demo/word.png", QUESTION, "--model", copy), "its processor")


def test_missing_chat_template(copy):
    (copy / "chat_template.jinja").unlink()
    assert_error(invoke("ask", "demo/word.png", QUESTION, "--model", copy), "chat template")


@pytest.mark.parametrize(("family", "reason"), [("mllama", "cross-attention"), ("gpt2", "supported are")])
def test_unsupported_family(copy, family, reason):
    (copy / "config.json").write_text(json.dumps({"model_type": family}))
    assert_error(invoke("ask", "demo/word.png", QUESTION, "--model", copy), family, reason, "qwen2_vl")


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keep", ["0", "-0.5", "1.01", "nan", "inf", "half", "", "1/0", "2/1", "0.5.5", "1e-999"]
)
def test_bad_keep(keep):
    assert_error(invoke("ask", "demo/word.png", QUESTION, f"--keep={keep}"), "--keep", "0.33 or 1/9")


def test_bad_method():
    assert_error(invoke("ask", "demo/word.png", QUESTION, "--method", "magic"), "--method magic", "illava")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "cpu:x", ""])
def test_bad_device(device):
    assert_error(
        invoke("ask", "demo/word.png", QUESTION, f"--device={device}"), "device", "this machine has cpu"
    )


@pytest.mark.parametrize("dtype", ["int8", "float", "fp16", ""])
def test_bad_dtype(dtype):
    result = invoke("ask", "demo/word.png", QUESTION, f"--dtype={dtype}")
    assert_error(result, "dtype", "auto, float32, bfloat16, float16")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/folder/o.png", "there is no folder"),
        ("picture.png/o.png", "there is no folder"),
        ("o.jpg", "must end in .png"),
        ("", "must end in .png"),
        ("folder.png", "this is a folder"),
    ],
)
def test_overlay_path_is_checked_first(picture, monkeypatch, name, message):
    monkeypatch.setattr("illava.ask.load", lambda *_: pytest.fail("the model was loaded"))
    (picture.parent / "folder.png").mkdir()
    overlay = picture.parent / name
    assert_error(invoke("ask", picture, QUESTION, "--save-overlay", overlay), message)


def test_overlay_without_permission(picture, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("illava.ask.load", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    result = invoke("ask", picture, QUESTION, "--save-overlay", picture.parent / "o.png")
    assert_error(result, "no permission to write")


def test_full_disk(folder, picture, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    result = invoke(
        "ask", picture, QUESTION, "--model", folder, "--max-new-tokens", "1",
        "--save-overlay", picture.parent / "o.png",
    )  # fmt: skip
    assert_error(result, "No space left")
    assert not list(picture.parent.glob(".o.png*"))


def test_out_of_memory(folder, monkeypatch):
    from torch import OutOfMemoryError

    def fail(*_, **__):
        raise OutOfMemoryError("CUDA out of memory.\nTried to allocate 80 GiB")

    monkeypatch.setattr("illava.ask.ask", fail)
    assert_error(invoke("ask", "demo/word.png", QUESTION, "--model", folder), "out of memory")


@pytest.mark.parametrize(
    "words", [["ask"], ["ask", "demo/word.png"], ["ask", "--rounds", "0", "a", "b"], ["nonsense"]]
)
def test_usage_errors(words):
    result = invoke(*words)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


# -- interruption ----------------------------------------------------------------------------------


def test_ctrl_c_is_quiet():
    # A real signal, at the moment the picture would be opened.
    before = (
        "import os, signal, time, illava.io.pictures\n"
        # Under nohup or in a shell's background it would be ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "interrupt = lambda *_: (os.kill(os.getpid(), signal.SIGINT), time.sleep(20))\n"
        "illava.io.pictures.open_picture = interrupt"
    )
    result = call("ask", "demo/word.png", QUESTION, before=before)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")
