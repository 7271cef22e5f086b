"""Stand-ins for the resolver and the connections of a fetcher."""

from __future__ import annotations

import asyncio

import httpx
from PIL import Image

from illava.serving.fetching import Fetcher

from .conftest import as_bytes

PUBLIC, OTHER = "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"
PICTURE = as_bytes(Image.new("RGB", (192, 192), "red"))


class Network:
    """A resolver and a transport that record what they are asked for."""

    def __init__(self, addresses=None, answer=None):
        self.addresses = addresses or {}
        self.answer = answer or (lambda request: httpx.Response(200, content=PICTURE))
        self.resolved, self.requests = [], []
        self.transport = httpx.MockTransport(self.handle)

    async def resolve(self, host, port):
        self.resolved.append((host, port))
        found = self.addresses[host]
        return found.pop(0) if isinstance(found[0], list) else found

    def handle(self, request):
        self.requests.append(request)
        return self.answer(request)

    def fetcher(self, *allowed, most=10**6):
        return Fetcher(allowed, most, self.resolve, self.transport)

    def fetch(self, url, *allowed, most=10**6):
        return asyncio.run(self.fetcher(*allowed, most=most).fetch(url))
