"""The model's functions that encode pictures, and the encoder runs that computed given features."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks import Hooks
from ..passes import Passes
from .run import EncoderRun

FUNCTIONS = ("get_image_features", "get_video_features")


class FeatureCalls:
    """Wraps ``get_image_features`` and ``get_video_features`` on one instance.

    ``generate`` encodes pictures before the prefill, and users may encode them long before. So encoder runs
    are kept after their pass as long as their features exist; ``runs_of`` looks them up by the features.
    """

    def __init__(self, base: nn.Module, passes: Passes, hooks: Hooks) -> None:
        self.passes = passes
        self._made: dict[int, tuple[weakref.ref[Any], list[EncoderRun]]] = {}
        """By the id of the output that holds the features."""
        for name in FUNCTIONS:
            if hasattr(base, name):
                hooks.attribute(base, name, self._wrap(getattr(base, name), name == "get_video_features"))
        hooks.undo(self._made.clear)

    def runs_of(self, outputs: Any) -> tuple[list[EncoderRun], bool]:
        """The runs that computed the features in ``mm_encoder_outputs``, and whether all are known.

        The runs of features from other sources, including copies, are unknown.
        """
        runs, known = [], True
        given = outputs.values() if isinstance(outputs, dict) else () if outputs is None else (outputs,)
        for output in given:
            made, of = self._made.get(id(output), (None, []))
            if made is not None and made() is output:
                runs += of
            elif output is not None:
                known = False
        return runs, known

    def _wrap(self, encode: Callable[..., Any], is_video: bool) -> Callable[..., Any]:
        # generate() reads the signature.
        @wraps(encode)
        def encode_pictures(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return self._encode(encode, is_video, args, kwargs)
            with self.passes.calls.lock.block():
                return self._encode(encode, is_video, args, kwargs)

        return encode_pictures

    def _encode(
        self, encode: Callable[..., Any], is_video: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        current = self.passes.current
        outermost = current is None or current.standalone
        if outermost:
            current = self.passes.begin()
        assert current is not None
        previous = current.video, current.videos, len(current.encoder_runs)
        if is_video:
            current.video = True
            current.videos = kwargs.get("video_grid_thw", args[1] if len(args) > 1 else None)
        try:
            output = encode(*args, **kwargs)
        finally:
            current.video, current.videos, first = previous
            if outermost:
                self.passes.end()
        made = current.encoder_runs[first:]
        rows = getattr(output, "pooler_output", None)
        if made and rows is not None:
            parts = [rows] if isinstance(rows, Tensor) else rows
            made[-1].features = sum(part.numel() // part.shape[-1] for part in parts)
        self._remember(output, made)
        return output

    @torch.compiler.disable
    def _remember(self, output: Any, runs: list[EncoderRun]) -> None:
        key = id(output)
        try:
            self._made[key] = (weakref.ref(output, lambda _: self._made.pop(key, None)), runs)
        except TypeError:
            # A tuple, which cannot be passed in again.
            return
