"""CORS: preflights have a bucket of their own, and pages of origins that are named can read a refusal."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doors.asgi.harness import NO_BODY, Headers, Record, Server, body, call, http_scope, run, websocket_scope
from doors.asgi.shields import ok, part, start
from shieldmw import Identity, Settings, ShieldMiddleware
from shieldmw.core.address import Networks, parse_networks
from shieldmw.doors.asgi import preflights
from shieldmw.doors.asgi.dropping import CONNECTIONS, Ends, ends_of

PAGE = "https://page.example"
ORIGIN = (b"origin", PAGE.encode())
ASKS_FOR_PUT = (b"access-control-request-method", b"PUT")
BEARER = (b"authorization", b"Bearer member")
TOKEN = "an admin token, long enough"
RULES = [{"name": "pay", "path": "/pay", "limits": "5/day", "cost": 1, "emergency": "members"}]


def preflight(path: str = "/", *headers: tuple[bytes, bytes], **more: Any) -> Scope:
    """What a browser asks before a PUT of another origin."""
    return http_scope(path, "OPTIONS", headers=[ORIGIN, ASKS_FOR_PUT, *headers], **more)


async def by_header(scope: Scope) -> Identity | None:
    """The host app's own check: a bearer is a member."""
    return Identity("ada") if BEARER in scope["headers"] else None


def statuses(*scopes: Scope, emergency: bool = False, **values: Any) -> list[int]:
    """The status of each answer."""

    async def asking() -> list[int]:
        shield = ShieldMiddleware(ok, Settings(admin_token=TOKEN, **values), authenticate=by_header)
        if emergency:
            await throw_the_switch(shield)
        return [(await call(shield, scope, NO_BODY)).status for scope in scopes]

    return run(asking())


async def throw_the_switch(shield: ShieldMiddleware) -> None:
    """Emergency, by the operator's route."""
    mode = json.dumps({"mode": "emergency", "for_seconds": 60, "reason": "a test"}).encode()
    headers = [(b"authorization", f"Bearer {TOKEN}".encode()), (b"content-type", b"application/json")]
    answer = await call(shield, http_scope("/-/shield/mode", "PUT", headers=headers), body(mode))
    assert answer.status == 200


# --- preflights -----------------------------------------------------------------------------------


def test_preflights_cost_requests_nothing_and_the_other_way_round() -> None:
    """A page that asks before each of its requests has as many requests as any other client."""
    asked = [preflight(), http_scope(method="PUT", headers=[ORIGIN])] * 4
    assert statuses(*asked, ip_limit="3/day") == [200] * 6 + [429] * 2


def test_a_refused_preflight_says_which_limit_it_was() -> None:
    """It is no quota of requests."""

    async def asking() -> Record:
        shield = ShieldMiddleware(ok, Settings(ip_limit="1/day"))
        await call(shield, preflight())
        return await call(shield, preflight())

    record = run(asking())
    assert json.loads(record.body)["violated-policies"] == ["preflight"]
    assert record.value(b"ratelimit-policy") == '"preflight";q=1;w=86400'


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        (http_scope(method="OPTIONS"), "an OPTIONS like any"),
        (http_scope(method="OPTIONS", headers=[ORIGIN]), "it asks for no method"),
        (http_scope(method="OPTIONS", headers=[ASKS_FOR_PUT]), "of no origin"),
        (http_scope(method="GET", headers=[ORIGIN, ASKS_FOR_PUT]), "another method"),
        (http_scope(method="options", headers=[ORIGIN, ASKS_FOR_PUT]), "no browser writes it so"),
        (preflight("/", (b"x-http-method-override", b"DELETE")), "the app may take it for a DELETE"),
        (preflight("/", (b"x_http_method_override", b"DELETE")), "in any spelling"),
    ],
)
def test_what_is_no_preflight_is_charged_like_any_request(scope: Scope, reason: str) -> None:
    """Only what a browser sends by itself has the bucket of its own."""
    assert statuses(http_scope(), scope, ip_limit="1/day") == [200, 429], reason
    assert statuses(http_scope(), preflight(), ip_limit="1/day") == [200, 200]


def test_preflights_of_all_paths_share_one_bucket() -> None:
    """Made-up paths, queries, origins and credentials make no new client."""
    asked = [
        preflight("/a?b"),
        preflight("/pay"),
        preflight("/", BEARER, query_string=b"token=x"),
        http_scope("/", "OPTIONS", headers=[(b"origin", b"https://other.example"), ASKS_FOR_PUT]),
    ]
    assert statuses(*asked, ip_limit="2/day", rules=json.dumps(RULES)) == [200, 200, 429, 429]


def test_a_path_for_members_is_open_to_preflights_in_an_emergency() -> None:
    """A member's preflight shows no credential; refused, the member's request would never come."""
    asked = [preflight("/pay"), http_scope("/pay", "PUT", headers=[ORIGIN, BEARER]), http_scope("/pay", "PUT")]
    values = {"rules": json.dumps(RULES), "ip_limit": "5/day", "emergency_ip_limit": "1/day"}
    assert statuses(*asked, *[preflight("/pay")] * 5, emergency=True, **values) == [200, 200, 503, *[200] * 4, 429]


def test_a_path_that_is_closed_in_an_emergency_is_closed_to_preflights() -> None:
    """An app may do there all that it does for a GET; nobody's request could follow."""
    rules = json.dumps([{"name": "report", "path": "/report", "limits": "4/day", "cost": 2, "emergency": "closed"}])
    assert statuses(preflight("/report"), preflight("/"), emergency=True, rules=rules) == [503, 200]


def test_a_rule_s_limits_and_cost_hold_for_preflights() -> None:
    """As many as requests, and beside them."""
    rules = json.dumps([{"name": "report", "path": "/report", "limits": "4/day", "cost": 2}])
    asked = [preflight("/report"), http_scope("/report", "PUT", headers=[ORIGIN])] * 3
    assert statuses(*asked, rules=rules) == [200] * 4 + [429] * 2
    free = json.dumps([{"name": "report", "path": "/report", "cost": 2}])
    assert statuses(*[preflight("/report")] * 3, preflight(), rules=free, ip_limit="5/day") == [200, 200, 429, 200]


def test_a_denied_address_has_no_preflights_either() -> None:
    """The deny list is for all that comes from there."""
    assert statuses(preflight(), deny_ips=Networks(parse_networks("203.0.113.7"))) == [429]


def test_a_preflight_holds_no_seat_and_gets_no_stream() -> None:
    """On a live path it passes where guests have no seat; an app that streams to it all the same is cut short."""
    ended = asyncio.Event()

    async def streams(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
        except OSError:
            ended.set()

    async def asking() -> tuple[Record, Record]:
        settings = Settings(live_paths="/live", capacity=1, admin_token=TOKEN)
        shield = ShieldMiddleware(streams, settings)
        await throw_the_switch(shield)
        guest = await call(shield, http_scope("/live"), NO_BODY)
        return guest, await call(shield, preflight("/live"), NO_BODY)

    guest, asked = run(asking())
    assert (guest.status, asked.status) == (503, 200)
    assert asked.body == b"data: x\n\n"
    assert not asked.sent[-1]["more_body"]
    assert len(asked.sent) == 2
    assert ended.is_set()


def test_an_answer_to_a_preflight_on_a_live_path_may_end_with_an_empty_part() -> None:
    """As Starlette's ``BaseHTTPMiddleware`` sends every answer: the app ends without an error."""

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send({"type": "http.response.body", "body": b"ok", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    record = run(to_live(answers))
    assert (record.status, record.body, record.raised) == (200, b"ok", None)
    assert len(record.sent) == 2


async def begins(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes it for a GET: sends the head of a stream at once, and events when there are some."""
    await send(start())
    await asyncio.Event().wait()


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """Waits for something before it answers."""
    await asyncio.Event().wait()


async def disobedient(scope: Scope, receive: Receive, send: Send) -> None:
    """Makes an error of its own of its cancellation."""
    try:
        await begins(scope, receive, send)
    except asyncio.CancelledError:
        raise RuntimeError("of the app's own") from None


async def goes_on(scope: Scope, receive: Receive, send: Send) -> None:
    """Returns as if nothing had happened."""
    with suppress(asyncio.CancelledError):
        await begins(scope, receive, send)


async def ended(scope: Scope, receive: Receive, send: Send) -> None:
    """Has answered, and does not end."""
    await send(start())
    await send(part(b"ok"))
    await asyncio.Event().wait()


async def to_live(app: ASGIApp, send: Send | None = None) -> Record:
    """What becomes of a preflight on a live path."""
    shield = ShieldMiddleware(app, Settings(live_paths="/live"))
    if send is None:
        return await call(shield, preflight("/live"), NO_BODY)
    await shield(preflight("/live"), Server(preflight("/live")).receive, send)
    return Record()


@pytest.mark.parametrize(("app", "status"), [(begins, 200), (silent, 504), (disobedient, 200), (goes_on, 200)])
def test_the_answer_to_a_preflight_on_a_live_path_has_a_deadline(
    app: ASGIApp, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The app is cancelled, and the answer ended in its place so that the connection can be used again."""
    monkeypatch.setattr(preflights, "ANSWER_S", 0)
    record = run(to_live(app))
    assert (record.status, record.body, record.raised) == (status, b"", None)
    assert [message["type"] for message in record.sent] == ["http.response.start", "http.response.body"]
    assert not record.sent[-1]["more_body"]


def test_an_app_that_does_not_end_after_its_answer_is_cancelled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent stays as it is."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)  # at once, so that the time is over only after it

    monkeypatch.setattr(preflights, "ANSWER_S", 0)
    run(to_live(ended, send))
    assert [message.get("body") for message in sent] == [None, b"ok"]


def test_an_app_s_own_time_out_is_its_own() -> None:
    """Only the one that the shield has set is not told to the server."""

    async def times_out(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutError("of the app's own")

    assert run(to_live(times_out)).raised == """TimeoutError("of the app's own")"""


def test_somebody_else_s_cancellation_is_obeyed() -> None:
    """A server that ends a request is not held up."""

    async def cancelled() -> None:
        begun = asyncio.Event()

        async def send(message: Message) -> None:
            begun.set()

        task = asyncio.create_task(to_live(begins, send))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancelled())


@pytest.mark.parametrize("fails_at", ["the app's piece", "the end"])
def test_a_connection_on_which_the_answer_cannot_be_ended_is_dropped(
    fails_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody reads, or the app has said how long its answer is."""
    dropped: list[int] = []

    async def find(ends: Ends) -> int | None:
        return 7 if ends == ends_of(preflight()) else None

    async def drop(number: int) -> None:
        dropped.append(number)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            if fails_at == "the end":
                raise RuntimeError("shorter than Content-Length")
            await asyncio.Event().wait()

    monkeypatch.setattr(preflights, "ANSWER_S", 0)
    monkeypatch.setattr(CONNECTIONS, "find", find)
    monkeypatch.setattr(CONNECTIONS, "drop", drop)
    run(to_live(begins if fails_at == "the end" else ended, send))
    assert dropped == [7]


# --- refusals that a page can read ----------------------------------------------------------------

EXPOSED = "Retry-After, RateLimit, RateLimit-Policy, Shield-Ticket"
GRANTED = {"origin": PAGE, "credentials": "true"}


def cors(record: Record) -> dict[str, str]:
    """What the answer says of CORS, by the end of its names; each name at most once."""
    found = [(name.decode(), value.decode()) for name, value in record.headers if name.startswith(b"access-control-")]
    assert len(dict(found)) == len(found)
    said = {name.removeprefix("access-control-").removeprefix("allow-"): value for name, value in found}
    if said:
        assert said.pop("expose-headers") == EXPOSED
    return said


@pytest.mark.parametrize(
    ("origins", "headers", "granted", "vary", "reason"),
    [
        ("", [ORIGIN], {}, False, "no origins are named: nothing is said"),
        (PAGE, [ORIGIN], GRANTED, True, "this one"),
        (f"http://localhost:5173,{PAGE}", [ORIGIN], GRANTED, True, "one of several"),
        (PAGE, [(b"origin", b"https://page.example.evil")], {}, True, "another"),
        (PAGE, [(b"origin", b"https://page.example:8443")], {}, True, "another port"),
        (PAGE, [(b"origin", b"null")], {}, True, "a sandboxed page"),
        (PAGE, [], {}, True, "no page at all, but what is kept of it must not be shown to one"),
        ("*", [(b"origin", b"https://any.example")], {"origin": "*"}, False, "all of them, without cookies"),
        ("*", [], {"origin": "*"}, False, "the same for everybody"),
    ],
)
def test_a_refusal_says_which_page_may_read_it(
    origins: str, headers: Headers, granted: dict[str, str], vary: bool, reason: str
) -> None:
    """To pages of the origins that are named, and the headers that tell of the wait with it."""

    async def asking() -> list[Record]:
        shield = ShieldMiddleware(
            ok, Settings.from_environ({"SHIELD_CORS_ORIGINS": origins, "SHIELD_IP_LIMIT": "1/day"})
        )
        return [await call(shield, http_scope(headers=headers), NO_BODY) for _ in range(3)]

    admitted, *refused = run(asking())
    assert cors(admitted) == {}, "what the app answers is the app's"
    for record in refused:
        assert record.status == 429
        assert cors(record) == granted, reason
        assert record.values(b"vary") == ([b"Origin"] if vary else []), reason


def test_every_kind_of_refusal_can_be_read() -> None:
    """A page for a browser, no seat, the deny list and a handshake."""
    values: dict[str, Any] = {"cors_origins": PAGE, "live_paths": "/live", "capacity": 1, "admin_token": TOKEN}

    async def asking() -> list[Record]:
        shield = ShieldMiddleware(ok, Settings(**values, ip_limit="off"))
        await throw_the_switch(shield)
        denied = ShieldMiddleware(ok, Settings(**values, deny_ips=Networks(parse_networks("203.0.113.7"))))
        html = (b"accept", b"text/html")
        offered: dict[str, Any] = {"websocket.http.response": {}}
        return [
            await call(shield, http_scope("/live", headers=[ORIGIN])),
            await call(shield, http_scope("/live", headers=[ORIGIN, html])),
            await call(shield, websocket_scope("/live", headers=[ORIGIN], extensions=offered)),
            await call(denied, http_scope("/", headers=[ORIGIN])),
        ]

    records = run(asking())
    assert [record.status for record in records] == [503, 503, 503, 429]
    assert [cors(record) for record in records] == [GRANTED] * 4


def test_a_refused_preflight_permits_nothing() -> None:
    """Whatever the app permits is the app's to say: the refusal grants no method and no header."""

    async def asking() -> Record:
        shield = ShieldMiddleware(ok, Settings(cors_origins=PAGE, ip_limit="1/day"))
        await call(shield, preflight())
        return await call(shield, preflight())

    record = run(asking())
    assert record.status == 429
    assert cors(record) == GRANTED


@pytest.mark.parametrize("outermost", ["the shield", "CORSMiddleware"])
def test_the_app_s_own_cors_can_stand_on_either_side(outermost: str) -> None:
    """One header of each name: the shield adds none to what the app answers, CORSMiddleware replaces the shield's."""
    shield = Middleware(ShieldMiddleware, settings=Settings(cors_origins=PAGE, ip_limit="1/day"))
    own = Middleware(CORSMiddleware, allow_origins=[PAGE], allow_credentials=True, expose_headers=EXPOSED.split(", "))
    layers = [shield, own] if outermost == "the shield" else [own, shield]
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("ok"))], middleware=layers)

    async def asking() -> list[Record]:
        return [await call(app, http_scope(headers=[ORIGIN]), NO_BODY) for _ in range(2)]

    records = run(asking())
    assert [record.status for record in records] == [200, 429]
    assert [cors(record) for record in records] == [GRANTED] * 2
    assert all("origin" in record.value(b"vary").lower() for record in records)
