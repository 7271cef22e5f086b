"""Ask a model about images, with and without acceleration, as ``illava ask`` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import nn

from .api import accelerate
from .bench.timing import Timing, interleave, measure, ratio, spread
from .errors import InputError
from .io.pictures import open_picture
from .io.prompts import as_seen, build_prompt
from .methods import Illava, Method
from .methods.presets import DEFAULT_KEEP, default_method, make_method, presets
from .methods.shipped import Shipped, shipped_with
from .models.loading import load
from .report import Report

__all__ = ["Answer", "as_seen", "ask", "build_prompt", "load"]

PARTS = ("encoder", "prefill", "decode_per_token", "ttft", "total")
"""The fields of a Timing whose ratios :meth:`Answer.to_dict` returns."""


@dataclass(frozen=True)
class Answer:
    """An answer, its report and its timings."""

    question: str
    text: str
    """The accelerated model's answer."""
    method: Method
    report: Report
    """The report of the accelerated model's prefill."""
    timings: list[Timing]
    """One per round, after a warm-up; without ``compare`` a single one, without warm-up."""
    plain_text: str | None = None
    """The plain model's answer with ``compare``, else None."""
    plain_timings: list[Timing] | None = None
    """One per round, paired with ``timings``; None without ``compare``."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready. Times are medians in seconds; ratios are plain / accelerated, with their ranges."""
        out = {
            "question": self.question,
            "answer": self.text,
            "method": self.method.to_dict(),
            "rounds": len(self.timings),
            "new_tokens": self.timings[0].new_tokens,
            "seconds": _medians(self.timings),
            "plain": None,
            "report": self.report.to_dict(),
        }
        if self.plain_timings is not None:
            ratios = {part: vars(ratio(self.plain_timings, self.timings, part)) for part in PARTS}
            out["plain"] = {
                "answer": self.plain_text,
                "new_tokens": self.plain_timings[0].new_tokens,
                "seconds": _medians(self.plain_timings),
                "ratios": {part: _no_nan(values) for part, values in ratios.items()},
            }
        return out


def ask(
    model: nn.Module,
    processor: Any,
    pictures: Sequence[Image.Image | str | os.PathLike[str]],
    question: str,
    method: Method | None = None,
    max_new_tokens: int = 64,
    compare: bool = False,
    rounds: int = 5,
    *,
    video: Sequence[Image.Image] = (),
    trace: bool = False,
) -> Answer:
    """Ask an accelerated model one question about one or more images, or a video, with greedy decoding.

    The model is restored afterwards. With ``compare``, the plain model answers as well: after one warm-up run
    each, both models run in turn, ``rounds`` times.

    Args:
        model, processor: as :func:`load` returns them.
        pictures: Pillow images or files; they precede the question in the prompt.
        method: default: that of ``illava_config.json`` beside the model's weights, else ``Illava.best`` at
            1/3 of the visual tokens.
        video: the frames of a video, all of which are used, instead of images.
        trace: as in :func:`illava.accelerate`.

    Raises InputError for images or a question that cannot be used and for a method that does not fit the
    model, UnsupportedError for an unsupported model.
    """
    opened = [p if isinstance(p, Image.Image) else open_picture(p) for p in pictures]
    inputs = build_prompt(processor, opened, question, video).to(device=model.device, dtype=model.dtype)
    method = choose(model)[0] if method is None else method
    reports: list[Report] = []

    def accelerated() -> Timing:
        try:
            handle = accelerate(model, method, trace=trace)
        except ValueError as error:
            raise InputError(f"method {method.name}: {error}") from error
        with handle:
            timing = measure(model, inputs, max_new_tokens)
            reports[:] = [handle.report]
        return timing

    length = inputs["input_ids"].shape[1]
    if not compare:
        timing = accelerated()
        return Answer(question, _decode(processor, timing, length), method, reports[0], [timing])
    runs = {"plain": lambda: measure(model, inputs, max_new_tokens), "accelerated": accelerated}
    timings = interleave(runs, rounds)
    fast, plain = timings["accelerated"], timings["plain"]
    text, plain_text = (_decode(processor, timing, length) for timing in (fast[0], plain[0]))
    return Answer(question, text, method, reports[0], fast, plain_text, plain)


def choose(
    model: nn.Module, name: str | None = None, keep: float | None = None
) -> tuple[Method, Shipped | None]:
    """The method for a name and a budget, either of which may be left out; and where it was found.

    Without both: the method beside the model's weights, else :func:`default_method`. A name
    alone: the method's own default, a budget alone: ``Illava.best``. Raises InputError.
    """
    if name is not None:
        return make_method(name, DEFAULT_KEEP if keep is None and name in presets() else keep), None
    if keep is not None:
        return Illava.best(keep), None
    try:
        shipped = shipped_with(model)
    except ValueError as error:
        raise InputError(str(error)) from error
    return (default_method(), None) if shipped is None else (shipped.method, shipped)


def _decode(processor: Any, timing: Timing, prompt_length: int) -> str:
    new = timing.output[0, prompt_length:]
    return str(processor.tokenizer.decode(new, skip_special_tokens=True)).strip()


def _medians(timings: list[Timing]) -> dict[str, float | None]:
    return _no_nan({part: spread([getattr(t, part) for t in timings]).median for part in PARTS})


def _no_nan(values: dict[str, float]) -> dict[str, float | None]:
    """Replace NaN, which JSON does not have, by None."""
    return {key: None if value != value else value for key, value in values.items()}
