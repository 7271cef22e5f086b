"""Whether the image encoder is handed pictures or the frames of videos, which it cannot tell itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor, nn

from .hooks import Hooks


class VideoCalls:
    """``now``: whether videos are being encoded, and their (videos, 3) grid where the model has one."""

    def __init__(self, base: nn.Module, hooks: Hooks) -> None:
        self.now: tuple[bool, Tensor | None] = (False, None)
        if hasattr(base, "get_video_features"):
            hooks.attribute(base, "get_video_features", self._noting(base.get_video_features))

    def _noting(self, encode: Callable[..., Any]) -> Callable[..., Any]:
        # generate() asks for the signature.
        @wraps(encode)
        def encode_videos(*args: Any, **kwargs: Any) -> Any:
            self.now = (True, kwargs.get("video_grid_thw", args[1] if len(args) > 1 else None))
            try:
                return encode(*args, **kwargs)
            finally:
                self.now = (False, None)

        return encode_videos
