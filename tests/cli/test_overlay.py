"""The overlay shows survivors where the report says they are."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from illava.io.pictures import InputError
from illava.report.patches import grid_boxes
from illava.viz.overlay import draw_overlay, kept_share

BRIGHT, DARK = (250, 200, 60), (60, 10, 30)
GAP = 8


def fake_report(*pictures, stages=("encoder", "llm")):
    """One (all, kept after each stage) a picture."""
    shown = tuple(SimpleNamespace(kind="image", frames=1, all=p, kept=tuple(kept)) for p, kept in pictures)
    return SimpleNamespace(
        pictures=shown, tile_edge=None, steps=tuple(SimpleNamespace(stage=stage) for stage in stages)
    )


def patch_colours(sheet, left, size, rows, columns):
    """The pixel in the middle of every patch of a panel, row by row."""
    width, height = size
    return [
        sheet.getpixel((left + int((c + 0.5) * width / columns), GAP + int((r + 0.5) * height / rows)))
        for r in range(rows)
        for c in range(columns)
    ]


def survivors(colours, own):
    """Patches in their own colour; the others must be grey and of clearly another brightness."""
    out = set()
    for index, colour in enumerate(colours):
        if np.abs(np.subtract(colour, own)).max() <= 2:
            out.add(index)
        else:
            assert max(colour) - min(colour) <= 1
            assert abs(np.mean(colour) - np.dot(own, (0.299, 0.587, 0.114))) > 60
    return out


@pytest.mark.parametrize("own", [BRIGHT, DARK])
def test_survivors_are_where_the_report_says(own):
    patches = grid_boxes(1, 3, 5)
    first, second = [0, 4, 7, 8, 14], [4, 8]
    sheet = draw_overlay(
        [Image.new("RGB", (500, 400), own)], fake_report((patches, (patches[first], patches[second])))
    )
    # Two panels at the picture's own size.
    assert sheet.width >= 2 * 500
    assert survivors(patch_colours(sheet, GAP + 2, (500, 400), 3, 5), own) == set(first)
    left = sheet.width - (sheet.width // 2) + 4
    assert survivors(patch_colours(sheet, left, (500, 400), 3, 5), own) == set(second)


def test_pictures_stand_side_by_side_and_small_ones_grow():
    patches = grid_boxes(1, 2, 2)
    report = fake_report((patches, (patches[[0]],)), (patches, (patches[[3]],)), stages=("encoder",))
    sheet = draw_overlay([Image.new("RGB", (96, 96), BRIGHT), Image.new("RGB", (96, 96), DARK)], report)
    assert sheet.width == 2 * 384 + 3 * GAP
    assert survivors(patch_colours(sheet, GAP, (384, 384), 2, 2), BRIGHT) == {0}
    assert survivors(patch_colours(sheet, 2 * GAP + 384, (384, 384), 2, 2), DARK) == {3}


def test_only_the_last_step_of_a_stage_is_drawn():
    patches = grid_boxes(1, 2, 2)
    report = fake_report((patches, (patches[:3], patches[:1])), stages=("encoder", "encoder"))
    sheet = draw_overlay([Image.new("RGB", (400, 400), BRIGHT)], report)
    assert sheet.width == 400 + 2 * GAP
    assert survivors(patch_colours(sheet, GAP, (400, 400), 2, 2), BRIGHT) == {0}


def test_nothing_merged():
    patches = grid_boxes(1, 2, 2)
    sheet = draw_overlay([Image.new("RGB", (400, 400), BRIGHT)], fake_report((patches, ()), stages=()))
    assert survivors(patch_colours(sheet, GAP, (400, 400), 2, 2), BRIGHT) == {0, 1, 2, 3}


def test_a_survivor_is_outlined():
    patches = grid_boxes(1, 1, 2)
    sheet = draw_overlay(
        [Image.new("RGB", (400, 400), BRIGHT)], fake_report((patches, (patches[:1],)), stages=("encoder",))
    )
    row = [sheet.getpixel((GAP + x, GAP + 200)) for x in range(195, 205)]
    assert row[:4] == [BRIGHT] * 4
    assert row[4] == (255, 255, 255)
    assert (255, 255, 255) not in row[5:]


def test_share_of_patches_at_several_scales():
    coarse = torch.tensor([[0, 0.0, 0.0, 1.0, 1.0]])
    fine = grid_boxes(1, 2, 2)
    share = kept_share((4, 4), torch.cat([coarse, fine]), torch.cat([coarse, fine[:1]]))
    assert (share[:2, :2] == 1).all()
    assert (share[2:, :] == 0.5).all()


def test_patches_that_stick_out_are_cut():
    padded = torch.tensor([[0, -0.5, -0.5, 0.5, 1.5], [0, 0.5, -0.5, 1.5, 1.5]])
    share = kept_share((10, 10), padded, padded[:1])
    assert (share[:, :5] == 1).all()
    assert (share[:, 5:] == 0).all()


@pytest.mark.parametrize("size", [(2000, 5), (5000, 500)])
def test_extreme_sizes_stay_small(size):
    patches = grid_boxes(1, 1, 2)
    sheet = draw_overlay(
        [Image.new("RGB", size, BRIGHT)], fake_report((patches, (patches[:1],)), stages=("llm",))
    )
    assert max(sheet.size) < 5000


def test_without_geometry():
    with pytest.raises(InputError, match="no overlay"):
        draw_overlay([Image.new("RGB", (8, 8))], fake_report())
