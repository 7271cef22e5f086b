"""Which units stay: the highest-scored ones, chosen here by sorting the plain model's attention weights.

With ``reduce="drop"`` survivors are untouched, so what the next module is handed tells which they are and in
which order they stand; the report's boxes must be those of the same units.
"""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn

import illava
from tests.battery.naive import (
    all_units,
    attention_of,
    blank_columns,
    blocks_of,
    entering,
    highest,
    layers_of,
    mlp_of,
    paid,
    received,
    segments,
    visual_columns,
    weights_of,
)
from tests.battery.test_battery import RECURRENT, inputs_of, model_of
from tests.tiny import ALL, RESAMPLED, WITH_VIDEO, kind

KEEP = 0.6
# Keeps all that these pictures have, so that the report lists all boxes of the LLM's tokens.
ALL_OF_THEM = 0.9999
BLOCKS, LAYERS = (1, 3), (3, 4)
CLOSE = {"atol": 1e-3, "rtol": 0}

cells = [
    pytest.param(name, shown, rows, id=f"{name}-{shown}-{rows}")
    for name in ALL
    for shown, rows in (("two", "single"), ("two", "batch"), ("video", "single"))
    if shown != "video" or name in WITH_VIDEO
]


def dropping(model: nn.Module, *, blocks: int = 0, layers: int = 0) -> contextlib.AbstractContextManager:
    """The model with the first steps of one stage alone."""
    if not blocks and not layers:
        return contextlib.nullcontext()
    method = illava.Illava(
        encoder_layers=BLOCKS[:blocks],
        encoder_keep=KEEP,
        llm_layers=(2, *LAYERS[:layers]) if layers else (),
        llm_keep=(ALL_OF_THEM, *[KEEP] * layers) if layers else KEEP,
        reduce="drop",
    )
    return illava.accelerate(model, method)


def run(model: nn.Module, inputs: dict[str, Tensor], watched: list[nn.Module]) -> list[Tensor]:
    """What each of the modules is handed."""
    handed: list[list[Tensor]] = [[] for _ in watched]
    with contextlib.ExitStack() as stack, torch.no_grad():
        for module, into in zip(watched, handed, strict=True):
            stack.enter_context(entering(module, into))
        model(**inputs)
    return [tensors[0] for tensors in handed]


def check_encoder(eager: nn.Module, model: nn.Module, inputs: dict[str, Tensor]) -> None:
    """Each step by the weights of a run with the steps before it alone."""
    with dropping(model, blocks=2) as handle:
        handed = run(model, inputs, [mlp_of(blocks_of(model)[block]) for block in BLOCKS])
        pictures = handle.report.pictures
    boxes = torch.cat([picture.all for picture in pictures])
    units: list[list[list[int]]] = []
    for i, got in enumerate(handed):
        block = blocks_of(eager)[BLOCKS[i]]
        with dropping(eager, blocks=i), weights_of(attention_of(block)) as seen:
            (rows,) = run(eager, inputs, [mlp_of(block)])
        if i == 0:
            units = all_units(eager, inputs, [w.shape[-1] for w in seen for _ in w])
            prefix, g = units[0][0][0], len(units[0][0])
            starts = [sum(map(len, units[:j])) for j in range(len(units))]
            left = [list(range(start, start + len(own))) for start, own in zip(starts, units, strict=True)]
        else:
            # From the first step on, units stand one after the other.
            units = [[[prefix + u * g + t for t in range(g)] for u in range(len(own))] for own in left]
        lengths = [prefix + g * len(own) for own in units]
        expected, flat = [], rows.reshape(-1, rows.shape[-1]).split(lengths)
        for j, weights in enumerate(segments(seen, lengths)):
            chosen = highest(received(weights, units[j]), KEEP)
            left[j] = [left[j][unit] for unit in chosen]
            expected += [flat[j][:prefix], flat[j][[token for unit in chosen for token in units[j][unit]]]]
        torch.testing.assert_close(got.reshape(-1, got.shape[-1]), torch.cat(expected), **CLOSE)
        kept_boxes = torch.cat([picture.kept[i] for picture in pictures])
        assert torch.equal(kept_boxes, boxes[[unit for own in left for unit in own]])


def check_llm(eager: nn.Module, model: nn.Module, inputs: dict[str, Tensor]) -> None:
    with dropping(model, layers=2) as handle:
        handed = run(model, inputs, [layers_of(model)[layer] for layer in LAYERS])
        pictures = handle.report.pictures
    boxes = torch.cat([picture.kept[0] for picture in pictures])
    (entry,) = run(eager, inputs, [layers_of(eager)[0]])
    runs, blank = visual_columns(inputs), blank_columns(eager, inputs, entry)
    shown = [(b, c) for b, row in enumerate(runs) for own in row for c in own if (b, c) not in blank]
    assert len(shown) == len(boxes)
    columns = [mask.nonzero().flatten().tolist() for mask in inputs["attention_mask"]]
    for i, got in enumerate(handed):
        attention = layers_of(eager)[LAYERS[i] - 1].self_attn
        with dropping(eager, layers=i), weights_of(attention) as seen:
            (rows,) = run(eager, inputs, [layers_of(eager)[LAYERS[i]]])
        for b, there in enumerate(columns):
            # Rows are padded on the left.
            place = {column: rows.shape[1] - len(there) + k for k, column in enumerate(there)}
            text = set(there).difference(*runs[b])
            for number, own in enumerate(runs[b]):
                # Class tokens and registers all stay; line ends are chosen from like patches.
                fixed = [c for c in own if (b, c) in blank and kind(model) == "square"]
                free = [c for c in own if c not in fixed]
                chosen = highest(paid(seen[0][b], [place[c] for c in free]), KEEP)
                runs[b][number] = fixed + [free[k] for k in chosen]
            columns[b] = sorted(text.union(*runs[b]))
            expected = rows[b, [place[c] for c in columns[b]]]
            torch.testing.assert_close(got[b, got.shape[1] - len(expected) :], expected, **CLOSE)
        kept_boxes = torch.cat([picture.kept[i + 1] for picture in pictures])
        alive = [k for k, (b, column) in enumerate(shown) if column in columns[b]]
        assert torch.equal(kept_boxes, boxes[alive])


@pytest.mark.parametrize(("name", "shown", "rows"), cells)
def test_the_highest_scored_stay_in_their_order(name: str, shown: str, rows: str) -> None:
    eager, model = model_of(name, "eager"), model_of(name, "sdpa")
    inputs = inputs_of(eager, shown, rows)
    check_encoder(eager, model, inputs)
    if name not in (*RECURRENT, *RESAMPLED):
        check_llm(eager, model, inputs)
