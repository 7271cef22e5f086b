"""Asking a model about pictures, with and without acceleration: what ``illava ask`` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from . import accelerate, zoo
from .bench.timing import Timing, interleave, measure, ratio, spread
from .families import family_of
from .methods import Illava, Method
from .pictures import InputError, open_picture
from .report import Report

DTYPES = ("float32", "bfloat16", "float16")
PARTS = ("encoder", "prefill", "decode_per_token", "ttft", "total")
"""The measurements of a Timing that ratios are given for."""


@dataclass(frozen=True)
class Answer:
    """What a model said, and what it took."""

    question: str
    text: str
    """The accelerated model's answer."""
    method: Method
    report: Report
    """Of the accelerated model's prefill."""
    timings: list[Timing]
    """One without comparing; then nothing was warmed up before."""
    plain_text: str | None = None
    """The plain model's answer, when comparing; None otherwise."""
    plain_timings: list[Timing] | None = None
    """One a round, paired with ``timings``."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready. Times are medians in seconds; ratios are plain / accelerated, with their extremes."""
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
    """Ask an accelerated model one question about one or more pictures, or a video; it answers greedily.

    The model comes back as it was. With ``compare`` the plain model is asked too: both once to warm up,
    then in turn, ``rounds`` times.

    Args:
        model, processor: as from :func:`load`.
        pictures: Pillow pictures, or files to open; they stand before the question in the prompt.
        method: default: iLLaVA at the schedule published for the model's family.
        video: frames of a video, all of which are shown; instead of pictures.
        trace: as in :func:`illava.accelerate`.

    Raises InputError for pictures or a question that cannot be used and for a method that does not fit the
    model, UnsupportedError for a model that illava does not know.
    """
    opened = [p if isinstance(p, Image.Image) else open_picture(p) for p in pictures]
    inputs = build_prompt(processor, opened, question, video).to(device=model.device, dtype=model.dtype)
    method = Illava() if method is None else method
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


def build_prompt(
    processor: Any, pictures: Sequence[Image.Image], question: str, video: Sequence[Image.Image] = ()
) -> Any:
    """The model's inputs for a user turn of pictures, or the frames of a video, and then text, as the
    processor's chat template has it.

    Raises InputError when there is no picture or no question, or the processor refuses them.
    """
    if bool(pictures) == bool(video) or not question.strip():
        raise InputError("give at least one picture, or one video, and a question")
    content: list[dict[str, Any]] = [{"type": "image", "image": picture} for picture in pictures]
    # The frames given are the frames used.
    options = {"processor_kwargs": {"do_sample_frames": False}} if video else {}
    content += [{"type": "video", "video": list(video)}] if video else []
    chat = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
    try:
        return processor.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **options
        )
    except ValueError as error:
        # No chat template, or a picture whose shape the model cannot take.
        raise InputError(f"the model's processor cannot make a prompt of this: {error}") from error


def as_seen(processor: Any, picture: Image.Image) -> Image.Image:
    """What a processor leaves of a picture where it cuts a square out of its middle (LLaVA-1.5), in fractions
    of which patches then lie."""
    images = getattr(processor, "image_processor", None)
    crop = getattr(images, "crop_size", None)
    if not getattr(images, "do_center_crop", False) or crop is None:
        return picture
    high, wide = (crop["height"], crop["width"]) if "height" in crop else (crop["shortest_edge"],) * 2
    scale = min(picture.width / wide, picture.height / high)
    return ImageOps.fit(picture, (max(1, round(wide * scale)), max(1, round(high * scale))))


def _decode(processor: Any, timing: Timing, prompt_length: int) -> str:
    new = timing.output[0, prompt_length:]
    return str(processor.tokenizer.decode(new, skip_special_tokens=True)).strip()


def load(model: str = "zoo/L", device: str = "auto", dtype: str = "auto") -> tuple[nn.Module, Any]:
    """Load a supported model and its processor.

    Args:
        model: a shipped model (``illava.zoo.names()``), a folder, or an id of the Hugging Face hub.
        device: "auto" (cuda if there is one, else cpu) or any torch device.
        dtype: one of ``DTYPES``, or "auto": float32 on CPUs, many of which run bfloat16 tens of times
            slower, and the checkpoint's own elsewhere.

    Raises InputError, in one line, for whatever is missing or broken, UnsupportedError for other families.
    """
    place, kind = parse_device(device), parse_dtype(dtype)
    if kind is None:
        kind = torch.float32 if place.type == "cpu" else "auto"
    config = read_config(model)
    family_of(config)
    processor = _read_processor(model, config)
    try:
        loaded, notes = AutoModelForImageTextToText.from_pretrained(
            resolve(model), config=config, dtype=kind, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:
        raise InputError(f"model {model}: its weights cannot be loaded: {_reason(error)}") from error
    # transformers fills gaps with random numbers and goes on.
    if notes["missing_keys"] or notes["mismatched_keys"]:
        names = sorted(str(key) for key in {*notes["missing_keys"], *notes["mismatched_keys"]})
        raise InputError(
            f"model {model}: its weights do not fit its config.json: {len(names)} are missing or of another "
            f"shape, {names[0]} for one"
        )
    return loaded.to(place).eval(), processor


def resolve(model: str) -> str:
    """A folder, or an id of the hub, for the name of a model. Raises InputError for what is neither."""
    if model.startswith("zoo/"):
        try:
            return str(zoo.path(model))
        except ValueError as error:
            raise InputError(f"model {model}: {error}") from None
    # os.path: unlike pathlib it never raises, whatever the name.
    folder = os.path.expanduser(model)
    if os.path.isdir(folder):
        if not os.path.isfile(os.path.join(folder, "config.json")):
            raise InputError(
                f"model {model}: the folder has no config.json; give one written by save_pretrained"
            )
        return folder
    if os.path.exists(folder):
        raise InputError(f"model {model}: this is a file; give the folder that holds the model")
    if model.startswith(("/", ".", "~")) or model.count("/") > 1 or not model.strip():
        raise InputError(f"model {model}: no such folder; give a folder, a hub id or one of {_shipped()}")
    return model


def read_config(model: str) -> Any:
    """The transformers config of a model, without its weights. Raises InputError."""
    source = resolve(model)
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        tail = "" if os.path.isdir(source) else f"; give a folder, a hub id or one of {_shipped()}"
        raise InputError(f"model {model}: its config cannot be read: {_reason(error)}{tail}") from error


def _read_processor(model: str, config: Any) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(resolve(model), trust_remote_code=False)
    except Exception as error:
        raise InputError(f"model {model}: its processor cannot be loaded: {_reason(error)}") from error
    # transformers makes do with a part of a processor, or with an empty tokenizer.
    image_token, tokenizer = (getattr(processor, name, None) for name in ("image_token", "tokenizer"))
    known = tokenizer is not None and image_token in tokenizer.get_vocab()
    if not known or tokenizer.convert_tokens_to_ids(image_token) != config.image_token_id:
        raise InputError(
            f"model {model}: its processor does not fit the model; are preprocessor_config.json, "
            "tokenizer.json and tokenizer_config.json all there?"
        )
    return processor


def pixel_limits(model: str) -> tuple[int, int] | None:
    """The fewest and the most pixels that a model's own processor resizes a picture to, if it says so."""
    try:
        size = AutoImageProcessor.from_pretrained(resolve(model), trust_remote_code=False).size
        return int(size["shortest_edge"]), int(size["longest_edge"])
    except Exception:
        # No processor, or one with limits of another kind.
        return None


def parse_device(name: str) -> torch.device:
    """A torch device that is there; "auto" is cuda, or else cpu. Raises InputError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type != "meta":
            return device
    except Exception:
        # Every backend has its own way to say that it is not there.
        pass
    raise InputError(f"device {name}: there is no such device; this machine has {', '.join(here)}")


def parse_dtype(name: str) -> torch.dtype | None:
    """A floating torch dtype; None for "auto". Raises InputError."""
    if name not in ("auto", *DTYPES):
        raise InputError(f"dtype {name}: give one of auto, {', '.join(DTYPES)}")
    return None if name == "auto" else getattr(torch, name)


def _shipped() -> str:
    return ", ".join(zoo.names())


def _reason(error: Exception) -> str:
    """The first line of an error of transformers or the hub; the rest is advice about their own options."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


def _medians(timings: list[Timing]) -> dict[str, float | None]:
    return _no_nan({part: spread([getattr(t, part) for t in timings]).median for part in PARTS})


def _no_nan(values: dict[str, float]) -> dict[str, float | None]:
    """NaN is no JSON."""
    return {key: None if value != value else value for key, value in values.items()}
