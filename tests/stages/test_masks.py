"""Masks and index tables against loops over rows and columns."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from illava.ops.masks import block_mask, causal_mask, compact_rows, places_of, take_mask, take_rows


def test_places_of():
    generator = torch.Generator().manual_seed(0)
    for share in (0.0, 0.3, 1.0):
        chosen = torch.rand(23, generator=generator) < share
        expected = [index for index in range(23) if chosen[index]]
        assert places_of(chosen, len(expected)).tolist() == expected


def test_compact_rows():
    kept = torch.tensor(
        [[0, 0, 0, 1, 0, 1], [1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0]]
    ).bool()
    columns = torch.arange(6).repeat(4, 1)
    # The last row ends in padding, and so does the one without any token that is left.
    columns[2, 5:] = columns[3, 4:] = -1
    assert compact_rows(kept, columns, 4).tolist() == [
        [-1, -1, 3, 5],
        [-1, 0, 1, 4],
        [-1, -1, -1, -1],
        [0, 2, -1, -1],
    ]


def test_take_rows_zeroes_filler_even_where_the_source_is_nan():
    table = torch.full((2, 4, 3), float("nan"))
    table[:, 2:] = torch.arange(12.0).reshape(2, 2, 3)
    taken = take_rows(table, torch.tensor([[-1, 2], [2, 3]]))
    assert taken.tolist() == [[[0, 0, 0], [0, 1, 2]], [[6, 7, 8], [9, 10, 11]]]
    # A table of one row serves the whole batch.
    assert take_rows(torch.tensor([[7, 8, 9]]), torch.tensor([[0, 2], [-1, 1]])).tolist() == [[7, 9], [0, 8]]


def test_take_mask_boolean_and_additive():
    generator = torch.Generator().manual_seed(0)
    boolean = torch.rand(2, 3, 5, 5, generator=generator) < 0.5
    additive = torch.zeros(2, 1, 5, 5).masked_fill(~boolean[:, :1], -1e4)
    columns = torch.tensor([[-1, 0, 3], [1, 2, 4]])
    for mask, closed, opened in ((boolean, False, True), (additive, torch.finfo(torch.float32).min, 0.0)):
        taken = take_mask(mask, columns)
        assert taken.shape == (2, mask.shape[1], 3, 3)
        for b in range(2):
            for h in range(mask.shape[1]):
                for i in range(3):
                    for j in range(3):
                        row, column = columns[b, i], columns[b, j]
                        if row < 0 or column < 0:
                            expected = opened if i == j else closed
                        else:
                            expected = mask[b, h, row, column].item()
                        assert taken[b, h, i, j].item() == expected


def test_causal_mask_with_padding():
    real = torch.tensor([[False, True, True, False, True], [True] * 5])
    for queries in (1, 2, 5):
        boolean = causal_mask(real, queries, torch.float32, additive=False)
        additive = causal_mask(real, queries, torch.float16, additive=True)
        assert boolean.shape == additive.shape == (2, 1, queries, 5)
        assert additive.dtype == torch.float16
        for b in range(2):
            for q in range(queries):
                for k in range(5):
                    position = 5 - queries + q
                    expected = (k <= position and real[b, k].item()) or (queries > 1 and k == position)
                    assert boolean[b, 0, q, k].item() == expected
                    assert (additive[b, 0, q, k] == 0).item() == expected
        assert additive.min() == torch.finfo(torch.float16).min


def read_out(mask: BlockMask) -> torch.Tensor:
    """(B, Q, K): which pairs of a block mask a kernel lets through, block by block."""
    batch, _, blocks, _ = mask.kv_indices.shape
    count, held = mask.seq_lengths
    out = torch.zeros(batch, count, held, dtype=torch.bool)
    size = mask.BLOCK_SIZE[0]
    for b in range(batch):
        for row in range(blocks):
            queries = torch.arange(row * size, min(count, (row + 1) * size))
            for block in mask.kv_indices[b, 0, row, : mask.kv_num_blocks[b, 0, row]].tolist():
                keys = torch.arange(block * size, min(held, (block + 1) * size))
                seen = mask.mask_mod(torch.tensor(b), torch.tensor(0), queries[:, None], keys[None])
                out[b, queries[0] : queries[-1] + 1, keys[0] : keys[-1] + 1] = seen
            for block in mask.full_kv_indices[b, 0, row, : mask.full_kv_num_blocks[b, 0, row]].tolist():
                out[b, row * size : (row + 1) * size, block * size : (block + 1) * size] = True
    return out


@pytest.mark.parametrize(("held", "queries"), [(400, 400), (400, 130), (129, 1)])
@pytest.mark.parametrize("window", [None, 150, 40])
@pytest.mark.parametrize("padded", [False, True])
def test_block_masks(held, queries, window, padded):
    generator = torch.Generator().manual_seed(0)
    columns = torch.stack([torch.rand(900, generator=generator).argsort()[:held].sort().values for _ in "ab"])
    if padded:
        columns[0, :140] = columns[1, -7:] = -1
    mask = block_mask(columns, columns[:, -queries:], window, padded=padded)
    near, far = columns[:, None], columns[:, -queries:, None]
    expected = (near >= 0) & (near <= far)
    if window is not None:
        expected &= near > far - window
    assert torch.equal(read_out(mask), expected)
    # No block is computed for nothing, and none is masked that need not be.
    made = create_block_mask(mask.mask_mod, B=2, H=None, Q_LEN=queries, KV_LEN=held, device="cpu")
    assert torch.equal(mask.kv_num_blocks, made.kv_num_blocks)
    assert torch.equal(mask.full_kv_num_blocks, made.full_kv_num_blocks)
    assert torch.equal(mask.to_dense(), made.to_dense())


def test_block_masks_hold_no_mask_of_tokens():
    columns = torch.arange(2048)[None] * 2
    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            largest = max([largest, *(t.numel() for t in tree_iter(out) if isinstance(t, torch.Tensor))])
            return out

    with Largest():
        block_mask(columns, columns, 500, padded=True)
    assert largest <= 2048
