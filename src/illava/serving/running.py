"""Runs the application with uvicorn."""

from __future__ import annotations

import socket
from contextlib import suppress

import uvicorn

from ..errors import InputError
from ..models.loading import load
from .app import create_app
from .engine import Engine
from .settings import Settings

GRACE_SECONDS = 10
"""Answers that take longer after Ctrl-C or SIGTERM are cut off."""


def serve(
    model: str,
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> None:
    """Load a model and serve it until Ctrl-C or SIGTERM.

    Args:
        model, device, dtype, trust_remote_code: as :func:`illava.models.loading.load` takes them.

    Raises InputError if the port is in use, and what loading raises.
    """
    listening = _listen(host, port)
    try:
        engine = Engine(*load(model, device, dtype, trust_remote_code), settings)
        config = uvicorn.Config(
            create_app(engine, settings),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        where = address_of(host, listening.getsockname()[1])
        print(f"Serving {settings.name} on {where}; press Ctrl-C to stop.", flush=True)
        # uvicorn raises it once more when it has stopped.
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()


def address_of(host: str, port: int) -> str:
    """The URL that clients of OpenAI's API take."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def check_free_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises InputError if it is in use."""
    with _listen(host, port) as listening:
        return int(listening.getsockname()[1])


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens before the model is loaded, so that a port in use is known at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: {error.strerror or error}") from error
