"""The hooks of one block of the image encoder at which tokens are merged."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UnsupportedError
from ...methods.steps import EncoderStep, Units, reduced
from ...models.located import LocatedModules
from ..hooks import Hooks
from ..passes import Passes
from .block_state import BlockState
from .halfway import units_halfway
from .observer import AttentionObserver


class MergingBlock:
    """The hooks of one block at which tokens are merged."""

    def __init__(
        self,
        passes: Passes,
        modules: LocatedModules,
        index: int,
        block: nn.Module,
        step: EncoderStep,
        hooks: Hooks,
    ) -> None:
        names = modules.tower
        self.passes, self.scale, self.index, self.step = passes, names.scale, index, step
        if step.observes:
            config = modules.config.vision_config
            observer = AttentionObserver("encoder", step, index, passes, modules.prefix, config)
            hooks.tap(block.get_submodule(names.attention), observer)
        if step.reads_input:
            # Not a hook on the block, which gradient checkpointing does not call when it reruns the block.
            hooks.pre(block.get_submodule(names.first_norm), self._enter)
        hooks.pre(block.get_submodule(names.second_norm), self._merge)
        hooks.post(block.get_submodule(names.mlp), partial(self._keep_output, block))
        # Prepended, so that hooks that record hidden states get the actual output of the block.
        hooks.post(block, self._leave, prepend=True)

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        run = self.passes.encoder_run
        assert run is not None
        run.block_state().entered = args[0]

    def _merge(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        (x,) = args
        run = self.passes.encoder_run
        assert run is not None
        # Packed (N, d) or (1, N, d), or batched (tiles, prefix + n, d), where all tiles keep the same number.
        index = self.index
        run.visited.add(index)
        units = Units(
            run.vectors(x, index),
            run.take_observed("encoder", index),
            run.lengths_before(index),
            run.full_lengths,
            run.sizes_before(index),
            entered=run.take_entered(index) if self.step.reads_input else None,
            complexity=run.complexity,
            cues=run.cues_before(index),
            halfway=units_halfway(self.passes, index, x.device) if self.step.reads_halfway else None,
        )
        if self.step.observes and units.seen is None:
            # Without it a step would choose by something else.
            raise RuntimeError(
                f"the attention of encoder block {index} was not observed; run `illava doctor`"
            )
        merged = reduced(self.step, units)
        if merged is None:
            return None
        if run.grid is None and len(set(merged.lengths)) > 1:
            raise UnsupportedError(
                "this image encoder batches pictures or tiles, which must keep equal numbers of units, got "
                f"{', '.join(map(str, merged.lengths))}: give one picture of one tile at a time, or leave "
                "out complexity"
            )
        run.record(index, merged, units)
        survivors = merged.units.reshape(*x.shape[:-2], -1, x.shape[-1])
        if run.prefix:
            survivors = torch.cat([x[..., : run.prefix, :], survivors], dim=-2)
        state = run.block_state()
        state.merged, state.shape = survivors, x.shape
        return (survivors,), kwargs

    @property
    def _state(self) -> BlockState | None:
        run = self.passes.encoder_run
        return None if run is None else run.block

    def _keep_output(
        self, block: nn.Module, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor
    ) -> Any:
        state = self._state
        if state is None or state.merged is None:
            return None
        # Here, not in the hook on the block: an offloaded block has its weights only while it runs.
        state.output = y if self.scale is None else self.scale(block, y)
        return y.new_zeros(()).expand(state.shape)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        return finished(self.passes, output)


def finished(passes: Passes, output: Any) -> Any:
    """The output of a block of the image encoder: x' + y' if it merged and has not returned them yet."""
    run = passes.encoder_run
    state = None if run is None else run.block
    if state is None or state.merged is None or state.output is None:
        return output
    result = state.merged + state.output
    state.merged = state.output = None
    return (result, *output[1:]) if isinstance(output, tuple) else result
