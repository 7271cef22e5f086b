"""Reading a prompt before features take the places of its placeholders."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...compat import argument_names, cache_of, named
from ...errors import UnsupportedError
from ...models.located import LocatedModules
from ...ops.marks import marked
from ..encoder.features import FeatureCalls
from ..generating import Generating, picture_tensor
from ..hooks import Hooks
from ..passes import Options, Passes
from .prefill import Prompt

_UNKNOWN = "inputs_embeds without input_ids: where pictures are among them is not known"


class PromptReader:
    """Hooks on the models that are handed token ids, which write padding and prompt into the pass."""

    def __init__(
        self, modules: LocatedModules, passes: Passes, features: FeatureCalls, hooks: Hooks, *, active: bool
    ) -> None:
        self.modules, self.passes, self.features, self.active = modules, passes, features, active
        self.image = getattr(modules.config, "image_token_id", None)
        self.video = getattr(modules.config, "video_token_id", None)
        self._types = "mm_token_type_ids" in argument_names(modules.base)
        self._warned = False
        Generating(modules, passes.calls, hooks, active=active)
        hooks.pre(modules.model, self._read_options)
        hooks.pre(modules.base, self._read)
        hooks.post(modules.model, passes.leave, always=True)

    def _read_options(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> None:
        if kwargs is None:
            # torch's way to call a hook that was taken off while this thread waited to come in.
            return
        given = named(module, args, kwargs)
        # Here, since accelerate's hooks hand the base copies.
        options = self.passes.options = Options(given=self.features.runs_of(given.get("mm_encoder_outputs")))
        if given.get("labels") is not None:
            options.refusal = "labels (a loss of your own on the logits is fine)"
        if isinstance(given.get("logits_to_keep"), Tensor):
            options.refusal = "logits_to_keep as a tensor of positions"
        router_logits = given.get("output_router_logits")
        if router_logits is None:
            router_logits = getattr(self.modules.llm.config, "output_router_logits", False)
        if router_logits:
            # The auxiliary loss lays the prompt's mask over them.
            options.refusal = "output_router_logits"

    def _read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        if kwargs is None:
            return
        current, options, given = self.passes.current, self.passes.options, named(module, args, kwargs)
        assert current is not None
        padding = given.get("attention_mask")
        current.padding = padding if isinstance(padding, Tensor) and padding.dim() == 2 else None
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
        if options.refusal and self.active:
            raise UnsupportedError(
                f"{options.refusal}: not supported with pictures on an accelerated model, whose outputs are "
                "shorter than input_ids; call handle.remove() first"
            )
        here = None if current.padding is None else current.padding[:, -length:]
        starts = visual & ~torch.nn.functional.pad(visual, (1, 0))[:, :-1]
        runs = starts.flatten().cumsum(0).view_as(visual) - 1
        runs = runs.masked_fill(~visual, -1)
        last = self._last(ids, visual, here, start, given.get("use_cache"))
        lengths = tuple(torch.bincount(runs[visual]).tolist())
        mixed = bool(video.any()) and bool((visual & ~video).any())
        made, known = options.given or self.features.runs_of(given.get("mm_encoder_outputs"))
        current.prompt = Prompt(runs, lengths, video, mixed, last, here, made, not known)

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
        generation = self.passes.calls.generation
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
