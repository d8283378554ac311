"""The corpus of requests as a server would hand them to the proxy that believes everything: the proxy's own checks.

Whatever the scope says, the upstream sees one request of just these words, or none that is whole.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from starlette.types import Message, Scope

from doors.asgi.harness import run
from doors.proxy.smuggling.payloads import Payload
from doors.proxy.smuggling.requests import REQUESTS
from servers.upstreams import Peer, ScriptedUpstream, scripted_upstream
from shieldmw import Settings
from shieldmw.doors.proxy.upstreams import parse_upstream
from shieldmw.wiring import upstream_app

# Nothing in such a head can be read in two ways. Other control characters in values are the server's to refuse.
STRICT_HEAD = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Z-]+) (/[!-~\x80-\xff]*|\*) HTTP/1\.1\r\n"
    rb"([!#$%&'*+.^_`|~0-9a-z-]+:(?: [^\r\n\0]*)\r\n)+\r\n"
)


def credulous(payload: Payload) -> tuple[Scope, bytes]:
    """The scope and the body that a server makes of the bytes which splits lines and looks no further."""
    head, _, body = payload.data.partition(b"\r\n\r\n")
    first, *lines = head.lstrip(b"\r\n").split(b"\r\n")
    method, _, rest = first.decode("latin-1").partition(" ")
    target, _, version = rest.rpartition(" ")
    path, _, query = target.encode("latin-1").partition(b"?")
    pairs = (line.partition(b":") for line in lines)
    return {
        "type": "http",
        "http_version": "1.0" if version == "HTTP/1.0" else "1.1",
        "method": method,
        "scheme": "http",
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "client": ("203.0.113.7", 50123),
        "headers": [(name.lower(), value.strip(b" \t")) for name, _, value in pairs],
    }, body


@dataclass
class Recording:
    """What the upstream read: whole requests, and bytes on a connection that are part of none."""

    whole: list[tuple[bytes, bytes]] = field(default_factory=list)
    stray: list[bytes] = field(default_factory=list)

    def script(self, peer: Peer, head: bytes) -> None:
        """Read the body by the framing that the head announces, answer, and look at what follows."""
        lengths = re.findall(rb"\r\ncontent-length: (\d+)\r\n", head)
        codings = re.findall(rb"\r\ntransfer-encoding: chunked\r\n", head)
        assert len(lengths) + len(codings) <= 1, head
        body = peer.read(int(lengths[0])) if lengths else _chunks(peer) if codings else b""
        if body is None or (lengths and len(body) < int(lengths[0])):
            return
        self.whole.append((head, body))
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        if stray := peer.rest()[0]:
            self.stray.append(stray)


def _chunks(peer: Peer) -> bytes | None:
    """The body in chunks; None if it is cut."""
    body = b""
    while size := peer.line():
        length = int(size, 16)
        body += peer.read(length)
        if peer.read(2) != b"\r\n":
            return None
        if not length:
            return body
    return None


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    """One for all payloads."""
    with scripted_upstream(Recording().script) as found:
        yield found


@pytest.mark.parametrize("payload", REQUESTS, ids=lambda payload: payload.name)
def test_the_proxy_passes_on_what_it_was_told_or_nothing(upstream: ScriptedUpstream, payload: Payload) -> None:
    """One request in strict HTTP/1.1, or 400."""
    recording = Recording()
    upstream.reset(recording.script)
    scope, body = credulous(payload)
    sent: list[Message] = []
    messages: list[Message] = [{"type": "http.request", "body": body}]

    async def receive() -> Message:
        if not messages:
            await asyncio.get_running_loop().create_future()
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    async def shut_down() -> Message:
        return {"type": "lifespan.shutdown"}

    async def once() -> None:
        app = upstream_app(Settings(), (parse_upstream(upstream.url),))
        await app(scope, receive, send)
        await app({"type": "lifespan"}, shut_down, send)

    run(once())
    assert upstream.errors == []
    assert recording.stray == []
    assert len(recording.whole) == (1 if sent[0]["status"] == 200 else 0)
    assert sent[0]["status"] in (200, 400)
    for head, got in recording.whole:
        strict = STRICT_HEAD.fullmatch(head)
        assert strict, head
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        assert (strict[1].decode(), strict[2]) == (scope["method"], scope["raw_path"] + query)
        assert re.findall(rb"\r\nhost: ?(.*)\r\n", head) == [
            value for name, value in scope["headers"] if name == b"host"
        ]
        assert got in (body, b"")
