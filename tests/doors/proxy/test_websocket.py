"""WebSockets between a scripted ASGI server and a scripted upstream: what no real server would do."""

from __future__ import annotations

from queue import SimpleQueue

import pytest
from starlette.types import Message, Scope

from doors.asgi.harness import run
from servers.upstreams import End, Peer, scripted_upstream
from shieldmw import Settings
from shieldmw.doors.proxy.frames import accept_of
from shieldmw.doors.proxy.upstreams import parse_upstream
from shieldmw.wiring import upstream_app

SCOPE: Scope = {
    "type": "websocket",
    "http_version": "1.1",
    "scheme": "ws",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "headers": [(b"host", b"site.example")],
}


def accept(peer: Peer, head: bytes) -> None:
    """Answer the handshake as it should be answered."""
    key = head.partition(b"sec-websocket-key: ")[2].partition(b"\r\n")[0]
    lines = [b"HTTP/1.1 101 Switching", b"Upgrade: websocket", b"Connection: upgrade"]
    peer.send(b"\r\n".join([*lines, b"Sec-WebSocket-Accept: " + accept_of(key), b"", b""]))


@pytest.mark.parametrize(
    "messages", [[], [{"type": "websocket.receive", "text": "hello"}]], ids=["at once", "after a message"]
)
def test_a_server_that_raises_ends_the_websocket(messages: list[Message]) -> None:
    """As one whose client has vanished: the upstream gets no close frame, and nothing is raised on."""
    ends: SimpleQueue[tuple[bytes, End]] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        accept(peer, head)
        ends.put(peer.rest())

    async def receive() -> Message:
        if not left:
            raise RuntimeError("the server has forgotten this WebSocket")
        return left.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    async def main() -> None:
        await upstream_app(Settings(), [parse_upstream(upstream.url)])(SCOPE, receive, send)

    left, sent = list(messages), list[Message]()
    with scripted_upstream(script) as upstream:
        run(main())
        received, _ = ends.get(timeout=20)
    assert [message["type"] for message in sent] == ["websocket.accept"]
    assert len(received) == sum(2 + 4 + len(message["text"]) for message in messages), "no frame but these"
