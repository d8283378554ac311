"""An app that speaks plain ASGI behaves the same with and without the shield: http, WebSocket and the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doors.asgi.harness import CONNECT, NO_BODY, Step, body, call, comparable, http_scope, run, websocket_scope
from doors.asgi.shields import MODES, Case, Mode, assert_same, part, start

Turn = Callable[[Scope, Receive, Send], Awaitable[None]]

DISCONNECT: Message = {"type": "http.disconnect"}
ACCEPT: Message = {"type": "websocket.accept"}


def always(app: Turn) -> Callable[[], ASGIApp]:
    """What makes an app that keeps nothing."""
    return lambda: app


def sends(*messages: Message) -> Callable[[], ASGIApp]:
    """An app that reads nothing and sends these."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return always(app)


def sends_then(error: BaseException, *messages: Message) -> Callable[[], ASGIApp]:
    """An app that sends these, then fails."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        raise error

    return always(app)


async def reports(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends its whole scope back."""
    seen = sorted((key, repr(value)) for key, value in scope.items() if key != "shield")
    await send({"type": "test.report", "seen": seen})


async def marks_state(scope: Scope, receive: Receive, send: Send) -> None:
    """Writes into state and extensions, as apps do."""
    scope["state"]["mine"] = 1
    scope["extensions"]["mine"] = {}
    await reports(scope, receive, send)


async def echoes_by_turns(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers before the request is complete, and piece by piece."""
    await send(start())
    more = True
    while more:
        message = await receive()
        more = message["more_body"]
        await send(part(message["body"].upper(), more=more))


async def reads_after_the_end(scope: Scope, receive: Receive, send: Send) -> None:
    """Keeps reading: after the body there is only the disconnect."""
    await send(start())
    await send(part(b""))
    kinds = [(await receive())["type"] for _ in range(3)]
    await send({"type": "test.report", "seen": kinds})


async def stops_at_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    """An endless stream of events beside a task that waits for the client to go."""
    await send(start(headers=[(b"content-type", b"text/event-stream")]))

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    watcher = asyncio.create_task(gone())
    while not watcher.done():
        await send(part(b"data: tick\n\n", more=True))
    await watcher


async def catches_gone(scope: Scope, receive: Receive, send: Send) -> None:
    """Sees that send fails, and says so."""
    await send(start())
    try:
        await send(part(b"x"))
    except OSError as error:
        raise LookupError("seen") from error


async def cancels_itself(scope: Scope, receive: Receive, send: Send) -> None:
    """Is cancelled in the middle of its answer."""
    await send(start())
    task = asyncio.ensure_future(receive())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await send(part(str(task.cancelled()).encode()))


HINT: Message = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}
TRAILERS: Message = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": False}
DEBUG: Message = {"type": "http.response.debug", "info": {"template": object, "context": {"a": 1}}}
ZERO_COPY: Message = {"type": "http.response.zerocopysend", "file": 3, "offset": 1, "count": 2}
PATHSEND: Message = {"type": "http.response.pathsend", "path": "/x"}
PUSH: Message = {"type": "http.response.push", "path": "/x", "headers": [(b"a", b"b")]}
OWN_LIMITS = [(b"ratelimit", b"mine"), (b"RateLimit-Policy", b"mine"), (b"retry-after", b"9")]

HTTP = [
    Case(
        "trailers",
        sends(start(trailers=True), part(b"x"), TRAILERS),
        http_scope(extensions={"http.response.trailers": {}}),
    ),
    Case(
        "trailers in two messages",
        sends(start(trailers=True), part(b""), {**TRAILERS, "more_trailers": True}, TRAILERS),
    ),
    Case("early hint", sends(HINT, HINT, start(), part(b"x")), sends=4),
    Case("debug", sends(DEBUG, start(), part(b"x")), sends=3),
    Case("zero copy", sends(start(), ZERO_COPY), sends=2),
    Case("path send", sends(start(), PATHSEND), sends=2),
    Case("push", sends(PUSH, start(), part(b"x")), sends=3),
    Case("a message nobody knows", sends({"type": "http.x", "y": object}, start(), part(b"")), sends=3),
    Case("a start without headers", sends({"type": "http.response.start", "status": 200}, part(b""))),
    Case("a body without content", sends(start(), {"type": "http.response.body"}), sends=2),
    Case("keys nobody knows", sends(start(reason=b"Fine", x=[1]), {**part(b"a"), "y": 2}), sends=2),
    Case("headers in a tuple", sends({**start(), "headers": ((b"a", b"b"),)}, part(b"")), sends=2),
    Case("lines of one name", sends(start(headers=[(b"set-cookie", b"a"), (b"set-cookie", b"b")]), part(b""))),
    Case("names in upper case", sends(start(headers=[(b"X-Y", b"a")]), part(b"")), sends=2),
    Case("limits of its own", sends(start(429, OWN_LIMITS), part(b"mine")), sends=2),
    Case(
        "body not read, 100-continue",
        sends(start(417), part(b"no")),
        http_scope(headers=[(b"expect", b"100-continue")]),
    ),
    Case("body not read, long", sends(start(413), part(b"no")), http_scope(method="PUT"), body(b"a" * 9999, b"b")),
    Case("answers by turns", always(echoes_by_turns), http_scope(method="POST"), body(b"a", b"", b"b" * 99), sends=4),
    Case(
        "answer begins before the body comes",
        always(echoes_by_turns),
        http_scope(method="POST"),
        [Step(body(b"a")[0].message, 1)],
    ),
    Case("reads after the end", always(reads_after_the_end), steps=NO_BODY, sends=3),
    Case("events until the client goes", always(stops_at_disconnect), steps=[*NO_BODY, Step(DISCONNECT, 9)]),
    Case("client goes at once", always(stops_at_disconnect), steps=[Step(DISCONNECT)]),
    Case("client is gone at the start", always(catches_gone), gone_after=0, sends=0, raises="OSError"),
    Case("client is gone in the middle", always(catches_gone), gone_after=1, sends=1, raises="LookupError"),
    Case("a receive is cancelled", always(cancels_itself), sends=2),
    Case("sends nothing", sends(), sends=0),
    Case("starts only", sends(start()), sends=1),
    Case("starts twice", sends(start(200), start(201), part(b"")), sends=3),
    Case("body first", sends(part(b"a"), start()), sends=2),
    Case("message without type", sends_then(KeyError("x")), sends=0, raises="KeyError"),
    Case("fails before start", sends_then(ValueError("a")), sends=0, raises="ValueError"),
    Case("fails after start", sends_then(ValueError("b"), start()), sends=1, raises="ValueError"),
    Case(
        "fails in mid-body", sends_then(ValueError("c"), start(), part(b"a", more=True)), sends=2, raises="ValueError"
    ),
    Case("fails after the end", sends_then(ValueError("d"), start(), part(b"a")), sends=2, raises="ValueError"),
    Case("fails in a group", sends_then(ExceptionGroup("g", [ValueError("e")])), sends=0, raises="ExceptionGroup"),
    Case(
        "scope", always(reports), http_scope("/a b/ü", query_string=b"%ff", http_version="2", state={"a": 1}), sends=1
    ),
    Case(
        "scope without what is optional",
        always(reports),
        {k: v for k, v in http_scope().items() if k not in ("state", "extensions", "root_path", "server", "raw_path")},
        sends=1,
    ),
    Case("scope with extensions None", always(reports), http_scope(extensions=None, root_path=None), sends=1),
    Case("scope with extensions", always(marks_state), http_scope(extensions={"tls": {"a": None}}), sends=1),
    Case("no client", always(reports), http_scope(client=None), sends=1),
    Case("headers in a tuple of lists", always(reports), {**http_scope(), "headers": ([b"a", b"b"],)}, sends=1),
]


async def echoes(scope: Scope, receive: Receive, send: Send) -> None:
    """A WebSocket that sends back what it gets, text and binary."""
    await receive()
    await send({"type": "websocket.accept", "subprotocol": "v2", "headers": [(b"x-a", b"1"), (b"x-a", b"2")]})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
    await send({"type": "test.report", "seen": message})


def closes(code: int, reason: str = "", *, accept: bool = True) -> Callable[[], ASGIApp]:
    close: Message = {"type": "websocket.close", "code": code, "reason": reason}
    return sends(ACCEPT, close) if accept else sends(close)


async def speaks_first(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends until the client goes."""
    await receive()
    await send(ACCEPT)
    gone = asyncio.ensure_future(receive())
    while not gone.done():
        await send({"type": "websocket.send", "text": "tick"})
    await send({"type": "test.report", "seen": await gone})


async def denies(scope: Scope, receive: Receive, send: Send) -> None:
    """Turns the client away with an answer of its own."""
    await receive()
    await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"a", b"b")]})
    await send({"type": "websocket.http.response.body", "body": b"no, ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"thanks"})


async def waits(scope: Scope, receive: Receive, send: Send) -> None:
    """Reports the first two messages it gets."""
    await send({"type": "test.report", "seen": [await receive(), await receive()]})


def said(**content: Any) -> Step:
    return Step({"type": "websocket.receive", **content})


def left(code: int, after_sent: int = 0, **more: Any) -> Step:
    return Step({"type": "websocket.disconnect", "code": code, **more}, after_sent)


BINARY = bytes(range(256))
DENIAL: dict[str, Any] = {"extensions": {"websocket.http.response": {}}}

WEBSOCKET = [
    Case(
        "text and binary",
        always(echoes),
        websocket_scope(subprotocols=["v1", "v2"]),
        [CONNECT, said(text="é\0😀"), said(bytes=BINARY), said(text=""), left(1000)],
        sends=5,
    ),
    Case(
        "both keys",
        always(echoes),
        websocket_scope(),
        [CONNECT, said(text="a", bytes=None), left(1001, reason="bye")],
        sends=3,
    ),
    Case(
        "many messages",
        always(echoes),
        websocket_scope(),
        [CONNECT, *(said(text=str(n)) for n in range(200)), left(1000)],
        sends=202,
    ),
    Case(
        "one long message",
        always(echoes),
        websocket_scope(),
        [CONNECT, said(bytes=b"x" * 1_000_000), left(1000)],
        sends=3,
    ),
    *(
        Case(f"client closes with {code}", always(echoes), websocket_scope(), [CONNECT, left(code)], sends=2)
        for code in (1000, 1001, 1005, 1006, 1011, 4999)
    ),
    *(
        Case(f"app closes with {code}", closes(code, "why"), websocket_scope(), [CONNECT], sends=2)
        for code in (1000, 1008, 1011, 1013, 4000)
    ),
    Case("app closes before accept", closes(4403, "no", accept=False), websocket_scope(), [CONNECT], sends=1),
    Case("app speaks first", always(speaks_first), websocket_scope(), [CONNECT, left(1006, 7)]),
    Case("app denies", always(denies), websocket_scope(**DENIAL), [CONNECT], sends=3),
    Case("client goes before accept", always(waits), websocket_scope(), [CONNECT, left(1006)], sends=1),
    Case(
        "client is gone at accept",
        always(echoes),
        websocket_scope(),
        [CONNECT],
        gone_after=0,
        sends=0,
        raises="OSError",
    ),
    Case(
        "fails before accept", sends_then(ValueError("x")), websocket_scope(), [CONNECT], sends=0, raises="ValueError"
    ),
    Case(
        "fails after accept",
        sends_then(ValueError("x"), ACCEPT),
        websocket_scope(),
        [CONNECT],
        sends=1,
        raises="ValueError",
    ),
    Case(
        "scope", always(marks_state), websocket_scope("/a", subprotocols=["a"], query_string=b"x=1", **DENIAL), sends=1
    ),
    Case(
        "scope without what is optional",
        always(reports),
        {
            k: v
            for k, v in websocket_scope().items()
            if k not in ("query_string", "root_path", "client", "server", "subprotocols", "extensions", "state")
        }
        | {"client": None},
        sends=1,
    ),
]

GUEST = next(mode for mode in MODES if mode.name == "guest")
WEBSOCKET_MODES = [Mode(mode.name, mode.settings, member=mode.member, used_up=mode.used_up) for mode in MODES]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("case", HTTP, ids=lambda case: case.name)
def test_a_raw_http_app_behaves_the_same(case: Case, mode: Mode) -> None:
    """Whatever an app sends and reads over http, in whatever order, comes through the shield unchanged."""
    assert_same(case, mode)


@pytest.mark.parametrize("mode", WEBSOCKET_MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("case", WEBSOCKET, ids=lambda case: case.name)
def test_a_websocket_app_behaves_the_same(case: Case, mode: Mode) -> None:
    """A WebSocket that is admitted is left alone altogether: no header is added to its handshake."""
    assert_same(case, mode)


@pytest.mark.parametrize("kind", ["webtransport", "sse", "lifespan.custom", ""])
@pytest.mark.parametrize("raises", [False, True])
def test_scopes_of_other_types_pass_through(kind: str, raises: bool) -> None:
    """A type of scope that the shield does not know is the app's alone: same object, same channel, no shield in it."""
    scope: Scope = {"type": kind, "anything": object()}
    seen: list[object] = []

    async def receive() -> Message:
        return {"type": "x"}

    async def send(message: Message) -> None:
        pass

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend((scope, receive, send))
        if raises:
            raise NotImplementedError(kind)

    async def through() -> None:
        await GUEST.shield(app)(scope, receive, send)

    if raises:
        with pytest.raises(NotImplementedError):
            run(through())
    else:
        run(through())
    assert seen[0] is scope
    assert seen[1:] == [receive, send]
    assert "shield" not in scope


def test_an_exception_that_ends_the_process_comes_through() -> None:
    """What is no Exception (a server that is told to stop) is not caught on its way either."""

    class Stop(BaseException):
        pass

    with pytest.raises(Stop):
        run(call(GUEST.shield(sends_then(Stop())()), http_scope()))


def test_a_messages_own_headers_are_not_written_to() -> None:
    """The list of headers that an app sends stays the app's: a list it sends twice does not grow."""
    headers = [(b"a", b"b")]
    app = sends(start(headers=headers), part(b""))()
    shield = GUEST.shield(app)

    async def twice() -> None:
        await call(shield, http_scope())
        await call(shield, http_scope())

    run(twice())
    assert headers == [(b"a", b"b")]


@pytest.mark.parametrize(("prefixes", "deciding"), [("abc", 3), ("aaa", 1)], ids=["each its own", "all the same"])
def test_the_shield_in_an_apps_own_middleware_changes_nothing(prefixes: str, deciding: int) -> None:
    """Inside Starlette's stack, around one route and in a mount, the answer is the app's and two lines more of each
    that decides: of those with the same settings the outermost one.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    from shieldmw import Settings, ShieldMiddleware

    def site(*layers: Middleware) -> ASGIApp:
        site, mount, inside = (layers[place : place + 1] for place in range(3))
        inner = Starlette(routes=[Route("/", PlainTextResponse("hi"))], middleware=inside)
        return Starlette(routes=[Mount("/m", inner, middleware=mount)], middleware=site)

    shields = [Middleware(ShieldMiddleware, settings=Settings(key_prefix=prefix)) for prefix in prefixes]
    alone = run(call(site(), http_scope("/m/"), NO_BODY))
    three = run(call(site(*shields), http_scope("/m/"), NO_BODY))
    added = [b"ratelimit-policy", b"ratelimit"] * deciding
    assert [name for name, _ in three.headers[-len(added) :]] == added
    three.sent[0]["headers"] = three.headers[: -len(added)]
    assert comparable(three) == comparable(alone)
