"""Request heads that are expensive to read, sent to real servers: other clients do not wait for them."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Thread

import httpx
import pytest

from servers import AsgiKind, HttpServer, asgi_server
from servers.places import HOST

KB = 1024

# Upper bound of the longest wait beside such a head over the longest beside a plain one. The servers themselves need a
# few ms for such a head; one that stops a worker stops it for 100 ms or more.
LONGER_S = 0.08
TRIES = 5

TRICKS = b"/a;b//c/../d%252e\\e/./"
HEADS = {
    "a quoted cookie": (b"/", [b'Cookie: shield_ticket="' + b"\\" * 60_000 + b'"']),
    "many cookies": (b"/", [b"Cookie: shield_ticket=x;" + b"a=b;" * 15_000]),
    "percent signs": (b"/" + b"%25" * 20_000, []),
    "a path of tricks": (b"/" + (TRICKS * 50)[:1000], []),
    "override lines": (b"/x", [b"X-HTTP-Method-Override: A%d" % number for number in range(1900)]),
    "lines": (b"/x", [b"a:"] * 12_000),
    "a query": (b"/?shield_ticket=" + b"%41" * 20_000, []),
}
SERVERS: list[tuple[AsgiKind, Sequence[str]]] = [
    ("uvicorn", ("--http", "httptools")),
    ("uvicorn", ("--http", "h11")),
    ("granian", ()),
    ("hypercorn", ()),
]


@pytest.fixture(scope="module", params=SERVERS, ids=["httptools", "h11", "granian", "hypercorn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """A shielded app whose one guest is over its limit, in one worker."""
    kind, args = request.param
    env = {"SHIELD_IP_LIMIT": "3/hour", "SHIELD_ADMIN_TOKEN": "a" * 20}
    with asgi_server(
        kind, "e2e.shielded_app:shielded", env=env, cwd=tmp_path_factory.mktemp("cwd"), args=args
    ) as running:
        for _ in range(5):
            httpx.get(f"{running.base_url}/")
        yield running


def send_head(server: HttpServer, path: bytes, lines: Sequence[bytes]) -> None:
    """Send one, and read what comes until the end, if anything does."""
    head = b"\r\n".join([b"GET " + path + b" HTTP/1.1", b"Host: x", b"Connection: close", *lines, b"", b""])
    with socket.create_connection((HOST, server.port), timeout=20) as connection:
        try:
            connection.sendall(head)
            while connection.recv(65_536):
                pass
        except ConnectionError:
            pass  # a server that takes no head of this size may say so by hanging up


def waits_s(server: HttpServer, path: bytes, lines: Sequence[bytes], at_least: int = 1) -> list[float]:
    """The waits of a bystander for its answers while the head is sent and read."""
    waits: list[float] = []
    with httpx.Client() as client:
        client.get(f"{server.base_url}/healthz")
        sender = Thread(target=send_head, args=(server, path, lines))
        sender.start()
        while sender.is_alive() or len(waits) < at_least:
            began = time.monotonic()
            assert client.get(f"{server.base_url}/healthz").status_code in (200, 404)
            waits.append(time.monotonic() - began)
        sender.join()
    return waits


def longer_s(server: HttpServer, path: bytes, lines: Sequence[bytes], tries: int) -> float:
    """By how much the longest wait beside the head exceeds the longest of as many waits beside a plain head.

    The two are measured by turns, since the machine has pauses of its own; of several tries the median.
    """
    differences = []
    for _ in range(tries):
        waits = waits_s(server, path, lines)
        differences.append(max(waits) - max(waits_s(server, b"/", [], at_least=len(waits))))
    return statistics.median(differences)


@pytest.mark.parametrize("name", HEADS)
def test_a_bystander_does_not_wait_for_a_head_of_64_kb(server: HttpServer, name: str) -> None:
    """It waits about as long as beside a plain head."""
    assert longer_s(server, *HEADS[name], tries=TRIES) < LONGER_S


def test_nor_for_long_for_one_of_megabytes(tmp_path: Path) -> None:
    """Under uvicorn with httptools, which takes a head of any size."""
    head = [b"Cookie: shield_ticket=" + b"a" * 60] * (2 * 1024 * KB // 84)
    args = ("--http", "httptools")
    with asgi_server("uvicorn", "e2e.shielded_app:shielded", env={}, cwd=tmp_path, args=args) as running:
        assert longer_s(running, b"/", head, tries=3) < 0.4


@pytest.mark.parametrize(
    "value", ["198.51.100.7:46532", "2001:db8:1:2::9:46532", "2001:db8:1:2:3:4:5:6:9985"], ids=["v4", "v6", "long v6"]
)
def test_viewers_behind_cloudfront_have_buckets_of_their_own(tmp_path: Path, value: str) -> None:
    """Each is refused for what it asked itself, and nobody else is."""
    env = {
        "SHIELD_IP_LIMIT": "1/hour",
        "SHIELD_TRUSTED_PROXIES": HOST,
        "SHIELD_FORWARDED_HEADER": "cloudfront-viewer-address",
    }
    with asgi_server("uvicorn", "e2e.shielded_app:shielded", env=env, cwd=tmp_path) as running:
        seen = [(value, 200), (value, 429), ("192.0.2.1:46532", 200), ("2001:db8:ff::1:80", 200)]
        for shown, status in seen:
            answer = httpx.get(f"{running.base_url}/hello", headers={"cloudfront-viewer-address": shown})
            assert answer.status_code == status, shown
