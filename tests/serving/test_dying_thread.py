"""The thread that owns the model ends by a fault: nobody waits for an answer that will never come."""

from __future__ import annotations

import pytest

from illava.serving.engine import Engine
from illava.serving.errors import ApiError
from illava.serving.jobs import Failed, Job, Prompt
from illava.serving.places import Places
from illava.serving.settings import Settings

from .conftest import until


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_who_waits_is_told(endless, monkeypatch):
    engine = Engine(*endless, Settings("toy", keep=1 / 9, max_batch=1, max_wait_ms=0))
    told = []

    def job(number):
        prompt = Prompt([], {}, 1, 0, (False, False))
        return Job(prompt, engine.method, 1, lambda event: told.append((number, event)), Places(1).take())

    def fault(batch):
        # Not an Exception, which the engine survives. Threads end by it in silence.
        raise SystemExit

    monkeypatch.setattr(engine, "answer", fault)
    engine.submit(job(1))
    engine.submit(job(2))
    engine.start()
    until(lambda: not engine.alive)
    assert sorted(number for number, _ in told) == [1, 2]
    assert all(isinstance(event, Failed) and event.error.status == 503 for _, event in told)
    with pytest.raises(ApiError) as caught:
        engine.submit(job(3))
    assert caught.value.status == 503
    engine.close()
