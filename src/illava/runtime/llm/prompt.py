"""What the LLM stage must know of a prompt before its placeholders become features."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...compat import argument_names, cache_of, named
from ...errors import UnsupportedError
from ...models.located import LocatedModules
from ...ops.marks import marked
from ..calls import Calls
from ..encoder.features import FeatureCalls
from ..encoder.run import EncoderRun
from ..generating import Generating, picture_tensor
from ..hooks import Hooks

_UNKNOWN = "inputs_embeds without input_ids: where pictures are among them is not known"


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
    runs_given: list[EncoderRun]
    """The encoder's runs that made the features the model was handed, pictures before videos."""
    unknown_source: bool
    """Whether it was handed features whose runs are not known."""


class PromptReader:
    """Hooks on the outer model that see token ids; ``take`` hands out what they saw, once."""

    def __init__(
        self, modules: LocatedModules, calls: Calls, features: FeatureCalls, hooks: Hooks, *, active: bool
    ) -> None:
        self.modules, self.calls, self.features, self.active = modules, calls, features, active
        self.refusal: str | None = None
        self.image = getattr(modules.config, "image_token_id", None)
        self.video = getattr(modules.config, "video_token_id", None)
        self.prompt: Prompt | None = None
        self.padding: Tensor | None = None
        """(B, L) the mask of padding that the model was last handed, or None."""
        self._types = "mm_token_type_ids" in argument_names(modules.base)
        self._warned = False
        self._made: tuple[list[EncoderRun], bool] | None = None
        """The runs that made the features handed to the outer model, and whether all are known."""
        Generating(modules, calls, hooks, active=active)
        hooks.pre(modules.model, self._note_options)
        hooks.pre(modules.base, self._read)
        hooks.post(modules.base, self._forget, always=True)
        hooks.post(modules.model, self._forget, always=True)

    def take(self) -> Prompt | None:
        prompt, self.prompt = self.prompt, None
        return prompt

    def _forget(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        # An image encoder that failed has left a prompt that the LLM never took.
        if not self.calls.mine:
            return
        self.prompt = self.refusal = self.padding = self._made = None

    def _note_options(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> None:
        if kwargs is None:
            # torch's way to call a hook that was taken off while this thread waited to come in.
            return
        self.refusal, given = None, named(module, args, kwargs)
        # Here, since accelerate's hooks hand the base copies.
        self._made = self.features.runs_of(given.get("mm_encoder_outputs"))
        if given.get("labels") is not None:
            self.refusal = "labels (a loss of your own on the logits is fine)"
        if isinstance(given.get("logits_to_keep"), Tensor):
            self.refusal = "logits_to_keep as a tensor of positions"
        router_logits = given.get("output_router_logits")
        if router_logits is None:
            router_logits = getattr(self.modules.llm.config, "output_router_logits", False)
        if router_logits:
            # The auxiliary loss lays the prompt's mask over them.
            self.refusal = "output_router_logits"

    def _read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        if kwargs is None:
            return
        self.prompt, given = None, named(module, args, kwargs)
        padding = given.get("attention_mask")
        self.padding = padding if isinstance(padding, Tensor) and padding.dim() == 2 else None
        ids, embeds, cache = given.get("input_ids"), given.get("inputs_embeds"), cache_of(given)
        found = ids if ids is not None else embeds
        if found is None:
            # The model says so itself.
            return
        length = found.shape[1]
        if cache is not None and length == 1 and picture_tensor(given) is None:
            # A decoding step: nothing to find, and no reason to wait for the device.
            return
        filled = cache is not None and cache.get_seq_length() > 0
        if filled and picture_tensor(given) is None:
            # Placeholders that were generated or looked up stand for no picture.
            return
        start = int(cache.get_seq_length()) if filled else 0
        video = self._find(self.video, found)
        visual = self._find(self.image, found) | video
        if not bool(video.any()) and _videos_alone(given):
            # GLM-4V has one placeholder for pictures and for frames of videos, and takes no prompt with both.
            video = visual
        if not bool(visual.any()):
            if ids is not None or picture_tensor(given) is not None or not self.active:
                return
            known = self._placeholders_from_types(found, given)
            if known is None:
                return
            visual, video = known
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
        last = self._last(ids, visual, here, start, given.get("use_cache"))
        lengths = tuple(torch.bincount(runs[visual]).tolist())
        mixed = bool(video.any()) and bool((visual & ~video).any())
        made, known = self._made or self.features.runs_of(given.get("mm_encoder_outputs"))
        self.prompt = Prompt(runs, lengths, video, mixed, last, here, made, not known)

    def _placeholders_from_types(
        self, embeds: Tensor, given: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor] | None:
        """(B, L) bool twice: which of (B, L, d) embeddings are features, and which of these of videos.

        None where there are none or that is not known. Raises UnsupportedError where dropped ones are among
        those that are not known.
        """
        types = given.get("mm_token_type_ids") if self._types else None
        if isinstance(types, Tensor) and types.shape == embeds.shape[:2]:
            types = types.to(embeds.device)
            return (types > 0, types == 2) if bool((types > 0).any()) else None
        hint = "; hand over input_ids with the pictures or their features" + (
            ", or mm_token_type_ids" if self._types else ""
        )
        if bool(marked(embeds).any()):
            raise UnsupportedError(f"{_UNKNOWN}, and some stand for dropped tokens{hint}")
        if not self._warned:
            self._warned = True
            warnings.warn(f"{_UNKNOWN}, so the prompt runs unmerged{hint}", stacklevel=2)
        return None

    def _find(self, token: int | None, found: Tensor) -> Tensor:
        """(B, L) bool: where ``found``, token ids or embeddings, holds a placeholder."""
        if token is None:
            return torch.zeros(found.shape[:2], dtype=torch.bool, device=found.device)
        if not found.is_floating_point():
            return found == token
        embedding = self.modules.base.get_input_embeddings()  # type: ignore[operator]
        return (found == embedding(torch.tensor(token, device=found.device))).all(-1)

    def _last(
        self, ids: Tensor | None, visual: Tensor, padding: Tensor | None, start: int, use_cache: bool | None
    ) -> Tensor:
        """(B,) int64 column of the last prompt token, of a prompt that follows ``start`` cached tokens."""
        generation = self.calls.generation
        columns = torch.arange(visual.shape[1], device=visual.device)
        if padding is not None:
            last = (padding.bool() * columns).argmax(1)
        else:
            last = columns[-1].repeat(len(visual))
        if generation is None or ids is None:
            return last
        if generation.prompt is None:
            if use_cache is False:
                # generate() runs the sequence again and again, each time one token longer.
                generation.prompt, generation.last = ids, last
            return last
        # Other prompts may be run meanwhile, as by a logits processor.
        prompt = generation.prompt[:, start:].to(ids.device)
        if ids.shape[1] < prompt.shape[1] or not torch.equal(ids[:, : prompt.shape[1]], prompt):
            return last
        # Candidates that an assistant proposes follow the prompt.
        return torch.full_like(last, prompt.shape[1] - 1) if generation.last is None else generation.last


def _videos_alone(kwargs: Mapping[str, Any]) -> bool:
    """Whether a call shows videos and no pictures."""
    outputs = kwargs.get("mm_encoder_outputs") or {}
    image, video = (
        kwargs.get(pixels) is not None or outputs.get(name) is not None
        for pixels, name in (("pixel_values", "image"), ("pixel_values_videos", "video"))
    )
    return video and not image
