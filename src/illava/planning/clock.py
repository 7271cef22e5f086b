"""Predicted speed-ups of any method to the first token, on the model's own shape or on another one."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import UnsupportedError
from ..methods import Method
from ..models.located import LocatedModules
from ..models.processed import resizes_inside
from ..models.workload import Workload
from .accelerator import AcceleratorRates
from .accelerator_measuring import PARTS, measure_accelerator
from .machine_speed import Rates, measure_rates
from .mapped import check_pixels, mapped
from .placements import method_at
from .plan import plan_on
from .predict import Predictor
from .timing import timing

CURVES = 11
"""The number of measurements that :func:`illava.planning.machine_speed.measure_rates` makes."""


class Clock:
    """Predicts the median speed-up of methods over some prompts.

    Args:
        modules: the model whose time counts.
        prompts: equal ones count as often as they occur.
        rates: the speed of a machine on ``modules``.
        planned_on: the model whose schedules are mapped to ``modules``; default: ``modules`` itself.
    """

    def __init__(
        self,
        modules: LocatedModules,
        prompts: Sequence[Workload],
        rates: Rates | AcceleratorRates,
        planned_on: LocatedModules | None = None,
    ) -> None:
        self.modules, self.planned_on, self.prompts = modules, planned_on, tuple(prompts)
        self.rates = rates
        self._predicting = {
            work: (predictor, timing(predictor, rates))
            for work in dict.fromkeys(prompts)
            for predictor in [Predictor(modules, work)]
        }

    def speedup(self, method: Method) -> float:
        """Plain / merged time to the first token.

        Raises ValueError as ``method.plan`` does, and UnsupportedError for a method that the clock's shape
        has no counterpart of.
        """
        plan = method.plan(self.planned_on or self.modules)
        if self.planned_on is not None:
            plan = mapped(plan, self.planned_on, self.modules)
        speedups = {}
        for work, (predictor, seconds) in self._predicting.items():
            check_pixels(plan, work.grids is not None)
            merged, plain = seconds(predictor.of_plan(plan, method.to_dict()))
            speedups[work] = plain.ttft / merged.ttft
        return statistics.median(speedups[work] for work in self.prompts)

    def planned(self, speedup: float) -> Callable[[float], Method]:
        """From a budget to the schedule whose layers and shares the planner chooses for a speed-up.

        Or to a smaller picture, where the planner recommends one and the model that answers can resize it. It
        plans for the most frequent prompt. Raises UnsupportedError where merging does not pay there.
        """
        work = statistics.mode(self.prompts)
        picture = resizes_inside(self.planned_on or self.modules)
        found = plan_on(self.modules, work, {"speedup": speedup}, self.rates, smaller_picture=picture)
        if not found.prediction.steps:
            raise UnsupportedError(f"the planner merges nothing: {found.reason}")
        return lambda keep: method_at(self.planned_on or self.modules, keep, found.chosen.placement)


def parts_measured(device: torch.device) -> int:
    """How often :func:`rates_on` calls ``advance``, with one measurement each."""
    return CURVES if device.type == "cpu" else PARTS


def rates_on(
    modules: LocatedModules,
    prompts: Sequence[Workload],
    dtype: torch.dtype,
    device: torch.device,
    advance: Callable[[int], None] = lambda steps: None,
) -> Rates | AcceleratorRates:
    """Measure the speed of a device on a model, up to the longest of the prompts."""
    if device.type != "cpu":
        return measure_accelerator(modules, dtype, device, advance=advance)
    units = max(max(work.segments) for work in prompts) * modules.group
    prompt = max(work.text + work.visual_tokens for work in prompts)
    return measure_rates(modules, units, prompt, dtype=dtype, device=device, advance=advance)


def rates_from_dict(values: dict[str, Any]) -> Rates | AcceleratorRates:
    """Read the ``to_dict`` of either kind of rates. Raises TypeError or ValueError if it is neither."""
    return AcceleratorRates(**values) if "launch_seconds" in values else Rates.from_dict(values)
