"""Lines of a file, the order of rows, chunks, and how cores are shared."""

from __future__ import annotations

import hashlib
import json

import pytest

from illava.batch import files
from illava.batch.files import read_lines
from illava.batch.order import chunks, sized
from illava.batch.rows import read_row
from illava.serving.cluster import share_of_cores


def test_lines_are_found_again_by_their_place(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(b'{"a": 1}\n\n  \r\n{"b": 2}\r\n{"c": 3}')
    found = list(read_lines(path))
    assert [(line.number, text) for line, text in found] == [
        (1, b'{"a": 1}'),
        (4, b'{"b": 2}'),
        (5, b'{"c": 3}'),
    ]
    content = path.read_bytes()
    for line, text in found:
        assert content[line.offset : line.offset + line.size].strip() == text
        assert line.digest == hashlib.blake2b(text, digest_size=6).hexdigest()


def test_a_line_that_is_too_long_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE", 8)
    path = tmp_path / "in"
    path.write_bytes(b"12345678901234567890\n1234567\n123456789")
    found = list(read_lines(path))
    assert [(line.number, line.offset, line.size, text) for line, text in found] == [
        (1, 0, 21, b""),
        (2, 21, 8, b"1234567"),
        (3, 29, 9, b""),
    ]


def place(number, sizes, question="What?", **fields):
    """A row with pictures of these sizes, as it is sorted."""
    names = [f"{i}.png" for i in range(len(sizes))]
    row = {"question": question, **({"pictures": names} if names else {}), **fields}
    line = files.Line(number, 0, 0, "")
    return sized(line, read_row(number, json.dumps(row).encode(), "toy"), sizes)


def test_large_pictures_come_first_and_options_stay_together():
    rows = [
        place(1, [(10, 10)]),
        place(2, [(10, 10)], keep="1/9"),
        place(3, [(20, 20)]),
        place(4, []),
        place(5, [(10, 10), (10, 10)]),
        place(6, [(20, 20)], keep=1 / 9),
        place(7, [(10, 10)], "Which of them is it?"),
        place(8, [(10, 10)]),
        place(9, [(40, 40)], method="fastv"),
    ]
    order = [line.number for chunk in chunks(rows, 1) for line in chunk]
    # Text alone; then by keep and method, by pixels, by the length of the text, and as they came.
    assert order == [4, 3, 5, 7, 1, 8, 6, 2, 9]


def test_chunks_are_all_rows_once_and_of_four_batches():
    rows = [place(number, [(number, 1)]) for number in range(1, 31)]
    cut = chunks(rows, 3)
    assert [len(chunk) for chunk in cut] == [12, 12, 6]
    assert [line.number for chunk in cut for line in chunk] == list(range(30, 0, -1))
    assert chunks([], 3) == []


@pytest.mark.parametrize(
    ("cores", "count", "share"),
    [
        *(([2], 2, 1), ([8], 3, 2), ([8], 1, 8), ([2], 3, 1 / 2), ([4, 4], 2, 4), ([4, 4], 3, 2)),
        ([8, 2], 2, 4),
        # Steps of 1/10000, never more than a core together.
        *(([1], 3, 0.3333), ([1], 7, 0.1428)),
    ],
)
def test_cores_are_shared_within_machines(cores, count, share):
    assert share_of_cores(cores, count) == share


def test_no_cores():
    assert share_of_cores([0], 1) is None
