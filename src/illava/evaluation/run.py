"""Asking a model every question in every row - plain, blind and merged - in a way that survives a kill."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..api import accelerate
from ..methods import Illava, Method
from ..models.dimensions import llm_dimensions
from ..models.located import locate
from ..planning import cost
from .prompts import blank, build_batch, by_form, without_pictures
from .rows import BLANK, PLAIN, Row, Task, size
from .samples import Sample
from .store import Line, Store


def run(
    model: nn.Module,
    processor: Any,
    tasks: Sequence[Task],
    rows: Sequence[Row],
    store: Store,
    limit: int,
    batch_size: int,
    max_new_tokens: int,
    advance: Callable[[int], None] = lambda answers: None,
) -> None:
    """Answer whatever the store lacks, batch by batch, all rows of a batch before the next batch.

    Batches are always the same ones, whatever is there already, and the plain model, which the others are
    compared with, is asked again where a batch is incomplete: so results do not depend on interruptions.
    ``advance`` is told how many answers there are more, at the start those that were there.
    """
    rows = (PLAIN, BLANK, *rows)
    for task in tasks:
        count = size(task, limit)
        for first in range(0, count, batch_size):
            numbers = range(first, min(first + batch_size, count))
            lacking = {row: [n for n in numbers if not store.done(row.label, task.name, n)] for row in rows}
            advance(sum(len(numbers) - len(lacking[row]) for row in rows))
            if not any(lacking.values()):
                continue
            batch = Batch(model, processor, [task[n] for n in numbers], max_new_tokens)
            for row in rows:
                if lacking[row]:
                    store.append(line for line in batch.ask(row) if line["sample"] in lacking[row])
                    advance(len(lacking[row]))


@dataclass(frozen=True)
class Given:
    """What a model answered to prompts of one form."""

    texts: list[str]
    log_probs: Tensor
    """(B, V) fp32, on the CPU, of the first new token."""
    visual: list[int]
    """Placeholders in each prompt."""
    final: list[int]
    """Visual tokens of each prompt after the last step."""
    average: list[float]
    """Visual tokens of each prompt averaged over the LLM's layers."""
    kv_bytes: float
    """KV bytes after prefill / the plain model's; so are the FLOPs up to the first token."""
    flops: float


class Batch:
    """A batch of samples, and the plain model's answers to it."""

    def __init__(
        self, model: nn.Module, processor: Any, samples: Sequence[Sample], max_new_tokens: int
    ) -> None:
        self.model, self.processor, self.max_new_tokens = model, processor, max_new_tokens
        self.groups = by_form(samples)
        self.inputs = [self._build(group) for group in self.groups]
        self.plain = [self._generate(inputs, None) for inputs in self.inputs]

    def ask(self, row: Row) -> list[Line]:
        """The answers of one row, as lines of the answers file, by number."""
        lines = []
        for group, inputs, plain in zip(self.groups, self.inputs, self.plain, strict=True):
            if row.shown == "grey":
                given = self._generate(self._build([blank(sample) for sample in group]), None)
            elif row.shown == "nothing":
                given = self._text_only(group, inputs)
            else:
                given = plain if row.method is None else self._generate(inputs, row.method)
            lines += _lines(row, group, given, plain)
        return sorted(lines, key=lambda line: line["sample"])

    def _build(self, samples: Sequence[Sample]) -> Any:
        parameter = next(self.model.parameters())
        return build_batch(self.processor, samples).to(device=parameter.device, dtype=parameter.dtype)

    @torch.no_grad()
    def _generate(self, inputs: Any, method: Method | None) -> Given:
        if method is None:
            return self._greedy(inputs)
        with accelerate(self.model, method) as handle:
            given = self._greedy(inputs)
            report = handle.report
        return Given(
            given.texts,
            given.log_probs,
            given.visual,
            [tokens[-1] for tokens in report.row_tokens],
            [sum(tokens) / len(tokens) for tokens in report.row_tokens],
            report.cost.kv_bytes / report.plain_cost.kv_bytes,
            report.cost.total / report.plain_cost.total,
        )

    def _text_only(self, group: Sequence[Sample], inputs: Any) -> Given:
        words = self._build([without_pictures(sample) for sample in group])
        flops, kv_bytes = text_cost(self.model, *words["input_ids"].shape)
        # What the pictures would have cost: keeping everything changes nothing and counts.
        with torch.no_grad(), accelerate(self.model, Illava(keep=1.0)) as handle:
            self.model.generate(**inputs, max_new_tokens=1, do_sample=False, num_beams=1)  # type: ignore[operator]
            plain = handle.report.plain_cost
        given = self._generate(words, None)
        return replace(given, flops=flops / plain.total, kv_bytes=kv_bytes / plain.kv_bytes)

    def _greedy(self, inputs: Any) -> Given:
        first: list[Tensor] = []

        def note_first(module: nn.Module, args: Any, output: Any) -> None:
            if not first:
                first.append(output.logits[:, -1].float())

        hook = self.model.register_forward_hook(note_first)
        try:
            made = self.model.generate(  # type: ignore[operator]
                **inputs, max_new_tokens=self.max_new_tokens, do_sample=False, num_beams=1
            )
        finally:
            hook.remove()
        ids = inputs["input_ids"]
        new = self.processor.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True)
        config = locate(self.model).config
        tokens = [t for t in (config.image_token_id, config.video_token_id) if t is not None]
        visual = torch.isin(ids, torch.tensor(tokens, device=ids.device)).sum(1).tolist()
        return Given(
            texts=[text.strip() for text in new],
            log_probs=first[0].log_softmax(-1).cpu(),
            visual=visual,
            final=visual,
            average=[float(n) for n in visual],
            kv_bytes=1.0,
            flops=1.0,
        )


def _lines(row: Row, samples: Sequence[Sample], given: Given, plain: Given) -> list[Line]:
    named = row.to_dict()
    divergence = first_token_kl(plain.log_probs, given.log_probs).tolist()
    return [
        {
            "task": sample.task,
            "row": row.label,
            "method": named["method"],
            "keep": named["keep"],
            "sample": sample.number,
            "question": sample.question,
            "answer": sample.answers[0],
            "prediction": given.texts[i],
            "correct": sample.is_right(given.texts[i]),
            "agrees": given.texts[i] == plain.texts[i],
            "kl": None if math.isnan(divergence[i]) else float(f"{divergence[i]:.5g}"),
            "visual_tokens": given.visual[i],
            "final_tokens": given.final[i],
            "average_tokens": round(given.average[i], 3),
            "kv_bytes": round(given.kv_bytes, 5),
            "flops": round(given.flops, 5),
            "cluster": sample.cluster,
            "kind": sample.kind,
            "small": sample.small,
        }
        for i, sample in enumerate(samples)
    ]


def text_cost(model: nn.Module, batch: int, length: int) -> tuple[int, int]:
    """FLOPs up to the first token, and KV bytes after prefill, of ``batch`` prompts of text alone.

    Args:
        length: of each, padding included.
    """
    modules = locate(model)
    shape, size = llm_dimensions(modules.config), next(modules.llm.parameters()).element_size()
    # A layer that sees a window of w tokens holds the last w - 1.
    held = [
        0 if recurrent else length if w is None else min(length, w - 1)
        for recurrent, w in zip(modules.recurrent, modules.windows, strict=True)
    ]
    layers = [
        (cost.recurrent_layer_flops if recurrent else cost.llm_layer_flops)(shape, length)
        for recurrent in modules.recurrent
    ]
    flops = batch * sum(layers) + cost.head_flops(shape, batch)
    return flops, batch * cost.kv_bytes(shape, held, size)


def first_token_kl(plain: Tensor, other: Tensor) -> Tensor:
    """KL(plain || other) in nats of (B, V) fp32 log-probabilities: (B,), never below 0."""
    terms = torch.where(plain == -torch.inf, 0.0, plain.exp() * (plain - other))
    return terms.sum(-1).clamp(min=0)
