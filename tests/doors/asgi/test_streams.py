"""Eviction from a live response: in every phase, and however the app reacts to its cancellation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gate.doubles import packed
from shieldmw.answers.refusals import RefusalAnswers, RefusalLinks
from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.doors.asgi.replies import Replies
from shieldmw.doors.asgi.streams import CLOSE_REASON, RESTART_REASON, LiveStream
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.seats.admission import Entry
from shieldmw.gate.seats.capacity import SeatPlan
from shieldmw.gate.seats.seat import Seat
from shieldmw.gate.seats.seats import Seats
from shieldmw.store.memory import MemoryStore

TICKET = "a.ticket"
ENTRY = Entry(Seat(ListenerClass.GUEST, 0, "ticket /live", lambda: None), TICKET)
RETRY_MS = 300_000
REPLIES = Replies(RefusalAnswers(RefusalLinks("https://example.org/recording", None, 300), jitter=lambda: 0.0))
ADMITTED = Decision(Verdict.ALLOWED, Reason.WITHIN_LIMITS, packed("203.0.113.7"), live=True)
LIMIT_S = 20

SSE_START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"Content-Type", b"text/event-stream; charset=utf-8")],
}
CHUNKED_START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/x-ndjson")],
}
GZIPPED_SSE_START: Message = {**SSE_START, "headers": [*SSE_START["headers"], (b"content-encoding", b"gzip")]}
KNOWN_START: Message = {**CHUNKED_START, "headers": [(b"Content-Length", b"6")]}
ACCEPT: Message = {"type": "websocket.accept"}
CHUNK: Message = {"type": "http.response.body", "body": b"data: 1", "more_body": True}
CLOSE: Message = {"type": "websocket.close", "code": 1013, "reason": CLOSE_REASON}
END: Message = {"type": "http.response.body", "body": b"", "more_body": False}
RECONNECT: Message = {"type": "http.response.body", "body": b"retry: 3000\n\n", "more_body": True}

HTTP: Scope = {"type": "http", "scheme": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
WEBSOCKET: Scope = {"type": "websocket", "scheme": "ws", "path": "/", "query_string": b"", "headers": []}


@dataclass
class Listener:
    """The server's side of one live response, and what the middleware does around it."""

    scope: Scope = field(default_factory=lambda: dict(HTTP))
    sent: list[Message] = field(default_factory=list)
    cancelling: int = -1
    gone: bool = False
    unread_after: int | None = None
    goodbye_s: float = LIMIT_S
    seat: Seat = field(default_factory=lambda: replace(ENTRY.seat))
    stream: LiveStream | None = None
    replies: Replies = REPLIES
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, message: Message) -> None:
        """Take a message; raise as a server does once the listener has gone, wait while it reads nothing."""
        if self.gone:
            raise OSError("the listener has gone")
        if self.unread_after is not None and len(self.sent) >= self.unread_after:
            self.reached.set()
            await asyncio.Event().wait()
        self.sent.append(message)
        await asyncio.sleep(0)

    async def receive(self) -> Message:
        """The request, and then nothing until the end of time."""
        if self.scope["type"] == "http" and not self.scope.get("received"):
            self.scope["received"] = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError("nothing more is received")

    def __post_init__(self) -> None:
        """One seat is taken."""
        store = MemoryStore(b"secret")
        self.seats = Seats(store, ModeWatch(store), SeatPlan(0, 0, 0))
        assert self.seats.admit(self.seat, live=True, listener=1)

    @property
    def given_back(self) -> int:
        """How many seats have been given back: all but those that are held."""
        return 1 - self.seats.ledger.held().total

    @property
    def refusals(self) -> int:
        """How often it was answered in the app's place."""
        return sum(
            message.get("status") == 503 or message.get("reason") == "Fewer listeners for now" for message in self.sent
        )

    async def serve(self, app: ASGIApp) -> None:
        """What the middleware does: run, and give the seat back whatever happens."""
        self.stream = LiveStream(self.replies, ADMITTED, self.scope, self.receive, self.send, goodbye_s=self.goodbye_s)
        self.stream.admit(self.seats, Entry(self.seat, TICKET), [])
        try:
            await self.stream.run(app)
        finally:
            task = asyncio.current_task()
            self.cancelling = -1 if task is None else task.cancelling()

    async def waits(self) -> None:
        """The app has come as far as it should, and is told so for ever."""
        self.reached.set()
        await asyncio.Event().wait()

    async def evicted(self, app: ASGIApp) -> asyncio.Task[None]:
        """Serve, and make the listener leave once the app waits."""
        task = asyncio.create_task(self.serve(app))
        async with asyncio.timeout(LIMIT_S):
            await self.reached.wait()
            assert self.stream
            self.stream.leave()
            self.stream.leave()  # twice is once
            await asyncio.wait([task])
        return task

    @property
    def after_start(self) -> list[Message]:
        """What was sent after the start, and after what an event stream begins with."""
        return self.sent[2:] if self.sent[1:2] == [RECONNECT] else self.sent[1:]


def run(story: Callable[[Listener], Awaitable[Any]], scope: Scope = HTTP) -> Listener:
    """Run a story of one listener."""

    async def limited() -> Listener:
        async with asyncio.timeout(LIMIT_S):
            listener = Listener(dict(scope))
            await story(listener)
            return listener

    return asyncio.run(limited())


def waiting_after(listener: Listener, *messages: Message) -> ASGIApp:
    """An app that sends and then waits."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        await listener.waits()

    return app


def evicted_after(*messages: Message, scope: Scope = HTTP) -> Listener:
    """A listener that must leave after the app has sent these, and whose eviction raised nothing."""

    async def story(listener: Listener) -> None:
        (await listener.evicted(waiting_after(listener, *messages))).result()
        assert (listener.given_back, listener.cancelling) == (1, 0)

    return run(story, scope)


def shed(message: Message) -> dict[str, Any]:
    """The data of the last event, which must be a whole ``event: shed`` after whatever was begun."""
    assert message["type"] == "http.response.body"
    assert message["more_body"] is False
    *before, event, retry, data, _, _ = message["body"].decode().split("\n")
    assert (before, event, retry) == (["", ""], "event: shed", f"retry: {RETRY_MS}")
    assert message["body"].endswith(b"}\n\n")
    told: dict[str, Any] = json.loads(data.removeprefix("data: "))
    return told


def test_before_the_response_began_it_is_refused() -> None:
    """A listener that must leave before a byte was sent gets a refusal in the app's place, once."""
    for scope in (HTTP, WEBSOCKET):
        listener = evicted_after(scope=scope)
        assert listener.refusals == 1
        assert len(listener.sent) == (2 if scope is HTTP else 1), "the refusal, and nothing else"


# Why a listener must leave, how that is said in a WebSocket, and as a problem.
WHYS = [
    (Reason.NO_SEAT, 1013, "reduced capacity", "temporary-reduced-capacity", 503),
    (Reason.RESTARTING, 1012, "service restart", "temporary-reduced-capacity", 503),
    (Reason.REPLACED, 1008, "replaced by a newer stream", "quota-exceeded", 429),
    (Reason.TOO_MANY_STREAMS, 1008, "too many streams", "quota-exceeded", 429),
    (Reason.DENY_LIST, 1008, "denied", "abnormal-usage-detected", 429),
    (Reason.CREDENTIAL_ENDED, 1008, "credential ended", "about:blank", 401),
]


@pytest.mark.parametrize(("why", "code", "reason", "type_", "status"), WHYS)
def test_the_goodbye_says_why(why: Reason, code: int, reason: str, type_: str, status: int) -> None:
    """Close code and reason, the event's problem, and a refusal where nothing was sent yet: each says the same."""

    async def story(listener: Listener, *messages: Message) -> None:
        task = asyncio.create_task(listener.serve(waiting_after(listener, *messages)))
        await listener.reached.wait()
        assert listener.stream
        listener.seats.evict([listener.seat], why)
        listener.stream.leave()
        await task

    closed = run(lambda listener: story(listener, ACCEPT), WEBSOCKET).sent[-1]
    assert closed == {"type": "websocket.close", "code": code, "reason": reason}
    event = run(lambda listener: story(listener, SSE_START)).sent[-1]["body"].decode()
    problem = json.loads(event.split("data: ")[1])
    assert (problem["type"].split("#")[-1], problem["status"]) == (type_, status)
    start, body = run(story).sent
    assert (start["status"], json.loads(body["body"])["type"]) == (status, problem["type"])


@pytest.mark.parametrize("chunks", [0, 1, 5])
def test_an_event_stream_ends_with_an_event_that_says_why(chunks: int) -> None:
    """Server-sent events end with ``event: shed`` and the time to come back, after what was begun."""
    listener = evicted_after(SSE_START, *[CHUNK] * chunks)
    assert listener.refusals == 0
    assert listener.after_start[:-1] == [CHUNK] * chunks
    told = shed(listener.sent[-1])
    assert (told["retry_after_ms"], told["recording_url"]) == (RETRY_MS, "https://example.org/recording")


@pytest.mark.parametrize("start", [CHUNKED_START, GZIPPED_SSE_START], ids=["chunked", "compressed"])
def test_another_stream_ends_cleanly(start: Message) -> None:
    """A stream in which nothing can be said simply ends, as a whole response does."""
    listener = evicted_after(start, CHUNK)
    assert listener.after_start == [CHUNK, END]


def test_a_stream_that_promised_trailers_sends_them() -> None:
    """Where trailers were announced the stream ends with empty ones."""
    listener = evicted_after({**CHUNKED_START, "trailers": True}, CHUNK)
    assert listener.after_start == [
        CHUNK,
        END,
        {"type": "http.response.trailers", "headers": [], "more_trailers": False},
    ]


def test_a_websocket_is_closed_with_a_reason() -> None:
    """After the handshake a WebSocket is closed with 1013, try again later, and why."""
    listener = evicted_after(ACCEPT, {"type": "websocket.send", "text": "hello"}, scope=WEBSOCKET)
    assert listener.sent[-1] == CLOSE
    assert [message["type"] for message in listener.sent] == ["websocket.accept", "websocket.send", "websocket.close"]


@pytest.mark.parametrize("jitter", [0.0, 0.999])
def test_a_worker_that_ends_says_to_come_straight_back(jitter: float) -> None:
    """Event streams hear that the server restarts, and to be back within one to three seconds."""

    async def story(listener: Listener) -> None:
        listener.replies = Replies(RefusalAnswers(RefusalLinks(None, None, 300), jitter=lambda: jitter))
        listener.seats.leave()
        await listener.evicted(waiting_after(listener, SSE_START, CHUNK))

    *before, event, retry, data, _, _ = run(story).sent[-1]["body"].decode().split("\n")
    assert (before, event) == (["", ""], "event: shed")
    assert 1000 <= int(retry.removeprefix("retry: ")) <= 3000
    told = json.loads(data.removeprefix("data: "))
    assert (told["title"], told["status"]) == ("This server is restarting", 503)
    assert 1000 <= told["retry_after_ms"] <= 3000


def test_a_worker_that_ends_closes_websockets_as_restarting() -> None:
    """A WebSocket is closed with 1012, service restart; before the handshake it is refused with the same code."""

    async def story(listener: Listener) -> None:
        listener.seats.leave()
        await listener.evicted(waiting_after(listener, ACCEPT))

    async def before(listener: Listener) -> None:
        listener.seats.leave()
        await listener.evicted(waiting_after(listener))

    assert run(story, WEBSOCKET).sent[-1] == {**CLOSE, "code": 1012, "reason": RESTART_REASON}
    assert run(before, WEBSOCKET).sent == [{**CLOSE, "code": 1012, "reason": "This server is restarting"}]


FINISHES = [
    (HTTP, [KNOWN_START, {**CHUNK, "body": b"123"}], [{**CHUNK, "body": b"456", "more_body": False}]),
    (HTTP, [CHUNKED_START, {**END, "body": b"all of it"}], []),
    (WEBSOCKET, [ACCEPT, {"type": "websocket.close", "code": 1000}], []),
    (
        WEBSOCKET,
        [{"type": "websocket.http.response.start", "status": 403, "headers": []}],
        [{"type": "websocket.http.response.body", "body": b""}],
    ),
]


@pytest.mark.parametrize(
    ("scope", "before", "after"), FINISHES, ids=["known length", "ended", "closed", "refused by the app"]
)
def test_what_ends_by_itself_is_left_to_finish(scope: Scope, before: list[Message], after: list[Message]) -> None:
    """A response of known length, and one that has said its last word, is not cut short."""

    async def story(listener: Listener) -> None:
        go_on = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for message in before:
                await send(message)
            listener.reached.set()
            await go_on.wait()
            for message in after:
                await send(message)

        task = asyncio.create_task(listener.serve(app))
        await listener.reached.wait()
        assert listener.stream
        listener.stream.leave()
        await asyncio.sleep(0)
        go_on.set()
        await task
        assert listener.after_start == [*before, *after][1:]
        assert (listener.refusals, listener.given_back, listener.cancelling) == (0, 1, 0)

    run(story, scope)


async def swallows(listener: Listener, send: Send) -> None:
    """Ends as if nothing had happened."""
    try:
        await listener.waits()
    except asyncio.CancelledError:
        return


async def goes_on(listener: Listener, send: Send) -> None:
    """Takes no notice and sends more."""
    try:
        await listener.waits()
    except asyncio.CancelledError:
        await send({**CHUNK, "body": b"too late"})


async def takes_its_time(listener: Listener, send: Send) -> None:
    """Cleans up first, and that takes a few turns of the loop."""
    try:
        await listener.waits()
    finally:
        for _ in range(5):
            await asyncio.sleep(0)


async def converts(listener: Listener, send: Send) -> None:
    """Makes an error of its own of it."""
    try:
        await listener.waits()
    except asyncio.CancelledError as error:
        raise RuntimeError("interrupted") from error


async def groups(listener: Listener, send: Send) -> None:
    """Raises a group of errors."""
    try:
        await listener.waits()
    except asyncio.CancelledError:
        raise BaseExceptionGroup("several", [RuntimeError("one"), asyncio.CancelledError()]) from None


async def in_a_task_group(listener: Listener, send: Send) -> None:
    """Works in tasks of its own."""
    async with asyncio.TaskGroup() as group:
        group.create_task(listener.waits())
        group.create_task(asyncio.Event().wait())


async def in_a_timeout(listener: Listener, send: Send) -> None:
    """Has a time-out around it."""
    async with asyncio.timeout(1000):
        await listener.waits()


async def in_anyio(listener: Listener, send: Send) -> None:
    """Works in a task group of anyio."""
    async with anyio.create_task_group() as group:
        group.start_soon(listener.waits)
        await anyio.sleep_forever()


async def shielded(listener: Listener, send: Send) -> None:
    """Cleans up under anyio's shield."""
    try:
        await listener.waits()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()


APPS = [
    swallows,
    goes_on,
    takes_its_time,
    converts,
    groups,
    in_a_task_group,
    in_a_timeout,
    in_anyio,
    shielded,
]


@pytest.mark.parametrize("behaviour", APPS, ids=lambda behaviour: behaviour.__name__)
@pytest.mark.parametrize("phase", ["before", "sse", "websocket"])
def test_whatever_the_app_makes_of_it(behaviour: Callable[[Listener, Send], Awaitable[None]], phase: str) -> None:
    """The goodbye is said once and nothing after it, nothing is raised, and the task is cancelled no more."""

    async def story(listener: Listener) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if phase != "before":
                await send(SSE_START if phase == "sse" else ACCEPT)
            await behaviour(listener, send)

        (await listener.evicted(app)).result()
        assert (listener.given_back, listener.cancelling) == (1, 0)

    listener = run(story, WEBSOCKET if phase == "websocket" else HTTP)
    assert listener.refusals == (phase == "before")
    if phase == "sse":
        (goodbye,) = listener.after_start
        shed(goodbye)
    elif phase == "websocket":
        assert listener.after_start == [CLOSE]
    else:
        assert [message.get("status") for message in listener.sent] == [503, None], "the refusal, and nothing else"


async def endless() -> Any:
    """A stream that never ends by itself."""
    yield b"data: 1\n\n"
    await asyncio.Event().wait()


class PassesThrough(BaseHTTPMiddleware):
    """A middleware as many apps have one."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Do nothing."""
        return await call_next(request)


@pytest.fixture(params=[0, 1, 2], ids=["bare", "in one BaseHTTPMiddleware", "in two"])
def starlette_app(request: pytest.FixtureRequest) -> Starlette:
    """A Starlette app that streams, in as many BaseHTTPMiddleware."""

    async def stream(_: Request) -> Response:
        return StreamingResponse(endless(), media_type="text/event-stream")

    return Starlette(routes=[Route("/", stream)], middleware=[Middleware(PassesThrough)] * request.param)


def test_starlettes_streams_leave_in_order(starlette_app: Starlette) -> None:
    """A StreamingResponse of Starlette leaves cleanly inside its task groups, also inside BaseHTTPMiddleware."""

    async def story(listener: Listener) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_and_tell(message: Message) -> None:
                await send(message)
                if message.get("body"):
                    listener.reached.set()

            await starlette_app(scope, receive, send_and_tell)

        (await listener.evicted(app)).result()
        assert (listener.given_back, listener.cancelling) == (1, 0)
        shed(listener.sent[-1])

    run(story, {**HTTP, "root_path": "", "http_version": "1.1", "server": ("test", 80), "client": ("test", 1)})


def test_inside_a_base_http_middleware() -> None:
    """A shield within BaseHTTPMiddleware, in a task that is not the server's, says goodbye as well."""

    async def story(listener: Listener) -> None:
        inner = waiting_after(listener, SSE_START, CHUNK)

        async def shield(scope: Scope, receive: Receive, send: Send) -> None:
            listener.stream = LiveStream(REPLIES, ADMITTED, scope, receive, send)
            listener.stream.admit(listener.seats, Entry(listener.seat, TICKET), [])
            await listener.stream.run(inner)

        task = asyncio.create_task(_call(PassesThrough(shield), listener))
        await listener.reached.wait()
        assert listener.stream
        listener.stream.leave()
        await task
        bodies = b"".join(message.get("body", b"") for message in listener.sent)
        assert b"event: shed" in bodies
        assert listener.sent[-1]["more_body"] is False
        assert listener.given_back == 1

    run(story, {**HTTP, "root_path": ""})


async def _call(app: ASGIApp, listener: Listener) -> None:
    await app(listener.scope, listener.receive, listener.send)


@pytest.mark.parametrize("error", [RuntimeError("bug"), OSError("gone"), KeyboardInterrupt(), asyncio.CancelledError()])
def test_an_apps_own_error_is_the_servers(error: BaseException) -> None:
    """What an app raises without having to leave goes up unchanged, with the seat given back and nothing added."""

    async def story(listener: Listener) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(SSE_START)
            raise error

        with pytest.raises(type(error)) as raised:
            await listener.serve(app)
        assert raised.value is error
        assert (listener.given_back, listener.after_start) == (1, [])

    run(story)


@pytest.mark.parametrize("evicted_too", [False, True], ids=["cancelled", "evicted and cancelled"])
@pytest.mark.parametrize("behaviour", [swallows, converts, in_anyio], ids=lambda behaviour: behaviour.__name__)
def test_a_server_that_cancels_is_obeyed(
    behaviour: Callable[[Listener, Send], Awaitable[None]], evicted_too: bool
) -> None:
    """When the server ends the task itself no goodbye is said, also when the listener had to leave just then."""

    async def story(listener: Listener) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(SSE_START)
            await behaviour(listener, send)

        task = asyncio.create_task(listener.serve(app))
        await listener.reached.wait()
        assert listener.stream
        if evicted_too:
            listener.stream.leave()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() or behaviour is swallows
        assert (listener.given_back, listener.after_start, listener.cancelling) == (1, [], 1)

    run(story)


def test_a_listener_that_has_gone_already_costs_no_error() -> None:
    """A goodbye that nobody hears is not an error, and the seat is given back."""

    async def story(listener: Listener) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(SSE_START)
            listener.gone = True
            await listener.waits()

        (await listener.evicted(app)).result()
        assert (listener.given_back, listener.cancelling, listener.after_start) == (1, 0, [])

    run(story)


def test_a_disconnect_gives_the_seat_back() -> None:
    """When the listener goes by itself the app ends, and so does the seat."""

    async def story(listener: Listener) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(SSE_START)
            listener.gone = True
            await send(CHUNK)

        with pytest.raises(OSError, match="gone"):
            await listener.serve(app)
        assert listener.given_back == 1

    run(story)


def test_leaving_after_the_end_does_nothing() -> None:
    """A listener told to leave when its response is over disturbs neither the server nor the next request."""

    async def story(listener: Listener) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(SSE_START)
            await send(END)

        await listener.serve(app)
        assert listener.stream
        listener.stream.leave()
        await asyncio.sleep(0)
        assert listener.after_start == [END]

    run(story)


@pytest.mark.parametrize(
    ("scope", "start", "secure"),
    [
        (HTTP, SSE_START, False),
        ({**HTTP, "scheme": "https"}, SSE_START, True),
        (WEBSOCKET, ACCEPT, False),
        ({**WEBSOCKET, "scheme": "wss"}, {**ACCEPT, "headers": [(b"x-app", b"1")]}, True),
        ({key: value for key, value in HTTP.items() if key != "scheme"}, KNOWN_START, False),  # it is optional in ASGI
    ],
)
def test_the_ticket_is_handed_on_as_a_cookie(scope: Scope, start: Message, secure: bool) -> None:
    """Start and accept carry the ticket beside the app's own headers, for TLS alone where the listener uses it."""

    async def story(listener: Listener) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(start)

        await listener.serve(app)
        headers = listener.sent[0]["headers"]
        assert headers[:-1] == list(start.get("headers", []))
        name, value = headers[-1]
        cookie = value.decode().lower()
        assert name == b"set-cookie"
        assert cookie.startswith(f"shield_ticket={TICKET};")
        assert "httponly" in cookie
        assert ("secure" in cookie) is secure
        assert not any(key == b"set-cookie" for key, _ in start.get("headers", []))  # the app's message is untouched

    run(story, scope)
