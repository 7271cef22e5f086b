"""The merged cache layer: logical lengths outwards, physical ones inwards, rows that follow their batch."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

import illava
from illava.runtime.cache.merged import MergedLayer, is_merged
from illava.runtime.cache.setup import prepare_for_merging
from illava.runtime.hooks import Owner
from illava.runtime.llm.prefill import Prefill, Prompt, Sequence
from tests.tiny_configs import config


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


def test_tokens_behind_the_last_dropped_one_can_be_cropped():
    layer = filled()
    layer.crop(0)
    layer.crop(-1)
    assert (layer.get_seq_length(), layer.physical_length()) == (7, 5)
    # One generated, and the last of the prompt, which both rows hold; column 4 is gone from them.
    layer.crop(-2)
    assert (layer.get_seq_length(), layer.physical_length()) == (5, 3)
    assert layer.columns.tolist() == [[0, 2, 3], [-1, 1, 2]]
    layer.update(torch.zeros(2, 1, 1, 3), torch.zeros(2, 1, 1, 3))
    assert layer.key_columns().tolist() == [[0, 2, 3, 5], [-1, 1, 2, 5]]
    for count in (-2, -9, 3):
        with pytest.raises(illava.UnsupportedError, match="after the last one that was dropped"):
            layer.crop(count)


def test_a_sliding_layer_lets_go_of_what_no_query_will_see():
    layer = MergedLayer(window=3)
    assert layer.is_sliding
    layer.dropped, layer.prompt_length = 2, 6
    layer.columns = torch.tensor([[0, 2, 3, 5], [-1, 1, 2, 5]])
    keys = torch.arange(4.0)[None, None, :, None].expand(2, 1, 4, 3)
    held, _ = layer.update(keys, keys)
    assert held.shape[2] == 4, "the prompt itself sees all of it"
    # The next query stands at column 6 and sees 4, 5 and itself.
    assert layer.keys[0, 0, :, 0].tolist() == [3]
    assert layer.columns.tolist() == [[5], [5]]
    for length in (7, 8, 9):
        layer.update(keys[:, :, :1], keys[:, :, :1])
        assert layer.get_seq_length() == length
        assert layer.key_columns().tolist() == [list(range(max(5, length - 2), length))] * 2
    with pytest.raises(illava.UnsupportedError, match="evicted"):
        layer.crop(-1)


def test_a_copied_cache_belongs_to_the_same_acceleration():
    owner = Owner()
    cache = DynamicCache()
    prepare_for_merging(cache, [None], owner)
    copied = copy.deepcopy(cache)
    assert copied.layers[0].owner is owner
    owner.active = False
    with pytest.raises(illava.UnsupportedError, match="while the model was accelerated"):
        copied.update(torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 3), 0)


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


def prefill_of(columns, length, cache_layers, start):
    """A prefill of prompts of text, of which (B, n) ``columns`` are left."""
    rows = torch.full((len(columns), length), -1)
    prompt = Prompt(rows, (), rows >= 0, False, rows[:, 0], None, [], False)
    sequence = Sequence(columns, columns, length - columns.shape[1], columns, (), bool((columns < 0).any()))
    return Prefill(prompt, sequence, cache_layers, depth=len(cache_layers), start=start)


def test_what_a_plain_cache_holds_is_taken_over():
    cache = DynamicCache()
    keys = torch.arange(2.0)[None, None, :, None].expand(2, 1, 2, 3)
    cache.update(keys, keys, 0)
    (layer,) = prepare_for_merging(cache, [None])
    assert (layer.get_seq_length(), layer.key_columns().tolist()) == (2, [[0, 1]] * 2)
    # Of a prefill of four, three and two are left.
    prefill_of(torch.tensor([[0, 2, 3], [-1, 0, 3]]), 4, [layer], start=2).expect()
    assert layer.get_seq_length() == 2, "until they come"
    columns = [[0, 1, 2, 4, 5], [0, 1, -1, 2, 5]]
    assert layer.key_columns().tolist() == columns
    layer.update(torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3, 3))
    assert (layer.get_seq_length(), layer.physical_length(), layer.group) == (6, 5, (0,))
    assert layer.key_columns(1).tolist() == [[*row, 6] for row in columns]


def test_a_filled_recurrent_layer_is_refused():
    cache = DynamicCache(config=config("qwen3_5").text_config)
    full = next(i for i, layer in enumerate(cache.layers) if type(layer) is DynamicLayer)
    cache.update(torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 3), full)
    with pytest.raises(illava.UnsupportedError, match="fresh cache"):
        prepare_for_merging(cache, [None] * len(cache.layers))
