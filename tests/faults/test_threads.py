"""Threads that call one accelerated model wait for each other, whatever becomes of the calls."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import illava
from tests.battery.test_battery import method_of
from tests.faults.test_calls import Failure, answer
from tests.test_exact import BOTH, TEXTS, single
from tests.tiny import pictures, prompt, tiny_model


def forward(model, inputs):
    with torch.no_grad():
        return model(**inputs)[0]


def elsewhere(function, *args):
    """What another thread gets."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result(timeout=60)


@pytest.mark.parametrize(
    ("bare", "compiled"),
    [
        pytest.param(False, False, id="head-eager"),
        pytest.param(True, False, id="bare-eager"),
        pytest.param(True, True, id="bare-compiled", marks=pytest.mark.slow),
        pytest.param(False, True, id="head-compiled", marks=pytest.mark.slow),
    ],
)
def test_many_forwards(bare, compiled):
    model = tiny_model("qwen2_vl")
    used = model.model if bare else model
    prompts = [prompt(model, [(TEXTS[i % 3], pictures(model, 1 + i % 2, seed=i))]) for i in range(4)]
    with illava.accelerate(used, BOTH) as handle:
        expected = [forward(used, inputs) for inputs in prompts]
        run = torch.compile(used, backend="eager", dynamic=True) if compiled else used
        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(forward, run, inputs) for inputs in prompts * 6]
            for i, future in enumerate(found):
                torch.testing.assert_close(future.result(), expected[i % 4], atol=1e-5, rtol=0)
        assert handle.report.steps[0].before


@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit, Failure])
@pytest.mark.parametrize("bare", [False, True], ids=["head", "bare"])
def test_a_forward_that_was_interrupted(bare, how):
    model = tiny_model("llava")
    used = model.model if bare else model
    inputs = single(model)

    def interrupt(*_):
        raise how

    with illava.accelerate(used, BOTH):
        expected = forward(used, inputs)
        hook = model.model.language_model.layers[2].register_forward_pre_hook(interrupt)
        with pytest.raises(how):
            forward(used, inputs)
        hook.remove()
        assert torch.equal(elsewhere(forward, used, inputs), expected)
        assert torch.equal(forward(used, inputs), expected)


def test_a_hook_that_fails_while_another_thread_is_inside():
    """Its end must not let a third one in."""
    model = tiny_model("llava").model
    inputs = single(tiny_model("llava"))
    inside, go, second = threading.Event(), threading.Event(), None

    def wait(*_):
        inside.set()
        assert go.wait(60)

    def fail(*_):
        if threading.current_thread() is second:
            raise Failure

    with illava.accelerate(model, BOTH):
        expected = forward(model, inputs)
        hook = model.language_model.layers[2].register_forward_pre_hook(wait)
        model.register_forward_pre_hook(fail, prepend=True)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(forward, model, inputs)
            assert inside.wait(60)
            failed = []

            def call():
                try:
                    forward(model, inputs)
                except Failure:
                    failed.append(True)

            second = threading.Thread(target=call)
            second.start()
            second.join(60)
            assert failed
            go.set()
            assert torch.equal(first.result(60), expected)
        hook.remove()
        assert torch.equal(elsewhere(forward, model, inputs), expected)


def test_removing_while_others_call():
    model = tiny_model("llava")
    inputs = single(model)
    plain = forward(model, inputs)
    for _ in range(3):
        handle = illava.accelerate(model, BOTH)
        merged = forward(model, inputs)
        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(forward, model, inputs) for _ in range(12)]
            handle.remove()
            for future in found:
                logits = future.result(60)
                assert any(logits.shape == one.shape and torch.equal(logits, one) for one in (plain, merged))
        assert torch.equal(elsewhere(forward, model, inputs), plain)


@pytest.mark.parametrize("options", [{"use_cache": False}, {"prompt_lookup_num_tokens": 3}, {}])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_another_prompt_in_the_middle_of_an_answer(name, options):
    """As a logits processor may run: what generate knows is of its own prompt."""
    model = tiny_model(name)
    own, other = single(model), prompt(model, [([9, 8, 7, 6, 5, 4], pictures(model, 1, seed=5))])
    found = []

    def look(ids, scores):
        found.append(forward(model, other))
        return scores

    with illava.accelerate(model, method_of(name)):
        expected = forward(model, other)
        wanted = answer(model, own, **options)
        assert torch.equal(answer(model, own, logits_processor=[look], **options), wanted)
    assert found
    for logits in found:
        assert torch.equal(logits, expected)
