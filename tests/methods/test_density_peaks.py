"""Clusters by density peaks against a loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from illava.methods.density_peaks import cluster_shares
from tests.core.cases import bounded
from tests.methods.loops_llm import clusters_loop, mean_of


def cluster_means(points, count, neighbours):
    return cluster_shares(points, count, neighbours) @ points


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def on_a_line(*shape, seed):
    """Whole numbers along one axis of four: distances are exact, copies and equal densities are common."""
    out = torch.zeros(shape)
    out[..., 0] = torch.randint(-4, 5, shape[:-1], generator=torch.Generator().manual_seed(seed)).float()
    return out


@pytest.mark.parametrize("draw", [normal, on_a_line])
@settings(bounded, max_examples=100)
@given(data=st.data(), seed=st.integers(0, 2**31), neighbours=st.sampled_from([1, 2, 5]))
def test_clusters_equal_the_loop(draw, data, seed, neighbours):
    n = data.draw(st.integers(1, 30))
    count = data.draw(st.integers(1, n))
    points = draw(2, n, 4, seed=seed)
    means = cluster_means(points, count, neighbours)
    for s in range(2):
        rows = points[s].tolist()
        expected = [mean_of([rows[i] for i in own]) for own in clusters_loop(rows, count, neighbours)]
        torch.testing.assert_close(means[s].double(), torch.tensor(expected).double(), atol=1e-5, rtol=0)


def test_clusters_of_points_far_apart():
    """Densities of all of them are zero in fp32; the closer ones are the denser all the same."""
    points = torch.tensor([[[0.0], [900.0], [1000.0], [1110.0], [5000.0]]])
    # Centres are 900 and 1000, as near to each other as nothing else.
    assert cluster_means(points, 2, 1).tolist() == [[[450.0], [2370.0]]]
    assert cluster_means(points, 1, 1).tolist() == [[[1602.0]]]


def test_two_heaps_are_two_clusters():
    near = normal(40, 8, seed=0) / 10
    near[::2] += 5
    means = cluster_means(near[None], 2, 5)[0]
    expected = torch.stack([near[::2].mean(0), near[1::2].mean(0)])
    order = [0, 1] if means[0, 0] > 2 else [1, 0]
    torch.testing.assert_close(means[order], expected, atol=1e-5, rtol=0)
    shifted = cluster_means(near[None] + 3, 2, 5)[0]
    torch.testing.assert_close(shifted, means + 3, atol=1e-5, rtol=0)
