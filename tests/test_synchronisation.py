"""How often illava waits for the device: at most 4 times in a prefill with its encoder, never in decoding.

Counted on a device that does not exist (:mod:`tests.fake_device`), whose numbers are those of the CPU. What
waits there waits on a card too, where `make test-gpu` counts with ``torch.cuda.set_sync_debug_mode``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import illava
from illava.ops import transfers
from illava.ops.transfers import upload
from tests.battery.test_battery import inputs_of
from tests.fake_device import DEVICE, OnDevice, Waits, device, to_device, watch
from tests.flash import Kernels, kernels, use
from tests.test_flash import NAMES as FLASH
from tests.tiny import ALL, WITH_VIDEO, tiny_model

__all__ = ["kernels"]

RECURRENT = ("qwen3_5", "qwen3_5_moe")
# How many experts get a token, which transformers reads in each layer, depends on the tokens.
EXPERTS = tuple(name for name in ALL if name.endswith("_moe"))
MOST = 4


def methods(name: str) -> dict[str, illava.Illava]:
    """By name: both stages in one step each, the published schedule, and each stage alone."""
    encoder = illava.Illava(encoder_layers=(2,), encoder_keep=0.5, llm_layers=())
    if name in RECURRENT:
        return {"encoder": encoder}
    llm = illava.Illava(encoder_layers=(), llm_layers=(2, 4), llm_keep=0.6)
    both = {"best": illava.Illava.best(1 / 3), "published": illava.Illava(keep=1 / 3)}
    return {**both, "llm": llm, "encoder": encoder}


def passes(model: nn.Module, inputs: dict[str, Tensor], **options: Any) -> tuple[list[Waits], Tensor]:
    """Of each pass of ``generate``, what waits: the encoder's work belongs to the first. And its answer."""
    found: list[Waits] = []
    with device(), torch.no_grad(), watch() as waits:

        def end(*_: Any) -> None:
            found.append(Waits(list(waits.found)))
            waits.found.clear()

        hook = model.register_forward_hook(end)
        try:
            answer = model.generate(**inputs, max_new_tokens=3, do_sample=False, **options)
        finally:
            hook.remove()
    return found, answer


def on_device(model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model, and a batch for it."""
    inputs = inputs_of(model, "two", "batch")
    return to_device(model), to_device(inputs)


CELLS = [
    # Models of experts wait where those without do, and take longer; one picture waits where a batch does.
    pytest.param(
        name,
        shown,
        rows,
        id=f"{name}-{shown}-{rows}",
        marks=[pytest.mark.slow] * (name in EXPERTS or (shown == "one" and name != "llava")),
    )
    for name in ALL
    for shown, rows in (("one", "single"), ("two", "batch"), ("video", "single"))
    if shown != "video" or name in WITH_VIDEO
]


@pytest.mark.parametrize(("name", "shown", "rows"), CELLS)
def test_a_prefill_waits_at_most_four_times_and_decoding_never(name: str, shown: str, rows: str) -> None:
    model = tiny_model(name)
    inputs = inputs_of(model, shown, rows)
    every = methods(name)
    first = next(iter(every))
    with illava.accelerate(model, every[first]), torch.no_grad():
        expected = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    inputs = to_device(inputs)
    plain, _ = passes(to_device(model), inputs)
    for kind, method in every.items():
        if rows == "single" and kind != first:
            continue
        with illava.accelerate(model, method):
            (prefill, *decoding), answer = passes(model, inputs)
            if kind == first:
                assert torch.equal(answer.held, expected)
                with device(), torch.no_grad(), watch() as forward:
                    model(**inputs)
                assert len(forward.ours()) <= MOST, forward.places()
        assert 1 <= len(prefill.ours()) <= MOST, f"{kind}: {prefill.places()}"
        assert len(decoding) == 2
        assert not [wait for step in decoding for wait in step.ours()], kind
        if name not in EXPERTS:
            # Nor do arguments that illava passes on make the model wait more.
            assert len(prefill.found) <= len(plain[0].found) + MOST, f"{kind}: {prefill.places()}"


@pytest.mark.parametrize("score", ["none", "change", "pixels", "attention+pixels"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_no_score_and_no_selection_waits_more(name: str, score: str) -> None:
    model, inputs = on_device(tiny_model(name))
    for select in ("diverse", "coverage"):
        experimental = {
            "encoder_score": score,
            "sinks": "discount",
            "score_power": 0.5,
            "two_depths": 0.3 * (score == "change"),
        }
        method = illava.Illava(keep=1 / 3, select=select, reduce="fold", experimental=experimental)
        with illava.accelerate(model, method), device(), torch.no_grad(), watch() as waits:
            model(**inputs)
        assert len(waits.ours()) <= MOST, f"{select}: {waits.places()}"


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_a_question_is_found_without_waiting(name: str) -> None:
    model, inputs = on_device(tiny_model(name))
    with illava.accelerate(model, illava.MMTok(keep=1 / 3)), device(), torch.no_grad(), watch() as waits:
        model(**inputs)
    assert len(waits.ours()) <= MOST, waits.places()


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
def test_budgets_by_complexity_wait_once_for_the_encoder(name: str) -> None:
    model, inputs = on_device(tiny_model(name))
    method = illava.Illava(
        keep=1 / 3, select="diverse", reduce="fold", experimental={"complexity": (0.5, 0.1)}
    )
    with illava.accelerate(model, method), device(), torch.no_grad(), watch() as waits:
        model(**inputs)
    assert len(waits.ours()) <= MOST + 1, waits.places()
    assert sum("cues" in place for place in waits.places()) <= 1


def test_each_encoder_step_before_windows_waits_once_more() -> None:
    """Attention by windows is computed window by window, by lengths that the model reads in every block."""
    model, inputs = on_device(tiny_model("qwen2_5_vl"))
    with device(), torch.no_grad(), watch() as before:
        model(**inputs)
    blocks = tuple(model.config.vision_config.fullatt_block_indexes[:1])
    found = []
    for layers in ((0,), (0, *blocks)):
        method = illava.Illava(encoder_layers=layers, encoder_keep=0.7, llm_layers=(2,), llm_keep=0.7)
        with illava.accelerate(model, method), device(), torch.no_grad(), watch() as merged:
            model(**inputs)
        found.append(len(merged.ours()))
        assert len(merged.found) <= len(before.found) + MOST
    assert found[1] - found[0] <= 1


@pytest.mark.parametrize("name", [name for name in ALL if name not in RECURRENT])
def test_static_layers_do_not_wait_either(name: str) -> None:
    model, inputs = on_device(tiny_model(name))
    with illava.accelerate(model, illava.Illava.best(1 / 3)):
        (prefill, *decoding), _ = passes(model, inputs, cache_implementation="static")
    assert len(prefill.ours()) <= MOST, prefill.places()
    assert not [wait for step in decoding for wait in step.ours()]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in EXPERTS)) for name in FLASH]
)
def test_flash_attention_waits_no_more(name: str, kernels: Kernels) -> None:
    model, inputs = on_device(use(tiny_model(name), "flash_attention_2"))
    for kind, method in methods(name).items():
        with illava.accelerate(model, method):
            (prefill, *decoding), _ = passes(model, inputs)
        assert len(prefill.ours()) <= MOST, f"{kind}: {prefill.places()}"
        assert not [wait for step in decoding for wait in step.ours()], kind


def test_beams_of_sliding_layers_wait_for_nothing() -> None:
    """Reordered rows keep the bounds that were read after the prefill."""
    model, inputs = on_device(tiny_model("llava-windows"))
    with illava.accelerate(model, illava.Illava.best(1 / 3)):
        (prefill, *decoding), _ = passes(model, inputs, num_beams=2)
    assert len(prefill.ours()) <= MOST, prefill.places()
    assert not [wait for step in decoding for wait in step.ours()]


def test_an_upload_waits_for_nothing() -> None:
    with device(), watch() as waits:
        made = upload([[1, 2], [3, 4]], DEVICE)
        assert isinstance(made, OnDevice)
        upload(torch.ones(3), DEVICE)
        upload(made, DEVICE)
    assert not waits.found
    assert made.held.tolist() == [[1, 2], [3, 4]]
    assert upload([1.5], torch.device("cpu"), torch.float32).tolist() == [1.5]


def numbers() -> OnDevice:
    return OnDevice(torch.tensor([3, 0, 1]))


WAITING = {
    "a truth value": lambda: bool(numbers().any()),
    "a number": lambda: int(numbers().sum()),
    "item": lambda: numbers()[0].item(),
    "a list": lambda: numbers().tolist(),
    "to the host": lambda: numbers().cpu(),
    "to a device": lambda: numbers().to("cpu"),
    "to another dtype too": lambda: torch.ones(3).to(DEVICE, torch.float16),
    "from the host": lambda: torch.ones(3).to(DEVICE),
    "from pageable memory": lambda: torch.ones(3).to(DEVICE, non_blocking=True),
    "pinned, blocking": lambda: torch.ones(3).pin_memory().to(DEVICE),
    "a copy into": lambda: numbers().copy_(torch.ones(3)),
    "a new tensor": lambda: torch.tensor([1, 2], device=DEVICE),
    "as a tensor": lambda: torch.as_tensor([1, 2], device=DEVICE),
    "new_tensor": lambda: numbers().new_tensor([1, 2]),
    "a mask": lambda: numbers()[numbers() > 0],
    "a mask, put": lambda: numbers().index_put((numbers() > 0,), numbers()[:2]),
    "masked_select": lambda: numbers().masked_select(numbers() > 0),
    "indices on the host": lambda: numbers()[torch.tensor([0, 1])],
    "an index": lambda: torch.ones(3)[numbers()[1]],
    "a scalar at indices": lambda: numbers().__setitem__(numbers()[1:], 1),
    "nonzero": lambda: numbers().nonzero(),
    "where": lambda: torch.where(numbers() > 0),
    "unique": lambda: numbers().unique(),
    "unique_consecutive": lambda: numbers().unique_consecutive(),
    "bincount": lambda: numbers().bincount(minlength=9),
    "equal": lambda: torch.equal(numbers(), numbers()),
    "repeat_interleave": lambda: numbers().repeat_interleave(numbers()),
}


@pytest.mark.parametrize("what", WAITING)
def test_the_device_sees_what_waits(what: str) -> None:
    with device(), watch() as waits:
        WAITING[what]()
    assert len(waits.found) == 1, waits.found
    assert "test_synchronisation" in waits.found[0][1]
    assert not waits.ours()


GOING_ON = {
    "arithmetic": lambda: (numbers() * 2 + numbers()).cumsum(0).sort(stable=True).indices.argmax(),
    "indices": lambda: numbers()[numbers().clamp(max=2)],
    "a filled tensor": lambda: torch.full((3,), 7, device=DEVICE) + torch.arange(3, device=DEVICE),
    "a slice": lambda: numbers()[1:],
    "set by a mask": lambda: numbers().__setitem__(numbers() > 0, 5),
    "pinned": lambda: torch.ones(3).pin_memory().to(DEVICE, non_blocking=True),
    "same device": lambda: numbers().to(DEVICE),
    "nothing to copy": lambda: torch.tensor([], device=DEVICE),
    "repeats of a known number": lambda: numbers().repeat_interleave(2),
    "repeats of known total": lambda: numbers().repeat_interleave(numbers(), output_size=4),
    "a scalar of the host": lambda: numbers() + torch.tensor(1),
}


@pytest.mark.parametrize("what", GOING_ON)
def test_the_device_sees_what_does_not_wait(what: str) -> None:
    with device(), watch() as waits:
        GOING_ON[what]()
    assert not waits.found


def test_the_device_computes_what_the_cpu_computes() -> None:
    with device():
        assert numbers().device == DEVICE
        assert (numbers() + 1).device == DEVICE
        assert numbers().cpu().device == torch.device("cpu")
        made = numbers()
        made[1:].add_(10)
        assert made.tolist() == [3, 10, 11], "views share memory"
        with pytest.raises(RuntimeError, match="same device"):
            numbers() + torch.ones(3)


@pytest.mark.parametrize("kind", ["cuda", "mps", "cuda without pinned memory"])
def test_only_devices_that_copy_from_pinned_memory_get_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned, moved = [], []

    def pin_memory(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        if kind != "cuda":
            raise RuntimeError("cannot pin memory")
        return tensor

    def to(tensor: Tensor, *args: object, **kwargs: object) -> Tensor:
        moved.append((args, kwargs))
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(Tensor, "to", to)
    target = torch.device(kind.partition(" ")[0], 0)
    transfers.upload([1, 2], target)
    assert len(pinned) == (kind != "mps")
    assert moved == [((target,), {"non_blocking": True} if kind == "cuda" else {})]
