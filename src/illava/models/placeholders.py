"""The placeholders of images and videos among token ids."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def placeholder_ids(config: Any) -> tuple[int, ...]:
    """The ids of the placeholders of images and of videos. Configs of models without videos have one."""
    named = (getattr(config, name, None) for name in ("image_token_id", "video_token_id"))
    return tuple(token for token in named if token is not None)


def visual_counts(config: Any, input_ids: Tensor) -> list[int]:
    """The number of placeholders in each row of (B, L) token ids on any device."""
    return [int(n) for n in torch.isin(input_ids, input_ids.new_tensor(placeholder_ids(config))).sum(1)]
