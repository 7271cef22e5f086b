"""Pictures from other hosts: what is fetched, and that nothing else can be reached. No packet is sent."""

from __future__ import annotations

import httpx
import pytest

from illava.serving.errors import ApiError
from illava.serving.fetching import is_public

from .conftest import running, text_of
from .network import OTHER, PICTURE, PUBLIC, Network


def refused(network, url, *allowed, most=10**6, status=400):
    with pytest.raises(ApiError) as error:
        network.fetch(url, *allowed, most=most)
    assert error.value.status == status
    assert "\n" not in error.value.message
    return error.value.message


def test_the_address_that_was_checked_is_connected_to():
    network = Network({"pictures.example": [PUBLIC]})
    url = "https://Pictures.example/a%20b.png?x=1&y=/#part"
    assert network.fetch(url, "pictures.example") == PICTURE
    (request,) = network.requests
    assert network.resolved == [("pictures.example", 443)]
    assert str(request.url) == f"https://{PUBLIC}/a%20b.png?x=1&y=/"
    assert request.headers["host"] == "pictures.example"
    # TLS asks for the certificate of the host, not of the address.
    assert request.extensions["sni_hostname"] == "pictures.example"
    assert request.headers["accept-encoding"] == "identity"
    assert not {"cookie", "authorization", "referer"} & set(request.headers)
    assert request.extensions["timeout"]["connect"] > 0


def test_ports_and_ipv6():
    network = Network({"pictures.example": [OTHER]})
    network.fetch("http://pictures.example:8080/a.png", "pictures.example:8080")
    assert str(network.requests[0].url) == f"http://[{OTHER}]:8080/a.png"
    assert network.requests[0].headers["host"] == "pictures.example:8080"
    for url, allowed in (
        ("http://pictures.example:8080/", "pictures.example"),
        ("https://pictures.example:80/", "pictures.example"),
        ("http://pictures.example/", "pictures.example:8080"),
        ("http://pictures.example:22/", "pictures.example"),
    ):
        assert "not fetched from this host" in refused(network, url, allowed)
    network.fetch("http://pictures.example:80/", "pictures.example:80")
    assert len(network.requests) == 2


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1", "100::1"),
        # IPv4 inside IPv6: mapped, compatible, NAT64, 6to4, Teredo.
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1"),
        *("64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
        *("2606:2800:220:1::1%eth0", "localhost", "", "2130706433", "0x7f000001", "127.1"),
    ],
)
def test_addresses_that_are_not_public(address):
    assert not is_public(address)
    network = Network({"pictures.example": [address]})
    assert "no public address" in refused(network, "http://pictures.example/a.png", "pictures.example")
    # One of several is enough: the next connection could go there.
    network = Network({"pictures.example": [PUBLIC, address]})
    message = refused(network, "http://pictures.example/a.png", "pictures.example")
    assert not address or address not in message
    assert network.requests == []


def test_public_addresses():
    assert all(map(is_public, (PUBLIC, OTHER, "8.8.8.8", "1.1.1.1", "2a00:1450:4001:80b::200e")))


def test_a_name_that_resolves_differently_a_moment_later():
    network = Network({"pictures.example": [[PUBLIC], ["127.0.0.1"]]})
    network.fetch("http://pictures.example/a.png", "pictures.example")
    assert network.resolved == [("pictures.example", 80)]
    assert network.requests[0].url.host == PUBLIC
    assert "no public address" in refused(network, "http://pictures.example/a.png", "pictures.example")
    assert len(network.requests) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/a.png",
        "http://pictures.example.other.example/",
        "http://sub.pictures.example/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://localhost:8000/",
        "http://2130706433/",
        "http://169.254.169.254/latest/meta-data/",
        "http://pictures.example@127.0.0.1/",
        "http://user:password@pictures.example/",
        "http://127.0.0.1\\@pictures.example/",
        "http://pictures.example\\.other.example/",
        "http://pictures.example:80:22/",
        "http://pictures.example:99999/",
        "http:///a.png",
        "http://",
        "//pictures.example/a.png",
        "pictures.example/a.png",
        "ftp://pictures.example/a.png",
        "file:///etc/passwd",
        "gopher://pictures.example/",
        "unix:///run/docker.sock",
        "javascript:alert(1)",
        "/etc/passwd",
        "",
        "http://pictures.example/a.png\r\nX: y",
        "http://pictures.exam\nple/",
        "http://" + "a" * 70 + ".example/",
        "http://pictures.example/" + "a" * 5000,
    ],
)
def test_urls_that_are_refused(url):
    network = Network({"pictures.example": [PUBLIC]})
    refused(network, url, "pictures.example")
    assert network.resolved == []
    assert network.requests == []


def test_without_allowed_hosts_nothing_is_fetched():
    network = Network({"pictures.example": [PUBLIC]})
    assert "--allow-host" in refused(network, "https://pictures.example/a.png")
    assert network.resolved == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304])
def test_redirects_are_not_followed(status):
    where = {"location": "http://127.0.0.1/secret"}
    network = Network({"pictures.example": [PUBLIC]}, lambda request: httpx.Response(status, headers=where))
    assert "redirects are not followed" in refused(network, "http://pictures.example/", "pictures.example")
    assert len(network.requests) == 1
    assert network.resolved == [("pictures.example", 80)]


def test_bad_answers_are_refused_without_their_contents():
    secret = b"the secret of the host"
    for answer in (
        httpx.Response(404, content=secret),
        httpx.Response(500, content=secret),
        httpx.Response(206, content=secret),
        httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(secret)),
    ):
        network = Network({"pictures.example": [PUBLIC]}, lambda request, answer=answer: answer)
        assert "secret" not in refused(network, "http://pictures.example/", "pictures.example")

    def fail(request):
        raise httpx.ConnectTimeout(f"{PUBLIC} timed out")

    network = Network({"pictures.example": [PUBLIC]}, fail)
    assert PUBLIC not in refused(network, "http://pictures.example/", "pictures.example")


def test_a_host_that_does_not_resolve():
    network = Network({})

    async def resolve(host, port):
        raise OSError("no such host")

    network.resolve = resolve
    assert "cannot be fetched" in refused(network, "http://pictures.example/", "pictures.example")
    network = Network({"pictures.example": [[]]})
    assert "no public address" in refused(network, "http://pictures.example/", "pictures.example")


def test_large_answers_are_not_read_to_their_end():
    read = []

    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self):
            while True:
                read.append(1000)
                yield b"x" * 1000

    answer = httpx.Response(200, stream=Endless())
    network = Network({"pictures.example": [PUBLIC]}, lambda request: answer)
    assert "more than 5000 bytes" in refused(
        network, "http://pictures.example/", "pictures.example", most=5000, status=413
    )
    assert sum(read) == 6000


def test_a_picture_by_url_is_answered_like_one_by_data_url(toy):
    network = Network({"pictures.example": [PUBLIC]})
    fetcher = network.fetcher("pictures.example")
    with running(toy, fetcher) as server:
        inside = server.ask(PICTURE, "What shape is red?", max_tokens=3)
        url = {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png"}}
        content = [url, {"type": "text", "text": "What shape is red?"}]
        body = {"model": "toy", "messages": [{"role": "user", "content": content}], "max_tokens": 3}
        response = server.post(body)
        assert response.status_code == 200, response.text
        assert text_of(response.json()) == text_of(inside)
        assert response.json()["usage"] == inside["usage"]
        assert len(network.requests) == 1
        url["image_url"]["url"] = "http://127.0.0.1/a.png"
        response = server.post(body)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "host_not_allowed"
