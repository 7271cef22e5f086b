"""A server on loopback that streams the same answer to everybody, and fails as it is told to."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PIECES = ("gr", "een", "")


class Fake(ThreadingHTTPServer):
    """Calls ``script`` with the number of each attempt and its body, which says what is done.

    None answers; a number refuses with this status; "break" ends the stream in its middle; "drop" closes the
    connection without a response; "error" ends the stream with an error; "cut" ends it in the middle of an
    event.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, script: Callable[[int, Any], Any], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.script, self.lock = script, threading.Lock()
        self.attempts = self.under_way = self.most = 0
        self.bodies: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """Clients that leave are no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Fake

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = self.server.attempts
            self.server.attempts += 1
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
            self.server.bodies.append(body)
        try:
            self._answer(self.server.script(number, body))
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def _answer(self, what: Any) -> None:
        self.close_connection = True
        if what == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if isinstance(what, int):
            data = json.dumps({"error": {"message": "not now"}}).encode()
            self.send_response(what)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for piece in PIECES[:1] if what == "break" else PIECES:
            self._event({"choices": [{"delta": {"content": piece}}]})
        if what == "break":
            return
        if what == "cut":
            self.wfile.write(b'data: {"choices": [{"del')
            return
        if what == "error":
            self._event({"error": {"message": "it broke"}})
            return
        used = {"completion_tokens": 2, "visual_tokens": {"before": 144, "after": 48}}
        self._event({"choices": [], "usage": used})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, value: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")


@contextmanager
def serving(script: Callable[[int, Any], Any] = lambda number, body: None, port: int = 0) -> Iterator[Fake]:
    """Run such a server."""
    with Fake(script, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
