"""Cues of pixels against loops, and what must not change them."""

from __future__ import annotations

import pytest
import torch

from illava.ops.pixels import patches_of_tiles, pixel_complexity, pixel_cues
from tests.core.loops import pixel_complexity_loop, pixel_cues_loop


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(6, 3, 1, 7, 7), (5, 3, 2, 4, 5), (3, 3, 1, 1, 1), (1, 3, 1, 2, 2)])
@pytest.mark.parametrize("kind", ["noise", "bars"])
def test_cues_equal_the_loop(shape, kind):
    patches = numbers(*shape)
    if kind == "bars":  # two levels, at edges stronger than any threshold
        patches = (patches[..., :1, :] > 0.5).float().expand(shape) * numbers(shape[0], 1, 1, 1, 1).exp()
    got = pixel_cues(patches, [shape[0]])
    torch.testing.assert_close(got, torch.tensor(pixel_cues_loop(patches)), atol=1e-5, rtol=0)
    assert 0 <= got.min() <= got.max() <= 2


@pytest.mark.parametrize("lengths", [(6,), (3, 1, 4), (1,)])
def test_complexity_equals_the_loop(lengths):
    # Of few levels, so that entropies differ.
    scale = torch.arange(1, sum(lengths) + 1)[:, None, None, None, None]
    patches = (numbers(sum(lengths), 3, 2, 5, 4) * scale).round() / scale.roll(1, 0)
    got = pixel_complexity(patches, lengths)
    assert got.dtype == torch.float32
    want = [pixel_complexity_loop(part) for part in patches.split(lengths)]
    torch.testing.assert_close(got, torch.tensor(want), atol=1e-5, rtol=0)
    assert pixel_complexity(torch.full((4, 3, 1, 5, 5), 0.7), [4]).tolist() == [0]


def test_bars_have_edges_and_noise_has_entropy():
    flat, bars, noise = torch.zeros(3, 1, 14, 14), torch.zeros(3, 1, 14, 14), numbers(3, 1, 14, 14)
    bars[..., 7:] = 3
    cues = pixel_cues(torch.stack([flat, bars, noise]), [3]).tolist()
    assert cues[0] == 0
    assert cues[0] < cues[1] < cues[2]


def test_pictures_are_scored_apart_and_whatever_their_normalisation():
    first, second = numbers(4, 3, 1, 6, 6), 100 * numbers(3, 3, 1, 6, 6, seed=1)
    together = pixel_cues(torch.cat([first, second]), [4, 3])
    assert torch.equal(together, torch.cat([pixel_cues(first, [4]), pixel_cues(second, [3])]))
    # Processors subtract a mean and divide by a deviation.
    torch.testing.assert_close(pixel_cues((first + 2) * 0.25, [4]), together[:4], atol=0.02, rtol=0)


def test_one_colour_tells_nothing():
    assert pixel_cues(torch.full((4, 3, 1, 5, 5), 0.7), [4]).tolist() == [0] * 4
    assert pixel_cues(torch.zeros(0, 3, 1, 5, 5), [0]).tolist() == []


def test_half_precision_changes_little():
    patches = numbers(4, 3, 1, 8, 8)
    got = pixel_cues(patches.bfloat16(), [4])
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, pixel_cues(patches, [4]), atol=0.2, rtol=0)


def test_tiles_become_patches_in_raster_order():
    pixels = torch.arange(2 * 3 * 5 * 7).view(2, 3, 5, 7).float()
    patches = patches_of_tiles(pixels, 2)
    assert patches.shape == (2 * 2 * 3, 3, 1, 2, 2)
    for tile in range(2):
        for row in range(2):
            for column in range(3):
                want = pixels[tile, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                assert torch.equal(patches[6 * tile + 3 * row + column, :, 0], want)
