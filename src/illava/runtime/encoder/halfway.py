"""The units at half the depth of a step, for steps that compare the features of two depths."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...methods.steps import EncoderStep
from ...models.located import LocatedModules
from ..hooks import Hooks
from ..passes import Passes


def halfway(block: int) -> int:
    """The block whose input is at half the depth of a step after the attention of ``block``."""
    return (block + 1) // 2


def keep_halfway(
    passes: Passes, modules: LocatedModules, steps: Mapping[int, EncoderStep], hooks: Hooks
) -> None:
    """Record the units that enter the blocks halfway to the steps that read them."""
    for index in {halfway(block) for block, step in steps.items() if step.reads_halfway}:
        # Not a hook on the block, whose arguments the encoder stage changes.
        norm = modules.blocks[index].get_submodule(modules.tower.first_norm)
        hooks.pre(norm, partial(_record, passes, index))


def _record(
    passes: Passes, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    current = passes.current
    if current is None or current.encoder_run is None or index in current.halfway:
        # In a rerun of gradient checkpointing they are known.
        return
    current.halfway[index] = current.encoder_run.vectors(args[0].detach(), index)


def units_halfway(passes: Passes, block: int, device: torch.device) -> Tensor:
    """(U, g * d) the units that enter ``block``, as they were halfway to it.

    A survivor that absorbed others since has the features that it had alone.
    """
    current, index = passes.current, halfway(block)
    assert current is not None
    assert current.encoder_run is not None
    run, units = current.encoder_run, current.halfway[index]
    kept, kept_then = run.kept_before(block), run.kept_before(index)
    if kept is not None and kept is not kept_then:
        if kept_then is not None:
            kept = torch.searchsorted(kept_then.to(kept.device), kept)
        units = units[kept.to(units.device)]
    return units.to(device)
