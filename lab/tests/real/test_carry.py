"""What travels to a machine without a network: whole, in parts of a size, and nothing else."""

import json
import shutil

import pytest
import torch
from illava_lab.real import smollm2
from illava_lab.real.carry import MANIFEST, MANIFEST_BYTES, PIECE, pack, unpack
from illava_lab.real.data import nlvr
from illava_lab.real.data.sets import LOCAL_SETS, TRAINING_SETS
from safetensors.torch import load_file

from illava.errors import InputError

from .tiny_parts import MOST


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
