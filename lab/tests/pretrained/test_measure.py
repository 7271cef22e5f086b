"""The chain from pictures to answers: files, going on after a stop, readings against plain loops."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from illava_lab.benchmarks.pretrained import photographs, readings
from illava_lab.benchmarks.pretrained.measure import Measurement
from illava_lab.benchmarks.pretrained.rows import CANDIDATE, deep, plain, standard
from illava_lab.benchmarks.pretrained.settings import Amounts

from illava.io.pictures import InputError

AMOUNTS = Amounts(
    sets=("clothing",),
    keeps=("1/3", "1/9"),
    references=30,
    photographs=9,
    alike_sets=("clothing",),
    alike=18,
    teaching_boards=6,
    boards=2,
    blocks=(6,),
    rounds=2,
)
NAMES = ("illava", CANDIDATE, "visionzip", "downsample")


@pytest.fixture(scope="module")
def measurement(runner, data, tmp_path_factory):
    rows = [row for row in standard() if row.name in NAMES and row.keep in ("1/2", "1/9")]
    made = Measurement(
        runner, data, tmp_path_factory.mktemp("runs") / "84", 84, AMOUNTS, rows, deep((6,), 12)[:2]
    )
    made.claim({"side": 84})
    made.encode()
    made.time()
    return made


@pytest.fixture(scope="module")
def found(measurement):
    return readings.read(measurement)


def test_each_row_is_read_in_its_ways(measurement, found):
    answers = found["answers"]
    assert set(answers) == {"plain", *(row.label for row in (*measurement.standard, *measurement.deep))}
    assert all(len(row["boards"][""]) == 72 for row in answers.values())
    whole = {"boards", "boards, as plain", "linear", "knn", "linear, few", "knn, few"}
    assert set(answers["plain"]) == whole
    assert set(answers["visionzip 1/9"]) == whole | {"linear, alike", "knn, alike"}
    assert {"linear, weighted", "knn, weighted"} < set(answers[f"{CANDIDATE} 1/9"])
    # 1/2 is not among the budgets of whole photographs, and depths are measured on boards.
    assert set(answers["visionzip 1/2"]) == set(answers[measurement.deep[0].label])
    assert set(answers["visionzip 1/2"]) == {"boards", "boards, as plain"}
    assert set(answers["plain"]["boards, as plain"][""]) == {"1"}
    assert all(len(bits) == 9 for bits in answers["visionzip 1/9"]["knn"].values())


def test_colours_are_read(found):
    # Three classes a set.
    assert found["guess"] == pytest.approx(1 / 3)
    plain_boards = found["answers"]["plain"]["boards"][""]
    assert plain_boards.count("1") > 60
    assert found["answers"]["plain"]["linear"]["clothing"].count("1") == 9


def test_every_block_is_read(measurement, runner):
    counts = {"train": 12, "val": 9}
    measurement.encode_layers("clothing", counts)
    known = measurement.features("layers-clothing-val", plain())
    assert known.shape == (9, 12, 24)
    answers = readings.read_layers(measurement, "clothing", counts)
    assert {reading: [len(bits) for bits in blocks] for reading, blocks in answers.items()} == {
        "knn": [9] * 12,
        "linear": [9] * 12,
    }
    assert answers["linear"][0].count("1") == 9
    shown = photographs.square(photographs.photographs(measurement.data, "clothing", "val")[4], 84)
    with torch.no_grad():
        states = runner.model.model.vision_tower(photographs.pixels(shown), output_hidden_states=True)
    expected = states.hidden_states[4][0, 1:].mean(0)
    assert np.allclose(known[4, 3], expected.numpy(), atol=1e-5)


def test_it_goes_on_where_it_was_stopped(measurement):
    files = sorted(measurement.folder.glob("boards/*.npy"))
    before = {file: file.read_bytes() for file in files}
    changed = {file: file.stat().st_mtime_ns for file in files[1:]}
    files[0].unlink()
    measurement.encode()
    assert files[0].read_bytes() == before[files[0]]
    assert {file: file.stat().st_mtime_ns for file in files[1:]} == changed
    seconds = measurement.seconds()
    measurement.time()
    assert measurement.seconds() == seconds
    assert len(seconds) == 2
    for turn in seconds:
        assert set(turn) == {row.label for row in (*measurement.standard, *measurement.deep)}
        assert all(row > 0 and around > 0 for row, around in turn.values())


def test_other_settings_and_missing_features_are_refused(measurement, tmp_path):
    with pytest.raises(InputError, match="other settings; move it away"):
        measurement.claim({"side": 85})
    with pytest.raises(InputError, match="boards of plain is missing"):
        replace(measurement, folder=tmp_path).features("boards", plain())
    assert json.loads((measurement.folder / "settings.json").read_text()) == {"side": 84}


def test_labels_are_those_of_the_pictures_in_order(measurement, found):
    """A probe of one's own on the written features gives the same answers."""
    boards = measurement.board_photographs("val")
    labels = [photo.label for board in boards for photo in board]
    known = measurement.features("teaching", plain()).reshape(-1, 24)
    taught = [photo.label for board in measurement.board_photographs("train") for photo in board]
    asked = measurement.features("boards", measurement.deep[0]).reshape(-1, 24)
    said = readings.Probe(known, taught, found["strengths"]["boards"])(asked)
    expected = "".join("1" if a == b else "0" for a, b in zip(said, labels, strict=True))
    assert found["answers"][measurement.deep[0].label]["boards"][""] == expected


def test_nearest_neighbours_vote_by_cosine():
    draw = np.random.default_rng(0)
    known, asked = draw.normal(size=(40, 5)), draw.normal(size=(12, 5))
    labels = [f"class {i % 3}" for i in range(40)]
    expected = []
    for vector in asked:
        cosines = [float(vector @ other / math.sqrt((vector @ vector) * (other @ other))) for other in known]
        nearest = sorted(range(40), key=lambda i: -cosines[i])[:10]
        votes = {}
        for i in nearest:
            votes[labels[i]] = votes.get(labels[i], 0) + math.exp(cosines[i] / 0.07)
        expected.append(max(votes, key=votes.__getitem__))
    assert readings.nearest(known, labels, asked) == expected


def test_the_strength_is_chosen_on_the_last_fifth():
    draw = np.random.default_rng(0)
    labels = [f"class {i % 2}" for i in range(100)]
    known = draw.normal(size=(100, 30))
    known[:, 0] += [3 * (i % 2) for i in range(100)]
    probe = readings.Probe(known, labels)
    cut = {
        strength: readings._fitted(known[:80], labels[:80], strength).score(known[80:], labels[80:])
        for strength in readings.STRENGTHS
    }
    assert cut[probe.strength] == max(cut.values())
