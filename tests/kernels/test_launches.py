"""How many kernels a step launches: counted in a merged prefill of a tiny model."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import pytest
import torch

import illava
from illava.methods import merge_step, steps
from illava.ops import graphs
from illava.planning.merging_cost import KERNELS_OF_SIZES, sizes_kernels
from illava.planning.predict import predict
from illava.runtime.attention_tap import AttentionTap
from tests.battery.test_battery import inputs_of
from tests.kernels.device import DEVICE, Launches, launches
from tests.tiny import tiny_model

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="launches are counted in the interpreter")

MOST, MOST_WITHOUT_TRITON = 12, 22
BEST = illava.Illava.best(1 / 3)
METHODS = {"keep=1/3": BEST, "published": illava.Illava(keep=1 / 3)}


@contextmanager
def counted_steps(counting):
    """The operations of scoring and of selection and merging, by step in the order of the prefill."""
    found = []

    def wrap(owner, name):
        function = getattr(owner, name)

        def run(*args, **kwargs):
            with counting() as names:
                result = function(*args, **kwargs)
            found.append((name, list(names)))
            return result

        return mock.patch.object(owner, name, run)

    with (
        wrap(merge_step.MergeStep, "observe_encoder"),
        wrap(merge_step.MergeStep, "observe_llm"),
        mock.patch("illava.runtime.encoder.merging_block.reduced", _counted(found, counting)),
        mock.patch("illava.runtime.llm.merging.reduced", _counted(found, counting)),
    ):
        yield found


def _counted(found, counting):
    def run(step, units):
        with counting() as names:
            result = steps.reduced(step, units)
        found.append(("reduced", list(names)))
        return result

    return run


def of_each_step(name, shown, method, counting):
    # In half precision, which takes more operations than fp32.
    model = tiny_model(name).to(torch.bfloat16)
    inputs = inputs_of(model, shown, "single")
    inputs = {key: t.to(torch.bfloat16) if t.is_floating_point() else t for key, t in inputs.items()}
    with counted_steps(counting) as found, torch.no_grad(), illava.accelerate(model, method):
        model(**inputs)
    # Scores come before the step that uses them; a step with several calls of attention has several.
    each, names = [], []
    for kind, operations in found:
        names += operations
        if kind == "reduced":
            each.append(names)
            names = []
    assert len(each) >= 2
    return each


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("qwen2_vl", "one"),
        ("llava_onevision", "one"),
        ("llava", "two"),
        ("internvl", "one"),
        ("gemma3", "one"),
    ],
)
def test_a_step_launches_few_kernels(name, shown, method):
    for names in of_each_step(name, shown, METHODS[method], launches):
        assert any(launched.startswith("_") for launched in names), "no kernel of Triton was launched"
        assert len(names) <= MOST, names


@pytest.mark.parametrize("name", ["qwen2_vl", "llava"])
def test_attention_that_knows_sizes_launches_few_kernels(name, monkeypatch):
    """What an accelerator would launch, counted here."""

    def takes(tap, query, mask, causal):
        return mask is None and query.shape[2] > 1

    monkeypatch.setattr(AttentionTap, "takes_channels", takes)
    model = tiny_model(name).to(torch.bfloat16)
    inputs = inputs_of(model, "one", "single")
    inputs = {key: t.to(torch.bfloat16) if t.is_floating_point() else t for key, t in inputs.items()}
    found = []
    for method in (replace(BEST, proportional=None), BEST):
        with torch.no_grad(), illava.accelerate(model, method) as handle, launches() as names:
            model(**inputs)
            found.append(len(names))
    sized = predict(handle.modules, BEST, picture_size=48).sized_layers
    blocks, layers = len(handle.modules.blocks), len(handle.modules.layers)
    assert sized == (blocks - 1 - min(handle.plan.encoder), layers)
    most = sum(sizes_kernels(*sized))
    assert most - KERNELS_OF_SIZES < found[1] - found[0] <= most


class Replayed(graphs.Graph):
    """In place of a CUDA graph: it runs the function again, which counts as one launch."""

    mode: Launches

    def __init__(self, function, tensors):
        self.inputs, self.function, self.mapped = [t.clone() for t in tensors], function, False
        self.outputs = function(*self.inputs)

    def replay(self, tensors):
        for own, given in zip(self.inputs, tensors, strict=True):
            own.copy_(given)
        self.mode.names.append("replay")
        with torch.utils._python_dispatch._disable_current_modes():
            result = self.function(*self.inputs)
        return result._replace(linear_map=None) if hasattr(result, "linear_map") else result


@pytest.fixture
def graphs_on_the_cpu(monkeypatch):
    monkeypatch.setenv("ILLAVA_KERNELS", "torch")
    monkeypatch.setattr(graphs, "usable", lambda tensors: bool(tensors))
    monkeypatch.setattr(graphs, "GRAPHS", graphs.Graphs())
    monkeypatch.setattr(
        graphs.Graphs, "_capture", lambda self, function, tensors: Replayed(function, tensors)
    )
    for name in ("_after_others", "_done"):
        monkeypatch.setattr(graphs.Graphs, name, lambda self, device: None)

    @contextmanager
    def counting():
        with Launches() as mode:
            Replayed.mode = mode
            yield mode.names

    # The branches for accelerators, which need fewer operations.
    with mock.patch("illava.ops.scoring._on_host", return_value=False):
        yield counting


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["qwen2_vl", "llava"])
def test_without_triton_a_step_launches_few_operations_and_one_graph(name, method, graphs_on_the_cpu):
    # The first two times operations run one by one, the third time they are recorded.
    for _ in range(3):
        of_each_step(name, "one", METHODS[method], graphs_on_the_cpu)
    for names in of_each_step(name, "one", METHODS[method], graphs_on_the_cpu):
        assert names.count("replay") == 1
        assert len(names) - 1 <= MOST_WITHOUT_TRITON, names


def test_the_count_sees_operations_and_kernels():
    from illava.ops.kernels.products import products

    with launches() as names:
        one = torch.ones(2, 3, 4)
        one.view(6, 4).T.expand(2, -1, -1)
        (one + 1).sum()
        products(one, cosine=True)
    assert names == ["aten.ones.default", "aten.add.Tensor", "aten.sum.default", "_products"]
