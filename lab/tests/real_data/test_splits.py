"""Which pictures, words and fonts a split may show, and what is refused."""

import itertools
import json

import numpy as np
import pytest
from illava_lab.drawing.lettering import FONTS, TRAINING_FAMILIES
from illava_lab.real import data
from illava_lab.real.data import rendering, sets, tasks, vocabulary
from PIL import Image

from illava.errors import InputError

SPLITS = ("train", "val", "test")


@pytest.mark.parametrize("name", sets.TRAINING_SETS)
def test_splits_share_no_picture_and_no_group(folder, name):
    by_split = {split: {line.picture for line in sets.lines(name, split, folder)} for split in SPLITS}
    assert all(by_split.values())
    for one, other in itertools.combinations(SPLITS, 2):
        assert not by_split[one] & by_split[other]
    rows = [json.loads(text) for text in (folder / name / "train.jsonl").read_text().splitlines()]
    listed = {folder / name / row["pictures"][0] for row in rows}
    assert by_split["train"] | by_split["val"] == listed
    groups = {split: {sets.group(name, path.stem) for path in by_split[split]} for split in ("train", "val")}
    assert not groups["train"] & groups["val"]


def test_pictures_that_belong_together_are_held_out_together():
    people = [{sets.held_out("digits_sign", f"{d}_{10 * i + d}") for d in range(10)} for i in range(200)]
    scenes = [
        {sets.held_out("nlvr", f"dev-{i}-{j}-{k}") for j in range(4) for k in range(6)} for i in range(200)
    ]
    for groups in (people, scenes):
        assert all(len(group) == 1 for group in groups)
        assert {True} in groups
    # The same table twice; and one person, whose numbers go on after others were left out.
    for name, *stems in (
        ("cards", "train_cam_image1", "train_cam_image54"),
        ("cards", *(f"train_IMG_{number}" for number in range(2464, 2470))),
        ("cards", *(f"train_IMG_{number}" for number in range(2471, 2475))),
        ("digits_sign", "0_5028", "1_5029", "2_5033", "9_5040"),
        ("digits_sign", "5_4039", "6_4045", "0_4040", "4_4044"),
        ("digits_sign", "2_4695", "0_4694", "1_4696"),
        ("digits_sign", "0_5938", "3_5941", "4_5944", "9_5949"),
    ):
        assert len({sets.group(name, stem) for stem in stems}) == 1, stems
    blocks = {sets.held_out("cards", f"train_IMG_{number}") for number in range(2385, 2705)}
    assert blocks == {True, False}
    share = np.mean([sets.held_out("clothing", f"picture-{i}") for i in range(5000)])
    assert 0.05 < share < 0.07


@pytest.mark.parametrize("name", data.STREAMS)
@pytest.mark.parametrize("split", SPLITS)
def test_a_stream_loads_pictures_of_its_split_only(folder, seen, name, split):
    scene = data.stream(name, split, 0, folder)
    for number in range(60):
        scene(number)
    allowed = {line.picture for some in sets.TRAINING_SETS for line in sets.lines(some, split, folder)}
    assert seen
    assert seen <= allowed


def test_no_stream_reaches_the_sets_for_evaluation(folder, tmp_path):
    for name in sets.TRAINING_SETS:
        (tmp_path / name).symlink_to(folder / name)
    for name in data.STREAMS:
        assert data.stream(name, "train", 0, tmp_path)(0).turns is not None
    for name in sets.LOCAL_SETS:
        with pytest.raises(ValueError, match="evaluation only; its splits are val and test"):
            sets.lines(name, "train", folder)
        with pytest.raises(ValueError, match="evaluation only"):
            tasks.load(f"real-{name}", "train", folder=folder)
        assert sets.lines(name, "val", folder)
        assert sets.lines(name, "test", folder)


def test_fonts_of_splits_share_no_family(folder):
    rng = np.random.default_rng(0)
    drawn = {split: {rendering.font(rng, split) for _ in range(400)} for split in SPLITS}
    assert drawn["train"] == {face for family in TRAINING_FAMILIES for face in family}
    assert drawn["val"] == set(FONTS["val"])
    assert drawn["test"] == set(FONTS["test"])
    assert not drawn["train"] & (drawn["val"] | drawn["test"])


def test_words_and_names_of_splits():
    assert not set(vocabulary.WORDS) & set(vocabulary.NEW_WORDS)
    rng = np.random.default_rng(0)
    for split in SPLITS:
        words = [vocabulary.word(rng, split) for _ in range(1000)]
        assert all(new == (word in vocabulary.NEW_WORDS) for word, new in words)
        share = np.mean([new for _, new in words])
        assert 0.45 < share < 0.55 if split == "test" else share == 0
    for make in (vocabulary.shop, vocabulary.person):
        names = {split: {make(rng, split) for _ in range(600)} for split in SPLITS}
        for one, other in itertools.combinations(SPLITS, 2):
            assert not names[one] & names[other]


@pytest.mark.parametrize("name", data.STREAMS)
def test_a_scene_depends_on_its_number_only(folder, name):
    def key(scene):
        return scene.picture.tobytes(), scene.turns

    first, again = (data.stream(name, "train", 3, folder) for _ in range(2))
    backwards = [key(again(number)) for number in (5, 4, 3)][::-1]
    assert [key(first(number)) for number in (3, 4, 5)] == backwards
    assert key(first(3)) != key(first(4))
    assert key(first(3)) != key(data.stream(name, "train", 4, folder)(3))


def test_scenes_have_the_fields_that_training_reads(folder):
    assert sum(data.MIXTURE.values()) == pytest.approx(1)
    assert set(data.MIXTURE) == set(data.STREAMS)
    assert len({entry.number for entry in data.STREAMS.values()}) == len(data.STREAMS)
    for name in data.STREAMS:
        scene = data.stream(name, "train", 0, folder)
        for some in (scene(number) for number in range(30)):
            assert some.picture.mode == "RGB"
            assert min(some.picture.size) > 0
            assert all(turn.question and turn.answer and turn.kind for turn in some.turns)


def test_a_third_of_the_default_turns_is_small(folder):
    rng, streams = (
        np.random.default_rng(0),
        {name: data.stream(name, "train", 0, folder) for name in data.STREAMS},
    )
    turns = []
    for number in range(600):
        turns += streams[str(rng.choice(list(data.MIXTURE), p=list(data.MIXTURE.values())))](number).turns
    assert np.mean([turn.small for turn in turns]) > 1 / 3


def test_what_is_refused_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ILLAVA_DATA", str(tmp_path / "nowhere"))
    for call in (lambda: data.stream("photo", "train", 0), lambda: tasks.load("real-clothing")):
        with pytest.raises(InputError, match=r"no picture sets in .*nowhere: set ILLAVA_DATA to") as error:
            call()
        assert "\n" not in str(error.value)
    monkeypatch.setenv("ILLAVA_DATA", str(folder))
    assert data.stream("photo", "train", 0)(0).turns
    for arguments, message in (
        (("photos", "train", 0), "unknown stream 'photos'; the streams are photo,"),
        (("photo", "dev", 0), "unknown split 'dev'; the splits are train, val, test"),
        (("photo", "train", -1), "seed must be 0 or more, not -1"),
    ):
        with pytest.raises(ValueError, match=message):
            data.stream(*arguments)
    with pytest.raises(IndexError, match="there is no -1"):
        data.stream("photo", "train", 0)(-1)


def test_broken_sets_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no file .*train.jsonl: set ILLAVA_DATA"):
        sets.lines("clothing", "train", tmp_path)
    (tmp_path / "clothing").mkdir()
    (tmp_path / "clothing" / "train.jsonl").write_text(
        '{"pictures": ["a.png"], "question": "?", "kind": "x"}\n'
    )
    with pytest.raises(InputError, match=r"train.jsonl, line 1: not a JSON object with pictures"):
        sets.lines("clothing", "train", tmp_path)
    (tmp_path / "digits_sign").mkdir()
    row = {"pictures": ["hand.png"], "question": "?", "answers": ["1"], "kind": "digit"}
    (tmp_path / "digits_sign" / "train.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match="digits_sign: unexpected name of a picture: hand"):
        sets.lines("digits_sign", "train", tmp_path)
    with pytest.raises(InputError, match="cards: unexpected name of a picture: table"):
        sets.held_out("cards", "table")


def test_a_broken_picture_is_named(folder, tmp_path):
    from illava_lab.real.data import photographs

    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"bad.png: not a readable picture"):
        photographs.load(bad)
    Image.new("RGB", (300, 200)).save(tmp_path / "good.jpg")
    assert photographs.load(tmp_path / "good.jpg", 144).size == (144, 96)
