"""Choose among schedules of equal cost: the one whose first tokens diverge least on the user's own images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from ..api import accelerate
from ..io.files import replacing
from ..io.pictures import InputError, open_picture
from ..io.prompts import build_prompt
from ..methods import Method
from .run import first_token_kl

TOKENS = 4
"""The number of first tokens of an answer that are compared."""
QUESTION = "Describe the picture."
"""The question about every image if there is no prompts.txt."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
PROMPTS, FILE = "prompts.txt", "calibration.json"


def samples(folder: Path) -> list[tuple[Path, str]]:
    """Pair every image of a folder with every line of its ``prompts.txt``.

    Raises InputError if there is no such folder or no image in it.
    """
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES)
        prompts = folder / PROMPTS
        lines = prompts.read_bytes().splitlines() if prompts.exists() else [QUESTION.encode()]
    except OSError as error:
        raise InputError(f"--calibrate {folder}: cannot be read: {error}") from error
    questions = []
    for number, line in enumerate(lines, 1):
        try:
            questions += [line.decode().strip()] if line.strip() else []
        except UnicodeDecodeError as error:
            raise InputError(f"--calibrate {prompts}: line {number} is not UTF-8: {error}") from error
    if not files or not questions:
        raise InputError(
            f"--calibrate {folder}: give a folder with images ({', '.join(PICTURES)}) and, optionally, a "
            f"{PROMPTS} with one question per line"
        )
    return [(file, question) for file in files for question in questions]


def calibrate(
    model: nn.Module,
    processor: Any,
    methods: Sequence[Method],
    prompts: Sequence[tuple[Path | Image.Image, str]],
    folder: Path | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> list[float]:
    """The divergence of every method from the plain model over the first tokens of the plain model's answers.

    It is the mean over samples and tokens of KL(plain || merged) in nats, with the plain model's tokens
    forced.

    Args:
        prompts: images, or their files, each with a question.
        folder: results are saved here after every sample, so that a stopped run can be continued.
        advance: called with the number of (method, sample) pairs done.

    Raises InputError for files that cannot be read and for a folder that cannot be written.
    """
    if not prompts:
        raise InputError("calibration needs at least one image with a question")
    known = _SavedResults(folder, model)
    totals = [0.0] * len(methods)
    for picture, question in prompts:
        # Only missing results are computed, the plain model's included.
        opened = picture if isinstance(picture, Image.Image) else open_picture(picture)
        keys = [known.key(method, opened, question) for method in methods]
        if any(key not in known.values for key in keys):
            device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
            inputs = build_prompt(processor, [opened], question).to(device=device, dtype=dtype)
            plain, tokens = _first_tokens(model, inputs, None)
            for key, method in zip(keys, methods, strict=True):
                if key not in known.values:
                    with accelerate(model, method):
                        merged, _ = _first_tokens(model, inputs, tokens)
                    known.save(key, float(first_token_kl(plain, merged).mean()))
                advance(1)
        else:
            advance(len(methods))
        totals = [total + known.values[key] for total, key in zip(totals, keys, strict=True)]
    return [total / len(prompts) for total in totals]


class _ForceTokens(LogitsProcessor):
    """Forces the tokens that are generated, so that distributions are compared after the same tokens."""

    def __init__(self, tokens: Tensor, start: int) -> None:
        self.tokens, self.start = tokens, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        at = self.tokens[input_ids.shape[1] - self.start]
        return torch.full_like(scores, float("-inf")).index_fill(1, at[None], 0)


@torch.no_grad()
def _first_tokens(model: nn.Module, inputs: Any, forced: Tensor | None) -> tuple[Tensor, Tensor]:
    """(T, V) fp32 log-probabilities of the first tokens, on the CPU, and the (T,) tokens."""
    start = inputs["input_ids"].shape[1]
    out = model.generate(  # type: ignore[operator]
        **inputs,
        max_new_tokens=TOKENS if forced is None else len(forced),
        do_sample=False,
        num_beams=1,
        logits_processor=LogitsProcessorList([] if forced is None else [_ForceTokens(forced, start)]),
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits = torch.cat(out.logits).float().log_softmax(-1).cpu()
    return logits, out.sequences[0, start:]


class _SavedResults:
    """Results by model, method, image and question, in a file that is replaced atomically."""

    def __init__(self, folder: Path | None, model: nn.Module) -> None:
        self.file = None if folder is None else folder / FILE
        self.values: dict[str, float] = {}
        # Results are valid for the same weights only.
        weights = [weight.detach().flatten()[:8].float().cpu() for weight in model.parameters()]
        kind = str(next(model.parameters()).dtype).encode()
        self.model = hashlib.sha256(torch.cat(weights).numpy().tobytes() + kind).hexdigest()
        if self.file is not None and self.file.exists():
            try:
                values = json.loads(self.file.read_text(encoding="utf-8"))
                self.values = {str(key): float(value) for key, value in values.items()}
            except (OSError, ValueError, AttributeError, TypeError) as error:
                raise InputError(
                    f"{self.file}: not a calibration file: {error}; move it, or give another --output"
                ) from error

    def key(self, method: Method, picture: Image.Image, question: str) -> str:
        """The key of a result."""
        text = json.dumps([self.model, method.to_dict(), question, picture.size, TOKENS], sort_keys=True)
        pixels = picture.convert("RGB").tobytes()
        return hashlib.sha256(text.encode() + pixels).hexdigest()

    def save(self, key: str, value: float) -> None:
        """Save a result in memory and, if there is a folder, on disk."""
        self.values[key] = value
        if self.file is None:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.file) as partial:
                partial.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{self.file}: cannot write there: {error.strerror or error}") from error
