"""``illava serve --replicas`` with a stand-in of Ray Serve: errors, and a cluster that serves already."""

from __future__ import annotations

import json
import socket
import sys
import threading
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from illava.errors import InputError
from illava.serving import proxying, replicas
from illava.serving.settings import Settings
from illava.serving.source import Source


class RayError(Exception):
    """As ``ray.exceptions`` has it."""


class RayServeException(Exception):
    """As ``ray.serve.exceptions`` has it."""


class Serve:
    """Ray Serve on a cluster."""

    def __init__(self) -> None:
        self.applications, self.proxies = {}, {}
        self.started, self.shut = [], 0
        self.fault, self.failed = None, {}

    def status(self):
        return SimpleNamespace(applications=self.applications, proxies=self.proxies)

    def start(self, location, http_options, logging_config):
        self.started.append((location, http_options))

    def deployment(self, made, **options):
        return SimpleNamespace(bind=lambda *given: (options, given))

    def ingress(self, application):
        return lambda made: made

    def run(self, bound, name, route_prefix):
        if self.fault is not None:
            self.applications, self.proxies = self.failed, {}
            raise self.fault

    def shutdown(self):
        self.shut += 1


@pytest.fixture
def serve(monkeypatch):
    fake = Serve()
    ray = SimpleNamespace(serve=fake, exceptions=SimpleNamespace(RayError=RayError))
    fake.exceptions = SimpleNamespace(RayServeException=RayServeException)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.serve", fake)
    monkeypatch.setitem(sys.modules, "ray.exceptions", ray.exceptions)
    monkeypatch.setitem(sys.modules, "ray.serve.exceptions", fake.exceptions)
    monkeypatch.setenv(proxying.VARIABLE, "")
    monkeypatch.setattr(replicas, "connected", lambda *_, **__: nullcontext())
    monkeypatch.setattr(replicas, "resources", lambda *_: {})
    monkeypatch.setattr(replicas, "_wait", lambda: None)
    return fake


def run(address=None, port=0):
    replicas.serve(Source("zoo/S"), Settings("toy"), 2, address, port=port)


@contextmanager
def routes(answer):
    """Ray Serve's proxy on a port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            data = json.dumps(answer).encode()
            self.send_response(200 if self.path == "/-/routes" else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_free_port_of_this_machine(serve, capsys):
    run()
    ((location, options),) = serve.started
    assert location == "EveryNode"
    assert options["host"] == "127.0.0.1"
    assert f"Serving toy on http://127.0.0.1:{options['port']}/v1, 2 replicas" in capsys.readouterr().out
    assert serve.shut == 1


def test_the_same_command_takes_over_what_another_has_left(serve, capsys):
    serve.applications = serve.proxies = {"illava": None}
    with routes({"/": "illava"}) as port:
        run("auto", port)
    assert f"http://127.0.0.1:{port}/v1, 2 replicas" in capsys.readouterr().out


def test_what_another_has_left_at_another_port_is_said(serve):
    serve.applications = serve.proxies = {"illava": None}
    with routes({"/": "theirs"}) as port, pytest.raises(InputError, match="give the host and port"):
        run("auto", port)
    assert serve.started == []


def test_a_port_in_use(serve):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for address in (None, "auto"):
            with pytest.raises(InputError, match="Address already in use"):
                run(address, taken.getsockname()[1])
    assert serve.started == []


def test_proxies_of_an_application_that_has_ended_are_ended(serve):
    serve.proxies = {"node": None}
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        # It is theirs until they have ended.
        run("auto", theirs.getsockname()[1])
    assert serve.shut == 2
    assert len(serve.started) == 1


def test_other_applications_are_left_alone(serve):
    serve.applications = {"theirs": None}
    with pytest.raises(InputError, match="--address auto: Ray Serve runs theirs on this cluster"):
        run("auto")
    assert (serve.started, serve.shut) == ([], 0)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (RayError("a\nb"), "Ray Serve failed: a b"),
        (RayServeException("a\nb"), "Ray Serve failed: a b"),
        (TimeoutError("a\nb"), "Ray Serve failed: a b"),
        (RuntimeError("Deploying failed\nbecause"), "the replicas do not start: Deploying failed because"),
    ],
)
def test_faults_are_one_line(serve, fault, said):
    serve.fault = fault
    with pytest.raises(InputError) as caught:
        run()
    assert str(caught.value) == said
    assert serve.shut == 1


def test_the_reason_of_a_replica_is_said(serve):
    trace = "Traceback\n  in x\nillava.errors.InputError: model x: no such folder\n"
    replica = SimpleNamespace(message=trace)
    serve.fault = RuntimeError("Deploying failed")
    serve.failed = {"illava": SimpleNamespace(deployments={"Replica": replica})}
    with pytest.raises(InputError) as caught:
        run()
    assert str(caught.value) == "model x: no such folder"
    replica.message = "Traceback\n  in x\nMemoryError: too much"
    with pytest.raises(InputError, match="the replicas do not start: Traceback in x MemoryError: too much"):
        run()


def test_replicas_of_one_machine_listen_on_loopback_or_not_at_all(serve, monkeypatch):
    private = SimpleNamespace(add_port_to_grpc_server=lambda server, address: (server, address))
    monkeypatch.setitem(sys.modules, "ray.serve._private", SimpleNamespace(replica=private))
    replicas._listen_on_loopback()
    assert private.add_port_to_grpc_server("it", "[::]:0") == ("it", "127.0.0.1:0")
    del private.add_port_to_grpc_server
    with pytest.raises(InputError, match="cannot keep the replicas of this release of Ray on loopback"):
        replicas._listen_on_loopback()
