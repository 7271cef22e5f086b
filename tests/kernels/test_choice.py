"""When kernels are used, and what happens where they cannot be."""

from __future__ import annotations

import sys

import pytest
import torch

from illava.ops import kernels
from illava.ops.kernels import trial
from illava.ops.scoring import column_scores
from tests.kernels.device import DEVICE


class OnCard:
    """What :func:`illava.ops.kernels.enabled` asks a tensor on a graphics card."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16, requires_grad: bool = False) -> None:
        self.device, self.dtype, self.requires_grad = torch.device("cuda", 0), dtype, requires_grad


@pytest.fixture
def untried(monkeypatch):
    monkeypatch.delenv("ILLAVA_KERNELS")
    monkeypatch.setattr(kernels, "_refusals", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


@pytest.mark.skipif(DEVICE != "cpu", reason="the interpreter is on where there is no card")
def test_on_a_cpu_only_if_asked_for(monkeypatch):
    assert kernels.enabled(torch.ones(1))
    monkeypatch.delenv("ILLAVA_KERNELS")
    assert not kernels.enabled(torch.ones(1))


@pytest.mark.skipif(DEVICE != "cpu", reason="the interpreter is on where there is no card")
def test_not_where_a_gradient_is_needed():
    assert not kernels.enabled(torch.ones(1), torch.ones(1, requires_grad=True))
    with torch.no_grad():
        assert kernels.enabled(torch.ones(1), torch.ones(1, requires_grad=True))


def test_on_a_card_after_one_trial_for_each_dtype(untried, monkeypatch):
    tried = []
    monkeypatch.setattr(trial, "differences", lambda device, dtype: tried.append(dtype) or [])
    for dtype in (torch.bfloat16, torch.float32, torch.bfloat16):
        assert kernels.enabled(OnCard(dtype))
    assert tried == [torch.bfloat16, torch.float32]
    monkeypatch.setenv("ILLAVA_KERNELS", "torch")
    assert not kernels.enabled(OnCard())


def test_kernels_that_compute_something_else_are_not_used(untried, monkeypatch):
    monkeypatch.setattr(trial, "differences", lambda device, dtype: ["recycling differs"])
    with pytest.warns(UserWarning, match=r"not used on cuda:0 in torch\.bfloat16.*recycling differs"):
        assert not kernels.enabled(OnCard())
    assert not kernels.enabled(OnCard())  # without another warning


def test_a_machine_without_a_compiler_gets_operations_and_one_warning(untried, monkeypatch):
    def fails(device, dtype):
        raise RuntimeError("Failed to find C compiler\nmore lines")

    monkeypatch.setattr(trial, "differences", fails)
    with pytest.warns(UserWarning, match="RuntimeError: Failed to find C compiler$"):
        assert not kernels.enabled(OnCard())


def test_another_word_is_refused(monkeypatch):
    monkeypatch.setenv("ILLAVA_KERNELS", "cuda")
    with pytest.raises(ValueError, match="ILLAVA_KERNELS must be one of auto, triton, torch, got 'cuda'"):
        kernels.enabled(torch.ones(1))


def test_old_cards_and_other_dtypes_get_operations(untried, monkeypatch):
    monkeypatch.setattr(trial, "differences", lambda device, dtype: [])
    assert "torch.float64" in str(kernels.refusal(torch.device("cuda", 0), torch.float64))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert kernels.refusal(torch.device("cuda", 0), torch.float16) == "they need compute capability 8.0"
    assert "xpu" in str(kernels.refusal(torch.device("xpu", 0), torch.float16))


def test_an_interrupted_trial_is_tried_again(untried, monkeypatch):
    def interrupted(device, dtype):
        raise KeyboardInterrupt

    monkeypatch.setattr(trial, "differences", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kernels.enabled(OnCard())
    monkeypatch.setattr(trial, "differences", lambda device, dtype: [])
    assert kernels.enabled(OnCard())


def test_wide_heads_get_operations():
    """PruMerge+ scores with one head as wide as the model, whose tiles fit in no shared memory."""
    assert kernels.suits_attention(torch.ones(1, 1, 4, 256), torch.ones(1, 1, 4, 256))
    assert not kernels.suits_attention(torch.ones(1, 1, 4, 1152), torch.ones(1, 1, 4, 1152))


def test_memory_that_runs_out_is_not_hidden(untried, monkeypatch):
    def fails(device, dtype):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(trial, "differences", fails)
    with pytest.raises(torch.OutOfMemoryError):
        kernels.enabled(OnCard())
    monkeypatch.setattr(trial, "differences", lambda device, dtype: [])
    assert kernels.enabled(OnCard()), "tried again when there is memory"


def test_without_triton_nothing_imports_it(monkeypatch):
    monkeypatch.setattr(kernels, "_INSTALLED", False)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert not kernels.enabled(torch.ones(1))
    query = torch.randn(1, 1, 5, 4)
    assert column_scores(query, query, 0.5).sum().item() == pytest.approx(1)


@pytest.fixture
def small_trial(monkeypatch):
    """In the interpreter, the trial of full size takes half a minute."""
    monkeypatch.setenv("ILLAVA_KERNELS", "torch")
    if DEVICE == "cpu":
        for name, value in {"UNITS": 36, "KEPT": 10, "CHANNELS": 20, "WIDTH": 10}.items():
            monkeypatch.setattr(trial, name, value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_trial_finds_nothing_here(dtype, small_trial):
    assert trial.differences(torch.device(DEVICE), dtype) == []


@pytest.mark.parametrize(
    ("module", "name", "change", "found"),
    [
        ("attention", "column_sums", lambda made: made + 0.1, "the sum of attention weights"),
        ("attention", "row_weights", lambda made: made.flip(-1), "the attention of one query"),
        ("selection", "select_diverse", lambda made: made._replace(kept=made.kept - 1), "the selection"),
        ("merging", "recycle_into", lambda made: made._replace(units=made.units * 1.1), "recycling"),
        ("merging", "fold_into", lambda made: (made[0] * 1.1, made[1]), "folding"),
        ("guarding", "propagate", lambda made: made.nan_to_num(), "propagation of NaN"),
    ],
)
def test_the_trial_finds_a_wrong_kernel(module, name, change, found, small_trial, monkeypatch):
    part = getattr(trial, module)
    right = getattr(part, name)
    monkeypatch.setattr(part, name, lambda *args, **kwargs: change(right(*args, **kwargs)))
    wrong = trial.differences(torch.device(DEVICE), torch.bfloat16)
    assert any(line.startswith(found) for line in wrong)
