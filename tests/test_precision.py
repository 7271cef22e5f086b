"""Autocast, TF32 and bfloat16 products change the model's arithmetic, never which tokens are kept.

Every method's own computations run a second time under reduced precision: each result must be the same bit
for bit, in the dtype that it had without.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import illava
from illava.methods.steps import Step
from illava.ops import merging, scoring, selection
from illava.ops.merge_weights import merge_weights
from illava.ops.precision import full_precision
from tests.battery.test_battery import inputs_of, model_of
from tests.battery.test_methods import MADE, refused
from tests.core.cases import assert_same_bits, normal_units

COMPUTED = ("reduce", "enter", "observe_encoder", "observe_llm")
BY_BACKEND = hasattr(torch.backends.cuda.matmul, "fp32_precision")
MATMULS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul) if BY_BACKEND else ()
OPTIONS: dict[str, Any] = {
    **MADE,
    "illava": illava.Illava(keep=0.3),
    "text": illava.Illava(keep=0.3, experimental={"llm_score": "text"}),
}
OPTIONS["rarity"] = illava.Illava(
    keep=0.3, select="diverse", similarity="cosine", experimental={"encoder_score": "rarity"}
)
OPTIONS["weighted"] = illava.Illava(keep=0.3, reduce="weighted", experimental={"encoder_score": "norm"})


def settings() -> tuple[Any, ...]:
    """All that decides the precision of fp32 products."""
    try:
        overall = torch.get_float32_matmul_precision()
    except RuntimeError:
        overall = "contradicted by the backends"
    return (overall, *(matmul.fp32_precision for matmul in MATMULS), torch.is_autocast_enabled("cpu"))


@pytest.fixture(autouse=True)
def _settings_come_back() -> Iterator[None]:
    before = settings()
    yield
    torch.set_float32_matmul_precision(before[0])
    for matmul, setting in zip(MATMULS, before[1:-1], strict=True):
        matmul.fp32_precision = setting


@contextmanager
def reduced() -> Iterator[None]:
    """bfloat16 autocast, and products of fp32 tensors in less than fp32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def steps(kind: type = Step) -> Iterator[type]:
    for sub in kind.__subclasses__():
        yield sub
        yield from steps(sub)


def around(monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Callable[..., Any]], Any]) -> None:
    """Replace what every step of every method computes by what ``wrap`` makes of it."""
    for kind in set(steps()):
        for name in COMPUTED:
            if name in kind.__dict__:
                monkeypatch.setattr(kind, name, wrap(kind.__dict__[name]))


def tensors_of(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, merging.MergedSegments):
        return [
            result.units,
            result.kept,
            *([] if result.sizes is None else [result.sizes]),
            *merge_weights(result),
        ]
    return []


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("name", OPTIONS)
def test_kept_units_are_those_of_full_precision(
    name: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the library computes runs under reduced precision, the model's own layers do not."""
    if refused(name, family):
        pytest.skip("not for this family")
    model, inputs = model_of(family, "sdpa"), inputs_of(model_of(family, "sdpa"), "two", "batch")
    with torch.no_grad(), illava.accelerate(model, OPTIONS[name], trace=True) as handle:
        logits, report = model(**inputs).logits, handle.report

    def under(function: Callable[..., Any]) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            with reduced():
                return function(*args, **kwargs)

        return call

    around(monkeypatch, under)
    with torch.no_grad(), illava.accelerate(model, OPTIONS[name], trace=True) as handle:
        assert_same_bits(model(**inputs).logits, logits)
        for seen, expected in zip(handle.report.pictures, report.pictures, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(seen.kept, expected.kept, strict=True))


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_model_under_autocast(name: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's layers run in bfloat16, the choice among what they give does not."""
    if refused(name, family):
        pytest.skip("not for this family")
    compared = []

    def twice(function: Callable[..., Any]) -> Any:
        def call(step: Step, given: Any, *rest: Any) -> Any:
            assert torch.is_autocast_enabled("cpu")
            result = function(step, given, *rest)
            with torch.autocast("cpu", enabled=False):
                again = function(step, given, *rest)
            for found, expected in zip(tensors_of(result), tensors_of(again), strict=True):
                assert_same_bits(found, expected)
                compared.append(found)
            if isinstance(result, merging.MergedSegments):
                assert result.units.dtype == given.vectors.dtype
            return result

        return call

    model, inputs = model_of(family, "sdpa"), inputs_of(model_of(family, "sdpa"), "two", "batch")
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            plain = model(**inputs).logits
        around(monkeypatch, twice)
        with illava.accelerate(model, OPTIONS[name]) as handle:
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(**inputs).logits
            assert handle.report.final_tokens < handle.report.visual_tokens
    assert compared or name == "downsample"
    assert logits.dtype == plain.dtype
    assert logits.isfinite().all()


def test_pure_functions() -> None:
    units = normal_units(2, 24, 16, seed=0, dtype=torch.float32)
    query, key = (normal_units(2, 4, 24, 8, seed=seed, dtype=torch.float32) for seed in (1, 2))
    scores, last = units.norm(dim=-1), torch.tensor([23, 20])
    rows = torch.arange(24).expand(2, -1) > 20

    def everything() -> list[Tensor]:
        out = [
            scoring.column_scores(query, key, 0.3),
            scoring.last_row_scores(query, key, 0.3, last),
            scoring.row_scores(query, key, 0.3, rows),
            scoring.rarity(units),
            selection.diverse_ranking(units, scores, 9),
        ]
        for reduce in merging.REDUCTIONS:
            for similarity in merging.SIMILARITIES:
                options: Any = {"reduce": reduce, "similarity": similarity}
                merged = merging.merge(units, scores, 9, **options)
                out += [merged.units, merged.kept]
                flat = merging.merge_segments(units[0], scores[0], (20, 4), (9, 2), **options)
                assert flat is not None
                out += [flat.units, flat.kept, *merge_weights(flat)]
        return out

    expected = everything()
    with reduced():
        found = everything()
    for a, b in zip(found, expected, strict=True):
        assert_same_bits(a, b)


def test_gradients_are_those_of_full_precision() -> None:
    def gradient() -> Tensor:
        units = normal_units(2, 24, 16, seed=0, dtype=torch.float32).requires_grad_()
        scores = units.detach().norm(dim=-1)
        merging.merge(units, scores, 9, reduce="fold").units.square().sum().backward()
        assert units.grad is not None
        return units.grad

    expected = gradient()
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_bits(gradient(), expected)


EXACT = ("highest", *("ieee",) * len(MATMULS), False)


@pytest.mark.parametrize("overall", ["high", "medium"])
def test_the_setting_is_exact_inside_and_restored(overall: str) -> None:
    torch.set_float32_matmul_precision(overall)
    before = settings()
    assert full_precision(settings)() == EXACT
    assert settings() == before


def test_autocast_is_off_inside_and_restored() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert not full_precision(settings)()[-1]
        assert settings()[-1]


@pytest.mark.skipif(not BY_BACKEND, reason="this torch has one setting for all backends")
@pytest.mark.parametrize("at", [0, 1])
def test_settings_of_one_backend(at: int) -> None:
    MATMULS[at].fp32_precision = "tf32"
    before = settings()
    assert full_precision(settings)()[1:3] == EXACT[1:3]
    assert settings() == before


@pytest.mark.skipif(not BY_BACKEND, reason="this torch has one setting for all backends")
def test_a_backend_that_inherits_goes_on_inheriting() -> None:
    for matmul in MATMULS:
        matmul.fp32_precision = "none"
    try:
        torch.backends.fp32_precision = "tf32"
        assert full_precision(settings)()[1:3] == EXACT[1:3]
        assert settings()[1:3] == ("tf32", "tf32")
        torch.backends.fp32_precision = "ieee"
        assert settings()[1:3] == ("ieee", "ieee")
    finally:
        torch.backends.fp32_precision = "none"


def test_an_error_restores_everything() -> None:
    @full_precision
    def fail() -> None:
        raise KeyError("inside")

    with reduced():
        before = settings()
        with pytest.raises(KeyError, match="inside"):
            fail()
        assert settings() == before


def test_threads_that_overlap() -> None:
    torch.set_float32_matmul_precision("medium")
    before, inside, leave, found = settings(), threading.Barrier(3), threading.Event(), []

    @full_precision
    def stay(first: bool) -> None:
        inside.wait(10)
        if not first:
            leave.wait(10)
        found.append(settings())

    threads = [threading.Thread(target=stay, args=(first,)) for first in (True, False)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    threads[0].join(10)
    # The other thread is inside still.
    assert settings()[0] == "highest"
    leave.set()
    threads[1].join(10)
    assert found == [EXACT, EXACT]
    assert settings() == before
