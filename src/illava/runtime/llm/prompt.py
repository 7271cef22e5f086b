"""Reading a prompt before its placeholders are replaced by features."""

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
from ...ops.transfers import upload
from ..encoder.features import FeatureCalls
from ..encoder.run import EncoderRun
from ..generating import Generating, picture_tensor
from ..hooks import Hooks
from ..passes import Options, Passes
from .labels import IGNORED, Labels, check_labels, prompt_ends, with_labels
from .packed import check_packed
from .prefill import Prompt

_UNKNOWN = "inputs_embeds without input_ids: the positions of pictures are unknown"


class PromptReader:
    """Hooks on the outer and base models, which write the padding and the prompt to the pass."""

    def __init__(
        self, modules: LocatedModules, passes: Passes, features: FeatureCalls, hooks: Hooks, *, active: bool
    ) -> None:
        self.modules, self.passes, self.features, self.active = modules, passes, features, active
        self.image = getattr(modules.config, "image_token_id", None)
        self.video = getattr(modules.config, "video_token_id", None)
        self._types = "mm_token_type_ids" in argument_names(modules.base)
        self._warned = False
        Generating(modules, passes.calls, hooks, active=active)
        hooks.pre(modules.model, self._enter)
        hooks.pre(modules.base, self._read)
        hooks.post(modules.model, passes.leave, always=True)

    def _enter(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if kwargs is None:
            # torch calls hooks without kwargs if they were removed while this thread waited.
            return None
        given = named(module, args, kwargs)
        # Here, since the hooks of the accelerate library pass copies to the base model.
        options = self.passes.options = Options(given=self.features.runs_of(given.get("mm_encoder_outputs")))
        labels = given.get("labels")
        if labels is not None and self.active:
            if labels.dim() != 2:
                options.refusal = f"labels of shape {tuple(labels.shape)} instead of one for each token"
            else:
                options.labels = Labels(labels)
                args, kwargs = with_labels(module, args, kwargs, options.labels.passed)
        if given.get("shift_labels") is not None:
            options.refusal = "shift_labels (give labels, one for each token, which are shifted here)"
        # The plain model takes whatever indexes its hidden states: a tensor, a list, a slice.
        if not isinstance(given.get("logits_to_keep") or 0, int):
            options.refusal = "logits_to_keep other than a number of last tokens"
        router_logits = given.get("output_router_logits")
        if router_logits is None:
            router_logits = getattr(self.modules.llm.config, "output_router_logits", False)
        if router_logits:
            # The auxiliary loss applies the mask of the full prompt to them.
            options.refusal = "output_router_logits"
        return None if options.labels is None else (args, kwargs)

    def _read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        if kwargs is None:
            return
        current, options, given = self.passes.current, self.passes.options, named(module, args, kwargs)
        assert current is not None
        padding = given.get("attention_mask")
        current.padding = padding if isinstance(padding, Tensor) and padding.dim() == 2 else None
        ids, embeds, cache = given.get("input_ids"), given.get("inputs_embeds"), cache_of(given)
        prompt = ids if ids is not None else embeds
        if prompt is None:
            # The model itself raises an error.
            return
        length = prompt.shape[1]
        if cache is not None and length == 1 and picture_tensor(given) is None:
            # A decoding step has no placeholders; return before synchronising with the device.
            return
        filled = cache is not None and cache.get_seq_length() > 0
        if filled and picture_tensor(given) is None:
            # Generated placeholders, or those of prompt lookup, do not belong to a picture.
            return
        start = int(cache.get_seq_length()) if filled else 0
        video = self._find(self.video, prompt)
        visual = self._find(self.image, prompt) | video
        host = _OnHost(visual, video, current.padding)
        if not host.visual.any():
            if ids is not None or picture_tensor(given) is not None or not self.active:
                return
            known = self._placeholders_from_types(prompt, given)
            if known is None:
                return
            visual, video = known
            host = _OnHost(visual, video, current.padding)
        if _only_videos(given) and not host.video.any():
            # GLM-4V uses one placeholder for pictures and for frames, and does not support both in a prompt.
            video, host.video = visual, host.visual
        if options.refusal and self.active:
            raise UnsupportedError(
                f"{options.refusal}: not supported with pictures on an accelerated model, whose outputs are "
                "shorter than input_ids; call handle.remove() first"
            )
        if self.active and not filled:
            check_packed(given)
        if options.labels is not None and self.active:
            host.read_labels(options.labels.passed)
        last = self._last(ids, host.last, start, given.get("use_cache"))
        made, all_known = options.given or self.features.runs_of(given.get("mm_encoder_outputs"))
        padding = None if current.padding is None else current.padding[:, -length:]
        current.prompt = host.prompt(video, last, padding, made, not all_known)

    def _placeholders_from_types(
        self, embeds: Tensor, given: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor] | None:
        """Two (B, L) bool tensors: which of (B, L, d) embeddings are features, and which are of videos.

        None if there are no features or this is unknown. Raises UnsupportedError if it is unknown and some
        embeddings are marked as dropped.
        """
        types = given.get("mm_token_type_ids") if self._types else None
        if isinstance(types, Tensor) and types.shape == embeds.shape[:2]:
            types = types.to(embeds.device)
            return (types > 0, types == 2) if bool((types > 0).any()) else None
        hint = "; pass input_ids with the pictures or their features" + (
            ", or mm_token_type_ids" if self._types else ""
        )
        if bool(marked(embeds).any()):
            raise UnsupportedError(f"{_UNKNOWN}, and some embeddings belong to dropped tokens{hint}")
        if not self._warned:
            self._warned = True
            warnings.warn(f"{_UNKNOWN}, so the prompt is not merged{hint}", stacklevel=2)
        return None

    def _find(self, token: int | None, prompt: Tensor) -> Tensor:
        """(B, L) bool: where a prompt of token ids or embeddings has the placeholder ``token``."""
        if token is None:
            return torch.zeros(prompt.shape[:2], dtype=torch.bool, device=prompt.device)
        if not prompt.is_floating_point():
            return prompt == token
        embedding = self.modules.base.get_input_embeddings()  # type: ignore[operator]
        return (prompt == embedding(torch.full((), token, device=prompt.device))).all(-1)

    def _last(self, ids: Tensor | None, last: Tensor, start: int, use_cache: bool | None) -> Tensor:
        """(B,) int64 column of the last prompt token, for a prompt that follows ``start`` cached tokens.

        ``last``: the column of the last token that is not padding, on the CPU like the result.
        """
        generation = self.passes.calls.generation
        if generation is None or ids is None:
            return last
        if generation.prompt is None:
            if use_cache is False:
                # Without a cache, generate() runs the whole sequence for each new token.
                generation.prompt, generation.last = ids, last
            return last
        # Other prompts may run in between, for example in a logits processor.
        prompt = generation.prompt[:, start:].to(ids.device)
        if ids.shape[1] < prompt.shape[1] or not torch.equal(ids[:, : prompt.shape[1]], prompt):
            return last
        # The candidates of an assistant follow the prompt.
        return torch.full_like(last, prompt.shape[1] - 1) if generation.last is None else generation.last


class _OnHost:
    """A prompt on the CPU, read in one transfer; everything else about it follows on the host."""

    def __init__(self, visual: Tensor, video: Tensor, padding: Tensor | None) -> None:
        length = visual.shape[1]
        parts = [visual, video] if padding is None else [visual, video, padding.to(visual.device).bool()]
        read = torch.cat(parts, 1).cpu()
        self.device = visual.device
        self.visual, self.video, given = read.split([length, length, read.shape[1] - 2 * length], 1)
        self.padded = not bool(given.all())
        self.real = torch.ones_like(self.visual) if padding is None else given[:, -length:]
        columns = torch.arange(length, device=read.device)
        self.last = (self.real * columns).argmax(1)

    def read_labels(self, labels: Tensor) -> None:
        """Check (B, L) ``labels``, and find the last tokens of prompts that answers follow."""
        if labels.shape != self.visual.shape:
            shapes = f"{tuple(self.visual.shape)}, got {tuple(labels.shape)}"
            raise ValueError(f"labels must have the shape of input_ids, {shapes}")
        labelled = (labels != IGNORED).cpu()
        check_labels(labelled, self.real)
        self.last = prompt_ends(labelled, self.visual, self.last)

    def prompt(
        self, video: Tensor, last: Tensor, padding: Tensor | None, made: list[EncoderRun], unknown: bool
    ) -> Prompt:
        """The prompt whose last tokens are at ``last``."""
        visual, real = self.visual, self.real
        starts = visual & ~torch.nn.functional.pad(visual, (1, 0))[:, :-1]
        runs = (starts.flatten().cumsum(0).view_as(visual) - 1).masked_fill(~visual, -1)
        lengths = torch.bincount(runs[visual])
        return Prompt(
            upload(runs, self.device),
            tuple(lengths.tolist()),
            video,
            bool(self.video.any()) and bool((visual & ~self.video).any()),
            upload(last, self.device),
            padding,
            made,
            unknown,
            rows=tuple(starts.nonzero()[:, 0].tolist()),
            real=tuple(torch.bincount(runs[visual & real], minlength=len(lengths)).tolist()),
            text=tuple((real & ~visual).sum(1).tolist()),
            after=tuple(real.int().flip(1).argmax(1).tolist()),
            filled=not bool(real.all()),
            padded=self.padded,
            ends_with_picture=bool(visual.gather(1, last[:, None]).any()),
        )


def _only_videos(kwargs: Mapping[str, Any]) -> bool:
    """Whether a call has videos and no pictures."""
    outputs = kwargs.get("mm_encoder_outputs") or {}
    image, video = (
        kwargs.get(pixels) is not None or outputs.get(name) is not None
        for pixels, name in (("pixel_values", "image"), ("pixel_values_videos", "video"))
    )
    return video and not image
