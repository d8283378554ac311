"""Live responses end, and free their seats, even with clients that do not read and apps that ignore cancellation."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress

import pytest
from starlette.types import Message, Receive, Scope, Send

from doors.asgi.test_streams import (
    ACCEPT,
    ADMITTED,
    CHUNK,
    CHUNKED_START,
    CLOSE,
    END,
    HTTP,
    KNOWN_START,
    RECONNECT,
    REPLIES,
    SSE_START,
    WEBSOCKET,
    Listener,
    run,
    shed,
    waiting_after,
)
from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Reason, Verdict
from shieldmw.doors.asgi.dropping import CONNECTIONS, Connections, Ends, ends_of
from shieldmw.gate.seats.seat import Seat

TRAILERS: Message = {"type": "http.response.trailers", "headers": [], "more_trailers": False}
REFUSAL: Message = {"type": "websocket.http.response.start", "status": 403, "headers": []}
REFUSAL_BODY: Message = {"type": "websocket.http.response.body", "body": b""}
ALL_KNOWN: Message = {"type": "http.response.body", "body": b"123456"}

ENDS = {
    "known length": (HTTP, [KNOWN_START, {**CHUNK, "body": b"123"}, {**END, "body": b"456"}]),
    "unknown length": (HTTP, [CHUNKED_START, CHUNK, END]),
    "events": (HTTP, [SSE_START, END]),
    "trailers": (HTTP, [{**CHUNKED_START, "trailers": True}, END, TRAILERS]),
    "closed": (WEBSOCKET, [ACCEPT, {"type": "websocket.close", "code": 1000}]),
    "refused by the app": (WEBSOCKET, [REFUSAL, REFUSAL_BODY]),
}


@pytest.mark.parametrize("kind", ENDS)
def test_the_last_message_ends_the_seat(kind: str) -> None:
    """What an app still does in the background holds no seat; up to the last message everything does."""
    scope, messages = ENDS[kind]

    async def story(listener: Listener) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for message in messages:
                assert listener.given_back == 0
                await send(message)
            listener.reached.set()
            await background.wait()

        background = asyncio.Event()
        task = asyncio.create_task(listener.serve(app))
        await listener.reached.wait()
        assert listener.given_back == 1
        assert listener.stream
        listener.stream.leave()  # too late: it disturbs nothing
        background.set()
        await task
        assert listener.after_start == messages[1:]

    run(story, scope)


BLOCKED = {
    "the start": (HTTP, SSE_START, 0),
    "events": (HTTP, SSE_START, 2),
    "a stream": (HTTP, CHUNKED_START, 1),
    "a known length": (HTTP, KNOWN_START, 1),
    "the end": (HTTP, CHUNKED_START, 2),
    "a websocket": (WEBSOCKET, ACCEPT, 1),
}


@pytest.mark.parametrize("kind", BLOCKED)
def test_who_reads_nothing_is_dropped(kind: str) -> None:
    """When even the goodbye cannot be sent the task ends and the seat is free; nothing is sent after what blocked."""
    scope, start, sent = BLOCKED[kind]
    more: Message = {"type": "websocket.send", "text": "x"} if scope is WEBSOCKET else CHUNK

    async def story(listener: Listener) -> None:
        listener.unread_after, listener.goodbye_s = sent, 0

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for message in (start, more, END):
                await send(message)

        (await listener.evicted(app)).result()
        assert (len(listener.sent), listener.given_back, listener.cancelling) == (sent, 1, 0)

    run(story, scope)


def test_a_goodbye_that_fails_gives_the_seat_back_though_the_app_does_not_obey() -> None:
    """Servers raise errors of their own for what comes too late."""

    async def story(listener: Listener) -> None:
        take = listener.send
        listener.goodbye_s = 0.01

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                raise RuntimeError("the response is complete already")
            await take(message)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(CHUNKED_START)
            listener.reached.set()
            while not listener.given_back:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)

        listener.send = send  # type: ignore[method-assign]
        task = asyncio.create_task(listener.serve(app))
        await listener.reached.wait()
        assert listener.stream
        listener.stream.leave()
        await asyncio.wait([task], timeout=5)
        assert listener.given_back == 1
        with pytest.raises(RuntimeError, match="complete already"):  # looked at here: no later test hears of it
            task.result()

    run(story)


def test_a_connection_is_kept_after_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next request is somebody else's business: only a stream's connection is ever looked for."""
    looked_for: list[Ends] = []

    async def find(ends: Ends) -> int | None:
        looked_for.append(ends)
        return None

    async def story(listener: Listener) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            listener.reached.set()
            await asyncio.Event().wait()

        await listener.evicted(app)
        assert listener.refusals == 1

    monkeypatch.setattr(CONNECTIONS, "find", find)
    run(story, {**HTTP, "client": ("192.0.2.1", 5), "server": ("192.0.2.2", 80)})
    assert looked_for == []


def test_the_seat_is_held_until_the_last_word_is_sent() -> None:
    """An end that the listener has not taken is none."""

    async def story(listener: Listener) -> None:
        listener.unread_after = 2

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for message in (CHUNKED_START, CHUNK, END):
                await send(message)

        task = asyncio.create_task(listener.serve(app))
        await listener.reached.wait()
        assert listener.given_back == 0
        task.cancel()
        await asyncio.wait([task])
        assert listener.given_back == 1

    run(story)


@pytest.mark.parametrize("start", [SSE_START, KNOWN_START, ACCEPT], ids=["events", "known length", "websocket"])
def test_a_start_on_its_way_is_sent_before_anything_else(start: Message) -> None:
    """A listener that must leave while the start is being sent gets the start first, then the end of its kind."""
    scope = WEBSOCKET if start is ACCEPT else HTTP

    async def story(listener: Listener) -> None:
        go_on, take = asyncio.Event(), listener.send

        async def slowly(message: Message) -> None:
            listener.reached.set()
            await go_on.wait()
            await take(message)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(start)
            if start is KNOWN_START:
                await send(ALL_KNOWN)
            else:
                await asyncio.Event().wait()

        listener.send = slowly  # type: ignore[method-assign]
        task = asyncio.create_task(listener.serve(app))
        await listener.reached.wait()
        assert listener.stream
        listener.stream.leave()
        await asyncio.sleep(0)
        go_on.set()
        await task
        assert listener.sent[0]["type"] == start["type"]
        if start is SSE_START:
            shed(listener.sent[-1])
        else:
            assert listener.after_start == [CLOSE if start is ACCEPT else ALL_KNOWN]
        assert (listener.given_back, listener.cancelling) == (1, 0)

    run(story, scope)


@pytest.mark.parametrize("start", [SSE_START, ACCEPT], ids=["events", "websocket"])
def test_an_app_that_never_obeys_keeps_no_seat(start: Message) -> None:
    """The goodbye is said without an app that takes no notice of being cancelled, and nothing of its comes after it."""
    scope = WEBSOCKET if start is ACCEPT else HTTP

    async def story(listener: Listener) -> None:
        listener.goodbye_s = 0.05
        given_up = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(start)
            listener.reached.set()
            while not given_up.is_set():
                try:
                    await given_up.wait()
                    await send(CHUNK)
                except asyncio.CancelledError:
                    continue

        task = asyncio.create_task(listener.serve(app))
        await listener.reached.wait()
        assert listener.stream
        listener.stream.leave()
        while not listener.given_back:  # noqa: ASYNC110  (nothing tells of it)
            await asyncio.sleep(0)
        assert not task.done()
        given_up.set()
        await task
        (goodbye,) = listener.after_start
        if start is ACCEPT:
            assert goodbye == CLOSE
        else:
            shed(goodbye)
        assert listener.cancelling == 0

    run(story, scope)


def waiting_seat() -> Seat:
    """A seat on which another response still runs."""
    return Seat(ListenerClass.MEMBER, 0, "ticket", lambda: None, turn=asyncio.Event())


def test_an_app_begins_when_the_seat_is_empty() -> None:
    """A listener that was given the seat of one that is still leaving waits for it."""

    async def story(listener: Listener) -> None:
        other = Listener(dict(HTTP), seat=waiting_seat())
        task = asyncio.create_task(other.serve(waiting_after(other, SSE_START)))
        await asyncio.sleep(0)
        assert other.sent == []
        assert other.seat.turn
        other.seat.turn.set()
        await other.reached.wait()
        assert other.sent[0]["type"] == "http.response.start"
        task.cancel()
        await asyncio.wait([task])

    run(story)


def test_who_must_leave_while_waiting_is_refused_and_passes_the_seat_on_later() -> None:
    """The refusal comes at once, but the next listener must still wait for the one that was here first."""

    async def story(listener: Listener) -> None:
        other = Listener(dict(HTTP), seat=waiting_seat())
        task = asyncio.create_task(other.serve(waiting_after(other, SSE_START)))
        await asyncio.sleep(0)
        assert other.stream
        other.stream.leave()
        while len(other.sent) < 2:  # noqa: ASYNC110  (nothing tells of it)
            await asyncio.sleep(0)
        assert (other.refusals, other.given_back) == (1, 0)
        assert other.seat.turn
        other.seat.turn.set()
        await task
        assert (len(other.sent), other.given_back, other.cancelling) == (2, 1, 0)

    run(story)


def started(start: Message, *bodies: Message, scope: Scope = HTTP) -> Listener:
    """A listener to whom an app has sent these."""

    async def story(listener: Listener) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            listener.scope["seen"] = scope
            for message in (start, *bodies):
                await send(message)

        await listener.serve(app)

    return run(story, scope)


def test_an_event_stream_begins_with_a_short_wait() -> None:
    """A block of its own, before the first event, so that no long wait of before is kept."""
    assert started(SSE_START, CHUNK, END).sent[1:] == [RECONNECT, CHUNK, END]


@pytest.mark.parametrize(
    ("scope", "start"),
    [
        (HTTP, CHUNKED_START),
        (HTTP, KNOWN_START),
        (HTTP, {**SSE_START, "status": 503}),
        (HTTP, {**SSE_START, "headers": [*SSE_START["headers"], (b"content-length", b"9")]}),
        (HTTP, {**SSE_START, "headers": [*SSE_START["headers"], (b"Content-Encoding", b"br")]}),
        ({**HTTP, "method": "HEAD"}, SSE_START),
    ],
)
def test_nothing_else_is_begun_with_one(scope: Scope, start: Message) -> None:
    """Not where bytes are counted or compressed, and not in what is no stream of events."""
    assert started(start, CHUNK, END, scope=scope).sent[1:] == [CHUNK, END]


def test_a_byte_order_mark_hides_no_event() -> None:
    """A mark that an app begins its events with would be in the middle, and is left out; later ones are data."""
    event = {**CHUNK, "body": b"\xef\xbb\xbfdata: 1\n\n"}
    assert started(SSE_START, event, event, END).sent[1:] == [RECONNECT, {**event, "body": b"data: 1\n\n"}, event, END]


@pytest.mark.parametrize(
    ("version", "start", "closes"),
    [
        ("1.1", SSE_START, True),
        ("1.1", CHUNKED_START, True),
        ("1.1", KNOWN_START, False),
        ("1.0", SSE_START, False),
        ("2", SSE_START, False),
    ],
)
def test_an_endless_response_is_the_last_of_its_connection(version: str, start: Message, closes: bool) -> None:
    """A connection that is still there after a goodbye then carries no other request."""
    headers = started(start, END, scope={**HTTP, "http_version": version}).sent[0]["headers"]
    assert ((b"connection", b"close") in headers) is closes


@pytest.mark.parametrize("extension", ["http.response.pathsend", "http.response.zerocopysend"])
def test_an_app_sends_what_it_sends_itself(extension: str) -> None:
    """A live response is never handed to the server as a file: nobody would hear of its end."""
    offered = {**HTTP, "extensions": {extension: {}, "tls": {}}}
    assert started(SSE_START, END, scope=offered).scope["seen"]["extensions"] == {"tls": {}}


@pytest.mark.parametrize(
    ("scope", "ends"),
    [
        ({"client": ("192.0.2.1", 5), "server": ("192.0.2.2", 80), "http_version": "1.1"}, Ends("192.0.2.1", 5, 80)),
        ({"client": ("192.0.2.1", "5"), "server": ("192.0.2.2", "80")}, Ends("192.0.2.1", 5, 80)),  # as granian says it
        ({"client": ("::FFFF:192.0.2.1", 5), "server": ("::1", 80)}, Ends("192.0.2.1", 5, 80)),
        ({"client": ("fe80::1%eth0", 5), "server": ("::1", 80)}, Ends("fe80::1", 5, 80)),
        ({"client": ("192.0.2.1", 5), "server": ("192.0.2.2", 80), "http_version": "2"}, None),
        ({"client": ("192.0.2.1", 5), "server": ("/run/socket", None)}, None),
        ({"client": None, "server": ("192.0.2.2", 80)}, None),
        (
            {
                "client": ("192.0.2.1", 5),
                "server": ("192.0.2.2", 80),
                "headers": [(b"x-forwarded-for", b"10.0.0.1, 192.0.2.1:5")],
            },
            None,
        ),
        (
            {"client": ("192.0.2.1", 5), "server": ("192.0.2.2", 80), "headers": [(b"x-forwarded-for", b"10.0.0.1")]},
            Ends("192.0.2.1", 5, 80),
        ),
        ({}, None),
    ],
)
def test_the_ends_of_a_connection(scope: Scope, ends: Ends | None) -> None:
    """As servers tell them, in one spelling; none where there is no connection of its own to be found."""
    assert ends_of(scope) == ends


@pytest.fixture(params=["127.0.0.1", "::1"])
def listening(request: pytest.FixtureRequest) -> socket.socket:
    """A listening socket on loopback."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        return socket.create_server((request.param, 0), family=family)
    except OSError:
        pytest.skip(f"no {request.param} here")


def test_one_connection_is_dropped_and_no_other(listening: socket.socket) -> None:
    """All that were asked for at once are shut down; their neighbours and the listening socket live on."""

    async def drop(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
        connections, port = Connections(), listening.getsockname()[1]
        ends = [Ends(client.getsockname()[0], client.getsockname()[1], port) for client, _ in pairs]
        assert await connections.find(Ends("192.0.2.1", 1, port)) is None  # not here at all
        numbers = await asyncio.gather(*(connections.find(one) for one in ends))
        assert len({*numbers} - {None}) == len(pairs)
        await asyncio.gather(*(connections.drop(number) for number in numbers if number is not None))

    with listening:
        clients = [socket.create_connection(listening.getsockname()[:2]) for _ in range(6)]
        pairs = [(client, listening.accept()[0]) for client in clients]
        try:
            by_port = {server.getpeername()[1]: server for _, server in pairs}
            pairs = [(client, by_port[client.getsockname()[1]]) for client in clients]
            asyncio.run(drop(pairs[::2]))
            for client, server in pairs[::2]:
                assert client.recv(1) == b""
                assert server.recv(1) == b""
            for client, server in pairs[1::2]:
                server.send(b"x")
                assert client.recv(1) == b"x"
            late = socket.create_connection(listening.getsockname()[:2])
            listening.accept()[0].close()
            late.close()
        finally:
            for pair in pairs:
                for end in pair:
                    end.close()


def test_a_connection_that_is_dropped_is_found_by_the_stream() -> None:
    """The stream drops the very connection that its scope names, when its goodbye cannot be sent."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        server, _ = listening.accept()
        with client, server:
            named = {**HTTP, "client": client.getsockname(), "server": listening.getsockname(), "http_version": "1.1"}

            async def story(listener: Listener) -> None:
                listener.unread_after, listener.goodbye_s = 1, 0
                (await listener.evicted(waiting_after(listener, CHUNKED_START, CHUNK))).result()

            run(story, named)
            assert client.recv(1) == b""


@pytest.mark.parametrize(("scheme", "secure"), [("https", True), ("http", False)])
def test_a_number_is_for_tls_alone_where_it_came_by_tls(scheme: str, secure: bool) -> None:
    """The waiting room's number travels as the ticket does: over TLS its cookie is never sent in the clear."""
    waits = ADMITTED._replace(verdict=Verdict.REFUSED, reason=Reason.NO_SEAT, signed_ticket="a.number")

    async def story(listener: Listener) -> None:
        await REPLIES.refuse(waits, {**HTTP, "scheme": scheme}, listener.receive, listener.send)

    ((_, cookie),) = [line for line in run(story).sent[0]["headers"] if line[0] == b"set-cookie"]
    assert cookie.startswith(b"shield_ticket=a.number;")
    assert (b"Secure" in cookie) is secure


def test_the_next_connection_from_the_same_port_is_left_alone() -> None:
    """A proxy or a client that comes again from where a listener left is somebody else."""

    async def story() -> None:
        connections = Connections()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            address = listening.getsockname()[:2]

            def connected(port: int) -> tuple[socket.socket, socket.socket]:
                client = socket.socket()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                client.bind(("127.0.0.1", port))
                client.connect(address)
                return client, listening.accept()[0]

            client, server = connected(0)
            port = client.getsockname()[1]
            number = await connections.find(Ends("127.0.0.1", port, address[1]))
            assert number is not None
            # The server's side ends first, with a reset, so that the port is free at once.
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            server.close()
            client.close()
            client, server = connected(port)
            with client, server:
                await connections.drop(number)
                server.send(b"x")
                assert client.recv(1) == b"x"

    asyncio.run(story())
