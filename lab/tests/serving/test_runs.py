"""Whole runs of the load test, very short: plain and merged in turn, a soak with a server that dies."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time

import pytest
from illava_lab.benchmarks.serving import __main__ as command
from illava_lab.benchmarks.serving import client as sending
from illava_lab.benchmarks.serving import page
from illava_lab.benchmarks.serving.measure import Plan, measure
from illava_lab.benchmarks.serving.prompts import Prompts
from illava_lab.benchmarks.serving.servers import Server
from illava_lab.benchmarks.serving.soak import SoakPlan, soak
from illava_lab.benchmarks.serving.targets import Target

from .fake import serving

PLAN = Plan(rounds=2, seconds=0.7, settle=0.1, warm_up=1, clients=(2,), shares=(0.4,), at=0.4)
SOAK = SoakPlan(hours=1.0 / 3600, clients=3, windows=2)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(sending, "FIRST_PAUSE", 0.01)


@pytest.fixture(scope="module")
def prompts():
    return Prompts("m", side=32)


def about():
    return command.about(command.parser().parse_args(["measure"]))


def test_plain_and_merged_in_turn(prompts, tmp_path):
    order = []

    def script(name):
        def answer(number, body):
            order.append(name)
            time.sleep(0.01)

        return answer

    with serving(script("plain")) as plain, serving(script("merged")) as merged:
        targets = [Target("plain", plain.url, "m", os.getpid()), Target("merged", merged.url, "m")]
        found = asyncio.run(measure(targets, {"plain": prompts, "merged": prompts}, PLAN))
    changes = [name for n, name in enumerate(order) if n == 0 or name != order[n - 1]]
    # The warm-up, a round that plain begins, and one that merged begins.
    assert changes[:5] == ["plain", "merged", "plain", "merged", "plain"]
    for loads in (found.closed, found.opened):
        assert {name: [len(slices) for slices in by.values()] for name, by in loads.items()} == {
            "plain": [2],
            "merged": [2],
        }
    assert targets[0].memory
    assert not targets[1].memory
    result = json.loads(json.dumps({**about(), **found.summary()}, allow_nan=False))
    assert result["closed"]["plain"][0]["load"] == 2
    assert set(result["requests"]["plain"]) == {"answered"}
    assert result["not_answered"] == {"plain": [], "merged": []}
    rate = result["closed"]["merged"][0]["rate"]["value"]
    counted = [one for slice_ in found.closed["merged"][2] for one in slice_.ended]
    assert rate == pytest.approx(len(counted) / (2 * 0.7))
    folder = tmp_path / "serving"
    folder.mkdir()
    (folder / "measure.json").write_text(json.dumps(result))
    page.write(folder, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert f"| merged | 2 | {rate:.2f} (" in text
    assert max(map(len, text.splitlines())) <= 120


def test_what_cannot_be_measured(prompts):
    with serving() as server:
        targets = [Target("merged", server.url, "m")]
        with pytest.raises(ValueError, match='must be called "plain"'):
            asyncio.run(measure(targets, {"merged": prompts}, PLAN))
        targets[0].name = "plain"
        with pytest.raises(ValueError, match="must be one of"):
            asyncio.run(measure(targets, {"plain": prompts}, Plan(at=0.7)))


def test_a_server_that_dies_and_comes_back_loses_nothing(prompts, tmp_path):
    died = threading.Event()

    def dies(number, body):
        if number >= 2:
            died.set()
            return ("drop", "break")[number % 2]
        time.sleep(0.005)
        return None

    def run(url, patience):
        plan = SoakPlan(**{**SOAK.__dict__, "patience": patience, "event": "exit 3", "event_at": 0.2})
        return asyncio.run(soak(Target("merged", url, "m", os.getpid()), prompts, plan, every=0.1)).summary()

    def restart(server):
        died.wait(60)
        time.sleep(0.1)
        server.script = lambda number, body: None

    with serving(dies) as server:
        thread = threading.Thread(target=restart, args=(server,), daemon=True)
        thread.start()
        result = run(server.url, 60.0)
        thread.join()
    assert set(result["requests"]) == {"answered", "retried"}
    assert result["lost"] == result["refused"] == []
    assert sum(result["troubles"].values()) > 0
    assert result["different_answers"] == 0
    assert [(event["command"], event["status"]) for event in result["events"]] == [("exit 3", 3)]
    assert len(result["memory"]) >= 2
    assert [one["begin"] for one in result["windows"]] == [0, 0.5]
    counted = sum(sum(one["requests"].values()) for one in result["windows"])
    # The last of each client may begin a moment after the end.
    assert 0 <= sum(result["requests"].values()) - counted <= 3

    died.clear()
    with serving(dies) as server:
        lost = run(server.url, 0.0)
    assert lost["requests"]["answered"] == 2
    assert len(lost["lost"]) == lost["requests"]["lost"] > 0
    numbers = sorted(one["number"] for one in lost["lost"])
    assert len(set(numbers)) == len(numbers)
    folder = tmp_path / "serving"
    folder.mkdir()
    (folder / "soak.json").write_text(json.dumps({**about(), **lost}, allow_nan=False))
    page.write(folder, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert f"request {numbers[0]} (" in text
    assert "`exit 3`" in text


@pytest.mark.slow
def test_a_real_server_that_is_killed_loses_nothing(tmp_path):
    """The event kills ``illava serve``; another process takes its port, as a supervisor would make it."""
    pytest.importorskip("fastapi")
    from illava_lab.benchmarks.serving.fuzz.__main__ import make_model

    model = str(make_model(tmp_path / "micro"))
    with Server(model, threads=1) as server:
        first = server.process
        assert first is not None
        port = int(server.url.rpartition(":")[2])
        plan = SoakPlan(hours=20 / 3600, clients=2, windows=4, patience=300, event=f"kill -9 {server.pid}")
        prompts = Prompts(server.name, side=64, tokens=4)
        second = Server(model, threads=1, port=port)

        def supervise():
            first.wait()
            second.__enter__()

        thread = threading.Thread(target=supervise, daemon=True)
        thread.start()
        try:
            result = asyncio.run(soak(Target("merged", server.url, server.name), prompts, plan)).summary()
        finally:
            first.kill()
            thread.join()
            second.__exit__(None, None, None)
    assert set(result["requests"]) == {"answered", "retried"}
    assert result["lost"] == result["refused"] == []
    assert set(result["troubles"]) <= {
        "ConnectError",
        "ReadError",
        "RemoteProtocolError",
        "the stream broke off",
    }
    assert result["different_answers"] == 0
    assert [event["status"] for event in result["events"]] == [0]


@pytest.mark.parametrize(
    ("said", "name", "url"),
    [
        ("zoo/S on http://127.0.0.1:81/v1; press Ctrl-C to stop.", "zoo/S", "http://127.0.0.1:81"),
        ("a model on http://[::1]:81/v1, 2 replicas; press Ctrl-C", "a model", "http://[::1]:81"),
    ],
)
def test_what_a_server_says_when_it_listens(said, name, url):
    server = Server("model")
    server.words = [sys.executable, "-c", f"print('Serving {said}', flush=True); input()"]
    with server:
        assert (server.name, server.url) == (name, url)
    assert server.process.poll() is not None


def test_a_server_that_does_not_start():
    server = Server("model")
    server.words = [sys.executable, "-c", "import sys; sys.exit('no model')"]
    with pytest.raises(RuntimeError, match="the server did not start: no model"):
        server.__enter__()
    assert server.process.stdout.closed


def test_a_page_of_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="measure first"):
        page.write(tmp_path, tmp_path / "page.md")


def test_options_are_those_of_the_plans():
    words = ["measure", "--rounds", "3", "--clients", "1", "9", "--limit", "0.5", "--shares", "0.3", "0.8"]
    plan = command._plan(Plan, command.parser().parse_args(words))
    assert plan == Plan(rounds=3, clients=(1, 9), limit=0.5, shares=(0.3, 0.8))
    words = ["soak", "--hours", "0.5", "--event", "kill 1", "--arriving", "2.5"]
    plan = command._plan(SoakPlan, command.parser().parse_args(words))
    assert plan == SoakPlan(hours=0.5, event="kill 1", arriving=2.5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("soak --url here", "--url here: give NAME=URL"),
        ("soak --url a=http://x --url b=http://x", "--url: a soak takes one server, not 2"),
        ("page", "there is no measure*.json and no soak*.json; measure first"),
        ("soak --url a=http://127.0.0.1:1 --pid a=me", "--pid a=me: give NAME=PID"),
        ("soak --url a=http://127.0.0.1:1", "onnect"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        command.main(words.split())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_soak_of_a_server_that_runs_already(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "_served", lambda url: "m")
    output = tmp_path / "soak.json"
    with serving() as server:
        words = ["soak", "--url", f"merged={server.url}", "--pid", f"merged={os.getpid()}", "--side", "32"]
        command.main([*words, "--hours", "0.0001", "--windows", "1", "--output", str(output)])
    result = json.loads(output.read_text())
    assert set(result["requests"]) == {"answered"}
    assert result["memory_growth"]["last_mb"] > 10
    assert result["machine"]["python"] == sys.version.split()[0]
    assert {body["model"] for body in server.bodies} == {"m"}
