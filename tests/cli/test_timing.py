"""Timings add up, are put down to the right part, and leave the model as it was."""

from __future__ import annotations

import math
import time

import pytest
import torch

from illava import accelerate
from illava.bench.timing import Timing, hook_seconds, interleave, measure, median_interval, ratio, spread
from illava.io.pictures import open_picture
from illava.io.prompts import build_prompt
from illava.models.located import locate


@pytest.fixture
def inputs(loaded):
    return build_prompt(loaded[1], [open_picture("demo/word.png")], "What does it read?")


def hook_count(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def timing(**modules):
    values = {"encoder": 1.0, "prefill": 1.0, "decode": 1.0, "ttft": 2.0, "total": 3.0, "new_tokens": 2}
    return Timing(**{**values, **modules}, output=torch.zeros(1, 2))


@pytest.mark.parametrize("accelerated", [False, True])
def test_parts_add_up(loaded, inputs, accelerated):
    model = loaded[0]
    handle = accelerate(model, keep=0.25) if accelerated else None
    before = hook_count(model)
    expected = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    result = measure(model, inputs, 5)
    assert hook_count(model) == before
    if handle:
        handle.remove()
    assert torch.equal(result.output, expected)
    assert result.new_tokens == 5
    assert min(result.encoder, result.prefill, result.decode) > 0
    assert result.encoder + result.prefill <= result.ttft
    assert result.ttft + result.decode <= result.total
    assert result.decode_per_token == pytest.approx(result.decode / 4)


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("part", ["encoder", "projector", "prefill", "decode"])
def test_time_is_put_down_to_the_right_part(loaded, inputs, part, accelerated):
    model = loaded[0]
    handle = accelerate(model, keep=0.25) if accelerated else None
    modules = locate(model)
    calls = []

    def sleep(*_):
        calls.append(None)
        if len(calls) == (2 if part == "decode" else 1):
            time.sleep(0.25)

    slow = {"encoder": modules.encoder, "projector": modules.projector}.get(part, modules.layers[0])
    hook = slow.register_forward_pre_hook(sleep)
    result = measure(model, inputs, 3)
    hook.remove()
    if handle:
        handle.remove()
    seconds = {name: getattr(result, name) for name in ("encoder", "prefill", "decode")}
    charged = "encoder" if part == "projector" else part
    assert seconds.pop(charged) >= 0.25
    assert sum(seconds.values()) < 0.25
    assert (result.ttft >= 0.25) == (part != "decode")


def test_hooks_go_when_the_model_fails(loaded, inputs):
    model = loaded[0]
    before = hook_count(model)

    def fail(*_):
        raise RuntimeError("broken")

    hook = locate(model).layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        measure(model, inputs, 2)
    hook.remove()
    assert hook_count(model) == before


def test_hook_seconds_are_those_of_the_hooks_that_were_there(loaded, inputs):
    model = loaded[0]
    slow = model.model.language_model.register_forward_pre_hook(lambda *_: time.sleep(0.05))
    before = [dict(m._forward_pre_hooks) for m in model.modules()]
    try:
        with hook_seconds(model) as seconds:
            measure(model, inputs, 2, min_new_tokens=2)
        assert len(seconds) == 2  # once a token, and none of measure's own hooks
        assert all(0.05 <= s < 0.5 for s in seconds)
        assert [dict(m._forward_pre_hooks) for m in model.modules()] == before
    finally:
        slow.remove()
    assert not hook_count(model)


def test_one_token(loaded, inputs):
    result = measure(loaded[0], inputs, 1)
    assert result.decode == 0
    assert math.isnan(result.decode_per_token)


def test_interleave():
    order = []

    def run(name):
        order.append(name)
        return timing(total=float(len(order)))

    timings = interleave({name: lambda name=name: run(name) for name in "ab"}, rounds=3)
    assert "".join(order) == "ab" + "ba" + "ab" + "ba"
    assert [t.total for t in timings["a"]] == [4, 5, 8]
    assert [t.total for t in timings["b"]] == [3, 6, 7]
    with pytest.raises(ValueError, match="rounds"):
        interleave({}, 0)


def test_ratio_pairs_rounds():
    slow, fast = [timing(total=t) for t in (2, 40, 6)], [timing(total=t) for t in (1, 10, 2)]
    gain = ratio(slow, fast, "total")
    assert (gain.median, gain.low, gain.high) == (3, 2, 4)
    assert math.isnan(ratio(slow, [timing(total=0.0)] * 3, "total").median)
    with pytest.raises(ValueError, match="at least one value"):
        spread([])


@pytest.mark.parametrize(("n", "rank"), [(6, 1), (8, 1), (9, 2), (10, 2), (15, 4), (20, 6), (40, 14)])
def test_the_interval_of_the_median_has_the_tabulated_ranks(n, rank):
    # As tabulated for the 95 % interval of a median, e.g. Conover, Practical Nonparametric Statistics.
    values = [float((7 * i) % 41) for i in range(1, n + 1)]  # all different, not in order
    assert median_interval(values) == (sorted(values)[rank - 1], sorted(values)[n - rank])


def test_five_values_are_too_few_for_an_interval():
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None


def test_to_dict():
    assert timing().to_dict() == {
        "encoder": 1.0, "prefill": 1.0, "decode": 1.0, "ttft": 2.0, "total": 3.0, "new_tokens": 2
    }  # fmt: skip
