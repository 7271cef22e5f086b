"""The application with several engines: replicas under Ray Serve, which starts dead ones again."""

from __future__ import annotations

import logging
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from ..errors import InputError
from . import proxying
from .app import create_app
from .cluster import connected, resources, without_bars
from .engine import Engine
from .running import GRACE_SECONDS, address_of, check_free_port
from .settings import Settings
from .source import Source

APPLICATION = "illava"
HEALTH_SECONDS = 2.0
TRIES = 3
LOGGING = {"log_level": "ERROR", "enable_access_log": False}
STOPPING = (signal.SIGINT, signal.SIGTERM)
REFUSAL = re.compile(r"\b(?:InputError|UnsupportedError): (.+)")


def serve(
    source: Source,
    settings: Settings,
    replicas: int,
    address: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Serve a model with several replicas until Ctrl-C or SIGTERM.

    Args:
        replicas: processes with a model each.
        address: that of a running Ray cluster; None: Ray is started on this machine and ends with the server.

    Raises InputError if the port is in use, if there is no cluster, and for what the replicas refuse.
    """
    if address is None:
        port = check_free_port(host, port)
    proxying.install()
    out = sys.stdout
    # Ray prints there what it has to say.
    with redirect_stdout(sys.stderr), connected(address, forward_output=True), _one_line():
        from ray import serve as ray_serve

        each = resources(replicas, source.device, "--replicas")
        if others := _others():
            raise InputError(f"--address {address}: Ray Serve runs {', '.join(others)} on this cluster")
        if address is not None:
            port = _port(host, port)
        # Not by its level, which Ray Serve sets when it starts.
        logging.getLogger("ray.serve").addFilter(lambda record: record.levelno >= logging.ERROR)
        try:
            options = {"host": host, "port": port}
            ray_serve.start("EveryNode", http_options=options, logging_config=LOGGING)
            deploy(source, settings, replicas, each, on_loopback=address is None)
            where = address_of(host, port)
            said = f"Serving {settings.name} on {where}, {replicas} replicas; press Ctrl-C to stop."
            print(said, file=out, flush=True)
            _wait()
        finally:
            if _others():
                ray_serve.delete(APPLICATION)
            else:
                ray_serve.shutdown()


def deploy(
    source: Source, settings: Settings, replicas: int, each: dict[str, float], on_loopback: bool
) -> None:
    """Start the replicas and wait until all are ready.

    Args:
        each: what each needs, as Ray's options.
        on_loopback: whether all of them run on this machine, and are not to be reached from elsewhere.

    Raises InputError for what they refuse.
    """
    from ray import serve as ray_serve

    name = "Replica"
    # The engine refuses with 429 when its queue is full, so more requests must reach it than it takes.
    most = settings.max_queue + 2 * settings.max_batch
    deployment: Any = ray_serve.deployment(
        ray_serve.ingress(_application)(Replica),
        name=name,
        num_replicas=replicas,
        ray_actor_options=each,
        max_ongoing_requests=most,
        max_queued_requests=replicas * most,
        logging_config=LOGGING,
        health_check_period_s=HEALTH_SECONDS,
        graceful_shutdown_timeout_s=GRACE_SECONDS,
        max_constructor_retry_count=TRIES,
    )
    try:
        ray_serve.run(deployment.bind(source, settings, on_loopback), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        application = ray_serve.status().applications.get(APPLICATION)
        deployments = application.deployments if application else {}
        said = deployments[name].message if name in deployments else str(error)
        refusals = REFUSAL.findall(said)
        raise InputError(refusals[-1] if refusals else f"the replicas do not start: {_end(said)}") from error


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn errors of Ray into InputErrors."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        yield
    except (RayError, RayServeException, TimeoutError) as error:
        raise InputError(f"Ray Serve failed: {_end(str(error))}") from error


def _end(said: str) -> str:
    """The end of an error of Ray, which holds the traceback of another process, in one line."""
    return " ".join(said.split())[-500:]


def _port(host: str, port: int) -> int:
    """The port on a cluster: a free one, or that of an earlier command, whose replicas still run.

    Raises InputError if it is in use, and if the replicas are reached elsewhere, which cannot be changed.
    """
    from ray import serve as ray_serve

    status = ray_serve.status()
    if APPLICATION in status.applications:
        if not _listens(host, port):
            raise InputError(
                f"--host {host} --port {port}: Ray Serve runs {APPLICATION} here already, and is not "
                "reached there; give the host and port of the command that started it, on its machine"
            )
        return port
    if status.proxies:
        # It still listens for an application that has ended, maybe at this port.
        ray_serve.shutdown()
        return port or check_free_port(host, port)
    return check_free_port(host, port)


def _listens(host: str, port: int) -> bool:
    """Whether Ray Serve answers there with our application."""
    import httpx

    url = address_of(host, port).removesuffix("v1")
    try:
        routes = httpx.get(f"{url}-/routes", timeout=10, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return False
    return isinstance(routes, dict) and APPLICATION in routes.values()


class Replica:
    """One process with a model. Ray Serve calls its methods.

    The model is loaded here: nothing of it is sent from the process that starts the server.
    """

    engine: Engine
    settings: Settings
    current: Replica | None = None
    """That of this process."""

    def __init__(self, source: Source, settings: Settings, on_loopback: bool = False) -> None:
        without_bars()
        if on_loopback:
            _listen_on_loopback()
        self.engine, self.settings = source.engine(settings), settings
        Replica.current = self

    def check_health(self) -> None:
        """Raise RuntimeError if the model's thread has ended; Ray Serve then starts the replica again."""
        if not self.engine.alive:
            raise RuntimeError("the model's thread does not run")


def _listen_on_loopback() -> None:
    """Keep the port through which Ray Serve reaches this replica on loopback; there is no option for that.

    Raises InputError if this release of Ray Serve opens it in another way: it would be open to everyone.
    """
    from ray.serve._private import replica

    bind = getattr(replica, "add_port_to_grpc_server", None)
    if bind is None:
        raise InputError(
            "illava cannot keep the replicas of this release of Ray on loopback; install ray 2.60, or start "
            "a cluster and give --address"
        )
    replica.add_port_to_grpc_server = lambda server, address: bind(
        server, address.replace("[::]", "127.0.0.1")
    )


def _application() -> Any:
    """The application of this process's replica. Ray Serve calls it after the replica has been made."""
    assert Replica.current is not None
    return create_app(Replica.current.engine, Replica.current.settings)


def _others() -> list[str]:
    """The other applications that Ray Serve runs."""
    from ray import serve as ray_serve

    return sorted(set(ray_serve.status().applications) - {APPLICATION})


def _wait() -> None:
    """Return at Ctrl-C or SIGTERM."""
    ended = threading.Event()
    before = [(number, signal.signal(number, lambda *_: ended.set())) for number in STOPPING]
    try:
        ended.wait()
    finally:
        for number, handler in before:
            signal.signal(number, handler)
