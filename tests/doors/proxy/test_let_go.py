"""What an exchange leaves behind: nothing that keeps the server's side of it alive, since granian waits for that."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest
from starlette.types import Message

from doors.asgi.harness import run
from servers.upstreams import Script, scripted_upstream
from shieldmw import Settings
from shieldmw.doors.proxy.upstreams import parse_upstream
from shieldmw.wiring import upstream_app

SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/",
    "raw_path": b"/",
    "headers": [(b"host", b"site.example"), (b"content-length", b"5")],
}


class Receive:
    """The server's: a part of the body, then perhaps the client's end, otherwise nothing."""

    def __init__(self, *, leaves: bool) -> None:
        self._messages: list[Message] = [{"type": "http.request", "body": b"abc", "more_body": True}]
        if leaves:
            self._messages.append({"type": "http.disconnect"})

    async def __call__(self) -> Message:
        if not self._messages:
            await asyncio.get_running_loop().create_future()
        return self._messages.pop(0)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Without garbage collection, only what nobody refers to is freed."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    ("script", "leaves", "status"),
    [(lambda peer, head: peer.close(), False, 502), (lambda peer, head: peer.rest(), True, 400)],
    ids=["the upstream closes", "the body is cut"],
)
def test_a_failed_exchange_frees_the_request_at_once(script: Script, leaves: bool, status: int) -> None:
    """Otherwise the client's connection, with the unread body, stays open until the next garbage collection."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def exchange(url: str) -> weakref.ref[Receive]:
        app = upstream_app(Settings(), (parse_upstream(url),))
        receive = Receive(leaves=leaves)
        await app(SCOPE, receive, send)
        return weakref.ref(receive)

    async def ended(url: str) -> Receive | None:
        task = asyncio.create_task(exchange(url))
        receive = await task
        del task
        await asyncio.sleep(0)  # the task that passes the body on ends
        return receive()

    with scripted_upstream(script) as upstream:
        assert run(ended(upstream.url)) is None
    assert sent[0]["status"] == status
