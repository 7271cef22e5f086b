"""The merge steps of a method on a model of which only the config is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from illava.methods import Illava
from illava.methods.merge_step import MergeStep
from illava.models.families import family_of
from illava.models.located import LocatedModules

from .settings import stored


@dataclass(frozen=True)
class Schedule:
    """The steps of the image encoder, and how many units they leave."""

    steps: dict[int, MergeStep]
    """Encoder block (0-based) -> the step after its attention."""
    group: int
    """Patches of a unit, which the patch merger makes one token of."""

    def left(self, grid: Sequence[int]) -> list[int]:
        """Units that survive of each frame of a picture or video of (frames, rows, columns) patches."""
        frames, rows, columns = grid
        full = left = rows * columns // self.group
        for step in self.steps.values():
            left = step.count(left, full)
        return [left] * frames


def schedule_of(config: Any) -> Schedule | None:
    """The schedule that a model's config carries; None for the plain model."""
    method = stored(config)
    return None if method is None else make_schedule(config, method)


def make_schedule(config: Any, method: Illava) -> Schedule | None:
    """The schedule of a method on the model of a config; None if it keeps everything.

    Raises ValueError for a block that the encoder does not have, and UnsupportedError for other families.
    """
    steps = method.plan(modules_of(config)).encoder
    family = family_of(config)
    return Schedule(steps, family.group(config)) if steps else None


def modules_of(config: Any) -> LocatedModules:
    """What plans read of a model: numbers of layers and the config, without weights."""
    family, vision, text = family_of(config), config.vision_config, config.get_text_config()
    tower = family.tower(config)
    assert tower is not None
    nothing, llm = nn.Identity(), nn.Identity()
    llm.config = text
    return LocatedModules(
        family=family,
        tower=tower,
        model=nothing,
        base=nothing,
        config=config,
        encoder=nothing,
        blocks=[nothing] * vision.depth,
        projector=nothing,
        taps=[],
        llm=llm,
        layers=[nothing] * text.num_hidden_layers,
        group=family.group(config),
    )
