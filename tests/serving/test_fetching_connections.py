"""Pictures over real connections on loopback, which counts as public: proxies, redirects, certificates."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from illava.serving import fetching
from illava.serving.errors import ApiError
from illava.serving.fetching import Fetcher

from .network import PICTURE, Network


@pytest.fixture
def loopback_is_public(monkeypatch):
    """For these tests alone: there is no other host to connect to."""
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")


class Host(BaseHTTPRequestHandler):
    """A host with a picture, which records what it is asked for."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Host"]))
        self.send_response(302 if self.path == "/away" else 200)
        self.send_header("Location", "/picture")
        self.send_header("Set-Cookie", "a=b")
        self.end_headers()
        self.wfile.write(PICTURE)

    def log_message(self, *_):
        pass


@contextmanager
def hosting(tls=None):
    with ThreadingHTTPServer(("127.0.0.1", 0), Host) as server:
        server.asked = []
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server, server.server_address[1]
        server.shutdown()
        thread.join()


def test_over_a_real_connection(loopback_is_public, monkeypatch):
    # A proxy of the environment must not be used.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    network = Network({"pictures.example": ["127.0.0.1"]})
    with hosting() as (server, port):
        host = f"pictures.example:{port}"

        async def fetch():
            fetcher = Fetcher([host], 10**6, network.resolve)
            assert await fetcher.fetch(f"http://{host}/picture?x") == PICTURE
            with pytest.raises(ApiError, match="redirects"):
                await fetcher.fetch(f"http://{host}/away")
            await fetcher.close()

        asyncio.run(fetch())
        assert server.asked == [("/picture?x", host), ("/away", host)]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl makes a certificate")
def test_the_certificate_must_be_that_of_the_host(loopback_is_public, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    names = ["-subj", "/CN=pictures.example", "-addext", "subjectAltName=DNS:pictures.example"]
    files = ["-keyout", key, "-out", certificate]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run(["openssl", "req", *kind, *files, *names], check=True, capture_output=True)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=certificate)
    network = Network({name: ["127.0.0.1"] for name in ("pictures.example", "other.example")})
    with hosting(served) as (_, port):

        def fetch(name, context):
            transport = httpx.AsyncHTTPTransport(verify=context, trust_env=False)
            fetcher = Fetcher([f"{name}:{port}"], 10**6, network.resolve, transport)
            return asyncio.run(fetcher.fetch(f"https://{name}:{port}/picture"))

        assert fetch("pictures.example", trusting) == PICTURE
        for name, context in (
            ("other.example", trusting),
            ("pictures.example", ssl.create_default_context()),
        ):
            with pytest.raises(ApiError, match="cannot be fetched"):
                fetch(name, context)
