"""``illava serve --replicas`` without Ray: options, one-line errors, and what each process gets."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from illava.errors import InputError
from illava.serving import cluster, replicas
from illava.serving.settings import Settings
from illava.serving.source import Source
from tests.cli.conftest import assert_error, invoke


@pytest.fixture
def ray(monkeypatch):
    """A stand-in of Ray, with one machine of 8 cores and two of 4 cores and two cards each."""
    cards = {"CPU": 4.0, "GPU": 2.0}
    nodes = [{"CPU": 8.0}, cards, cards, {"CPU": 64.0, "GPU": 8.0}]
    found = [{"Alive": number < 3, "Resources": node} for number, node in enumerate(nodes)]
    fake = SimpleNamespace(nodes=lambda: found, init=lambda *_, **__: pytest.fail("Ray was started"))
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(cluster, "find_spec", lambda _: object())
    return fake


def test_options(ray, monkeypatch):
    calls = []
    monkeypatch.setattr(replicas, "serve", lambda *given: calls.append(given))
    words = "--replicas 2 --address auto --keep 1/9 --device cpu --dtype float32 --host ::1 --port 81"
    result = invoke("serve", "zoo/S", *words.split())
    assert result.exit_code == 0, result.output
    source = Source("zoo/S", "cpu", "float32", False)
    assert calls == [(source, Settings("zoo/S", keep=1 / 9), 2, "auto", "::1", 81)]


def test_refusals(ray, monkeypatch):
    assert_error(invoke("serve", "zoo/S", "--address", "auto"), "--address auto: give --replicas as well")
    assert_error(invoke("serve", "no/such/model", "--replicas", 2), "model no/such/model")
    said = "--address ray://there:1: give auto or HOST:PORT, on a machine of the cluster"
    assert_error(invoke("serve", "zoo/S", "--replicas", 2, "--address", "ray://there:1"), said)
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    said = "--replicas needs Ray: pip install 'illava[ray]'"
    assert_error(invoke("serve", "zoo/S", "--replicas", 2), said)


def test_no_cluster_at_an_address(ray):
    tries = []

    def init(address, **options):
        tries.append((address, options))
        raise ConnectionError("nobody\nthere")

    ray.init, ray.shutdown = init, lambda: None
    said = "--address there:1: Ray does not answer: nobody there"
    with pytest.raises(InputError, match=said), cluster.connected("there:1"):
        pytest.fail("it is connected")
    # What a new Ray has, a running one must not be asked for.
    assert tries == [("there:1", {"logging_level": "error", "log_to_driver": False})]


def test_a_card_each_or_a_share_of_the_cores(ray):
    assert cluster.resources(4, "auto", "--replicas") == {"num_cpus": 1, "num_gpus": 1}
    assert cluster.resources(2, "cuda", "--replicas") == {"num_cpus": 1, "num_gpus": 1}
    assert cluster.resources(2, "cpu", "--replicas") == {"num_cpus": 4, "num_gpus": 0}
    assert cluster.resources(32, "cpu", "--replicas") == {"num_cpus": 1 / 2, "num_gpus": 0}
    with pytest.raises(InputError, match="--workers 5: each needs a graphics card, Ray has 4; give fewer"):
        cluster.resources(5, "auto", "--workers")
    with pytest.raises(InputError, match="--replicas 99999: too many for 16 cores; give fewer"):
        cluster.resources(99999, "cpu", "--replicas")
    with pytest.raises(InputError, match="--device cuda:1: with --replicas give auto, cpu or cuda"):
        cluster.resources(1, "cuda:1", "--replicas")


def test_a_replica_is_as_healthy_as_the_thread_of_its_model(monkeypatch):
    engine = SimpleNamespace(alive=True)
    monkeypatch.setattr(Source, "engine", lambda source, settings: engine)
    monkeypatch.setattr(replicas.Replica, "current", None)
    replica = replicas.Replica(Source("zoo/S"), Settings("zoo/S"))
    assert replicas.Replica.current is replica
    replica.check_health()
    engine.alive = False
    with pytest.raises(RuntimeError, match="does not run"):
        replica.check_health()
