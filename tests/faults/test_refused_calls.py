"""Ways to run a model that cannot be merged: one line each."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

import illava
from tests.test_exact import BOTH, single
from tests.tiny import tiny_model


@pytest.mark.parametrize("how", ["argument", "config"])
def test_paged_caches(how):
    model = tiny_model("qwen2_vl")
    options = {"cache_implementation": "paged"}
    if how == "config":
        options = {"generation_config": GenerationConfig(cache_implementation="paged")}
    with illava.accelerate(model, BOTH), pytest.raises(illava.UnsupportedError, match="paged"):
        model.generate(**single(model), max_new_tokens=2, **options)


def test_continuous_batching():
    model = tiny_model("qwen2_vl")
    with illava.accelerate(model, BOTH), pytest.raises(illava.UnsupportedError, match="continuous batching"):
        model.generate_batch([[5, 6, 7]])


def test_tracing():
    model = tiny_model("llava")
    inputs = single(model)
    with illava.accelerate(model, BOTH), torch.no_grad():
        with pytest.raises(illava.UnsupportedError, match="traced or exported"):
            torch.jit.trace(model, example_kwarg_inputs=dict(inputs))
        with pytest.raises(Exception, match="traced or exported") as found:
            torch.export.export(model, (), dict(inputs), strict=False)
    assert found


def test_replicas():
    model = tiny_model("llava")
    inputs = single(model)
    with illava.accelerate(model, BOTH):
        # What torch.nn.parallel.replicate makes of a module for each device.
        replica = model._replicate_for_data_parallel()
        with pytest.raises(illava.UnsupportedError, match="DataParallel"):
            replica(**inputs)
