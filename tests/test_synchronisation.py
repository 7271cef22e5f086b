"""Decoding asks nothing of the device that the plain model does not ask: no number is fetched to the host."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import illava
from tests.test_exact import batch, single
from tests.tiny import ALL, tiny_model

# What makes the host wait for an accelerator: a value read, or a shape that depends on values.
WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.unique", "aten.bincount")


class _Waits(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if str(function).startswith(WAITING):
            self.found.append(str(function))
        elif str(function).startswith(("aten.index.Tensor", "aten.index_put")):
            # A boolean index is a hidden nonzero.
            indices = [t for t in args[1] if t is not None]
            self.found += [str(function)] * any(t.dtype == torch.bool for t in indices)
        return function(*args, **(kwargs or {}))


def waits(model, inputs, new_tokens=4):
    """Of each decoding step, in the model's own forward."""
    found, watches = [], []

    def begin(*_):
        watches.append(_Waits().__enter__())

    def end(*_):
        watch = watches.pop()
        watch.__exit__(None, None, None)
        found.append(sorted(watch.found))

    hooks = [model.register_forward_pre_hook(begin, prepend=True), model.register_forward_hook(end)]
    try:
        model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found[1:]


# Experts are called one by one, as many as the tokens choose, and those are other tokens when merged.
@pytest.mark.parametrize("family", [family for family in ALL if "moe" not in family])
@pytest.mark.parametrize("make", [single, batch])
def test_a_decoding_step_waits_no_more_than_the_plain_one(family, make):
    model = tiny_model(family)
    inputs = make(model)
    plain = waits(model, inputs)
    with illava.accelerate(model, illava.Illava.best(1 / 3)):
        merged = waits(model, inputs)
    assert len(plain) == len(merged) == 3
    for before, after in zip(plain, merged, strict=True):
        assert len(after) <= len(before), (before, after)


def test_the_watch_sees_what_waits():
    with _Waits() as watch:
        bool(torch.ones(2).any())
        torch.ones(3)[torch.tensor([True, False, True])]
    assert len(watch.found) >= 2
