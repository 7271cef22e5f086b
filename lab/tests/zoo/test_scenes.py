"""Training scenes: the same for the same seed, splits apart, and what is drawn is what the items say."""

import numpy as np
import pytest
from illava_lab.drawing.canvas import COLOURS
from illava_lab.drawing.glyphs import SHAPES, handwriting_ids, shape_mask
from illava_lab.drawing.lettering import (
    FONTS,
    LETTERS,
    TEST_WORDS,
    TRAINING_FAMILIES,
    letter_columns,
    printed,
)
from illava_lab.drawing.streams import SPLITS, scene_rng
from illava_lab.zoo.scenes import KINDS, draw_scene
from scipy import ndimage


def scenes(n: int, side: int = 192, split: str = "train", kinds=KINDS):
    return [draw_scene(scene_rng(0, split, i), side, split, kinds[i % len(kinds)]) for i in range(n)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_is_a_function_of_its_seed_split_and_place(kind):
    first, again = (draw_scene(scene_rng(3, "val", 5, 7), 96, "val", kind) for _ in range(2))
    assert np.array_equal(first.picture, again.picture)
    assert first.items == again.items
    for other in (scene_rng(4, "val", 5, 7), scene_rng(3, "test", 5, 7), scene_rng(3, "val", 5, 8)):
        assert not np.array_equal(first.picture, draw_scene(other, 96, "val", kind).picture)


def test_handwriting_samples_are_split_apart():
    ids = {split: set(handwriting_ids(split).tolist()) for split in SPLITS}
    assert set.union(*ids.values()) == set(range(1797))
    assert sum(map(len, ids.values())) == 1797


def test_handwriting_and_fonts_come_from_the_scenes_split(monkeypatch):
    """Whatever is written in a scene of one split asks for that split's material, and no other's."""
    from illava_lab.zoo import scenes as module

    asked = []
    monkeypatch.setattr(
        module, "handwriting_ids", lambda split: asked.append(split) or handwriting_ids(split)
    )
    monkeypatch.setattr(module, "printed", lambda *args: asked.append(args[1]) or printed(*args))
    for split in SPLITS:
        asked.clear()
        scenes(24, 96, split, ("number", "word"))
        assert split in asked
        faces = {face for family in TRAINING_FAMILIES for face in family}
        assert {name for name in asked if name != split} <= (faces if split == "train" else set(FONTS[split]))
        assert len(set(asked)) > 1


def test_training_families_are_neither_vals_nor_tests_and_have_every_letter():
    for face in (face for family in TRAINING_FAMILIES for face in family):
        assert face not in FONTS["val"] + FONTS["test"]
        masks = {printed(letter, face, 22).tobytes() for letter in LETTERS}
        assert len(masks) == len(LETTERS)
    assert set(FONTS["train"]) <= {face for family in TRAINING_FAMILIES for face in family}


def test_test_words_are_never_drawn_for_training():
    for split in ("train", "val"):
        words = {scene.written for scene in scenes(120, 96, split, ("word",))}
        assert len(words) > 60
        assert not words & set(TEST_WORDS)


@pytest.mark.parametrize("side", [48, 96, 192])
@pytest.mark.parametrize("kind", KINDS)
def test_items_stay_inside_and_apart(side, kind):
    for scene in scenes(24, side, kinds=(kind,)):
        assert scene.picture.shape == (side, side, 3)
        assert scene.picture.dtype == np.uint8
        assert scene.items
        covered = np.zeros((side, side), int)
        for item in scene.items:
            left, top, right, bottom = item.box
            assert 0 <= left < right <= side
            assert 0 <= top < bottom <= side
            # Letters may lean over their neighbours.
            covered[top:bottom, left:right] += item.colour is not None
        assert covered.max() <= 1
        assert bool(scene.written) == (kind in ("number", "word"))
        places = [item.place for item in scene.items if item.place]
        assert kind == "text" or places == list(range(1, len(scene.written) + 1))


def test_coloured_blobs_in_the_pixels_are_the_things():
    """Count and colour, found again without the items: saturated connected regions of the picture."""
    for scene in scenes(60):
        smooth = ndimage.median_filter(scene.picture, size=(5, 5, 1)).astype(int)
        blobs, n = ndimage.label(smooth.max(2) - smooth.min(2) > 75)
        sizes = ndimage.sum(blobs > 0, blobs, range(1, n + 1))
        large = [k + 1 for k, pixels in enumerate(sizes) if pixels > 40]
        found = [np.median(smooth[blobs == k], axis=0) for k in large]
        names = list(COLOURS)
        nearest = [names[np.abs(np.array(list(COLOURS.values())) - rgb).sum(1).argmin()] for rgb in found]
        assert sorted(nearest) == sorted(item.colour for item in scene.things)


@pytest.mark.parametrize("kind", ["number", "word"])
def test_characters_lie_where_the_ink_is(kind):
    for scene in scenes(30, kinds=(kind,)):
        for item in scene.items:
            left, top, right, bottom = item.box
            assert scene.ink[top:bottom, left:right].max() > 0.5
        outside = scene.ink.copy()
        for left, top, right, bottom in (item.box for item in scene.items):
            outside[top:bottom, max(0, left - 4) : right + 4] = 0
        assert outside.sum() < 0.05 * scene.ink.sum()


def test_shapes_have_different_masks():
    masks = [shape_mask(shape, 40, 0.0) for shape in SHAPES]
    for i, one in enumerate(masks):
        assert 0.15 < one.mean() < 0.8
        for other in masks[:i]:
            assert np.abs(one - other).mean() > 0.08


@pytest.mark.parametrize("font", ["DejaVuSans", "cmr10", "Aileron"])
def test_letter_columns_hold_their_letters(font):
    mask, columns = printed("HIT", font, 40), letter_columns("HIT", font, 40)
    assert len(columns) == 3
    for (left, right), letter in zip(columns, "HIT", strict=True):
        alone = printed(letter, font, 40)
        assert mask[:, left:right].sum() == pytest.approx(alone.sum(), rel=0.15)


def test_errors_say_what_would_be_right():
    with pytest.raises(ValueError, match="multiple of 16"):
        draw_scene(scene_rng(0, "train", 0), 100, "train", "crowd")
    with pytest.raises(ValueError, match="crowd, count, number, word"):
        draw_scene(scene_rng(0, "train", 0), 96, "train", "zoo")
    with pytest.raises(ValueError, match="train, val, test"):
        scene_rng(0, "dev", 0)
    with pytest.raises(ValueError, match="train, val and test"):
        handwriting_ids("dev")
    with pytest.raises(ValueError, match="circle"):
        shape_mask("blob", 32, 0.0)
