"""The features of an encoder in which nothing can merge: all of them reach the LLM."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...models.located import LocatedModules
from ...ops.marks import unmarked
from ..hooks import Hooks
from ..passes import Passes
from .run import EncoderRun


class WholeFeatures:
    """Records each call of the projector as an encoder run that keeps one unit per feature."""

    def __init__(self, modules: LocatedModules, passes: Passes, hooks: Hooks, *, trace: bool = False) -> None:
        self.passes, self.trace = passes, trace
        hooks.post(modules.projector, self._record)

    def _record(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], features: Tensor
    ) -> Tensor:
        current = self.passes.current or self.passes.for_encoder()
        tiles = features.shape[0] if features.dim() > 2 else 1
        count = features.numel() // features.shape[-1] // tiles
        run = EncoderRun(1, (count,) * tiles, video=current.video, videos=current.videos)
        run.marked, run.traces = 0, {} if self.trace else None
        if features.dim() < 3:
            # Of pictures of any size, in one sequence: a square would not be their shape.
            run.shape = 0, 0
        current.encoder_run = run
        current.encoder_runs.append(run)
        # NaN that the model itself computed is not a mark.
        return unmarked(features)
