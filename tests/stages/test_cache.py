"""The merged cache layer: logical lengths outwards, physical ones inwards, rows that follow their batch."""

from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DynamicCache

import illava
from illava.stages.cache import MergedLayer, is_merged, prepare_for_merging


def filled():
    """Two rows of a prompt of 6 of which 4 and 3 tokens were kept, then two generated tokens."""
    layer = MergedLayer()
    layer.dropped, layer.prompt_length, layer.group, layer.padded = 2, 6, 1, True
    layer.columns = torch.tensor([[0, 2, 3, 5], [-1, 1, 2, 5]])
    keys = torch.arange(2.0)[:, None, None, None].expand(2, 1, 4, 3)
    layer.update(keys, keys)
    layer.update(torch.zeros(2, 1, 2, 3), torch.zeros(2, 1, 2, 3))
    return layer


def test_lengths():
    layer = MergedLayer()
    layer.dropped = 2
    assert layer.get_seq_length() == 0
    assert layer.get_mask_sizes(4) == (4, 0)
    layer = filled()
    assert layer.get_seq_length() == 8
    assert layer.physical_length() == 6
    # The keys held are the last 7 of 9 columns once one query is added.
    assert layer.get_mask_sizes(1) == (7, 2)


def test_key_padding():
    layer = filled()
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1, 0, 1]])
    expected = [[True] * 7, [False, False, True, True, True, False, True]]
    assert layer.key_padding(mask, queries=1).tolist() == expected
    expected = [[True] * 7, [False, True, True, True, True, True, True]]
    assert layer.key_padding(None, queries=1).tolist() == expected


def test_rows_follow_the_batch():
    for move in ("reorder_cache", "batch_select_indices"):
        layer = filled()
        getattr(layer, move)(torch.tensor([1, 1, 0]))
        assert layer.columns.tolist() == [[-1, 1, 2, 5], [-1, 1, 2, 5], [0, 2, 3, 5]]
        assert layer.keys[:, 0, 0, 0].tolist() == [1, 1, 0]
    layer = filled()
    layer.batch_repeat_interleave(2)
    assert layer.columns.tolist() == [[0, 2, 3, 5]] * 2 + [[-1, 1, 2, 5]] * 2
    assert len(layer.keys) == 4


def test_only_generated_tokens_can_be_cropped():
    layer = filled()
    layer.crop(-1)
    assert (layer.get_seq_length(), layer.physical_length()) == (7, 5)
    with pytest.raises(illava.UnsupportedError, match="at most its 1 generated tokens"):
        layer.crop(-2)
    with pytest.raises(illava.UnsupportedError, match="at most"):
        layer.crop(3)


def test_reset_forgets_the_merging():
    layer = filled()
    layer.reset()
    assert layer.get_seq_length() == 0
    assert (layer.dropped, layer.columns, layer.padded) == (0, None, False)


def test_a_lazy_cache_gets_all_its_layers():
    cache = DynamicCache()
    assert not is_merged(cache)
    assert not is_merged(None)
    layers = prepare_for_merging(cache, [None] * 3)
    assert cache.layers == layers
    assert len(layers) == 3
    assert is_merged(cache)
    # An empty merged cache may be used for the next prompt.
    assert len(prepare_for_merging(cache, [None] * 3)) == 3


def test_a_filled_cache_is_refused():
    cache = DynamicCache()
    cache.update(torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 3), 0)
    with pytest.raises(illava.UnsupportedError, match="fresh cache"):
        prepare_for_merging(cache, [None] * 2)
