"""Prompts through a plain LLM at full length, where tokens die before a layer: what methods compare with.

Nothing of the library is in it but the call that is tested: embeddings come from the plain model, a dead
token is one that nobody attends to any more. In float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import illava
from tests.reference.llm import apart, decode, rotations
from tests.tiny import IMAGE, Picture, pictures, prompt

CLOSE = 1e-4
TEXT = [5, 6, 7, 8, 9]
Row = tuple[list[int], list[Picture]]


class Prompt(NamedTuple):
    """What a plain model's LLM is handed for one prompt."""

    embeds: Tensor
    """(L, d)."""
    positions: Tensor
    """(axes or 1, L)."""
    segments: list[list[int]]
    """Columns of each run of visual tokens."""
    taps: list[Tensor]
    """(V, d) each: what the first layers' outputs of visual tokens are added to."""


def rows_of(model: nn.Module, counts: tuple[int, ...], seed: int = 0) -> list[Row]:
    """Prompts of different length with so many pictures each."""
    drawn = pictures(model, sum(counts), seed)
    return [(TEXT[: 3 + i], drawn[sum(counts[:i]) : sum(counts[: i + 1])]) for i in range(len(counts))]


def inputs_of(model: nn.Module, rows: list[Row]) -> dict[str, Tensor]:
    dtype = next(model.parameters()).dtype
    made = prompt(model, rows)
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in made.items()}


@torch.no_grad()
def entering(model: nn.Module, row: Row) -> Prompt:
    """What the plain model hands its LLM."""
    caught: dict[str, Any] = {}
    language = model.model.language_model
    hook = language.register_forward_pre_hook(
        lambda module, args, kwargs: caught.update(kwargs), with_kwargs=True
    )
    inputs = inputs_of(model, [row])
    model(**inputs)
    hook.remove()
    embeds, positions = caught["inputs_embeds"][0], caught.get("position_ids")
    places = torch.arange(len(embeds))[None] if positions is None else positions.reshape(-1, len(embeds))[-3:]
    visual = (inputs["input_ids"][0] == IMAGE).nonzero().flatten().tolist()
    return Prompt(embeds, places, apart(visual), list(caught.get("deepstack_visual_embeds") or []))


@torch.no_grad()
def logits(model: nn.Module, made: Prompt, dead: dict[int, list[int]]) -> Tensor:
    """(P, vocabulary) of the tokens that are left; ``dead``: layer to the columns that die before it."""
    language, hidden = model.model.language_model, made.embeds.double()
    alive = torch.ones(len(hidden), dtype=torch.bool)
    causal = torch.ones(len(hidden), len(hidden), dtype=torch.bool).tril()
    rotary = rotations(
        language, hidden, made.positions[:, None] if len(made.positions) > 1 else made.positions
    )
    visual = [column for segment in made.segments for column in segment]
    for number, layer in enumerate(language.layers):
        alive[dead.get(number, [])] = False
        hidden, _ = decode(layer, hidden, rotary[number], causal & alive)
        if number < len(made.taps):
            hidden[visual] += made.taps[number]
    return model.lm_head(language.norm(hidden))[alive]


@torch.no_grad()
def check_choice(
    model: nn.Module,
    method: illava.Method,
    rows: list[Row],
    layer: int,
    dead: Callable[[Tensor], list[int]],
) -> None:
    """A method that drops tokens before a layer, by ``dead`` of the (n, d) embeddings of a segment."""
    with illava.accelerate(model, method) as handle:
        batch = model(**inputs_of(model, rows)).logits
        report = handle.report
    segments, longest = [], 0
    for number, row in enumerate(rows):
        made = entering(model, row)
        gone = []
        for columns in made.segments:
            die = dead(made.embeds[columns])
            segments.append([i for i in range(len(columns)) if i not in die])
            gone += [columns[i] for i in die]
        expected = logits(model, made, {layer: gone})
        assert (batch[number, -len(expected) :] - expected).abs().max() < CLOSE
        longest = max(longest, len(expected))
    assert batch.shape[1] == longest
    assert report.final_tokens == sum(map(len, segments))
    assert [(step.layer, step.after) for step in report.steps] == [(layer, report.final_tokens)]
    if model.config.model_type in ("llava", "qwen2_vl", "qwen3_vl"):
        # One token a unit, in the same order.
        assert len(report.pictures) == len(segments)
        for seen, kept in zip(report.pictures, segments, strict=True):
            assert torch.equal(seen.kept[-1], seen.all[kept])


@torch.no_grad()
def check_decoding(model: nn.Module, method: illava.Method) -> None:
    """For methods that do not look at text: what is decoded is what the longer prompt says."""
    _, parts = rows_of(model, (2,))[0]
    with illava.accelerate(model, method):
        inputs = inputs_of(model, [(TEXT, parts)])
        made = model.generate(
            **inputs, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        new = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        longer = model(**inputs_of(model, [(TEXT + new, parts)])).logits[0]
    assert (torch.cat(made.logits) - longer[-5:-1]).abs().max() < CLOSE
