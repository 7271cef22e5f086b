"""Gradient checkpointing: layers run again in the backward pass, after their forward pass has ended.

When a layer is rerun, the current pass is restored to its state after the first run of the layer. Given the
same pass, the hooks have the same effect in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..compat import checkpoints_need_grad
from ..ops import kernels
from .hooks import Hooks
from .passes import Pass, Passes

_FUNCTION = "_gradient_checkpointing_func"


class Checkpoints:
    """Restores the current pass when the checkpoints of ``layers`` are rerun."""

    def __init__(
        self,
        passes: Passes,
        layers: Sequence[nn.Module],
        hooks: Hooks,
        after: Callable[[Pass], None] = lambda _: None,
        finish: Callable[[Any], Any] = lambda output: output,
    ) -> None:
        """``after`` is called with the pass after each rerun of a layer. ``finish`` is applied to each output
        inside the checkpoint: reentrant ones have no gradients of what a hook on the layer adds later."""
        self.passes, self.layers, self.after, self.finish = passes, layers, after, finish
        self.rerunning = False
        """Whether a layer is currently being rerun."""
        # Read here, since compiled code cannot.
        self._need_grad = checkpoints_need_grad()
        hooks.undo(self._restore)

    @property
    def active(self) -> bool:
        """Whether the layers of a pass that starts now would be rerun."""
        return torch.is_grad_enabled() and self._switched_on

    @property
    def without_cache(self) -> bool:
        """Whether the layers of a pass that starts now would get no KV cache, since they are checkpointed."""
        return self.active or (not self._need_grad and self._switched_on)

    @property
    def _switched_on(self) -> bool:
        return any(
            layer.training and getattr(layer, "gradient_checkpointing", False) for layer in self.layers
        )

    def prepare(self) -> None:
        """Called before each pass, since users can switch checkpointing on and off at any time."""
        if not self.active:
            return
        for layer in self.layers:
            function = layer.__dict__.get(_FUNCTION)
            if function is None:
                continue
            inner = function.function if isinstance(function, _RestoringPass) else function
            layer.__dict__[_FUNCTION] = _RestoringPass(inner, self)

    def _restore(self) -> None:
        for layer in self.layers:
            function = layer.__dict__.get(_FUNCTION)
            if isinstance(function, _RestoringPass):
                layer.__dict__[_FUNCTION] = function.function


class _RestoringPass:
    """A checkpoint function that restores the pass of a layer's first run in every rerun."""

    def __init__(self, function: Callable[..., Any], checkpoints: Checkpoints) -> None:
        self.function, self.checkpoints = function, checkpoints

    def __call__(self, forward: Callable[..., Any], *args: Any, **options: Any) -> Any:
        passes = self.checkpoints.passes
        saved: list[Pass | None] = []

        def run(*args: Any, **kwargs: Any) -> Any:
            if not saved:
                with kernels.switched_off():
                    output = self.checkpoints.finish(forward(*args, **kwargs))
                saved.append(passes.snapshot())
                return output
            previous, passes.current = passes.current, saved[0]
            self.checkpoints.rerunning = True
            try:
                with kernels.switched_off():
                    return self.checkpoints.finish(forward(*args, **kwargs))
            finally:
                passes.current = previous
                self.checkpoints.rerunning = False
                if saved[0] is not None:
                    self.checkpoints.after(saved[0])

        return self.function(run, *args, **options)
