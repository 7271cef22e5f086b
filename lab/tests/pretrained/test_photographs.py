"""Which photographs are chosen, how boards are dealt and drawn, and which patches lie inside a cell."""

from collections import Counter

import numpy as np
import pytest
import torch
from illava_lab.benchmarks.pretrained import photographs
from illava_lab.benchmarks.pretrained.settings import CELLS, KINDS

from illava.io.pictures import InputError


def test_classes_are_dealt_in_turn_and_other_questions_left_out(data):
    found = photographs.photographs(data, "clothing", "train")
    assert len(found) == len({photo.path for photo in found}) == 36
    assert {photo.label for photo in found} == {"clothing: red", "clothing: green", "clothing: blue"}
    first = photographs.photographs(data, "clothing", "train", 9)
    assert first == found[:9]
    assert set(Counter(photo.label for photo in first).values()) == {3}


def test_what_is_missing_is_named(data, monkeypatch):
    with pytest.raises(InputError, match="37 photographs are needed, 36 are there"):
        photographs.photographs(data, "clothing", "train", 37)
    with pytest.raises(InputError, match=r"nowhere.clothing.train\.jsonl: cannot read it"):
        photographs.photographs(data / "nowhere", "clothing", "train")
    monkeypatch.setenv(photographs.VARIABLE, str(data / "nowhere"))
    with pytest.raises(InputError, match="set ILLAVA_DATA"):
        photographs.folder()


def test_boards_share_places_equally_and_repeat_late(data):
    pools = [photographs.photographs(data, name, "val") for name in KINDS]
    made = photographs.boards(pools, 3)
    for board in made:
        assert set(Counter(photo.label.split(":")[0] for photo in board).values()) == {12}
    # 36 places a set, 18 photographs: each twice, the second time only after all others.
    for name in KINDS:
        shown = [photo.path for board in made for photo in board if photo.label.startswith(name)]
        assert set(Counter(shown).values()) == {2}
        assert len(set(shown[:12])) == 12
    assert made == photographs.boards(pools, 3) != photographs.boards(pools, 3, seed=1)


@pytest.mark.parametrize(("side", "fewest", "most"), [(84, 1, 1), (224, 4, 4), (448, 16, 25)])
def test_inner_patches_show_their_photograph_alone(data, side, fewest, most):
    """Against a board on which every photograph has a colour of its own."""
    pools = [photographs.photographs(data, name, "val") for name in KINDS]
    (board,) = photographs.boards(pools, 1)
    image = np.asarray(photographs.board_image(board, side)).astype(int)
    inside = photographs.inner_patches(side // 14)
    assert len(inside) == CELLS**2
    assert {len(patches) for patches in inside} <= set(range(fewest, most + 1))
    for photo, patches in zip(board, inside, strict=True):
        colour = np.asarray(photographs.square(photo, 8)).astype(int)[0, 0]
        for patch in patches:
            row, column = divmod(patch, side // 14)
            shown = image[14 * row : 14 * row + 14, 14 * column : 14 * column + 14]
            assert abs(shown - colour).max() <= 1


def test_cells_without_a_whole_patch_are_refused():
    with pytest.raises(ValueError, match="take larger pictures"):
        photographs.inner_patches(5)


def test_pixels_are_normalised_by_channel(data):
    photo = photographs.photographs(data, "clothing", "val")[0]
    values = photographs.pixels(photographs.square(photo, 28))
    colour = np.asarray(photographs.square(photo, 28))[0, 0] / 255
    expected = [(c - m) / s for c, m, s in zip(colour, photographs.MEAN, photographs.STD, strict=True)]
    assert values.shape == (1, 3, 28, 28)
    assert torch.allclose(values[0, :, 3, 5].double(), torch.tensor(expected).double(), atol=1e-5)
