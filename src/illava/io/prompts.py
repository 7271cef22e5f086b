"""From pictures and a question to a model's inputs, by its processor's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageOps

from ..errors import InputError
from .texts import check_text


def build_prompt(
    processor: Any, pictures: Sequence[Image.Image], question: str, video: Sequence[Image.Image] = ()
) -> Any:
    """The model's inputs for a user turn of pictures, or the frames of a video, and then text, as the
    processor's chat template has it.

    Raises InputError when there is no picture or no question, or the processor refuses them.
    """
    if bool(pictures) == bool(video) or not question.strip():
        raise InputError("give at least one picture, or one video, and a question")
    check_text("question", question)
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
