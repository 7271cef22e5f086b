"""Gradient checkpointing: layers run again in the backward pass, long after a stage has moved on.

During each later run of a layer, the pass under way is the one of its first run, as that left it. The hooks
do the same with the same pass however often they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..compat import checkpoints_need_grad
from ..errors import UnsupportedError
from .hooks import Hooks
from .passes import Pass, Passes

_FUNCTION = "_gradient_checkpointing_func"


class Checkpoints:
    """Carries the pass under way through the checkpoints of ``layers``."""

    def __init__(
        self,
        passes: Passes,
        layers: Sequence[nn.Module],
        hooks: Hooks,
        after: Callable[[Pass], None] = lambda _: None,
    ) -> None:
        """``after`` is called with the pass when a layer has run again."""
        self.passes, self.layers, self.after = passes, layers, after
        self.again = False
        """Whether a layer is running again just now."""
        # Read here, since compiled code cannot.
        self._need_grad = checkpoints_need_grad()
        hooks.undo(self._restore)

    @property
    def active(self) -> bool:
        """Whether a pass made now would run the layers again."""
        return torch.is_grad_enabled() and self._switched_on

    @property
    def without_cache(self) -> bool:
        """Whether a pass made now would hand the layers no key/value cache, since they are checkpointed."""
        return self.active or (not self._need_grad and self._switched_on)

    @property
    def _switched_on(self) -> bool:
        return any(
            layer.training and getattr(layer, "gradient_checkpointing", False) for layer in self.layers
        )

    def prepare(self, *, reentrant: bool = True) -> None:
        """Before a pass: users switch checkpointing on and off whenever they like.

        Raises UnsupportedError for reentrant checkpoints where they are not ``reentrant``.
        """
        if not self.active:
            return
        for layer in self.layers:
            function = layer.__dict__.get(_FUNCTION)
            if function is None:
                continue
            inner = function.function if isinstance(function, _Carrying) else function
            if not reentrant and getattr(inner, "keywords", {}).get("use_reentrant", True):
                raise UnsupportedError(
                    "reentrant gradient checkpointing is not supported by the encoder stage: enable it with "
                    "gradient_checkpointing_kwargs={'use_reentrant': False}"
                )
            layer.__dict__[_FUNCTION] = _Carrying(inner, self)

    def _restore(self) -> None:
        for layer in self.layers:
            function = layer.__dict__.get(_FUNCTION)
            if isinstance(function, _Carrying):
                layer.__dict__[_FUNCTION] = function.function


class _Carrying:
    """A checkpoint function whose later runs of a layer all find the pass that the first one left."""

    def __init__(self, function: Callable[..., Any], checkpoints: Checkpoints) -> None:
        self.function, self.checkpoints = function, checkpoints

    def __call__(self, forward: Callable[..., Any], *args: Any, **options: Any) -> Any:
        passes = self.checkpoints.passes
        left: list[Pass | None] = []

        def run(*args: Any, **kwargs: Any) -> Any:
            if not left:
                output = forward(*args, **kwargs)
                left.append(passes.snapshot())
                return output
            before, passes.current = passes.current, left[0]
            self.checkpoints.again = True
            try:
                return forward(*args, **kwargs)
            finally:
                passes.current = before
                self.checkpoints.again = False
                if left[0] is not None:
                    self.checkpoints.after(left[0])

        return self.function(run, *args, **options)
