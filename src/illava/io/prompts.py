"""Builds the inputs of a model from images and a question, with the chat template of its processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..errors import InputError
from .texts import check_text


def build_prompt(
    processor: Any, pictures: Sequence[Image.Image], question: str, video: Sequence[Image.Image] = ()
) -> Any:
    """Build the inputs for one user turn: images, or the frames of a video, and then the question.

    Raises InputError without images or a question, and if the processor rejects them.
    """
    if bool(pictures) == bool(video) or not question.strip():
        raise InputError("give a question, and either pictures or one video")
    check_text("question", question)
    content: list[dict[str, Any]] = [{"type": "image", "image": picture} for picture in pictures]
    content += [{"type": "video", "video": list(video)}] if video else []
    chat = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
    try:
        return apply_template(processor, [chat], bool(video))
    except ValueError as error:
        # No chat template, or an image of a shape that the processor does not support.
        raise InputError(f"the processor of the model cannot build this prompt: {error}") from error


def apply_template(processor: Any, chats: Sequence[list[dict[str, Any]]], videos: bool) -> Any:
    """The model's inputs, on the CPU, for conversations that end before an answer.

    Args:
        chats: as the processor's ``apply_chat_template`` takes them, with Pillow images; several are padded
            on the left.
        videos: whether they have videos, all of whose frames are used.

    Raises what the processor raises: ValueError without a chat template or for images that it does not take.
    """
    options: dict[str, Any] = {"padding": True, "padding_side": "left"} if len(chats) > 1 else {}
    if videos:
        options["do_sample_frames"] = False
    return processor.apply_chat_template(
        list(chats),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=options,
    )


def placeholder_in(processor: Any, text: str) -> str | None:
    """The processor's placeholder of an image or a video that ``text`` contains; None if there is none."""
    tokens = (getattr(processor, name, None) for name in ("image_token", "video_token"))
    return next((token for token in tokens if token and token in text), None)


def as_seen(processor: Any, picture: Image.Image) -> Image.Image:
    """The part of an image that the model sees, of which patch coordinates are fractions.

    It is the centre crop if the processor makes one (LLaVA-1.5), otherwise the whole image.
    """
    images = getattr(processor, "image_processor", None)
    crop = getattr(images, "crop_size", None)
    if not getattr(images, "do_center_crop", False) or crop is None:
        return picture
    high, wide = (crop["height"], crop["width"]) if "height" in crop else (crop["shortest_edge"],) * 2
    # Pixels of the picture per pixel of the crop. DINOv2's processors resize to more than they crop to.
    fitting = min(picture.width / wide, picture.height / high)
    across = down = 1.0
    size = images.size if getattr(images, "do_resize", False) else {}
    if "shortest_edge" in size:
        across = down = min(fitting, min(picture.size) / size["shortest_edge"])
    elif "height" in size:
        across, down = picture.width / max(size["width"], wide), picture.height / max(size["height"], high)
    width, height = min(wide * across, picture.width), min(high * down, picture.height)
    left, top = (picture.width - width) / 2, (picture.height - height) / 2
    return picture.resize(
        (max(1, round(width)), max(1, round(height))),
        Image.Resampling.BICUBIC,
        box=(left, top, left + width, top + height),
    )
