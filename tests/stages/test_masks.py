"""Masks and index tables against loops over rows and columns."""

from __future__ import annotations

import torch

from illava.ops.masks import causal_mask, compact_rows, places_of, take_mask, take_rows


def test_places_of():
    generator = torch.Generator().manual_seed(0)
    for share in (0.0, 0.3, 1.0):
        chosen = torch.rand(23, generator=generator) < share
        expected = [index for index in range(23) if chosen[index]]
        assert places_of(chosen, len(expected)).tolist() == expected


def test_compact_rows():
    kept = torch.tensor([[0, 0, 0, 1, 0, 1], [1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0]]).bool()
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
