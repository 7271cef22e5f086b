"""Fetches pictures from allowed hosts, so that a request cannot make the server reach anything else (SSRF).

A host is resolved once, every address that it has must be public, and the connection goes to that address: a
name that resolves differently a moment later (DNS rebinding) changes nothing. Redirects are not followed,
proxies and cookies not used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

import httpx

from .errors import ApiError, bad_request, too_large

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to the host's addresses, as text."""

PORTS = {"http": 80, "https": 443}
FETCH_SECONDS, STEP_SECONDS, LONGEST_URL = 20.0, 5.0, 4096
# The only block of IPv6 that is routed globally; those in it that carry an IPv4 address inside are left out.
GLOBAL_V6 = ipaddress.ip_network("2000::/3")
TUNNELS = (ipaddress.ip_network("2002::/16"), ipaddress.ip_network("2001::/32"))


def is_public(address: str) -> bool:
    """Whether an IP address is a public one of a single host.

    Loopback, private, link-local, shared, multicast, reserved and documentation addresses are not, nor are
    IPv6 addresses that stand for an IPv4 address (mapped, 6to4, Teredo, NAT64), nor those with a zone.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if not parsed.is_global or parsed.is_multicast or parsed.is_reserved or parsed.is_unspecified:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return True
    embeds = any(parsed in tunnel for tunnel in TUNNELS)
    return parsed in GLOBAL_V6 and not embeds and parsed.scope_id is None


async def resolve(host: str, port: int) -> list[str]:
    """The addresses that the system's resolver gives for a host. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Fetcher:
    """Fetches pictures from the allowed hosts.

    Args:
        allowed: hosts as "example.org", which allows the scheme's own port, or "example.org:8080".
        most_bytes: of one response.
        resolver, transport: replace the system's resolver and httpx's connections; used by tests.
    """

    def __init__(
        self,
        allowed: Sequence[str],
        most_bytes: int,
        resolver: Resolver = resolve,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.allowed = frozenset(host.lower().rstrip(".") for host in allowed)
        self.most_bytes, self.resolver = most_bytes, resolver
        # Without kept connections: one that was opened for another host's certificate must not be used again.
        limits = httpx.Limits(max_connections=32, max_keepalive_connections=0)
        self.transport = transport or httpx.AsyncHTTPTransport(trust_env=False, limits=limits)

    async def fetch(self, url: str, param: str | None = None) -> bytes:
        """The body of the response to a GET. Raises ApiError, which names neither addresses nor contents."""
        target = self._check(url, param)
        try:
            return await asyncio.wait_for(self._get(target, param), FETCH_SECONDS)
        except (httpx.HTTPError, httpx.StreamError, OSError, UnicodeError, asyncio.TimeoutError):
            raise bad_request(f"{target.host}: the picture cannot be fetched", param) from None

    async def close(self) -> None:
        """Close all connections."""
        await self.transport.aclose()

    def _check(self, url: str, param: str | None) -> httpx.URL:
        """The parsed URL of an allowed host. Only this parser sees it: two could disagree about the host."""
        try:
            target = httpx.URL(url if len(url) <= LONGEST_URL else "")
        except (httpx.InvalidURL, ValueError):
            raise bad_request("the URL of a picture is not valid", param) from None
        if target.scheme not in PORTS or not target.host:
            raise bad_request(
                "a picture must be a data URL, data:image/png;base64,..., or an http(s) URL", param
            )
        if target.userinfo:
            raise bad_request("the URL of a picture must not hold a user name or a password", param)
        host = target.raw_host.decode("ascii").lower().rstrip(".")
        port = target.port or PORTS[target.scheme]
        names = {f"{host}:{port}", *([host] if port == PORTS[target.scheme] else [])}
        if not names & self.allowed:
            raise bad_request(
                f"{host}:{port}: pictures are not fetched from this host; send the picture as a data URL, or "
                "start the server with --allow-host",
                param,
                "host_not_allowed",
            )
        return target

    async def _get(self, target: httpx.URL, param: str | None) -> bytes:
        port = target.port or PORTS[target.scheme]
        host = target.raw_host.decode("ascii").rstrip(".")
        addresses = await self.resolver(host, port)
        if not addresses or not all(map(is_public, addresses)):
            raise bad_request(f"{host}: this host has no public address", param, "host_not_allowed")
        request = httpx.Request(
            "GET",
            target.copy_with(host=addresses[0], fragment=None),
            # No compression: a small response must not become a large one.
            headers={
                "Host": target.netloc.decode(),
                "Accept": "image/*",
                "Accept-Encoding": "identity",
            },
            # The certificate must be that of the host, not of the address.
            extensions={"sni_hostname": host, "timeout": httpx.Timeout(STEP_SECONDS).as_dict()},
        )
        response = await self.transport.handle_async_request(request)
        try:
            return await self._read(response, host, param)
        finally:
            await response.aclose()

    async def _read(self, response: httpx.Response, host: str, param: str | None) -> bytes:
        if response.is_redirect or 300 <= response.status_code < 400:
            raise bad_request(f"{host}: the URL redirects, and redirects are not followed", param)
        if response.status_code != 200:
            raise bad_request(f"{host}: the picture cannot be fetched: status {response.status_code}", param)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise bad_request(f"{host}: the picture is sent compressed, which was not asked for", param)
        body = bytearray()
        async for chunk in response.stream:  # type: ignore[union-attr]
            body += chunk
            if len(body) > self.most_bytes:
                raise _too_many_bytes(self.most_bytes, param)
        return bytes(body)


def _too_many_bytes(most: int, param: str | None) -> ApiError:
    return too_large(f"a picture has more than {most} bytes; send a smaller one", param)
