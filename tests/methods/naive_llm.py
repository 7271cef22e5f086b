"""A prefill of one prompt, layer by layer through the plain eager model's own modules, with tokens leaving.

What a method does is a function here that is handed the state before a layer and says what is left. Nothing
of the library is used; what it needs of a layer (weights, keys) is taken where the modelling code has it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import illava
from tests.battery.naive import visual_columns
from tests.tiny import pictures, prompt, tiny_model

CLOSE = {"atol": 1e-4, "rtol": 0}
FAMILIES = ("llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "internvl", "qwen3_vl")
TEXTS = ([5, 6, 7, 8, 33, 41, 9], [10, 11, 12])


@dataclass
class State:
    """The tokens before a layer, by their columns in the prompt."""

    entry: dict[int, Tensor]
    """Embeddings of all tokens at the entry."""
    full: list[list[int]]
    """Columns of each run of visual tokens at the entry."""
    hidden: dict[int, Tensor]
    runs: list[list[int]]
    """Columns of those that are left."""
    weights: Tensor = field(default_factory=lambda: torch.empty(0))
    """(H, n, n) attention of the layer that is asked."""
    keys: Tensor = field(default_factory=lambda: torch.empty(0))
    """(H_kv, n, h), rotated."""
    values: Tensor = field(default_factory=lambda: torch.empty(0))
    """(H_kv, n, h)."""
    tables: tuple[Tensor, ...] = ()
    """(n, h) cosines and sines of that layer."""

    @property
    def place(self) -> dict[int, int]:
        return {column: i for i, column in enumerate(self.hidden)}

    @property
    def words(self) -> list[int]:
        shown = {column for run in self.full for column in run}
        return [column for column in self.entry if column not in shown]

    def paid(self, asking: list[int], run: list[int]) -> list[float]:
        """Attention of some columns to those of a run, the mean over heads and askers."""
        rows = self.weights.double()[:, [self.place[column] for column in asking]].mean((0, 1))
        return [float(rows[self.place[column]]) for column in run]


Left = list[dict[int, Tensor]]
Step = Callable[[State], Left]
"""Says, for every run, which columns are left and what stands there."""


@contextmanager
def recording(module: nn.Module, into: list[tuple[Tensor, ...]]) -> Iterator[None]:
    """Collects weights (H, n, n), keys and values (H_kv, n, h) of an eager attention module."""
    file = sys.modules[type(module).__module__]
    before = file.eager_attention_forward

    def attend(
        asking: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        output, weights = before(asking, query, key, value, *args, **kwargs)
        if asking is module:
            into.append((weights[0], key[0], value[0]))
        return output, weights

    with mock.patch.object(file, "eager_attention_forward", attend):
        yield


@torch.no_grad()
def prefill(
    model: nn.Module,
    inputs: dict[str, Tensor],
    steps: dict[int, Step],
    *,
    itself: bool = False,
    compact: bool = False,
) -> tuple[Tensor, list[list[list[int]]]]:
    """One prompt without padding: logits of what is left, and the columns of every run after each step."""
    llm, entered = model.model.language_model, {}
    note = llm.register_forward_pre_hook(lambda m, a, k: entered.update(k), with_kwargs=True)
    model(**inputs)
    note.remove()
    embeds, (runs,) = entered["inputs_embeds"][0], visual_columns(inputs)
    positions = entered.get("position_ids")
    if positions is None:
        positions = torch.arange(len(embeds))[None]
    # One axis, or the three of M-RoPE, in front of which Qwen has a fourth for packed sequences.
    positions = positions.reshape(-1, len(embeds))[-3:]
    state = State(dict(enumerate(embeds)), runs, dict(enumerate(embeds)), runs)
    deep, history = entered.get("deepstack_visual_embeds") or [], []
    for index, layer in enumerate(llm.layers):
        if index in steps:
            if itself:
                seen = []
                with recording(layer.self_attn, seen):
                    _layer(llm, layer, state, _compact(positions, state) if compact else positions)
                state.weights, state.keys, state.values = seen[0]
            left = steps[index](state)
            shown = {column for run in state.runs for column in run}
            rows = {c: x for c, x in state.hidden.items() if c not in shown}
            for run in left:
                rows |= run
            state.hidden = {c: rows[c] for c in sorted(rows)}
            state.runs = [sorted(run) for run in left]
            history.append(state.runs)
        seen = []
        with recording(layer.self_attn, seen):
            out = _layer(llm, layer, state, _compact(positions, state) if compact else positions)
        state.weights, state.keys, state.values = seen[0]
        if index < len(deep):
            out[[c for run in state.runs for c in run]] += deep[index]
        state.hidden = dict(zip(state.hidden, out, strict=True))
    return model.lm_head(llm.norm(torch.stack(list(state.hidden.values())))), history


def _layer(llm: nn.Module, layer: nn.Module, state: State, positions: Tensor) -> Tensor:
    rows, columns = torch.stack(list(state.hidden.values()))[None], list(state.hidden)
    n = len(columns)
    mask = torch.full((n, n), torch.finfo(rows.dtype).min).triu(1)[None, None]
    there = positions[..., columns]
    tables = llm.rotary_emb(rows, there[:, None] if len(there) == 3 else there)
    state.tables = tuple(table[0] for table in tables)
    out = layer(rows, attention_mask=mask, position_embeddings=tables)
    return (out[0] if isinstance(out, tuple) else out)[0]


def _compact(positions: Tensor, state: State) -> Tensor:
    """Positions of all columns, those of what is left without gaps."""
    out, at, run_of = positions.clone(), 0, {}
    for number, run in enumerate(state.runs):
        run_of |= dict.fromkeys(run, number)
    columns = list(state.hidden)
    for column in columns:
        run = state.runs[run_of[column]] if column in run_of else [column]
        if column != run[0]:
            continue
        highest = at
        for axis in range(len(positions)):
            before = sorted({int(positions[axis, c]) for c in run})
            for c in run:
                out[axis, c] = at + before.index(int(positions[axis, c]))
                highest = max(highest, int(out[axis, c]))
        at = highest + 1
    return out


@cache
def model_of(family: str, attention: str = "sdpa") -> nn.Module:
    return tiny_model(family, attention)


def rows_of(model: nn.Module) -> list[tuple[list[int], list[Any]]]:
    """Two unequal prompts, one of them with two pictures."""
    shown = pictures(model, 3)
    return [(list(TEXTS[0]), shown[:2]), (list(TEXTS[1]), shown[2:])]


def check_against_naive(
    family: str,
    method: Any,
    steps: dict[int, Step],
    *,
    itself: bool = False,
    compact: bool = False,
    counted: bool = False,
) -> None:
    """Logits, counts and boxes of a batch, of each of its rows, and of the rows run naively.

    ``counted``: with the positions that generate() counts from the mask of padding; families that count none
    themselves let a row's positions start behind its padding otherwise.
    """
    model, eager = model_of(family), model_of(family, "eager")
    rows = rows_of(model)
    naive = [prefill(eager, prompt(eager, [row]), steps, itself=itself, compact=compact) for row in rows]
    with illava.accelerate(model, method) as handle, torch.no_grad():
        inputs = prompt(model, rows)
        if counted and "mm_token_type_ids" not in inputs:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        together = model(**inputs).logits
        report = handle.report
        alone = [model(**prompt(model, [row])).logits[0] for row in rows]
    assert [step.layer for step in report.steps] == list(steps)
    for number, step in enumerate(report.steps):
        assert step.after == sum(len(run) for _, history in naive for run in history[number])
    assert report.final_tokens == report.steps[-1].after < report.visual_tokens
    for row, (logits, history) in enumerate(naive):
        assert together[row].shape[0] >= len(logits)
        torch.testing.assert_close(together[row, -len(logits) :], logits, **CLOSE)
        assert alone[row].shape == logits.shape
        torch.testing.assert_close(alone[row], logits, **CLOSE)
        assert report.row_tokens[row][-1] == sum(map(len, history[-1]))
    if family in ("llava", "qwen2_vl"):
        # A token of the LLM is a unit of the encoder, in its order.
        full = [run for row in rows for run in visual_columns(prompt(model, [row]))[0]]
        for number in range(len(steps)):
            left = [run for _, history in naive for run in history[number]]
            for picture, before, after in zip(report.pictures, full, left, strict=True):
                assert torch.equal(picture.kept[number], picture.all[[before.index(c) for c in after]])


def check_keep_one_and_removal(method: Any, all_kept: Any) -> None:
    """``keep=1`` and a handle that was removed give the plain model's logits, bit for bit."""
    model = model_of("qwen2_vl")
    inputs = prompt(model, rows_of(model))
    with torch.no_grad():
        plain = model(**inputs).logits
        with illava.accelerate(model, all_kept) as handle:
            assert handle.plan.empty
            assert torch.equal(model(**inputs).logits, plain)
        handle = illava.accelerate(model, method)
        assert model(**inputs).logits.shape != plain.shape
        handle.remove()
        assert torch.equal(model(**inputs).logits, plain)


def check_cached_decoding(method: Any) -> None:
    """What was generated is no part of the prompt: with and without a cache the same tokens leave."""
    model = model_of("llava")
    inputs = prompt(model, rows_of(model))
    options = dict(max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True)
    with illava.accelerate(model, method), torch.no_grad():
        cached = model.generate(**inputs, **options)
        again = model.generate(**inputs, **options, use_cache=False)
    assert torch.equal(cached.sequences, again.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(again.logits), **CLOSE)


def json_round_trip(method: Any) -> None:
    import json

    saved = json.loads(json.dumps(method.to_dict()))
    assert type(method).from_dict(saved) == method
    assert hash(type(method).from_dict(saved)) == hash(method)
