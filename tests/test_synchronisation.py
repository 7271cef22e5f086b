"""Decoding on a merged cache asks nothing of the device: no number is fetched to the host by illava."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import illava
from tests.test_exact import batch, single
from tests.tiny import ALL, tiny_model

# What makes the host wait for an accelerator: a value read, or a shape that depends on values.
WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.unique", "aten.bincount")

OURS = str(Path(illava.__file__).parent)


class _Waits(TorchDispatchMode):
    """Notes whose code waits: that of the innermost function that is not torch's own."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        waits = str(function).startswith(WAITING)
        if str(function).startswith(("aten.index.Tensor", "aten.index_put")):
            # A boolean index is a hidden nonzero.
            waits = any(t is not None and t.dtype == torch.bool for t in args[1])
        if waits:
            self.found.append(_caller())
        return function(*args, **(kwargs or {}))


def _caller():
    frame = sys._getframe(2)
    while "/torch/" in frame.f_code.co_filename:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def waits(model, inputs, new_tokens=4, **options):
    """Of each pass of the model."""
    found, watches = [], []

    def begin(*_):
        watches.append(_Waits().__enter__())

    def end(*_):
        watch = watches.pop()
        watch.__exit__(None, None, None)
        found.append(watch.found)

    hooks = [model.register_forward_pre_hook(begin, prepend=True), model.register_forward_hook(end)]
    try:
        model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False, **options)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("make", [single, batch])
@pytest.mark.parametrize("cache", [None, "static"])
def test_a_decoding_step_waits_for_nothing(family, make, cache):
    model = tiny_model(family)
    with illava.accelerate(model, illava.Illava.best(1 / 3)):
        prefill, *decoding = waits(model, make(model), cache_implementation=cache)
    # A prefill does: how many tokens are left is known on the device.
    assert any(place.startswith(OURS) for place in prefill)
    assert len(decoding) == 3
    assert not [place for step in decoding for place in step if place.startswith(OURS)]


def test_the_watch_sees_what_waits():
    with _Waits() as watch:
        bool(torch.ones(2).any())
        torch.ones(3)[torch.tensor([True, False, True])]
    assert len(watch.found) >= 2
    assert all("test_synchronisation" in place for place in watch.found)
