"""What the LLM stage must know of a prompt before its placeholders become features."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedError
from ..parts import ModelParts
from .generating import Generating, picture_tensor
from .hooks import Hooks


@dataclass
class Prompt:
    """A batch of prompts with pictures."""

    runs: Tensor
    """(B, L) int64: number of the run of placeholders a token belongs to, over the batch; -1 for text."""
    lengths: tuple[int, ...]
    """Placeholders in each run."""
    video: Tensor
    """(B, L) bool: which placeholders stand for videos."""
    mixed: bool
    """Whether there are both images and videos."""
    last: Tensor
    """(B,) int64: column of the last prompt token, whose attention scores the visual tokens."""
    padding: Tensor | None
    """(B, L) the model's mask of padding, or None."""


class PromptReader:
    """Hooks on the outer model that see token ids; ``take`` hands out what they saw, once."""

    def __init__(self, parts: ModelParts, hooks: Hooks, *, active: bool) -> None:
        self.parts, self.active = parts, active
        self.refusal: str | None = None
        self.image = getattr(parts.config, "image_token_id", None)
        self.video = getattr(parts.config, "video_token_id", None)
        self.prompt: Prompt | None = None
        self.padding: Tensor | None = None
        """(B, L) the mask of padding that the model was last handed, or None."""
        # Pictures, prompt ids and last columns of a generate() without a cache that may be under way.
        self._generating: tuple[weakref.ref[Tensor], Tensor, Tensor, int] | None = None
        self.generating = Generating(parts, hooks, active=active)
        hooks.pre(parts.model, self._note_options)
        hooks.pre(parts.base, self._read)
        hooks.post(parts.base, self._forget, always=True)

    def take(self) -> Prompt | None:
        prompt, self.prompt = self.prompt, None
        return prompt

    def _forget(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        # An image encoder that failed has left a prompt that the LLM never took.
        self.prompt = None

    def _note_options(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.refusal = None
        if kwargs.get("labels") is not None:
            self.refusal = "labels (a loss of your own on the logits is fine)"
        if isinstance(kwargs.get("logits_to_keep"), Tensor):
            self.refusal = "logits_to_keep as a tensor of positions"
        router_logits = kwargs.get("output_router_logits")
        if router_logits is None:
            router_logits = getattr(self.parts.llm.config, "output_router_logits", False)
        if router_logits:
            # The auxiliary loss lays the prompt's mask over them.
            self.refusal = "output_router_logits"

    def _read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.prompt = None
        end = self.generating.take_prompt_end()
        padding = kwargs.get("attention_mask")
        self.padding = padding if isinstance(padding, Tensor) and padding.dim() == 2 else None
        ids = kwargs.get("input_ids", args[0] if args else None)
        embeds, cache = kwargs.get("inputs_embeds"), kwargs.get("past_key_values")
        length = (ids if ids is not None else embeds).shape[1]
        if cache is not None and length == 1 and picture_tensor(kwargs) is None:
            # A decoding step: nothing to find, and no reason to wait for the device.
            return
        filled = cache is not None and cache.get_seq_length() > 0
        found = ids if ids is not None else embeds
        if filled and picture_tensor(kwargs) is None:
            # Placeholders that were generated or looked up stand for no picture.
            return
        start = int(cache.get_seq_length()) if filled else 0
        video = self._find(self.video, found)
        visual = self._find(self.image, found) | video
        if not bool(video.any()) and _videos_alone(kwargs):
            # GLM-4V has one placeholder for pictures and for frames of videos, and takes no prompt with both.
            video = visual
        if not bool(visual.any()):
            return
        refusal, self.refusal = self.refusal, None
        if refusal and self.active:
            raise UnsupportedError(
                f"{refusal}: not supported with pictures on an accelerated model, whose outputs are shorter "
                "than input_ids; call handle.remove() first"
            )
        here = None if self.padding is None else self.padding[:, -length:]
        starts = visual & ~torch.nn.functional.pad(visual, (1, 0))[:, :-1]
        runs = starts.flatten().cumsum(0).view_as(visual) - 1
        runs = runs.masked_fill(~visual, -1)
        last = self._last(ids, kwargs, visual, here)
        if end is not None:
            # Candidates that an assistant proposes follow the prompt.
            last = torch.full_like(last, min(end - start, visual.shape[1]) - 1)
        lengths = tuple(torch.bincount(runs[visual]).tolist())
        mixed = bool(video.any()) and bool((visual & ~video).any())
        self.prompt = Prompt(runs, lengths, video, mixed, last, here)

    def _find(self, token: int | None, found: Tensor) -> Tensor:
        """(B, L) bool: where ``found``, token ids or embeddings, holds a placeholder."""
        if token is None:
            return torch.zeros(found.shape[:2], dtype=torch.bool, device=found.device)
        if not found.is_floating_point():
            return found == token
        embedding = self.parts.base.get_input_embeddings()  # type: ignore[operator]
        return (found == embedding(torch.tensor(token, device=found.device))).all(-1)

    def _last(
        self, ids: Tensor | None, kwargs: dict[str, Any], visual: Tensor, padding: Tensor | None
    ) -> Tensor:
        """(B,) column of the last prompt token.

        ``generate(use_cache=False)`` runs the sequence through the model again and again, each time one
        token longer and with the very same picture tensor; then the prompt still ends where it ended in the
        first pass. Loops by hand that do the same are treated the same.
        """
        columns = torch.arange(visual.shape[1], device=visual.device)
        if padding is not None:
            last = (padding.bool() * columns).argmax(1)
        else:
            last = columns[-1].repeat(len(visual))
        source = picture_tensor(kwargs) if kwargs.get("use_cache") is False else None
        if source is None or ids is None:
            self._generating = None
            return last
        if self._generating is not None:
            reference, prompt_ids, prompt_last, seen = self._generating
            length = prompt_ids.shape[1]
            if (
                reference() is source
                and ids.shape[0] == prompt_ids.shape[0]
                and ids.shape[1] == seen + 1
                and torch.equal(ids[:, :length], prompt_ids)
            ):
                self._generating = (reference, prompt_ids, prompt_last, seen + 1)
                return prompt_last
        self._generating = (weakref.ref(source), ids, last, ids.shape[1])
        return last


def _videos_alone(kwargs: dict[str, Any]) -> bool:
    """Whether a call shows videos and no pictures."""
    outputs = kwargs.get("mm_encoder_outputs") or {}
    image, video = (
        kwargs.get(pixels) is not None or outputs.get(name) is not None
        for pixels, name in (("pixel_values", "image"), ("pixel_values_videos", "video"))
    )
    return video and not image
