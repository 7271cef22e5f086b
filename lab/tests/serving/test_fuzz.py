"""The fuzz test: each request by its number, what it takes for a fault, and a run against a server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest
from illava_lab.benchmarks.serving.fuzz.__main__ import LIMITS, judge, make_model
from illava_lab.benchmarks.serving.fuzz.cases import KINDS, PATH, Case, Maker, head
from illava_lab.benchmarks.serving.fuzz.run import Findings, Fuzz
from illava_lab.benchmarks.serving.fuzz.wire import judge as judged

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
from illava.ask import load
from tests.serving.conftest import running

REQUESTS = 160


def test_a_number_is_always_the_same_request():
    maker, again, other = Maker("m"), Maker("m"), Maker("m", seed=1)
    cases = [maker.case(number) for number in range(200)]
    assert [again.case(number) for number in reversed(range(200))] == cases[::-1]
    assert {case.kind for case in cases} == set(KINDS)
    assert sum(other.case(n).data != case.data for n, case in enumerate(cases)) > 190
    assert len({case.data for case in cases}) > 190


CASE = Case(0, "json", head(b"{}"), b"{}", frozenset({200, 400}))
HTTP = b"HTTP/1.1 %d X\r\nContent-Type: %s\r\n\r\n%s"
ERROR = b'{"error": {"message": "no", "type": "invalid_request_error"}}'


@pytest.mark.parametrize(
    ("received", "status", "fault"),
    [
        (HTTP % (400, b"application/json", ERROR), 400, None),
        (HTTP % (500, b"application/json", ERROR), 500, "status 500"),
        (HTTP % (413, b"application/json", ERROR), 413, "status 413"),
        (HTTP % (400, b"text/plain", b"no"), 400, "no JSON"),
        (HTTP % (400, b"application/json", b"{}"), 400, "without a message"),
        (HTTP % (400, b"application/json", b'{"error": {"message": "a\\nb"}}'), 400, "without a message"),
        (HTTP % (200, b"application/json", b'{"object": "chat.completion"}'), 200, None),
        (HTTP % (200, b"application/json", b"{}"), 200, "no answer"),
        (HTTP % (200, b"text/event-stream", b"data: {}\n\ndata: [DONE]\n\n"), 200, None),
        (HTTP % (200, b"text/event-stream", b"data: {}\n\n"), 200, "a stream without an end"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + HTTP % (400, b"application/json", ERROR), 400, None),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            200,
            "no answer: b'{}'",
        ),
        (b"", None, "no response"),
        (b"nonsense", None, "no response"),
    ],
)
def test_what_is_a_fault(received, status, fault):
    result = judged(CASE, received)
    assert result.status == status
    assert (result.fault is None) if fault is None else (fault in result.fault)


def test_who_leaves_may_hear_nothing():
    left = Case(0, "leaves", head(b"{}"), b"{}", frozenset({200}), leave_after_reading=5)
    assert judged(left, b"").fault is None
    assert judged(left, b"HTTP/1.1 500 X\r\n").fault is not None


def test_growth_of_memory_and_the_log_are_faults():
    found = Findings(requests=2000)
    found.samples = [
        (at, 100.0 if at < 400 else 200.0 if at <= 600 else 212.0, 1, 1) for at in range(50, 2001, 50)
    ]
    assert found.growth() == pytest.approx(0.06)
    assert judge(found, "") == ["the memory grew by 6.0% after warm-up"]
    found.samples = [(at, 200.0, 1, 1) for at in range(50, 2001, 50)]
    assert judge(found, "x\nTraceback (most recent call last):\n") != []
    assert judge(found, "INFO\n") == []
    assert Findings(requests=100).growth() is None


def settings(**changes):
    """The limits of the whole run as the server's settings."""
    named = {option.removeprefix("--").replace("-", "_"): value for option, value in LIMITS.items()}
    whole = ("max_tokens", "max_prompt_tokens", "max_pictures", "max_frames")
    limits = {
        name: int(value) if name in whole else float(value) for name, value in named.items() if name != "keep"
    }
    return {**limits, "keep": 1 / 3, **changes}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load(str(make_model(tmp_path_factory.mktemp("models") / "micro")))


def run(server, requests, seed=0, every=40, **kinds):
    maker = Maker("toy", seed, kinds or dict(KINDS))
    return asyncio.run(Fuzz(server.url, maker, os.getpid(), parallel=4, every=every).run(requests))


def test_a_server_stands_it(loaded, capfd):
    with running(loaded, **settings()) as server:
        found = run(server, REQUESTS)
        assert server.engine.places.taken == 0
    assert found.faults == []
    assert sum(found.statuses.values()) == REQUESTS
    assert found.statuses["good 200"] > 0
    assert found.statuses["json 400"] > 0
    assert [at for at, *_ in found.samples] == [40, 80, 120, 160]
    assert "Traceback" not in capfd.readouterr().err


def test_a_fault_of_the_server_is_found(loaded, monkeypatch):
    with running(loaded, **settings()) as server:

        def fail(*_):
            raise RuntimeError("a fault")

        monkeypatch.setattr(server.engine, "choose", fail)
        found = run(server, 40, good=1)
    # Those with a ``keep`` of their own.
    wrong = [fault for fault in found.faults if "status 500" in fault]
    assert 0 < len(wrong) == len(found.faults) < 40
    number = int(wrong[0].split()[1])
    body = json.loads(Maker("toy", 0, {"good": 1}).case(number).body)
    assert "keep" in body


def test_a_changed_answer_is_found(loaded, monkeypatch):
    from illava.serving import answers

    made = iter(range(1000))
    whole = answers.Answers.whole
    monkeypatch.setattr(answers.Answers, "whole", lambda self, text, done: whole(self, f"{next(made)}", done))
    with running(loaded, **settings()) as server:
        found = run(server, 2, every=1, json=1)
    assert [fault.partition(":")[0] for fault in found.faults] == [
        "the probe after 1 requests",
        "the probe after 2 requests",
    ]


def test_requests_that_never_leave_are_found(loaded, monkeypatch):
    from illava_lab.benchmarks.serving.fuzz import run as running_it

    monkeypatch.setattr(running_it, "CALM_SECONDS", 0.2)
    with running(loaded, **settings()) as server:
        place = server.engine.enter()
        found = run(server, 1, json=1)
        place.leave()
    assert found.faults == ["1 requests wait and 0 run after all have ended"]


@pytest.mark.slow
def test_ten_thousand_requests(tmp_path):
    words = [
        "-m",
        "illava_lab.benchmarks.serving.fuzz",
        "--requests",
        "10000",
        "--output",
        str(tmp_path / "it.json"),
    ]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "it.json").read_text())
    assert found["faults"] == []
    assert found["memory_growth"] is None or found["memory_growth"] <= 0.05


def test_one_request_can_be_sent_again(loaded):
    with running(loaded, **settings()) as server:
        case, result = asyncio.run(Fuzz(server.url, Maker("toy", kinds={"good": 1})).one(3))
    assert (case.number, case.kind, result.status, result.fault) == (3, "good", 200, None)
    assert case.head.startswith(f"POST {PATH} ".encode())
