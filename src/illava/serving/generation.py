"""Answers a batch of prompts: one call of ``generate``, whose rows end, stop and stream one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from .jobs import Done, Job, Piece
from .sampling import RowSampler
from .text import Detokenizer, StopFinder


class Row:
    """The answer to one prompt of a batch."""

    def __init__(self, job: Job, tokenizer: Any, ends: frozenset[int]) -> None:
        self.job, self.ends = job, ends
        self.text, self.stop = Detokenizer(tokenizer), StopFinder(job.stops)
        self.reason: str | None = None
        """Why the answer has ended."""

    @property
    def over(self) -> bool:
        """Whether no further token is needed."""
        return self.reason is not None or self.job.cancelled

    def add(self, token: int) -> None:
        """Take the next token, and tell the job what it adds to the answer."""
        if self.over:
            return
        if self.job.first_token is None:
            self.job.first_token = time.monotonic()
        piece = self.stop.add(self.text.add(token))
        if self.stop.found:
            self.reason = "stop"
        elif token in self.ends:
            piece += self._end("stop")
        elif len(self.text.ids) >= self.job.max_tokens:
            piece += self._end("length")
        self.job.tell(Piece(piece))

    def end(self) -> None:
        """End an answer that generation stopped by itself, such as for ``max_time`` of its config."""
        if not self.over:
            self.job.tell(Piece(self._end("length")))

    def _end(self, reason: str) -> str:
        """End the answer; the text that was held back."""
        text = self.stop.add(self.text.rest())
        self.reason = "stop" if self.stop.found else reason
        return text + self.stop.rest()


class _Rows(StoppingCriteria):
    """Hands each new token to its row, and ends the rows that are over."""

    def __init__(self, rows: Sequence[Row], ended: Callable[[int], None]) -> None:
        self.rows, self.ended = rows, ended
        self._told: set[int] = set()

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        for row, token in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
            row.add(token)
        self.tell()
        return torch.tensor([row.over for row in self.rows], device=input_ids.device)

    def tell(self) -> None:
        """Call ``ended`` once for every row that has ended."""
        for number, row in enumerate(self.rows):
            if row.reason is not None and number not in self._told:
                self._told.add(number)
                self.ended(number)


def generate(
    model: nn.Module,
    inputs: Any,
    tokenizer: Any,
    jobs: Sequence[Job],
    visual_after: Callable[[int], int],
    answered: Callable[[Job, Done], None],
) -> None:
    """Answer the prompts of one batch. Each job hears of its own end at once, not at the end of the batch.

    Args:
        inputs: the model's inputs, on any device; one row for each job.
        tokenizer: for decoding, which no other thread uses.
        visual_after: the visual tokens of a row after the last step of merging, once the prompt has run.
        answered: called before a job hears of its end.
    """
    parameter = next(model.parameters())
    inputs = inputs.to(device=parameter.device, dtype=parameter.dtype)
    ends = end_tokens(model)
    rows = [Row(job, tokenizer, ends) for job in jobs]

    def ended(number: int) -> None:
        row, visual = rows[number], jobs[number].prompt.visual_tokens
        assert row.reason is not None
        after = visual_after(number) if visual else 0
        done = Done(row.reason, len(row.text.ids), visual, after)
        if not row.job.cancelled:
            answered(row.job, done)
        row.job.tell(done)

    criteria = _Rows(rows, ended)
    with torch.no_grad():
        model.generate(  # type: ignore[operator]
            **inputs,
            max_new_tokens=max(job.max_tokens for job in jobs),
            do_sample=False,
            num_beams=1,
            logits_processor=LogitsProcessorList([RowSampler([job.sampling for job in jobs])]),
            stopping_criteria=StoppingCriteriaList([criteria]),
        )
    for row in rows:
        row.end()
    criteria.tell()


def end_tokens(model: Any) -> frozenset[int]:
    """The ids of the tokens that end an answer."""
    ends = model.generation_config.eos_token_id
    return frozenset(() if ends is None else [ends] if isinstance(ends, int) else map(int, ends))
