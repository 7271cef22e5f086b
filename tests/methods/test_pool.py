"""Pool: cells and their centres against loops, and whole models that see the means at compact positions."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import illava
from illava.methods.pool import Pool, PoolStep, pool_segments
from illava.methods.steps import Units
from illava.ops.grids import centres, coarse_shape
from tests.core.cases import assert_same_bits, bounded, normal_units
from tests.core.loops import round_half_even
from tests.methods import whole
from tests.tiny import picture, pictures, prompt, tiny_model


def cells_loop(n: int, cells: int) -> list[range]:
    """The places of each cell, all that it touches."""
    out = []
    for i in range(cells):
        start, end = Fraction(i * n, cells), Fraction((i + 1) * n, cells)
        out.append(range(math.floor(start), math.ceil(end)))
    return out


def centre_loop(n: int, cells: int) -> list[int]:
    middles = [Fraction(2 * i + 1, 2 * cells) * n for i in range(cells)]
    # min takes the first of several.
    return [min(range(n), key=lambda place, m=m: abs(Fraction(2 * place + 1, 2) - m)) for m in middles]


def pool_loop(
    units: list[list[float]], shape: tuple[int, int], keep: float
) -> tuple[torch.Tensor, list[int]]:
    """Means (float64) and places of one grid."""
    rows, columns = shape
    down, across = (max(1, round_half_even(n * math.sqrt(keep))) for n in shape)
    values = []
    for high in cells_loop(rows, down):
        for wide in cells_loop(columns, across):
            inside = [units[y * columns + x] for y in high for x in wide]
            values.append([sum(channel) / len(inside) for channel in zip(*inside, strict=True)])
    places = [y * columns + x for y in centre_loop(rows, down) for x in centre_loop(columns, across)]
    return torch.tensor(values, dtype=torch.float64), places


@bounded
@given(n=st.integers(1, 80), data=st.data())
def test_centres_equal_the_loop(n, data):
    cells = data.draw(st.integers(1, n))
    found = centres(n, cells).tolist()
    assert found == centre_loop(n, cells)
    assert found == sorted(set(found))
    for place, cell in zip(found, cells_loop(n, cells), strict=True):
        assert place in cell


def test_centres_by_hand():
    assert centres(4, 2).tolist() == [0, 2]  # both of a cell are as near: the first
    assert centres(6, 2).tolist() == [1, 4]
    assert centres(24, 8).tolist() == list(range(1, 24, 3))
    assert centres(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert centres(7, 1).tolist() == [3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep", [1 / 4, 1 / 9, 0.6, 0.001, 0.8])
def test_equals_the_loop(keep, dtype):
    shapes = ((6, 6), (1, 1), (3, 5), (2, 9), (6, 6), (0, 0), (9, 2))
    vectors = normal_units(sum(h * w for h, w in shapes), 5, seed=1, dtype=dtype)
    merged = pool_segments(vectors, shapes, keep)
    values, kept, lengths, start = [], [], [], 0
    for shape in shapes:
        n = shape[0] * shape[1]
        if n:
            means, places = pool_loop(vectors[start : start + n].tolist(), shape, keep)
            values.append(means)
            kept += [start + place for place in places]
        lengths.append(len(places) if n else 0)
        start += n
    assert merged.kept.tolist() == kept == sorted(set(kept))
    assert merged.lengths == tuple(lengths)
    assert merged.units.dtype == dtype
    close = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(merged.units.double(), torch.cat(values), atol=close, rtol=close)


@bounded
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), keep=st.floats(0.01, 1))
def test_shapes_shrink_alike(rows, columns, keep):
    down, across = coarse_shape(rows, columns, keep)
    assert 1 <= down <= rows
    assert 1 <= across <= columns
    assert abs(down - rows * math.sqrt(keep)) <= 0.5 or down == 1
    assert abs(across - columns * math.sqrt(keep)) <= 0.5 or across == 1


def test_grids_that_stay_keep_their_bits():
    vectors = normal_units(4 + 36, 3, seed=2, dtype=torch.float32)
    assert pool_segments(vectors[:4], ((2, 2),), 0.9) is None
    merged = pool_segments(vectors, ((2, 2), (6, 6)), 0.8)
    assert merged.lengths == (4, 25)
    assert_same_bits(merged.units[:4], vectors[:4])


def test_needs_rows_and_columns():
    with pytest.raises(illava.UnsupportedError, match="raster order"):
        PoolStep(0.5).reduce(Units(torch.zeros(4, 2), None, (4,), (4,)))


# On whole models


def grids_of(model: torch.nn.Module, rows: list[whole.Row]) -> list[list[tuple[int, int]]]:
    """Of every prompt, rows and columns of each run of visual tokens; InternVL's tiles are 3 x 3."""
    if model.config.model_type == "llava":
        return [[(6, 6)] * len(parts) for _, parts in rows]
    if model.config.model_type == "internvl":
        return [[(3, 3)] * len(part.values["pixel_values"]) for _, parts in rows for part in parts]
    return [
        [tuple((part.values["image_grid_thw"][0, 1:] // 2).tolist()) for part in parts] for _, parts in rows
    ]


def compacted(made: whole.Prompt, alive: list[int]) -> torch.Tensor:
    """Positions of the full prompt: text goes on behind the longest side of a picture, as without steps."""
    places, following = made.positions.clone(), 0
    visual = {column: i for i, segment in enumerate(made.segments) for column in segment}
    at = 0
    while at < len(alive):
        if alive[at] not in visual:
            places[:, alive[at]] = following
            following, at = following + 1, at + 1
            continue
        run = [column for column in alive[at:] if visual.get(column) == visual[alive[at]]]
        longest = 0
        for axis in range(len(places)):
            marks = sorted({int(made.positions[axis, column]) for column in run})
            for column in run:
                places[axis, column] = following + marks.index(int(made.positions[axis, column]))
            longest = max(longest, len(marks))
        following, at = following + longest, at + len(run)
    return places


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "internvl", "qwen2_vl"])
@pytest.mark.parametrize("keep", [1 / 4, 0.6])
def test_the_llm_sees_the_means_at_compact_positions(family, keep):
    model = tiny_model(family).double()
    rows = whole.rows_of(model, (1, 1) if family == "internvl" else (2, 1))
    with illava.accelerate(model, Pool(keep=keep)) as handle:
        batch = model(**whole.inputs_of(model, rows)).logits
        report = handle.report
    total = 0
    for number, (row, grids) in enumerate(zip(rows, grids_of(model, rows), strict=True)):
        made = whole.entering(model, row)
        visual = [column for segment in made.segments for column in segment]
        embeds, alive, start = made.embeds.clone(), set(range(len(made.embeds))) - set(visual), 0
        for shape in grids:
            columns = visual[start : start + shape[0] * shape[1]]
            means, places = pool_loop(made.embeds[columns].tolist(), shape, keep)
            left = [columns[place] for place in places]
            embeds[left] = means
            alive |= set(left)
            total += len(left)
            start += len(columns)
        assert start == len(visual)
        dead = [column for column in visual if column not in alive]
        moved = made._replace(embeds=embeds, positions=compacted(made, sorted(alive)))
        expected = whole.logits(model, moved, {0: dead})
        assert (batch[number, -len(expected) :] - expected).abs().max() < whole.CLOSE
    assert report.final_tokens == total


@torch.no_grad()
def test_boxes_are_those_of_the_centres():
    model = tiny_model("qwen2_vl")
    with illava.accelerate(model, Pool(keep=1 / 4)) as handle:
        model(**prompt(model, [(whole.TEXT, [picture(model, (4, 6))])]))
        (seen,) = handle.report.pictures
    assert seen.kept[-1][:, 1:3].tolist() == pytest.approx(
        torch.tensor([[x / 6, y / 4] for y in (0, 2) for x in (0, 2, 4)])
    )


@torch.no_grad()
def test_tiles_are_pooled_each_and_line_ends_stay():
    model = tiny_model("llava_onevision").double()
    row = (whole.TEXT, [picture(model, (24, 48)), picture(model, (40, 30), seed=1)])
    with illava.accelerate(model, Pool(keep=1 / 4)) as handle:
        found = model(**whole.inputs_of(model, [row])).logits[0]
        final = handle.report.final_tokens
    made, caught = whole.entering(model, row), []
    hook = model.model.multi_modal_projector.register_forward_hook(lambda *call: caught.append(call[-1]))
    model(**whole.inputs_of(model, [row]))
    hook.remove()
    tiles, embeds, dead = caught[0], made.embeds.clone(), []
    marked = torch.full_like(tiles, float("nan"))
    for tile, pooled in zip(tiles, marked, strict=True):
        means, places = pool_loop(tile.tolist(), (6, 6), 1 / 4)
        pooled[places] = means
    start = 0
    for columns, part in zip(made.segments, row[1], strict=True):
        count = part.values["pixel_values"].shape[1]
        # The model's own arrangement copies rows: what is marked stays so.
        (rows,), _ = model.model.pack_image_features(
            [marked[start : start + count]],
            part.values["image_sizes"],
            image_newline=model.model.image_newline,
        )
        embeds[columns] = rows
        dead += [column for column, row in zip(columns, rows, strict=True) if row[0].isnan()]
        start += count
    embeds[dead] = 0
    alive = [column for column in range(len(embeds)) if column not in dead]
    # Nine of each of three tiles, and six line ends; of the second picture's, some show only padding.
    assert 9 * 3 + 6 < final == len(alive) - (len(embeds) - sum(map(len, made.segments)))
    moved = made._replace(embeds=embeds, positions=compacted(made, alive))
    assert (found - whole.logits(model, moved, {0: dead})).abs().max() < whole.CLOSE


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_decoding_goes_on_from_there(family):
    whole.check_decoding(tiny_model(family).double(), Pool())


@torch.no_grad()
def test_windows_are_refused():
    model = tiny_model("qwen2_5_vl")
    inputs = prompt(model, [(whole.TEXT, pictures(model, 1))])
    plain = model(**inputs).logits
    with illava.accelerate(model, Pool()), pytest.raises(illava.UnsupportedError, match="raster order"):
        model(**inputs)
    assert_same_bits(model(**inputs).logits, plain)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "qwen3_vl"])
def test_everything_kept_and_removal_change_no_bit(family):
    model = tiny_model(family)
    inputs = prompt(model, [(whole.TEXT, pictures(model, 2))])
    plain = model(**inputs).logits
    with illava.accelerate(model, Pool(keep=1.0)):
        assert_same_bits(model(**inputs).logits, plain)
    handle = illava.accelerate(model, Pool())
    assert model(**inputs).logits.shape != plain.shape
    handle.remove()
    assert_same_bits(model(**inputs).logits, plain)


@pytest.mark.parametrize("keep", [0, -1, 1.5, "half"])
def test_refuses_what_is_no_share(keep):
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\]"):
        Pool(keep=keep)


def test_survives_json():
    method = Pool(keep=0.25)
    assert illava.methods.method_from_dict(method.to_dict()) == method
