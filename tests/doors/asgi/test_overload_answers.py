"""The answers while the app is overloaded: to shed requests, and to those admitted after a wait."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar
from unittest.mock import patch

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doors.asgi.harness import CONNECT, NO_BODY, Record, Server, Step, body, call, http_scope, run, websocket_scope
from doors.asgi.shields import ok
from shieldmw import Identity, Settings, ShieldMiddleware
from shieldmw.core.decision import Decision
from shieldmw.core.facts import Facts
from shieldmw.core.lane import Lane
from shieldmw.doors.asgi.passages import LONGEST_ROUTE, receive_if_there, route_of
from shieldmw.gate.overload.gatekeeper import Gatekeeper, Passage

T = TypeVar("T")

TOKEN = "an admin token, long enough"
OFFERS_BOTH: dict[str, Any] = {"extensions": {"websocket.http.response": {}}}
START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
END: Message = {"type": "http.response.body", "body": b"ok"}


async def somebody(scope: Scope) -> Identity | None:
    """The host app's own check: what the header says."""
    for name, value in scope["headers"]:
        if name == b"x-member":
            return Identity(value.decode())
    return None


class Busy:
    """A shield with one place in its app; ``/hang`` holds it until it is let go."""

    def __init__(self, app: ASGIApp = ok, **values: Any) -> None:
        self.app = app
        self.order: list[str] = []
        self.let_go = asyncio.Event()
        settings = Settings(**{"redis_url": "memory://", "max_in_flight": 1, "hold_ms": 0, "queue_ms": 10, **values})
        self.shield = ShieldMiddleware(self._app, settings, authenticate=somebody)
        self.hanging: asyncio.Task[Record] | None = None

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.order.append(scope["path"])
        if scope["path"] == "/hang":
            await self.let_go.wait()
        await self.app(scope, receive, send)

    @property
    def lane(self) -> Lane[Any]:
        """The lane of the gate of this loop."""
        assert self.shield._worker is not None
        assert self.shield._worker.overload is not None
        return self.shield._worker.overload.lane

    async def fill(self) -> None:
        """Take the one place."""
        self.hanging = asyncio.create_task(call(self.shield, http_scope("/hang"), NO_BODY))
        await until(lambda: "/hang" in self.order)

    async def shed(self, scope: Scope, steps: list[Step] | None = None) -> Record:
        """What somebody hears while the app is full."""
        await self.fill()
        record = await call(self.shield, scope, NO_BODY if steps is None else steps)
        await self.end()
        return record

    async def waiting(self, scope: Scope, steps: list[Step] | None = None) -> asyncio.Task[Record]:
        """Somebody who waits in the lane."""
        before = self.lane.waiting
        task = asyncio.create_task(call(self.shield, scope, NO_BODY if steps is None else steps))
        await until(lambda: self.lane.waiting > before)
        return task

    async def end(self) -> None:
        """Let go, and see that no place is taken."""
        self.let_go.set()
        if self.hanging is not None:
            assert (await self.hanging).status == 200
        await until(lambda: self.lane.places.inside == 0 and self.lane.waiting == 0)


async def until(condition: Callable[[], bool]) -> None:
    """Let the others go on until something is so; the harness ends what takes too long."""
    while not condition():  # noqa: ASYNC110  (what is waited for has no event)
        await asyncio.sleep(0)


def busy(story: Callable[[Busy], Coroutine[Any, Any, T]], app: ASGIApp = ok, **values: Any) -> T:
    """Tell a story of a busy app."""

    async def told() -> T:
        return await story(Busy(app, **values))

    return run(told())


def test_a_guest_that_is_shed_is_told_why() -> None:
    """503 as a problem, with the wait and the links, and nothing of it may be stored."""
    links: dict[str, Any] = {
        "recording_url": "https://example.org/recording",
        "sign_in_url": "https://example.org/sign-in",
    }
    record = busy(lambda one: one.shed(http_scope()), **links)
    problem = json.loads(record.body)
    assert (record.status, problem["status"]) == (503, 503)
    assert problem["type"].endswith("#temporary-reduced-capacity")
    assert {name: problem[name] for name in links} == links
    assert 5_000 <= problem["retry_after_ms"] <= 15_000
    assert problem["retry_after_ms"] / 1000 <= int(record.value(b"retry-after")) <= 18
    assert record.value(b"content-type") == "application/problem+json"
    assert record.value(b"cache-control") == "no-store"
    assert "violated-policies" not in problem


def test_a_member_that_is_shed_comes_back_sooner_and_need_not_sign_in() -> None:
    """After the longer wait that members have."""
    scope = http_scope(headers=[(b"x-member", b"alice")])
    record = busy(lambda one: one.shed(scope), sign_in_url="https://example.org/sign-in", queue_ms=1)
    assert (record.status, "sign_in_url" in json.loads(record.body)) == (503, False)
    assert 1 <= int(record.value(b"retry-after")) <= 4


def test_a_browser_gets_a_page() -> None:
    """With the same wait as the header's."""
    record = busy(lambda one: one.shed(http_scope(headers=[(b"accept", b"text/html")])))
    assert (record.status, record.value(b"content-type")) == (503, "text/html; charset=utf-8")
    assert f"again in {record.value(b'retry-after')} seconds" in record.body.decode()


def test_a_head_request_gets_no_body() -> None:
    """And the length of what a GET would get."""
    record = busy(lambda one: one.shed(http_scope(method="HEAD")))
    assert (record.status, record.body) == (503, b"")
    assert int(record.value(b"content-length")) > 0


def test_pages_of_other_origins_may_read_it() -> None:
    """Those of SHIELD_CORS_ORIGINS."""
    origin = (b"origin", b"https://example.org")
    record = busy(lambda one: one.shed(http_scope(headers=[origin])), cors_origins="https://example.org")
    assert record.value(b"access-control-allow-origin") == "https://example.org"


def test_guests_share_an_answer_that_none_of_them_can_spoil() -> None:
    """Each is sent what it asked for, whatever servers do with the headers they are given."""

    async def story(one: Busy) -> list[Record]:
        await one.fill()
        scopes = [
            http_scope(headers=[(b"origin", b"https://example.org")]),
            http_scope(),
            http_scope(method="HEAD"),
            http_scope(headers=[(b"accept", b"text/html")]),
        ]

        async def ask(scope: Scope) -> Record:
            server = Server(scope, NO_BODY)

            async def send(message: Message) -> None:
                await server.send(message)
                message.get("headers", []).clear()

            await one.shield(scope, server.receive, send)
            return server.record

        records = [record for _ in range(20) for record in await asyncio.gather(*map(ask, scopes))]
        await one.end()
        return records

    for number, record in enumerate(busy(story, cors_origins="https://example.org", queue_ms=1)):
        assert record.status == 503
        assert len(record.values(b"retry-after")) == len(record.values(b"content-type")) == 1
        assert len(record.values(b"access-control-allow-origin")) == (number % 4 == 0)


@pytest.mark.parametrize(
    ("scope", "values", "kind"),
    [
        (websocket_scope(**OFFERS_BOTH), {}, "websocket.http.response.start"),
        (websocket_scope(), {}, "websocket.close"),
        (websocket_scope(**OFFERS_BOTH), {"websocket_refusals": "close"}, "websocket.accept"),
    ],
    ids=["in http", "plain", "accept and close"],
)
def test_a_handshake_that_is_shed(scope: Scope, values: dict[str, Any], kind: str) -> None:
    """In the way that handshakes are refused; the app never sees it."""

    async def story(one: Busy) -> Record:
        record = await one.shed(scope, [CONNECT])
        assert one.order == ["/hang"]
        return record

    record = busy(story, **values)
    assert record.sent[0]["type"] == kind
    closes = record.of("websocket.close")
    assert record.sent[0].get("status") == 503 or closes[0]["code"] == 1013


def test_a_shed_upload_is_read_to_its_end_on_live_paths_as_well() -> None:
    """Else the connection would be reset, and the answer lost."""
    pieces = [
        Step({"type": "http.request", "body": b"abc", "more_body": True}),
        Step({"type": "http.request", "body": b"de", "more_body": False}),
    ]
    heard = []
    for path in ("/page", "/live"):
        scope = http_scope(path, "POST", headers=[(b"content-length", b"5")])
        record: Record = busy(partial(Busy.shed, scope=scope, steps=pieces), live_paths="/live")
        assert record.status == 503
        heard.append(record.received)
    assert heard[0] == heard[1] == ["http.request", "http.request"]


def test_a_handshake_that_the_app_denies_on_a_live_path_is_no_longer_in_flight() -> None:
    """It has its answer, however long the app goes on."""

    seen: list[Busy] = []

    async def deny(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        assert seen[0].lane.places.inside == 0
        await send({"type": "websocket.http.response.body", "body": b""})

    async def story(one: Busy) -> None:
        seen.append(one)
        scope = websocket_scope("/live", extensions={"websocket.http.response": {}})
        record = await call(one.shield, scope, [Step({"type": "websocket.connect"})])
        assert record.status == 403
        assert record.raised is None

    busy(story, deny, live_paths="/live")


def test_a_handshake_waits_and_a_socket_that_was_accepted_is_no_longer_in_flight() -> None:
    """However long it lasts."""

    async def story(one: Busy) -> None:
        await one.fill()
        socket = await one.waiting(websocket_scope("/socket"), [CONNECT])
        one.let_go.set()
        await until(lambda: "/socket" in one.order)
        assert (await call(one.shield, http_scope("/after"), NO_BODY)).status == 200
        assert one.lane.places.inside == 0
        assert not socket.done()
        lasts.set()
        assert (await socket).of("websocket.accept")
        await one.end()

    lasts = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await ok(scope, receive, send)
        if scope["type"] == "websocket":
            await lasts.wait()

    busy(story, app, queue_ms=1000)


def test_a_response_that_has_begun_is_no_longer_in_flight() -> None:
    """A download may take its time."""

    async def story(one: Busy) -> None:
        download = asyncio.create_task(call(one.shield, http_scope("/download"), NO_BODY))
        await until(lambda: "/download" in one.order)
        assert (await call(one.shield, http_scope("/after"), NO_BODY)).status == 200
        assert not download.done()
        lasts.set()
        await download
        await one.end()

    lasts = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        if scope["path"] == "/download":
            await lasts.wait()
        await send(END)

    busy(story, app)


def test_members_go_before_guests_who_came_first() -> None:
    """In the app with one place."""

    async def story(one: Busy) -> list[str]:
        await one.fill()
        tasks = [await one.waiting(http_scope(f"/guest{number}")) for number in range(3)]
        tasks.append(await one.waiting(http_scope("/member", headers=[(b"x-member", b"alice")])))
        one.let_go.set()
        assert [record.status for record in await asyncio.gather(*tasks)] == [200] * 4
        await one.end()
        return one.order

    assert busy(story, queue_ms=1000) == ["/hang", "/member", "/guest0", "/guest1", "/guest2"]


def test_whoever_is_known_to_be_refused_hears_of_its_limit_and_all_others_of_the_overload() -> None:
    """While others wait too long: 429 for whoever has used up its limit, 503 for everybody else, who is not charged."""

    def asking(path: str, peer: str, member: str = "") -> Scope:
        headers = [(b"x-member", member.encode())] if member else []
        return http_scope(path, client=(peer, 1), headers=headers)

    used_up, new = "192.0.2.7", "192.0.2.8"
    scopes = [
        (asking("/", used_up), 429),
        (asking("/other", used_up), 429),
        (asking("/%2e/other", used_up), 429),
        (asking("/", used_up, "alice"), 429),
        (asking("/", new, "alice"), 429),
        (asking("/", new), 503),
        (asking("/", used_up, "bob"), 503),
    ]

    async def statuses(one: Busy) -> list[int]:
        return [(await call(one.shield, scope, NO_BODY)).status for scope, _ in scopes]

    async def story(one: Busy) -> list[int]:
        for scope in (asking("/", used_up), asking("/", used_up, "alice")):
            assert [(await call(one.shield, scope, NO_BODY)).status for _ in range(3)] == [200, 200, 429]
        await one.fill()
        waits = await one.waiting(asking("/", "198.51.100.1"))
        with patch.object(Gatekeeper, "would_refuse", return_value=True):
            heard = await statuses(one) + await statuses(one)
        await one.end()
        assert (await waits).status == 200
        after = [(await call(one.shield, asking("/", new), NO_BODY)).status for _ in range(3)]
        assert after == [200, 200, 429], "nobody was charged for what was shed"
        return heard

    assert busy(story, ip_limit="2/hour", token_limit="2/hour", queue_ms=10_000) == 2 * [status for _, status in scopes]


def test_what_is_exempt_and_what_is_the_operators_never_waits() -> None:
    """While the app is full and others are shed."""

    async def story(one: Busy) -> None:
        await one.fill()
        assert (await call(one.shield, http_scope("/healthz"), NO_BODY)).status == 200
        authorized = [(b"authorization", b"Bearer " + TOKEN.encode())]
        status = await call(one.shield, http_scope("/-/shield/status", headers=authorized), NO_BODY)
        assert status.status == 200
        assert (await call(one.shield, http_scope("/page"), NO_BODY)).status == 503
        await one.end()

    busy(story, admin_token=TOKEN, exempt_paths="/healthz")


def test_a_client_that_has_gone_while_it_waited_never_comes_to_the_app() -> None:
    """The disconnect of a GET is known; nothing is sent any more."""

    async def story(one: Busy) -> None:
        await one.fill()
        task = await one.waiting(http_scope("/gone"), [Step({"type": "http.disconnect"})])
        one.let_go.set()
        assert (await task).sent == []
        assert one.order == ["/hang"]
        await one.end()

    busy(story, queue_ms=1000)


@pytest.mark.parametrize(
    "more",
    [
        {"method": "POST", "headers": [(b"content-length", b"6")]},
        {"method": "POST", "headers": [(b"transfer-encoding", b"chunked")]},
        {"method": "GET", "headers": [(b"content-length", b"6")]},
        {"method": "GET", "http_version": "2"},
    ],
    ids=["length", "chunked", "get with a body", "http/2"],
)
def test_a_body_comes_byte_for_byte_after_a_wait(more: dict[str, Any]) -> None:
    """None of it is read before the app reads it."""

    async def story(one: Busy) -> Record:
        await one.fill()
        task = await one.waiting(http_scope("/echo", **more), body(b"abc", b"", b"def"))
        one.let_go.set()
        record = await task
        await one.end()
        return record

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/hang":
            await ok(scope, receive, send)
            return
        received = [await receive() for _ in range(3)]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"|".join(message["body"] for message in received)})

    record = busy(story, echo, queue_ms=1000)
    assert (record.status, record.body) == (200, b"abc||def")
    assert record.received == ["http.request"] * 3


def test_nobody_waits_for_a_body_over_http_2() -> None:
    """Any request may have one there, announced or not, and hold its place for as long as it sends nothing."""

    async def story() -> None:
        async def receive() -> Message:
            raise AssertionError("nobody looks")

        assert await receive_if_there(http_scope(http_version="2"), receive) is receive

    run(story())


def test_what_was_looked_at_is_received_all_the_same() -> None:
    """The app sees the request that the shield has looked at, and what comes after it."""

    async def story(one: Busy) -> Record:
        await one.fill()
        task = await one.waiting(http_scope("/twice"))
        one.let_go.set()
        record = await task
        await one.end()
        return record

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        first = await receive()
        assert first == {"type": "http.request", "body": b"", "more_body": False}
        await ok(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"

    record = busy(story, app, queue_ms=1000)
    assert (record.status, record.raised) == (200, None)


def test_an_app_that_never_answers_leaves_no_place_when_it_is_cancelled() -> None:
    """Nor one that raises, at once or later, nor one that is no coroutine at all."""

    async def story() -> None:
        one = Busy(ok)
        await one.fill()
        assert one.hanging is not None
        one.hanging.cancel()
        await asyncio.gather(one.hanging, return_exceptions=True)
        assert one.lane.places.inside == 0

        async def raises(scope: Scope, receive: Receive, send: Send) -> None:
            raise LookupError

        def no_coroutine(scope: Scope, receive: Receive, send: Send) -> Any:
            raise LookupError

        for app in (raises, no_coroutine):
            one.shield.app = app
            for _ in range(5):
                assert (await call(one.shield, http_scope(), NO_BODY)).raised == "LookupError()"
                assert one.lane.places.inside == 0

    run(story())


LIVE: dict[str, Any] = {"live_paths": "/live", "capacity": 100}


def test_the_seat_is_given_back_when_the_lane_sheds() -> None:
    """A listener that the app has no time for holds none, not even while it reads the refusal."""

    async def story(one: Busy) -> None:
        await one.fill()
        server, held = Server(http_scope("/live"), NO_BODY), []

        async def send(message: Message) -> None:
            assert one.shield._worker is not None
            held.append(one.shield._worker.entrance.admission.seats.ledger.held().total)
            await server.send(message)

        await one.shield(server.scope, server.receive, send)
        assert (server.record.status, held) == (503, [0, 0])
        await one.end()

    busy(story, **LIVE)


def test_a_listener_that_must_leave_while_it_waits_hears_so_once() -> None:
    """It leaves the lane, its seat is free, and it never came to the app."""

    async def story(one: Busy) -> None:
        await one.fill()
        task = await one.waiting(http_scope("/live"))
        assert one.shield._worker is not None
        ledger = one.shield._worker.entrance.admission.seats.ledger
        (seat,) = ledger
        assert seat.leave is not None
        seat.leave()
        record = await task
        assert record.status == 503
        assert len(record.of("http.response.start")) == 1
        assert (ledger.held().total, one.lane.waiting, one.order) == (0, 0, ["/hang"])
        await one.end()

    busy(story, **LIVE, queue_ms=1000)


def test_a_listener_that_sits_keeps_nothing_of_its_way_in() -> None:
    """No facts, no decision of the gate's and no passage: they would be there for hours, once for each listener."""

    async def story(one: Busy, scopes: list[Scope]) -> None:
        def kept() -> list[int]:
            gc.collect()
            objects = gc.get_objects()
            return [sum(type(each) is kind for each in objects) for kind in (Facts, Passage)]

        before = kept()
        await one.fill()
        tasks = [await one.waiting(scope) for scope in scopes]
        one.let_go.set()
        await until(lambda: len(one.order) == 1 + len(scopes))
        tasks += [asyncio.create_task(call(one.shield, dict(scope), NO_BODY)) for scope in scopes]
        await until(lambda: len(one.order) == 1 + 2 * len(scopes))
        assert one.hanging is not None
        await one.hanging
        await asyncio.sleep(0)  # what was decided in a turn of the event loop is counted at its end
        assert all(now <= then for now, then in zip(kept(), before, strict=True))
        lasts.set()
        await asyncio.gather(*tasks)

    lasts = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] != "/hang":
            await lasts.wait()
        await send({"type": "http.response.body", "body": b""})

    peers = [(f"198.51.100.{number}", 1) for number in range(10)]
    busy(lambda one: story(one, [http_scope("/live", client=peer) for peer in peers]), app, **LIVE, queue_ms=1000)


def test_a_live_stream_that_has_begun_is_no_longer_in_flight() -> None:
    """It may last for hours."""

    async def story(one: Busy) -> None:
        stream = asyncio.create_task(call(one.shield, http_scope("/live"), NO_BODY))
        await until(lambda: "/live" in one.order)
        assert (await call(one.shield, http_scope("/after"), NO_BODY)).status == 200
        assert not stream.done()
        lasts.set()
        await stream
        await one.end()

    lasts = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        if scope["path"] == "/live":
            await lasts.wait()
        await send(END)

    busy(story, app, **LIVE)


def test_a_preflight_goes_through_the_lane_too() -> None:
    """On a live path as well, without a seat; its place is free when it is answered."""

    async def story(one: Busy) -> None:
        headers = [(b"origin", b"https://example.org"), (b"access-control-request-method", b"GET")]
        for path in ("/page", "/live"):
            scope = http_scope(path, "OPTIONS", headers=headers)
            assert (await call(one.shield, scope, NO_BODY)).status == 200
            assert one.lane.places.inside == 0
        await one.fill()
        for path in ("/page", "/live"):
            assert (await call(one.shield, http_scope(path, "OPTIONS", headers=headers), NO_BODY)).status == 503
        await one.end()

    busy(story, **LIVE)


def test_a_shield_inside_another_has_no_lane_of_its_own() -> None:
    """It steps aside: one request takes one place, and with one place there is still an answer."""

    async def story() -> None:
        settings = Settings(redis_url="memory://", max_in_flight=1, queue_ms=1, hold_ms=0)
        shield = ShieldMiddleware(ShieldMiddleware(ok, settings), settings)
        for _ in range(3):
            assert (await call(shield, http_scope(), NO_BODY)).status == 200

    run(story())


def test_two_shields_of_their_own_both_have_a_lane() -> None:
    """A request holds a place in each until its response begins, and gives both back."""

    async def story() -> None:
        values: dict[str, Any] = {"redis_url": "memory://", "max_in_flight": 1, "queue_ms": 1, "hold_ms": 0}
        inner = ShieldMiddleware(ok, Settings(**values, ip_limit="7/minute"))
        outer = ShieldMiddleware(inner, Settings(**values))
        for _ in range(3):
            assert (await call(outer, http_scope(), NO_BODY)).status == 200
        for shield in (inner, outer):
            assert shield._worker is not None
            assert shield._worker.overload is not None
            assert shield._worker.overload.lane.places.inside == 0

    run(story())


def test_the_route_of_a_response() -> None:
    """The endpoint, else two parts of the path, and the status; what nobody found is one, whatever its path."""

    def endpoint() -> None:
        """One of a framework."""

    def route(status: int | None = 200, **more: Any) -> Any:
        return route_of(http_scope(**more), {"type": "http.response.start", "status": status})

    assert route(path="/a/b/c") == route(path="/a/b/d") != route(path="/a/c/d")
    assert route(path="/a") != route(404, path="/a") == route(404, path="/b/c")
    assert route(path="/a", endpoint=endpoint) == route(path="/b", endpoint=endpoint) != route(path="/a")
    assert route(path="/a", endpoint=endpoint) != route(422, path="/a", endpoint=endpoint)
    assert route_of(websocket_scope("/a/b/c"), {"type": "websocket.accept"}) == ("", "a", "b", None)


@pytest.mark.parametrize("path", ["/" + "a" * 1_000_000, "/" * 1_000_000, "/a/" + "b" * 1_000_000, ""])
def test_no_path_makes_a_large_route(path: str) -> None:
    """Routes are kept, so a flood of long paths would fill the memory with them."""
    route: Any = route_of(http_scope(path), START)
    assert sum(len(part) for part in route if isinstance(part, str)) <= LONGEST_ROUTE


def test_a_decision_to_shed_is_no_allowed_one() -> None:
    """What the gate hands to the middleware is one or the other, never both."""

    async def story(one: Busy) -> None:
        await one.fill()
        worker, scope = one.shield._worker, http_scope()
        assert worker is not None
        facts = one.shield._reader.read(scope)
        decision = await worker.gate.decide(facts)
        assert worker.overload is not None
        refused = await worker.overload.passage(facts, decision)
        assert isinstance(refused, Decision)
        assert refused.refused
        await one.end()

    busy(story, queue_ms=1)
