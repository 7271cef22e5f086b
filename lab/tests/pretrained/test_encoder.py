"""Replayed blocks change nothing, and every patch has the survivor that its record names."""

import math

import pytest
import torch
from illava_lab.benchmarks.pretrained import encoder, photographs
from illava_lab.benchmarks.pretrained.owners import Encoded, owners
from illava_lab.benchmarks.pretrained.rows import AFTER, CANDIDATE, INSIDE, deep, plain, standard
from illava_lab.real import cache

import illava
from illava.io.pictures import InputError
from illava.methods import methods
from illava.ops.merge_weights import MergeWeights
from illava.report.traces import StepTrace

SIDE, GRID = 168, 12
ROWS = [*standard(), *deep((1, 6, 11), 12)]


@pytest.fixture(scope="module")
def picture(runner):
    torch.manual_seed(1)
    return runner.prefix(torch.randn(1, 3, SIDE, SIDE))


def encoded(runner, label, picture):
    row = next(row for row in ROWS if row.label == label)
    return next(runner.encode(row, [picture]))


@pytest.mark.parametrize("row", [plain(), *ROWS], ids=lambda row: row.label)
def test_replayed_blocks_change_nothing(runner, picture, row):
    found = next(runner.encode(row, [picture]))
    given = runner._given(row, picture.pixels)
    with runner._accelerated(row, trace=False):
        expected, _ = runner._forward(given)
    assert torch.equal(found.features, expected)
    assert torch.equal(next(runner.encode(row, [picture], located=False)).features, expected)
    assert found.owner.shape == (GRID**2,)
    assert found.owner.max() < len(found.features)
    if row.counts:
        assert found.sizes.sum() == GRID**2


def test_rows_that_save_time_merge_inside(runner, picture):
    for row in ROWS:
        if row.method is None:
            continue
        with illava.accelerate(runner.model, row.method) as handle:
            first = runner.first_changed(handle)
            assert (row.group == INSIDE) == bool(handle.plan.encoder)
            assert first >= (11 if row.group == AFTER else 0)
            if row.block is not None:
                assert first == row.block
        left = len(next(runner.encode(row, [picture])).features)
        assert row.name == "pool" or left == round(eval(row.keep) * GRID**2)


def test_plain_features_are_the_encoders_own(runner, picture):
    found = next(runner.encode(plain(), [picture]))
    tower = runner.model.model.vision_tower
    with torch.no_grad():
        expected = tower(picture.pixels).last_hidden_state[0, 1:]
    assert torch.allclose(found.features, expected, atol=1e-6)
    assert found.owner.tolist() == list(range(GRID**2))


def test_a_merged_patch_belongs_to_the_most_similar_survivor(runner, picture):
    """The candidate's one step, computed again from the hidden states of its block."""
    found = encoded(runner, f"{CANDIDATE} at 6 1/9", picture)
    row = next(row for row in ROWS if row.label == f"{CANDIDATE} at 6 1/9")
    with illava.accelerate(runner.model, row.method, trace=True) as handle:
        runner._forward(picture.pixels)
        kept = handle.report.traces[0].kept
    states = []
    block = runner.modules.blocks[6]
    hook = block.norm2.register_forward_pre_hook(lambda _, args: states.append(args[0][0, 1:]))
    runner._forward(picture.pixels)
    hook.remove()
    unit = torch.nn.functional.normalize(states[0], dim=1)
    expected = (unit @ unit[kept].T).argmax(1)
    expected[kept] = torch.arange(len(kept))
    assert torch.equal(found.owner, expected)
    assert found.sizes.tolist() == torch.bincount(expected, minlength=len(kept)).tolist()


def test_a_dropped_patch_belongs_to_the_nearest_survivor(runner, picture):
    row = next(row for row in ROWS if row.label == "fastervlm 1/9")
    found = next(runner.encode(row, [picture]))
    with illava.accelerate(runner.model, row.method, trace=True) as handle:
        runner._forward(picture.pixels)
        kept = handle.report.traces[0].kept.tolist()
    places = [divmod(place, GRID) for place in kept]
    for patch, owner in enumerate(found.owner.tolist()):
        distances = [math.dist(place, divmod(patch, GRID)) for place in places]
        assert distances[owner] == min(distances)


def trace(kept, weights, before):
    into, source, weight = (torch.tensor(part) for part in zip(*weights, strict=True))
    boxes = torch.zeros(before, 5)
    return StepTrace(
        "encoder",
        0,
        torch.zeros(before, dtype=torch.int64),
        boxes,
        torch.tensor(kept),
        MergeWeights(into, source, weight),
        None,
    )


def test_records_of_several_steps_are_followed():
    """Four patches; 1 goes into 0, which then goes into 3; 2 is dropped, and 3 is all that is left."""
    steps = [
        trace([0, 2, 3], [(0, 0, 0.5), (0, 1, 0.5), (1, 2, 1.0), (2, 3, 1.0)], 4),
        trace([2], [(0, 2, 0.4), (0, 0, 0.6)], 3),
    ]
    found = owners(torch.zeros(1, 2), steps, 2, counts=True)
    assert found.owner.tolist() == [0, 0, 0, 0]
    assert found.sizes.tolist() == [3.0]
    with pytest.raises(ValueError, match="end with 1 survivors, the encoder with 2"):
        owners(torch.zeros(2, 2), steps, 2)


def test_the_largest_weight_decides_then_the_distance():
    weights = [(0, 0, 1.0), (1, 3, 1.0), (0, 1, 0.2), (1, 1, 0.3), (0, 2, 0.1), (1, 2, 0.1)]
    found = owners(torch.zeros(2, 2), [trace([0, 3], weights, 4)], 2)
    # Patch 2 has equal weights and is as near to 0 as to 3: the first.
    assert found.owner.tolist() == [0, 1, 0, 1]


def test_pooling_and_cells():
    features = torch.tensor([[1.0], [4.0]])
    found = Encoded(features, torch.tensor([0, 0, 0, 1]), torch.tensor([3.0, 1.0]))
    assert (found.pooled.item(), found.weighted.item()) == (2.5, 1.75)
    assert found.cells([[0, 3], [3]]).tolist() == [[2.5], [4.0]]
    assert Encoded(features, found.owner).weighted.item() == 2.5
    coarse = Encoded.of_grid(torch.zeros(4, 1), 2, 4)
    assert coarse.owner.tolist() == [0, 0, 1, 1] * 2 + [2, 2, 3, 3] * 2


def test_time_is_that_of_the_encoder(runner, picture):
    assert 0 < runner.seconds(plain(), picture.pixels) < 5
    assert not runner.modules.layers[0]._forward_pre_hooks


def test_the_candidate_is_no_method_of_the_library():
    assert "pretrained-even" not in methods()


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(InputError, match="no DINOv2 could be read"):
        encoder.load(tmp_path)


def test_smaller_pictures_have_whole_patches():
    assert photographs.smaller(torch.zeros(1, 3, 168, 168), 7, 14).shape == (1, 3, 98, 98)


@pytest.mark.parametrize("unusable", ["a file", "no home"])
def test_an_unusable_cache_is_refused_in_one_line(tmp_path, monkeypatch, unusable):
    (tmp_path / "file").write_text("")
    where = str(tmp_path / "file") if unusable == "a file" else "~no-such-user/x"
    monkeypatch.setenv(cache.VARIABLE, where)
    with pytest.raises(
        InputError, match=f"{where}: (this is a file; give a folder|there is no such home)"
    ) as e:
        encoder.fetched()
    assert "\n" not in str(e.value)
