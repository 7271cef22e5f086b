"""Prompts with as many placeholders as survivors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from vllm.multimodal.hasher import MultiModalHasher
from vllm.multimodal.processing import PromptUpdateDetails

from .schedule import Schedule, schedule_of
from .settings import ATTRIBUTE


class ShortPrompts:
    """Mixin for the multimodal processors of vLLM's Qwen models."""

    info: Any

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)  # type: ignore[misc]
        config = self.info.get_hf_config()
        schedule = schedule_of(config)
        if schedule is None:
            return updates
        tokens = {"image": config.image_token_id, "video": config.video_token_id}
        return [
            replace(
                update,
                replacement=partial(
                    _short,
                    update.replacement,
                    out_mm_kwargs,
                    update.modality,
                    tokens[update.modality],
                    schedule,
                ),
            )
            for update in updates
        ]

    def _get_mm_hashes(self, inputs: Any) -> dict[str, list[str]]:
        """The settings are part of a picture's identity: in the caches of features and of prefixes too."""
        hashes = super()._get_mm_hashes(inputs)  # type: ignore[misc]
        config = self.info.get_hf_config()
        if schedule_of(config) is None:
            return hashes
        algorithm, method = self.info.ctx.get_mm_config().mm_hasher_algorithm, getattr(config, ATTRIBUTE)
        return {
            modality: [MultiModalHasher.hash_kwargs(algorithm, plain=one, illava=method) for one in values]
            for modality, values in hashes.items()
        }


def _short(
    full: Callable[[int], Any], data: Any, modality: str, token: int, schedule: Schedule, item: int
) -> Any:
    """What replaces the placeholder of one picture or video."""
    content = full(item) if callable(full) else full
    left = schedule.left(data[modality][item][f"{modality}_grid_thw"].data.tolist())
    if isinstance(content, PromptUpdateDetails):
        return replace(content, full=shortened(content.full, token, left))
    return shortened(content, token, left)


def shortened(ids: Sequence[int], token: int, left: Sequence[int]) -> list[int]:
    """The ids with fewer placeholders.

    Args:
        ids: of a picture or video, other tokens between its frames included.
        token: the placeholder.
        left: survivors of each frame.

    Raises ValueError if the frames are neither one run of placeholders nor a run each.
    """
    out: list[int] = []
    runs = 0
    for index, one in enumerate(ids):
        if one != token:
            out.append(one)
        elif index == 0 or ids[index - 1] != token:
            # Until all runs are counted, a single one for each.
            out.append(token)
            runs += 1
    if runs not in (1, len(left)):
        raise ValueError(f"a video of {len(left)} frames has {runs} runs of placeholders")
    lengths = iter([sum(left)] if runs == 1 else left)
    return [one for each in out for one in ([token] * next(lengths) if each == token else [each])]
