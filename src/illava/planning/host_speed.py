"""Measures how long the host takes from one operator of a model's eager code to the next."""

from __future__ import annotations

from typing import Any

import torch

from ..models.tiny_models import tiny_model, variant
from .kernels import KernelCounter, tiny_inputs
from .layer_timing import Timer

RUNS = 10
"""Runs of the tiny model, of which the fastest counts."""


def operator_seconds(config: Any, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of a prefill of the family's tiny model, divided by the number of its operators.

    Operators of the tiny model are so small that the host's time decides: Python modules, torch's
    dispatcher, and on an accelerator the launch.

    Args:
        config: the config of a supported VLM.
    """
    model: Any = tiny_model(variant(config)).to(device=device, dtype=dtype)
    inputs = tiny_inputs(model, 1)
    timer = Timer(device, dtype, RUNS, lambda steps: None)
    counting = KernelCounter()
    with torch.no_grad():
        with counting:
            model(**inputs, use_cache=True)
        seconds = timer.seconds(lambda: model(**inputs, use_cache=True))
    return seconds / sum(counting.passes[0].values())
