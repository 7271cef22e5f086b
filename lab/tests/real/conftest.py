"""Tiny parts, converted once for all tests, and what travels of them and of picture sets."""

import json

import pytest
from illava_lab.real import dinov2, smollm2
from illava_lab.real.carry import pack
from illava_lab.real.data.sets import LOCAL_SETS, TRAINING_SETS

from .tiny_parts import MOST, PATCH, STEMS, write_gguf, write_onnx


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
