"""Which clock times a model, and that device events are recorded without waiting and read once at the end."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from illava.bench.clocks import EventClock, HostClock, clock_of


class FakeEvent:
    """An event on a stream whose work takes a second per mark; it notes whether it was waited for."""

    recorded = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at, self.waited = None, False

    def record(self, stream: str) -> None:
        assert stream == "stream of cuda:0"
        FakeEvent.recorded += 1
        self.at = 1000 * FakeEvent.recorded

    def synchronize(self) -> None:
        self.waited = True

    def elapsed_time(self, other: FakeEvent) -> float:
        assert other.waited
        return other.at - self.at


def test_events_give_seconds_and_are_waited_for_only_when_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    clock = EventClock(torch.device("cuda:0"))
    first, second, third = (clock.mark() for _ in range(3))
    assert not any(mark.waited for mark in (first, second, third))
    assert clock.seconds(first, third) == 2
    assert not second.waited


@pytest.mark.parametrize(
    ("devices", "kind"),
    [(("cuda:0", "cuda:0"), EventClock), (("cuda:0", "cuda:1"), HostClock), (("cpu",), HostClock)],
)
def test_events_are_for_one_cuda_device(devices: tuple[str, ...], kind: type) -> None:
    class Placed(nn.Module):
        def parameters(self, recurse: bool = True):
            return iter([type("P", (), {"device": torch.device(device)}) for device in devices])

    assert type(clock_of(Placed())) is kind
