"""Predicted seconds of schedules, from the speed of a CPU or of an accelerator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from .accelerator import AcceleratorRates
from .experts import experts_of
from .kernels import count_kernels
from .machine_speed import Rates
from .predict import Prediction, Predictor
from .roofline import Roofline
from .seconds import Seconds

Timing = Callable[[Prediction], tuple[Seconds, Seconds]]
"""A prediction to the seconds of its schedule and of the plain model."""


def timing(predictor: Predictor, rates: Rates | AcceleratorRates) -> Timing:
    """A function from predictions of ``predictor`` to seconds, merging included.

    For an accelerator it counts the kernels of the model's family, which takes about a second.
    """
    modules, work = predictor.modules, predictor.work
    segments, runs = work.batch * len(work.segments), work.batch * len(work.runs)
    if isinstance(rates, AcceleratorRates):
        kernels = count_kernels(modules.config, getattr(torch, rates.dtype))
        experts = experts_of(modules.config)
        roofline = Roofline(
            rates, predictor.shape, predictor.llm, kernels, modules.group, segments, runs, experts
        )

        def on_accelerator(prediction: Prediction) -> tuple[Seconds, Seconds]:
            merged, plain = prediction.token_counts
            method = prediction.method
            score, select = str(method.get("score", "exact")), str(method.get("select", "highest"))
            sized = prediction.sized_layers
            return roofline.seconds(merged, prediction.steps, score, select, sized), roofline.seconds(plain)

        return on_accelerator

    def on_cpu(prediction: Prediction) -> tuple[Seconds, Seconds]:
        merged, plain = (rates.seconds(counts) for counts in prediction.token_counts)
        added = rates.merging_seconds(prediction.steps, segments, runs)
        before = rates.merging_seconds([s for s in prediction.steps if s.stage != "llm"], segments, runs)
        return replace(
            merged,
            encoder=merged.encoder + before,
            prefill=merged.prefill + added - before,
            ttft=merged.ttft + added,
            merging=added,
        ), plain

    return on_cpu
