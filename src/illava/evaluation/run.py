"""Run an evaluation: answer every question in every row (plain, blank and merged); resumable at any point."""

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
from ..models.placeholders import visual_counts
from ..models.weights import activation_size
from ..planning import cost
from .prompts import blank, by_form, inputs_of, without_pictures
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
    """Generate the answers that the store lacks, batch by batch, all rows of a batch before the next batch.

    Results do not depend on interruptions: batches are composed in the same way whatever the store holds, and
    the plain model, which the other rows are compared with, answers incomplete batches again. ``advance`` is
    called with the number of new answers, and with those that the store already holds.
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
class Outputs:
    """A model's answers to a batch of prompts, and their cost."""

    texts: list[str]
    log_probs: Tensor
    """(B, V) fp32 log-probabilities of the first new token, on the CPU."""
    visual: list[int]
    """The number of placeholders in each prompt."""
    final: list[int]
    """The number of visual tokens of each prompt after the last step."""
    average: list[float]
    """The number of visual tokens of each prompt, averaged over the LLM's layers."""
    kv_bytes: float
    """Bytes of the KV cache after prefill / the plain model's."""
    flops: float
    """FLOPs up to the first token / the plain model's."""


class Batch:
    """A batch of samples and the plain model's answers."""

    def __init__(
        self, model: nn.Module, processor: Any, samples: Sequence[Sample], max_new_tokens: int
    ) -> None:
        self.model, self.processor, self.max_new_tokens = model, processor, max_new_tokens
        self.groups = by_form(samples)
        self.inputs = [self._build(group) for group in self.groups]
        self.plain = [self._generate(inputs, None) for inputs in self.inputs]

    def ask(self, row: Row) -> list[Line]:
        """The answers of one row, as lines of the answers file, ordered by sample."""
        lines = []
        for group, inputs, plain in zip(self.groups, self.inputs, self.plain, strict=True):
            if row.visuals == "grey":
                outputs = self._generate(self._build([blank(sample) for sample in group]), None)
            elif row.visuals == "nothing":
                outputs = self._text_only(group, inputs)
            else:
                outputs = plain if row.method is None else self._generate(inputs, row.method)
            lines += _lines(row, group, outputs, plain)
        return sorted(lines, key=lambda line: line["sample"])

    def _build(self, samples: Sequence[Sample]) -> Any:
        return inputs_of(self.model, self.processor, samples)

    @torch.no_grad()
    def _generate(self, inputs: Any, method: Method | None) -> Outputs:
        if method is None:
            return self._greedy(inputs)
        with accelerate(self.model, method) as handle:
            outputs = self._greedy(inputs)
            report = handle.report
        return Outputs(
            outputs.texts,
            outputs.log_probs,
            outputs.visual,
            [tokens[-1] for tokens in report.row_tokens],
            [sum(tokens) / len(tokens) for tokens in report.row_tokens],
            report.cost.kv_bytes / report.plain_cost.kv_bytes,
            report.cost.total / report.plain_cost.total,
        )

    def _text_only(self, group: Sequence[Sample], inputs: Any) -> Outputs:
        words = self._build([without_pictures(sample) for sample in group])
        flops, kv_bytes = text_cost(self.model, *words["input_ids"].shape)
        # The cost with images: a method that keeps all tokens reports it.
        with torch.no_grad(), accelerate(self.model, Illava(keep=1.0)) as handle:
            self.model.generate(**inputs, max_new_tokens=1, do_sample=False, num_beams=1)  # type: ignore[operator]
            plain = handle.report.plain_cost
        outputs = self._generate(words, None)
        return replace(outputs, flops=flops / plain.total, kv_bytes=kv_bytes / plain.kv_bytes)

    def _greedy(self, inputs: Any) -> Outputs:
        first: list[Tensor] = []

        def record_first(module: nn.Module, args: Any, output: Any) -> None:
            if not first:
                first.append(output.logits[:, -1].float())

        hook = self.model.register_forward_hook(record_first)
        try:
            sequences = self.model.generate(  # type: ignore[operator]
                **inputs, max_new_tokens=self.max_new_tokens, do_sample=False, num_beams=1
            )
        finally:
            hook.remove()
        ids = inputs["input_ids"]
        new = self.processor.batch_decode(sequences[:, ids.shape[1] :], skip_special_tokens=True)
        visual = visual_counts(locate(self.model).config, ids)
        return Outputs(
            texts=[text.strip() for text in new],
            log_probs=first[0].log_softmax(-1).cpu(),
            visual=visual,
            final=visual,
            average=[float(n) for n in visual],
            kv_bytes=1.0,
            flops=1.0,
        )


def _lines(row: Row, samples: Sequence[Sample], outputs: Outputs, plain: Outputs) -> list[Line]:
    settings = row.to_dict()
    divergence = first_token_kl(plain.log_probs, outputs.log_probs).tolist()
    return [
        {
            "task": sample.task,
            "row": row.label,
            "method": settings["method"],
            "keep": settings["keep"],
            "sample": sample.number,
            "question": sample.question,
            "answer": sample.answers[0],
            "prediction": outputs.texts[i],
            "correct": sample.is_right(outputs.texts[i]),
            "agrees": outputs.texts[i] == plain.texts[i],
            "kl": None if math.isnan(divergence[i]) else float(f"{divergence[i]:.5g}"),
            "visual_tokens": outputs.visual[i],
            "final_tokens": outputs.final[i],
            "average_tokens": round(outputs.average[i], 3),
            "kv_bytes": round(outputs.kv_bytes, 5),
            "flops": round(outputs.flops, 5),
            "cluster": sample.cluster,
            "kind": sample.kind,
            "small": sample.small,
        }
        for i, sample in enumerate(samples)
    ]


def text_cost(model: nn.Module, batch: int, length: int) -> tuple[int, int]:
    """FLOPs up to the first token, and bytes of the KV cache after prefill, of ``batch`` text-only prompts.

    Args:
        length: tokens of each prompt, including padding.
    """
    modules = locate(model)
    shape, size = llm_dimensions(modules.config), activation_size(modules.llm)
    # A layer with a sliding window of w tokens caches the last w - 1.
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
    """(B,) KL(plain || other) in nats, clipped at 0, of (B, V) fp32 log-probabilities."""
    terms = torch.where(plain == -torch.inf, 0.0, plain.exp() * (plain - other))
    return terms.sum(-1).clamp(min=0)
