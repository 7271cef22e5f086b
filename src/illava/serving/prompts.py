"""From the messages of a request to the inputs of a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image

from ..io.prompts import apply_template, placeholder_in
from ..models.located import LocatedModules
from ..models.placeholders import visual_counts
from .errors import ApiError, bad_request
from .jobs import Prompt
from .schema import ImagePart, Message, TextPart


def make_prompt(
    modules: LocatedModules, processor: Any, messages: Sequence[Message], pictures: Iterable[Image.Image]
) -> Prompt:
    """Lay out a conversation and process it.

    Args:
        pictures: those of all image and video parts, in order.

    Raises ApiError if the model has no videos, if a text holds a placeholder, and for what the chat template
    or the processor refuses.
    """
    left = iter(pictures)
    chat = [_turn(modules, processor, number, message, left) for number, message in enumerate(messages)]
    kinds = {part["type"] for turn in chat for part in turn["content"]}
    form = ("image" in kinds, "video" in kinds)
    try:
        inputs = apply_template(processor, [chat], form[1])
    except Exception as error:
        if isinstance(error, ValueError) or type(error).__module__.partition(".")[0] == "jinja2":
            # No chat template, roles that it refuses, or a shape of a picture that is not supported.
            said = " ".join(str(error).split())
            raise bad_request(f"the model's processor refuses these messages: {said}", "messages") from error
        raise
    ids = inputs["input_ids"]
    return Prompt(chat, inputs, ids.shape[1], visual_counts(modules.config, ids)[0], form)


def _turn(
    modules: LocatedModules, processor: Any, number: int, message: Message, pictures: Any
) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    for part in message.content:
        if isinstance(part, TextPart):
            _check_text(processor, part.text, f"messages.{number}.content")
            content.append({"type": "text", "text": part.text})
        elif isinstance(part, ImagePart):
            content.append({"type": "image", "image": next(pictures)})
        else:
            frames = [next(pictures) for _ in part.video]
            _check_video(modules, frames, f"messages.{number}.content")
            content.append({"type": "video", "video": frames})
    # OpenAI's newer name of the system's role, which no chat template knows.
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": content}


def _check_text(processor: Any, text: str, param: str) -> None:
    if token := placeholder_in(processor, text):
        raise bad_request(f"a text holds {token}, the model's placeholder of a picture", param)


def _check_video(modules: LocatedModules, frames: Sequence[Image.Image], param: str) -> None:
    if modules.family.video is None:
        raise bad_request("this model does not support videos; send pictures", param)
    if len({frame.size for frame in frames}) > 1:
        raise bad_request("the frames of a video differ in size; send frames of one size", param)


def check_characters(messages: Sequence[Message], max_prompt_tokens: int, longest_token: int) -> None:
    """Raise ApiError for texts that have too many tokens for sure, without counting them.

    Tokenizing the largest body that is allowed would take gigabytes.

    Args:
        longest_token: characters (or bytes) of the vocabulary's longest token.
    """
    parts = (part for message in messages for part in message.content)
    characters = sum(len(part.text) for part in parts if isinstance(part, TextPart))
    most = max_prompt_tokens * longest_token
    if characters > most:
        raise _too_long(f"the messages have {characters} characters; at most {most} are allowed", "messages")


def check_length(prompt: Prompt, max_prompt_tokens: int, asked: int | None, most: int, context: int) -> int:
    """The number of new tokens that a prompt may get.

    Args:
        asked: what the request asks for; None: as many as there can be.
        most: the server's limit on new tokens.
        context: the model's limit on tokens of prompt and answer together.

    Raises ApiError if the prompt is too long, or if the request asks for more than there can be.
    """
    length = prompt.length
    if length > max_prompt_tokens:
        raise _too_long(
            f"the prompt has {length} tokens; at most {max_prompt_tokens} are allowed", "messages"
        )
    if length >= context:
        raise _too_long(f"the prompt has {length} tokens, and the model takes {context} in all", "messages")
    if asked is not None and asked > most:
        raise bad_request(f"max_tokens is {asked}, and this server generates {most} at most", "max_tokens")
    if asked is not None and length + asked > context:
        raise _too_long(
            f"the prompt has {length} tokens and max_tokens is {asked}, and the model takes {context} in all",
            "max_tokens",
        )
    return asked or min(most, context - length)


def _too_long(message: str, param: str) -> ApiError:
    return bad_request(message, param, "context_length_exceeded")
