"""Answers, and likelihoods of given answers, of an accelerated model to batches of conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from ..api import Handle
from ..errors import InputError
from ..io.prompts import apply_template, placeholder_in
from ..models.placeholders import visual_counts
from .generation import Generation, cut

Chat = list[dict[str, Any]]
"""Turns as ``apply_chat_template`` takes them, with Pillow images; each content is a list of parts."""


@dataclass(frozen=True)
class Answer:
    """An answer, and the tokens that it took."""

    text: str
    prompt_tokens: int
    """With all visual tokens, before any is dropped."""
    new_tokens: int
    """The end token included."""
    visual_before: int
    visual_after: int
    """Visual tokens after the last step of merging."""


@dataclass(frozen=True)
class Likelihood:
    """How likely a model is to give an answer."""

    log_probs: tuple[float, ...]
    """Of each of its tokens, in nats, given the prompt and the tokens before."""
    greedy: bool
    """Whether greedy decoding gives it."""


def form(chat: Chat) -> tuple[bool, bool]:
    """Whether a conversation has pictures and whether it has videos; processors batch those of one form."""
    kinds = {part["type"] for turn in chat for part in turn["content"]}
    return "image" in kinds, "video" in kinds


class Answerer:
    """An accelerated model that answers conversations. All of one call must be of one :func:`form`."""

    def __init__(self, handle: Handle, processor: Any) -> None:
        self.handle, self.processor = handle, processor
        self.model: Any = handle.model
        self._ends = _end_tokens(handle.model)

    def check(self, chat: Chat) -> None:
        """Raise InputError for placeholders in texts, and for videos if the model takes none."""
        for part in (part for turn in chat for part in turn["content"] if part["type"] == "text"):
            if token := placeholder_in(self.processor, part["text"]):
                raise InputError(f"a text contains {token}, the model's placeholder of a picture")
        if form(chat)[1] and self.handle.modules.family.video is None:
            raise InputError("this model does not support videos; evaluate it on tasks with pictures")

    def answer(self, chats: Sequence[Chat], generation: Generation) -> list[Answer]:
        """Generate an answer to each conversation. Raises InputError."""
        inputs = self._inputs(chats)
        options = dict(generation.options)
        if generation.stops:
            options |= {"stop_strings": list(generation.stops), "tokenizer": self.processor.tokenizer}
        sequences = self.model.generate(**inputs, max_new_tokens=generation.max_new_tokens, **options)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        before = visual_counts(self.handle.modules.config, ids)
        # Beams of a prompt are rows of their own, with the same visual tokens.
        rows = self.handle.report.row_tokens[:: generation.beams] if any(before) else [(0,)] * len(chats)
        answers = []
        for row, new in enumerate(sequences[:, ids.shape[1] :].tolist()):
            tokens = self._until_end(new)
            text = self.processor.tokenizer.decode(tokens, skip_special_tokens=True)
            visual = before[row], rows[row][-1]
            text = cut(text, generation.stops)
            answers.append(Answer(text, int(mask[row].sum()), len(tokens), *visual))
        return answers

    def likelihoods(self, chats: Sequence[Chat], continuations: Sequence[str]) -> list[Likelihood]:
        """The likelihood of one given answer to each conversation.

        The answer is decoded token by token after a prefill of the prompt alone, so that merging sees what it
        sees when the model generates. Raises InputError.
        """
        wanted = [self._tokens(*pair) for pair in zip(chats, continuations, strict=True)]
        inputs = self._inputs(chats)
        out = self.model.generate(
            **inputs,
            max_new_tokens=max(map(len, wanted)),
            do_sample=False,
            num_beams=1,
            logits_processor=LogitsProcessorList([_Forced(wanted, inputs["input_ids"].shape[1])]),
            output_logits=True,
            return_dict_in_generate=True,
        )
        logits = torch.stack(out.logits, 1).float()
        found = []
        for row, tokens in enumerate(wanted):
            own = logits[row, : len(tokens)]
            target = torch.tensor(tokens, device=own.device)
            chosen = own.log_softmax(-1).gather(-1, target[:, None])[:, 0]
            found.append(Likelihood(tuple(chosen.tolist()), bool((own.argmax(-1) == target).all())))
        return found

    def _inputs(self, chats: Sequence[Chat]) -> Any:
        for chat in chats:
            self.check(chat)
        try:
            inputs = apply_template(self.processor, chats, form(chats[0])[1])
        except ValueError as error:
            raise InputError(f"the processor of the model cannot build this prompt: {error}") from error
        parameter = next(self.model.parameters())
        return inputs.to(device=parameter.device, dtype=parameter.dtype)

    def _until_end(self, new: list[int]) -> list[int]:
        """New tokens up to the end token, without the padding that follows in a batch."""
        for count, token in enumerate(new, 1):
            if token in self._ends:
                return new[:count]
        padding = self.model.generation_config.pad_token_id
        while new and new[-1] == padding:
            new = new[:-1]
        return new

    def _tokens(self, chat: Chat, continuation: str) -> list[int]:
        """The tokens of an answer, written as the chat template writes it, without the end of the turn."""
        text = continuation.strip()
        if not text:
            raise InputError("a choice is empty; give choices with text")
        answer = {"role": "assistant", "content": [{"type": "text", "text": text}]}
        before, whole = (
            str(self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt))
            for turns, prompt in ((chat, True), ([*chat, answer], False))
        )
        rest = whole.removeprefix(before)
        at = rest.find(text)
        # Some templates put a space before the answer, and some do not begin as the prompt does.
        written = rest[: at + len(text)] if len(rest) < len(whole) and at >= 0 else text
        tokenize = self.processor.tokenizer
        known, both = (
            tokenize(part, add_special_tokens=False).input_ids for part in (before, before + written)
        )
        tokens: list[int] = both[len(known) :]
        return tokens


def _end_tokens(model: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)


class _Forced(LogitsProcessor):
    """Lets ``generate`` choose given tokens; a row that has no more of them repeats its last."""

    def __init__(self, tokens: Sequence[list[int]], start: int) -> None:
        self.tokens, self.start = tokens, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, V) scores to (B, V): 0 for a row's next token, -inf for all others."""
        step = input_ids.shape[1] - self.start
        forced = torch.full_like(scores, -torch.inf)
        for row, tokens in enumerate(self.tokens):
            forced[row, tokens[min(step, len(tokens) - 1)]] = 0.0
        return forced
