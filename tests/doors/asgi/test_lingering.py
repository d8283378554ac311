"""A refused request's body is read after the answer, within bounds, and never requested by 100 Continue."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from doors.asgi.harness import Headers, Record, Server, Step, body, call, http_scope, run
from doors.asgi.shields import ok
from shieldmw import Settings, ShieldMiddleware
from shieldmw.core.address import Networks, parse_networks
from shieldmw.core.bounds import MOST_LINES
from shieldmw.doors.asgi.lingering import MOST_AT_ONCE, READ_AT_ONCE_BYTES, Lingering

TOKEN = "an admin token, long enough"
DENIED: dict[str, Any] = {"deny_ips": Networks(parse_networks("203.0.113.7"))}
GRANIAN: dict[str, Any] = {"extensions": {"http.response.pathsend": {}}}
ANSWER = b"no"
LENGTH = (b"content-length", b"9")


def upload(length: int, *headers: tuple[bytes, bytes], **more: Any) -> Scope:
    """The scope of a POST whose body has a known length."""
    return http_scope(method="POST", headers=[(b"content-length", b"%d" % length), *headers], **more)


def after_answer(*chunks: bytes) -> list[Step]:
    """A body that comes only once the answer was sent: were it read first, the app would wait for ever."""
    return [Step(step.message, after_sent=2) for step in body(*chunks)]


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """A refusal that reads nothing."""
    await send({"type": "http.response.start", "status": 429, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": ANSWER})


async def refused(server: Server, lingering: Lingering | None = None) -> Record:
    """The record of a refusal around which somebody lingers."""
    lingering = lingering or Lingering(longest_s=3600, pause_s=0)
    await refuse(server.scope, *lingering.around(server.scope, server.receive, server.send))
    return server.record


def connection(record: Record) -> list[bytes]:
    """What the answer says of the connection."""
    return record.values(b"connection")


# --- the answer first, then the body --------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "last", "reason"),
    [
        ({}, b"", "uvicorn and hypercorn: the whole answer is out, its end is said after the body was read"),
        (GRANIAN, ANSWER, "granian: the answer has ended before"),
    ],
)
def test_the_answer_comes_first_and_then_the_body_is_read(more: dict[str, Any], last: bytes, reason: str) -> None:
    """All of the answer goes out before anything is read; then the body is read to its end."""
    record = run(refused(Server(upload(3, **more), after_answer(b"a", b"b", b"c"))))
    assert record.received == ["http.request"] * 3
    assert record.body == ANSWER
    assert record.sent[-1]["body"] == last, reason
    assert not record.sent[-1].get("more_body", False)
    assert connection(record) == [], "the whole body is read: the connection can be used again"


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        (http_scope(), "no body"),
        (http_scope(method="POST", headers=[(b"content-length", b"0")]), "an empty one"),
        (http_scope(method="POST", headers=[(b"a", b"b")] * MOST_LINES + [LENGTH]), "a head that is not read"),
        (http_scope(headers=[LENGTH]), "a GET, whatever it announces"),
        (upload(9, http_version="2"), "HTTP/2 ends one stream and goes on"),
        (upload(9, http_version="3"), "so does HTTP/3"),
        ({**http_scope(), "type": "websocket"}, "a handshake has no body"),
    ],
)
def test_where_nothing_must_be_read_nothing_changes(scope: Scope, reason: str) -> None:
    """What a refusal costs most of the time: the two callables are the server's own."""
    server = Server(scope)
    assert Lingering().around(scope, server.receive, server.send) == (server.receive, server.send), reason


@pytest.mark.parametrize("more", [{}, GRANIAN], ids=["uvicorn", "granian"])
def test_a_client_that_waits_is_not_asked_for_its_body(more: dict[str, Any]) -> None:
    """With Expect: 100-continue reading would say "100 Continue"; the answer says that the connection ends."""
    waits, length, chunked = (b"expect", b"100-continue"), (b"content-length", b"9"), (b"transfer-encoding", b"chunked")
    for headers in ([waits, length], [length, waits], [waits, chunked], [chunked, waits]):
        record = run(refused(Server(http_scope(method="POST", headers=headers, **more), body(b"x" * 9))))
        assert record.received == [], headers
        assert connection(record) == [b"close"], headers
        assert record.body == ANSWER
        assert len(record.sent) == 2


@pytest.mark.parametrize(
    ("headers", "closes", "reason"),
    [
        ([(b"content-length", b"%d" % READ_AT_ONCE_BYTES)], False, "it will be read"),
        ([(b"content-length", b"%d" % (READ_AT_ONCE_BYTES + 1))], True, "it may not be read to its end"),
        ([(b"content-length", b"9" * 30)], True, "longer than anything"),
        ([(b"content-length", b"9" * 5000)], True, "longer than Python reads"),
        ([(b"transfer-encoding", b"chunked")], True, "nobody knows how long it is"),
        ([(b"content-length", b"x")], True, "the server lets through what is no number"),
        ([(b"content-length", b"9"), (b"transfer-encoding", b"chunked")], True, "both"),
        ([(b"transfer-encoding", b"chunked"), (b"content-length", b"9")], True, "in any order"),
    ],
)
def test_a_connection_ends_whose_body_may_not_be_read(headers: Headers, closes: bool, reason: str) -> None:
    """Where the body may be too long, the answer says so."""
    server = Server(http_scope(method="POST", headers=headers), after_answer(b"a"))
    assert connection(run(refused(server))) == ([b"close"] if closes else []), reason


# --- within bounds --------------------------------------------------------------------------------


class Endless:
    """A client that sends without an end, and counts."""

    def __init__(self, chunk: int) -> None:
        self.chunk = b"x" * chunk
        self.read = 0

    async def receive(self) -> Message:
        """The next piece, at once."""
        self.read += len(self.chunk)
        return {"type": "http.request", "body": self.chunk, "more_body": True}


def test_an_endless_body_is_read_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a length it is read as it comes, then piece by piece with pauses; in the end the answer ends."""
    client, server = Endless(1 << 16), Server(upload(1 << 40))
    pauses: list[float] = []

    async def paused(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
        if len(pauses) > 7:
            raise TimeoutError  # as when the time is over

    monkeypatch.setattr("shieldmw.doors.asgi.lingering.asyncio.sleep", paused)
    run(refuse(server.scope, *Lingering(pause_s=0.5).around(server.scope, client.receive, server.send)))
    assert pauses == [0.5] * 8
    assert client.read == READ_AT_ONCE_BYTES + 7 * len(client.chunk)
    assert server.record.body == ANSWER
    assert not server.record.sent[-1]["more_body"]


def test_a_body_that_does_not_come_is_not_waited_for_longer() -> None:
    """When the time is over the answer ends."""
    server = Server(upload(9), [Step({"type": "http.request"}, after_sent=99)])
    record = run(refused(server, Lingering(longest_s=0)))
    assert record.body == ANSWER
    assert not record.sent[-1]["more_body"]


def test_a_client_that_has_gone_is_not_waited_for() -> None:
    """It leaves in the middle of its body; nothing is raised where the last message finds nobody."""
    steps = [*after_answer(b"a", b"b")[:1], Step({"type": "http.disconnect"}, after_sent=2)]
    record = run(call(lambda *asgi: refused_by(asgi), upload(9), steps, gone_after=2))
    assert record.received == ["http.request", "http.disconnect"]
    assert record.raised is None


async def refused_by(asgi: tuple[Scope, Receive, Send]) -> None:
    """The refusal as an app."""
    scope, receive, send = asgi
    await refuse(scope, *Lingering(longest_s=3600).around(scope, receive, send))


def test_only_so_many_are_waited_for_at_once() -> None:
    """Those beyond get their answer and nothing is read of them; who has ended makes room."""

    async def flood() -> None:
        lingering = Lingering(longest_s=3600)
        silent = [Server(upload(9), [Step({"type": "http.request"}, after_sent=99)]) for _ in range(MOST_AT_ONCE + 1)]
        tasks = [asyncio.create_task(refused(server, lingering)) for server in silent[:-1]]
        await asyncio.gather(*(server.until_sent(2) for server in silent[:-1]))
        assert not lingering.has_room
        last = await refused(silent[-1], lingering)
        assert (last.body, len(last.sent), connection(last)) == (ANSWER, 2, [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert lingering.has_room
        assert (await refused(Server(upload(1), after_answer(b"a")), lingering)).received == ["http.request"]

    run(flood())


# --- whoever refuses ------------------------------------------------------------------------------

BEARER = (b"authorization", b"Bearer " + TOKEN.encode())
JSON = (b"content-type", b"application/json")


async def emergency(shield: ShieldMiddleware) -> None:
    """The operator's switch, thrown."""
    mode = b'{"mode": "emergency", "for_seconds": 60, "reason": "a test"}'
    headers = [BEARER, JSON, (b"content-length", b"%d" % len(mode))]
    assert (await call(shield, http_scope("/-/shield/mode", "PUT", headers=headers), body(mode))).status == 200


@pytest.mark.parametrize(
    ("path", "headers", "values", "status", "reason"),
    [
        ("/", [], DENIED, 429, "on the deny list"),
        ("/live", [], {"live_paths": "/live", "capacity": 1}, 503, "an emergency, and no seat for guests"),
        ("/-/shield/mode", [], {}, 401, "no admin token"),
        ("/-/shield/nowhere", [BEARER], {}, 404, "no such admin route"),
        ("/-/shield/mode", [BEARER, JSON, (b"content-encoding", b"gzip")], {}, 415, "not read for its encoding"),
        ("/-/shield/mode", [(b"sec-fetch-site", b"cross-site")], {}, 403, "another site"),
    ],
)
def test_every_early_answer_reads_on(
    path: str, headers: Headers, values: dict[str, Any], status: int, reason: str
) -> None:
    """Whichever part of the shield answers without the body: it is read then."""

    async def answered() -> Record:
        shield = ShieldMiddleware(ok, Settings(admin_token=TOKEN, **values))
        if "capacity" in values:
            await emergency(shield)
        scope = http_scope(path, "PUT", headers=[(b"content-length", b"2"), *headers])
        return await call(shield, scope, after_answer(b"a", b"b"))

    record = run(answered())
    assert record.status == status, reason
    assert record.received == ["http.request"] * 2, reason


def test_an_admin_body_that_is_too_long_is_read_on() -> None:
    """It is refused as soon as it is too long; the rest is taken off the connection, which ends then."""

    async def answered() -> Record:
        shield = ShieldMiddleware(ok, Settings(admin_token=TOKEN))
        headers = [BEARER, JSON, (b"transfer-encoding", b"chunked")]
        first, second, *rest = body(*[b"x" * 9_000] * 9)
        steps = [first, second, *(Step(step.message, after_sent=2) for step in rest)]
        return await call(shield, http_scope("/-/shield/mode", "PUT", headers=headers), steps)

    record = run(answered())
    assert record.status == 413
    assert record.received == ["http.request"] * 9
    assert connection(record) == [b"close"]


def test_an_admin_body_that_was_read_is_not_waited_for() -> None:
    """An answer to a whole request is sent as it is."""

    async def answered() -> Record:
        shield = ShieldMiddleware(ok, Settings(admin_token=TOKEN))
        headers = [BEARER, JSON, (b"content-length", b"1")]
        return await call(shield, http_scope("/-/shield/mode", "PUT", headers=headers), body(b"x"))

    record = run(answered())
    assert record.status == 400
    assert record.received == ["http.request"]
    assert connection(record) == []
