"""Turn samples into the model's inputs: batches of prompts with images, with videos or with neither."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PIL import Image
from torch import nn

from ..errors import InputError
from ..io.prompts import apply_template, placeholder_in
from ..io.texts import check_text
from .samples import Sample

GREY = (128, 128, 128)


def build_batch(processor: Any, samples: Sequence[Sample]) -> Any:
    """The model's inputs, left-padded, with one user turn per sample: images or a video, then the question.

    Samples must be of one form: all with images, all with a video, or all with neither. All frames of a video
    are used. Raises InputError, naming the sample, if the processor cannot build a prompt.
    """
    try:
        return _build(processor, samples)
    except ValueError as error:
        # No chat template, or an image whose shape the model does not support: find the sample.
        for sample in samples if len(samples) > 1 else ():
            build_batch(processor, [sample])
        first = samples[0]
        raise InputError(
            f"task {first.task}: the processor cannot build a prompt of sample {first.number}: {error}"
        ) from error


def inputs_of(model: nn.Module, processor: Any, samples: Sequence[Sample]) -> Any:
    """:func:`build_batch`, on the device and in the dtype of ``model``."""
    parameter = next(model.parameters())
    return build_batch(processor, samples).to(device=parameter.device, dtype=parameter.dtype)


def by_form(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Group samples: those with images, then those with a video; empty groups are omitted."""
    groups = [[s for s in samples if not s.video], [s for s in samples if s.video]]
    return [group for group in groups if group]


def blank(sample: Sample) -> Sample:
    """The same question about grey images of the same sizes; answers that are still correct are guesses."""
    pictures, video = (
        tuple(Image.new("RGB", picture.size, GREY) for picture in some)
        for some in (sample.pictures, sample.video)
    )
    return replace(sample, pictures=pictures, video=video)


def without_pictures(sample: Sample) -> Sample:
    """The same question without images, video or visual tokens."""
    return replace(sample, pictures=(), video=())


def _build(processor: Any, samples: Sequence[Sample]) -> Any:
    chats = []
    for sample in samples:
        check_text("its question", sample.question)
        if token := placeholder_in(processor, sample.question):
            raise ValueError(f"its question contains {token}, the placeholder of an image or a video")
        content: list[dict[str, Any]] = [{"type": "image", "image": picture} for picture in sample.pictures]
        if sample.video:
            content.append({"type": "video", "video": list(sample.video)})
        chats.append([{"role": "user", "content": [*content, {"type": "text", "text": sample.question}]}])
    return apply_template(processor, chats, bool(samples[0].video))
