"""On a graphics card: how often a merged model waits for it. Run with `make test-gpu`.

``torch.cuda.set_sync_debug_mode("warn")`` warns of each call that waits, in the line that made it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import illava
from illava.ops.transfers import upload
from tests.battery.test_battery import inputs_of
from tests.gpu.test_gpu import NAMES, on_card
from tests.test_synchronisation import EXPERTS, MOST, methods
from tests.tiny import tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a graphics card"),
]

OURS = str(Path(illava.__file__).parent)


@contextmanager
def warned() -> Iterator[list[str]]:
    """The places that wait, in order; emptied by the caller."""
    found: list[str] = []
    before, show = torch.cuda.get_sync_debug_mode(), warnings.showwarning

    def note(message: Any, category: Any, filename: str, line: int, *rest: Any) -> None:
        if "synchronizing CUDA operation" in str(message):
            found.append(f"{filename}:{line}")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
            warnings.showwarning = show


def passes(model: nn.Module, inputs: dict[str, Tensor], **options: Any) -> list[list[str]]:
    """The places that wait in each pass of ``generate``; the encoder's work belongs to the first."""
    out: list[list[str]] = []
    options |= dict(max_new_tokens=4, do_sample=False)
    with torch.no_grad():
        # Memory of the first run is reused by the second.
        model.generate(**inputs, **options)
        with warned() as found:

            def end(*_: Any) -> None:
                out.append(list(found))
                found.clear()

            hook = model.register_forward_hook(end)
            try:
                model.generate(**inputs, **options)
            finally:
                hook.remove()
    return out


def ours(places: list[str]) -> list[str]:
    return [place for place in places if place.startswith(OURS)]


@pytest.mark.parametrize("rows", ["single", "batch"])
@pytest.mark.parametrize("name", NAMES)
def test_a_prefill_waits_at_most_four_times_and_decoding_never(name: str, rows: str) -> None:
    model = tiny_model(name)
    inputs = on_card(inputs_of(model, "two", rows))
    plain = passes(model.to("cuda"), inputs)
    for kind, method in methods(name).items():
        with illava.accelerate(model, method):
            prefill, *decoding = passes(model, inputs)
        assert len(ours(prefill)) <= MOST, f"{kind}: {prefill}"
        assert not [place for step in decoding for place in ours(step)], kind
        if name not in EXPERTS:
            assert len(prefill) <= len(plain[0]) + MOST, f"{kind}: {prefill}"


def test_the_warnings_are_seen() -> None:
    numbers = torch.arange(4, device="cuda")
    with warned() as found:
        bool((numbers > 1).any())
        numbers[numbers > 1]
        torch.tensor([1, 2], device="cuda")
    assert len(found) >= 3
    assert all(place.startswith(__file__) for place in found)
    with warned() as found:
        upload([1, 2, 3], numbers.device)
        numbers[numbers.clamp(max=2)]
    assert not found
