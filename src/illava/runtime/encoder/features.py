"""The model's own functions that encode pictures, and which encoder run made which features."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from ..calls import Calls
from ..hooks import Hooks
from .run import EncoderRun

FUNCTIONS = ("get_image_features", "get_video_features")


class FeatureCalls:
    """Shadows ``get_image_features`` and ``get_video_features`` on one instance.

    ``generate`` encodes pictures before the prefill, and users may do so long before; ``runs_of`` finds the
    encoder's runs again by the features that they hand in.
    """

    def __init__(self, base: nn.Module, calls: Calls, hooks: Hooks, end: Callable[[], None]) -> None:
        self.calls, self.end = calls, end
        self.video: tuple[bool, Tensor | None] = (False, None)
        """Whether videos are being encoded, and their (videos, 3) grid where the model has one."""
        self.runs: list[EncoderRun] = []
        """The encoder's runs in the call or the pass under way."""
        self._depth = 0
        self._made: dict[int, tuple[weakref.ref[Any], list[EncoderRun]]] = {}
        for name in FUNCTIONS:
            if hasattr(base, name):
                hooks.attribute(base, name, self._wrap(getattr(base, name), name == "get_video_features"))
        hooks.pre(base, self._begin_pass)
        hooks.post(base, self._end_pass, always=True)
        hooks.undo(self._made.clear)

    def note(self, run: EncoderRun) -> None:
        """The encoder begins ``run``."""
        if self._depth:
            self.runs.append(run)

    def runs_of(self, outputs: Any) -> tuple[list[EncoderRun], bool]:
        """The runs that made the features in ``mm_encoder_outputs``, and whether all are known.

        Features that came from elsewhere, copies included, have none.
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

    def _begin_pass(self, *_: Any) -> None:
        self.runs, self._depth = [], 1

    def _end_pass(self, *_: Any) -> None:
        if not self.calls.mine:
            # A call that failed before it came in.
            return
        self.runs, self._depth = [], 0
        self.end()

    def _wrap(self, encode: Callable[..., Any], is_video: bool) -> Callable[..., Any]:
        # generate() asks for the signature.
        @wraps(encode)
        def encode_pictures(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return self._encode(encode, is_video, args, kwargs)
            with self.calls.lock.block():
                return self._encode(encode, is_video, args, kwargs)

        return encode_pictures

    def _encode(
        self, encode: Callable[..., Any], is_video: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        video, outer, self.runs = self.video, self.runs, []
        if is_video:
            self.video = (True, kwargs.get("video_grid_thw", args[1] if len(args) > 1 else None))
        self._depth += 1
        try:
            output = encode(*args, **kwargs)
        finally:
            self.video, made = video, self.runs
            self._depth -= 1
            self.runs = outer + made if self._depth else outer
            if not self._depth:
                self.end()
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
            # A tuple, which no model takes back.
            return
