"""The demo page's back end: models, uploads and streamed answers. It does not depend on Gradio."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import StoppingCriteria, TextIteratorStreamer

from .. import zoo
from ..api import accelerate
from ..io.pictures import InputError, open_picture
from ..io.prompts import as_seen, build_prompt
from ..io.video import is_video, read_video
from ..methods.presets import DEFAULT_KEEP, make_method
from ..models.loading import load
from ..plugins import example
from ..report.report import Report

MOST_FILES, MOST_MEGABYTES, MOST_TOKENS = 8, 20, 128
BUDGETS = {"all": 1.0, "1/2": 1 / 2, "1/3": 1 / 3, "1/6": 1 / 6, "1/9": 1 / 9, "1/18": 1 / 18}
DEFAULT_BUDGET = next(name for name, keep in BUDGETS.items() if keep == DEFAULT_KEEP)


@dataclass
class Progress:
    """The part of an answer that has been generated so far."""

    text: str = ""
    tokens: int = 0
    first: float = 0.0
    """Seconds to the first token."""
    total: float = 0.0


@dataclass
class Server:
    """The state that all sessions share."""

    names: Sequence[str]
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    _loaded: dict[str, tuple[nn.Module, Any]] = field(default_factory=dict)
    _uploads: dict[str, set[Path]] = field(default_factory=dict)

    def model(self, name: str) -> tuple[nn.Module, Any]:
        """One of the offered models, loaded on first use."""
        if name not in self.names:
            raise InputError(f"unknown model {name!r}; choose one of {', '.join(self.names)}")
        if name not in self._loaded:
            self._loaded[name] = load(name, self.device, self.dtype, self.trust_remote_code)
        return self._loaded[name]

    def example(self) -> tuple[Path, str] | None:
        """The file of an image and a question that show what the first model can do, or None."""
        return example(self.names[0])

    def note(self, session: str | None, files: Sequence[str]) -> None:
        """Remember the uploads of a session, which count as new."""
        self._uploads.setdefault(session or "", set()).update(Path(file) for file in files)
        for file in files:
            with suppress(OSError):
                # All sessions share the example's copy, which may be about to be deleted for its age.
                os.utime(file)

    def forget(self, session: str | None) -> None:
        """Delete the uploads of a session, except files that another session uploaded as well."""
        uploads = self._uploads.pop(session or "", set())
        shown = self.example()
        for file in uploads.difference(*self._uploads.values(), () if shown is None else (shown[0],)):
            file.unlink(missing_ok=True)

    def answer(
        self, files: Sequence[str] | None, question: str, name: str, method: str, budget: str
    ) -> Iterator[tuple[Progress, Progress, Report | None, list[Any]]]:
        """Stream the answers, merged first, then plain; the last item has the report.

        Raises InputError and UnsupportedError for requests that cannot be answered.
        """
        pictures, video = read(files or ())
        if not question.strip():
            raise InputError("write a question first")
        if budget not in BUDGETS:
            raise InputError(f"unknown budget {budget!r}; choose one of {', '.join(BUDGETS)}")
        chosen = make_method(method, BUDGETS[budget])
        with self.lock:
            model, processor = self.model(name)
            inputs = build_prompt(processor, pictures, question.strip()[:2000], video)
            inputs = inputs.to(device=model.device, dtype=model.dtype)
            merged, plain, report = Progress(), Progress(), None
            given: list[Any] = [video] if video else [as_seen(processor, one) for one in pictures]
            try:
                with accelerate(model, chosen):
                    for merged in streamed(model, processor, inputs):
                        yield merged, plain, None, given
            except ValueError as error:
                raise InputError(f"method {method}: {error}") from error
            for plain in streamed(model, processor, inputs):
                yield merged, plain, None, given
            # A separate run for the trace, because tracing takes time.
            with accelerate(model, chosen, trace=True) as handle, torch.no_grad():
                model.generate(**inputs, max_new_tokens=1, do_sample=False)
                report = handle.report
        yield merged, plain, report, given


def read(files: Sequence[str]) -> tuple[list[Image.Image], tuple[Image.Image, ...]]:
    """Read images, or the frames of one video, from files. Raises InputError."""
    if not files:
        raise InputError("upload an image or a video first")
    if len(files) > MOST_FILES:
        raise InputError(f"{len(files)} files are too many; upload at most {MOST_FILES}")
    for file in files:
        if not os.path.exists(file):
            raise InputError("the upload has expired; upload it again")
        if os.path.getsize(file) > MOST_MEGABYTES * 2**20:
            raise InputError(f"{Path(file).name}: larger than {MOST_MEGABYTES} MB; upload a smaller file")
    clips = [file for file in files if is_video(file)]
    if clips and len(files) > 1:
        raise InputError("upload either images or one video")
    try:
        if clips:
            return [], read_video(Path(clips[0]))
        return [open_picture(file) for file in files], ()
    except InputError as error:
        # Do not reveal where the server stores files.
        raise InputError(str(error).replace(str(Path(files[0]).parent) + os.sep, "")) from None


def streamed(model: nn.Module, processor: Any, inputs: Any) -> Iterator[Progress]:
    """Stream an answer. Raises errors of the model's thread; closing the iterator stops the model."""
    streamer = _Streamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    errors: list[BaseException] = []
    stop = _Stop()

    def generate() -> None:
        try:
            with torch.no_grad():
                options = dict(max_new_tokens=MOST_TOKENS, do_sample=False, stopping_criteria=[stop])
                model.generate(**inputs, streamer=streamer, **options)
        except BaseException as error:
            errors.append(error)
            streamer.end()

    began, text = time.perf_counter(), ""
    thread = threading.Thread(target=generate, daemon=True)
    thread.start()
    try:
        for piece in streamer:
            text += piece
            yield Progress(
                text, streamer.count, (streamer.first or began) - began, time.perf_counter() - began
            )
    finally:
        # The model must be idle before the next request.
        stop.event.set()
        thread.join()
    if errors:
        raise errors[0]
    ended = streamer.ended or time.perf_counter()
    yield Progress(text.strip(), streamer.count, (streamer.first or began) - began, ended - began)


class _Stop(StoppingCriteria):
    """Stops generation when its event is set."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


class _Streamer(TextIteratorStreamer):
    """Records the times of the first and the last token, and the number of tokens."""

    first: float | None = None
    ended: float | None = None
    """When the model finished; the consumer may be slower."""
    count = 0

    def end(self) -> None:
        self.ended = self.ended or time.perf_counter()
        super().end()

    def put(self, value: Any) -> None:
        if not self.next_tokens_are_prompt:
            self.first = self.first or time.perf_counter()
            self.count += 1
        super().put(value)


def table(merged: Progress, plain: Progress, report: Report | None) -> list[list[str]]:
    """Rows of tokens, times and costs: name, plain, merged, ratio."""
    rows = [["answer, tokens", str(plain.tokens or ""), str(merged.tokens), ""]]
    for name, part in (("time to first token, s", "first"), ("whole answer, s", "total")):
        before, after = getattr(plain, part), getattr(merged, part)
        rows.append([name, f"{before:.3f}" if before else "", f"{after:.3f}", _times(before, after)])
    if report is not None:
        costs = report.plain_cost, report.cost
        counts = report.visual_tokens, report.final_tokens
        rows.insert(0, ["visual tokens at the end", *map(str, counts), _times(*counts)])
        kv = [cost.kv_bytes for cost in costs]
        rows.append(["KV cache, kB", *(f"{n / 1e3:,.0f}" for n in kv), _times(*kv)])
        flops = [cost.total for cost in costs]
        rows.append(["GFLOPs to the first token", *(f"{n / 1e9:,.2f}" for n in flops), _times(*flops)])
    return rows


def _times(before: float, after: float) -> str:
    return f"{before / after:.2f}x" if before and after else ""


def shipped() -> list[str]:
    """The shipped models, the best first, each under one name; none without illava-lab."""
    names: dict[Path, str] = {}
    for name in zoo.names():
        names.setdefault(Path(zoo.path(name)).resolve(), name)
    return list(names.values())
