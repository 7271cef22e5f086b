"""Scenes: the same for the same seed, splits apart, and what is drawn is what the items say."""

import numpy as np
import pytest
from scipy import ndimage

from illava.zoo.glyphs import SHAPES, handwriting_ids, shape_mask, text_mask
from illava.zoo.scenes import COLOURS, SPLITS, TEST_WORDS, draw_scene, scene_rng


def scenes(n: int, size: int = 192, split: str = "train"):
    return [draw_scene(scene_rng(0, split, i), size, split) for i in range(n)]


def test_a_scene_is_a_function_of_its_seed_split_and_place():
    first, again = (draw_scene(scene_rng(3, "val", 5, 7), 96, "val") for _ in range(2))
    assert np.array_equal(first.picture, again.picture)
    assert first.items == again.items
    for other in (scene_rng(4, "val", 5, 7), scene_rng(3, "test", 5, 7), scene_rng(3, "val", 5, 8)):
        assert not np.array_equal(first.picture, draw_scene(other, 96, "val").picture)


def test_handwriting_samples_are_split_apart_and_kept_apart():
    ids = {split: set(handwriting_ids(split).tolist()) for split in SPLITS}
    assert set.union(*ids.values()) == set(range(1797))
    assert sum(map(len, ids.values())) == 1797
    for split in SPLITS:
        used = {i.sample for s in scenes(60, split=split) for i in s.of_kind("digit") if i.writing == "hand"}
        assert len(used) > 5
        assert used <= ids[split]


def test_test_words_are_never_drawn_for_training():
    words = {split: {i.name for s in scenes(120, 96, split) for i in s.of_kind("word")} for split in SPLITS}
    assert words["test"] <= set(TEST_WORDS)
    assert len(words["test"]) > 10
    assert not (words["train"] | words["val"]) & set(TEST_WORDS)


@pytest.mark.parametrize("size", [48, 96, 192])
def test_items_stay_inside_and_apart(size):
    for scene in scenes(40, size):
        assert scene.picture.shape == (size, size, 3)
        assert scene.picture.dtype == np.uint8
        covered = np.zeros((size, size), int)
        for left, top, right, bottom in (item.box for item in scene.items):
            assert 0 <= left < right <= size
            assert 0 <= top < bottom <= size
            covered[top:bottom, left:right] += 1
        assert covered.max() <= 1
        assert np.array_equal(covered > 0, covered + (scene.ink > 0) > 0)  # no ink outside the boxes


def test_coloured_blobs_in_the_pixels_are_the_shapes():
    """Count and colour, found again without the items: saturated connected regions of the picture."""
    for scene in scenes(60):
        smooth = ndimage.median_filter(scene.picture, size=(5, 5, 1)).astype(int)
        blobs, n = ndimage.label(smooth.max(2) - smooth.min(2) > 75)
        sizes = ndimage.sum(blobs > 0, blobs, range(1, n + 1))
        large = [k + 1 for k, pixels in enumerate(sizes) if pixels > 60]
        found = [np.median(smooth[blobs == k], axis=0) for k in large]
        names = list(COLOURS)
        nearest = [names[np.abs(np.array(list(COLOURS.values())) - rgb).sum(1).argmin()] for rgb in found]
        assert sorted(nearest) == sorted(item.colour for item in scene.of_kind("shape"))


def test_shapes_have_different_masks():
    masks = [shape_mask(shape, 40, 0.0) for shape in SHAPES]
    for i, one in enumerate(masks):
        assert 0.15 < one.mean() < 0.8
        for other in masks[:i]:
            assert np.abs(one - other).mean() > 0.08


def test_text_columns_hold_their_letters():
    mask, columns = text_mask("HIT", 28)
    assert len(columns) == 3
    for left, right in columns:
        assert mask[:, left:right].max() > 0.9


def test_errors_say_what_would_be_right():
    with pytest.raises(ValueError, match="multiple of 16"):
        draw_scene(scene_rng(0, "train", 0), 100, "train")
    with pytest.raises(ValueError, match="train, val, test"):
        scene_rng(0, "dev", 0)
    with pytest.raises(ValueError, match="train, val and test"):
        handwriting_ids("dev")
    with pytest.raises(ValueError, match="circle"):
        shape_mask("blob", 32, 0.0)
