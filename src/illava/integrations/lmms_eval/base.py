"""What the chat model and the simple model of lmms-eval share: arguments, batches, counts and logs."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger
from tqdm import tqdm

from ...errors import InputError
from ...io.video import MAX_FRAMES
from ..answering import Answer, Answerer, Chat, Likelihood, form
from ..generation import KNOWN, Generation, read_generation
from ..media import frames_of, picture_of
from ..opening import EXAMPLE, open_accelerated, read_count

T = TypeVar("T")
Source = Callable[[], Chat]
"""Reads the pictures of a question only when its batch is due."""
FILLED_IN = "\n\n"
"""The harness gives this stop sequence to tasks that name none, so that a task's own cannot be told from it.
As in the harness's own models it does not end an answer, which may have several paragraphs."""


class Illava(lmms):  # type: ignore[misc]
    """An accelerated model for lmms-eval.

    Args:
        pretrained, keep, method, config, device, dtype, trust_remote_code: as
            :func:`illava.integrations.opening.open_accelerated` takes them.
        batch_size: prompts that are answered together.
        max_new_tokens: for tasks that have no limit.
        max_frames: frames of a video that are used, evenly spaced.
        system_prompt: a text, or a file with one, that begins every conversation.

    Raises InputError or UnsupportedError, also for other arguments.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        keep: float | str | None = None,
        method: Any = None,
        config: Any = None,
        device: str | None = None,
        dtype: str | None = None,
        trust_remote_code: bool | str = False,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        max_new_tokens: int = 1024,
        max_frames: int = MAX_FRAMES,
        system_prompt: str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            known = "pretrained, keep, method, config, dtype, trust_remote_code, max_new_tokens, max_frames, "
            raise InputError(
                f"model_args {', '.join(unknown)}: give some of {known}system_prompt, as in {EXAMPLE}"
            )
        self._batch_size = read_count("batch_size", 1 if batch_size is None else batch_size)
        self._max_new_tokens = read_count("max_new_tokens", max_new_tokens)
        self._max_frames = read_count("max_frames", max_frames)
        self._system_prompt = self._resolve_system_prompt(system_prompt) if system_prompt else None
        opened = open_accelerated(pretrained, keep, method, config, device, dtype, trust_remote_code)
        self._model, self._processor = opened.model, opened.processor
        self._answerer: Answerer | None = Answerer(opened.handle, opened.processor)
        self._ignored: set[str] = set()
        logger.info(f"{opened}, on {self.device} in {opened.model.dtype}, batch size {self._batch_size}")

    @property
    def batch_size(self) -> int:
        return self._batch_size

    @property
    def device(self) -> Any:
        return self._model.device

    @property
    def model(self) -> Any:
        return self._model

    @property
    def tokenizer(self) -> Any:
        return self._processor.tokenizer

    def clean(self) -> None:
        """Free the model's memory, as the harness asks for when the answers are there."""
        if self._answerer is not None:
            self._answerer.handle.remove()
            self._answerer = None
        super().clean()

    @abstractmethod
    def _question(self, request: Instance) -> tuple[Source, Mapping[str, Any]]:
        """The conversation and the generation arguments of a request."""

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer all questions, in batches of the same generation arguments and the same kind of prompt."""
        began = time.perf_counter()
        groups: dict[str, tuple[Generation, list[tuple[int, Source]]]] = {}
        for number, request in enumerate(requests):
            source, given = self._question(request)
            key = json.dumps(given, sort_keys=True, default=str)
            if key not in groups:
                groups[key] = self._generation(given), []
            groups[key][1].append((number, source))
        answers: dict[int, Answer] = {}
        with tqdm(total=len(requests), disable=self.rank != 0, desc="Model Responding") as bar:
            for generation, members in groups.values():
                for batch, chats in self._batches(members):
                    answers |= zip(batch, self._running.answer(chats, generation), strict=True)
                    bar.update(len(batch))
        self._log(list(answers.values()), time.perf_counter() - began)
        results = []
        for number in range(len(requests)):
            answer = answers[number]
            counts = TokenCounts(input_tokens=answer.prompt_tokens, output_tokens=answer.new_tokens)
            results.append(GenerationResult(answer.text, counts))
        return results

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("illava answers tasks of one round; this task has several")

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        raise NotImplementedError(
            "the harness asks for likelihoods of simple models only: add --force_simple"
        )

    def _likelihoods(self, pairs: Sequence[tuple[Source, str]]) -> list[Likelihood]:
        """The likelihood of an answer to each of several conversations."""
        found: dict[int, Likelihood] = {}
        with tqdm(total=len(pairs), disable=self.rank != 0, desc="Model Responding") as bar:
            for batch, chats in self._batches([(number, pair[0]) for number, pair in enumerate(pairs)]):
                given = [pairs[number][1] for number in batch]
                found |= zip(batch, self._running.likelihoods(chats, given), strict=True)
                bar.update(len(batch))
        return [found[number] for number in range(len(pairs))]

    @property
    def _running(self) -> Answerer:
        if self._answerer is None:
            raise ValueError("the harness has cleaned this model; make a new one")
        return self._answerer

    def _generation(self, given: Mapping[str, Any]) -> Generation:
        if ignored := sorted({*given} - KNOWN - self._ignored):
            self._ignored.update(ignored)
            logger.warning(f"illava: generation arguments without effect: {', '.join(ignored)}")
        until = given.get("until")
        listed = [until] if isinstance(until, str) else until
        if isinstance(listed, list):
            given = {**given, "until": [stop for stop in listed if stop != FILLED_IN]}
        return read_generation(given, self._max_new_tokens)

    def _batches(self, members: Sequence[tuple[int, Source]]) -> Iterator[tuple[list[int], list[Chat]]]:
        """Numbers and conversations of one form each, as many as the batch size."""
        waiting: dict[tuple[bool, bool], list[tuple[int, Chat]]] = {}
        for number, source in members:
            chat = source()
            batch = waiting.setdefault(form(chat), [])
            batch.append((number, chat))
            if len(batch) == self._batch_size:
                yield _split(batch)
                batch.clear()
        for batch in waiting.values():
            if batch:
                yield _split(batch)

    def _chat(self, turns: Sequence[Mapping[str, Any]], task: str, number: int) -> Chat:
        """A conversation as chat templates take it. Raises InputError that names the question."""
        try:
            chat = [{"role": turn["role"], "content": self._parts(turn["content"])} for turn in turns]
            if self._system_prompt:
                chat = self._apply_system_prompt(chat, self._system_prompt)
            self._running.check(chat)
        except InputError as error:
            raise InputError(f"task {task}, question {number}: {error}") from error
        return chat

    def _parts(self, content: Any) -> list[dict[str, Any]]:
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        parts: list[dict[str, Any]] = []
        for part in content:
            kind = part["type"]
            if kind == "text":
                parts.append({"type": "text", "text": part["text"]})
            elif kind == "image":
                parts.append({"type": "image", "image": picture_of(part["url"])})
            elif kind == "video" and part.get("start_time") is None and part.get("end_time") is None:
                parts.append({"type": "video", "video": frames_of(part["url"], self._max_frames)})
            else:
                what = "a section of a video" if kind == "video" else kind
                raise InputError(f"it has {what}; illava takes texts, pictures and whole videos")
        return parts

    def _log(self, answers: Sequence[Answer], seconds: float) -> None:
        """Tell the harness the speed, and the visual tokens before and after merging, for its results."""
        seen = [answer for answer in answers if answer.visual_before]
        visual: dict[str, float] = {}
        if seen:
            visual["visual_tokens_before"] = sum(answer.visual_before for answer in seen) / len(seen)
            visual["visual_tokens_after"] = sum(answer.visual_after for answer in seen) / len(seen)
        new = sum(answer.new_tokens for answer in answers)
        log_metrics(seconds, new, new / seconds if seconds > 0 else 0.0, visual or None)


def _split(batch: Sequence[tuple[int, Chat]]) -> tuple[list[int], list[Chat]]:
    return [number for number, _ in batch], [chat for _, chat in batch]
