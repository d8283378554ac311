"""Polled paths at the ASGI door: a lease is given, renewed and refused, and every other request is as it was."""

from __future__ import annotations

import asyncio
import json
import time
from hashlib import sha256
from http.cookies import SimpleCookie
from pathlib import Path
from socket import inet_aton
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from doors.asgi.harness import CONNECT, NO_BODY, PEER, Headers, Record, Server, call, http_scope, run, websocket_scope
from doors.asgi.shields import ok
from doors.asgi.test_costs import least_ns
from shieldmw import Settings, ShieldMiddleware
from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Decision
from shieldmw.core.tickets import TICKET_S, Signer, Ticket

SECRET = "a secret of at least 32 characters"
SIGNER = Signer(SECRET.encode(), "shield")
CLIENT = SIGNER.client_digest(b"ip:" + inet_aton(PEER[0]))
PLAYLIST = "/hls/live.m3u8"
TOKEN = "an admin token, long enough"

# What a poll inside its lease may cost, as a multiple of what it takes to verify its ticket.
MOST_TIMES_VERIFIED = 3


def shield(capacity: int = 2, **settings: Any) -> ShieldMiddleware:
    """A shield of few seats around a playlist."""
    values: dict[str, Any] = {"polled_paths": "/hls/*", "redis_url": "memory://", "secret": SECRET, **settings}
    return ShieldMiddleware(ok, Settings(capacity=capacity, **values))


def leased(left_s: float, id_: str = "0011223344556677", client: str = CLIENT) -> str:
    """A ticket of the client of the harness whose lease runs for so long, or has ended."""
    now_s = time.time()
    ticket = Ticket(id_, client, ListenerClass.GUEST, int(now_s) + TICKET_S, int(now_s + left_s))
    return SIGNER.sign_ticket(ticket)


def cookie(ticket: str) -> Headers:
    """Shown as a browser does."""
    return [(b"cookie", f"theme=dark; shield_ticket={ticket}".encode())]


def given(record: Record) -> Ticket | None:
    """The ticket that an answer gives, the same in both headers."""
    if not record.values(b"set-cookie"):
        assert not record.values(b"shield-ticket")
        return None
    text = SimpleCookie(record.value(b"set-cookie"))["shield_ticket"].value
    assert text == record.value(b"shield-ticket")
    return SIGNER.read_ticket(text, time.time())


def polled(app: ShieldMiddleware, headers: Headers | None = None, **more: Any) -> Record:
    """The answer to one poll."""
    return run(call(app, http_scope(more.pop("path", PLAYLIST), headers=headers, **more), NO_BODY))


def test_a_new_client_gets_a_lease() -> None:
    """In a cookie and in a header, since players need not keep cookies; the app's answer is as it was."""
    record = polled(shield())
    ticket = given(record)
    assert (record.status, record.body) == (200, b"ok")
    assert ticket is not None
    assert ticket.client == CLIENT
    assert 29 <= ticket.leased_until_s - time.time() <= 31


@pytest.mark.parametrize(
    ("shown_in", "more"),
    [
        ("cookie", {}),
        ("header", {}),
        ("query", {}),
        ("cookie", {"method": "HEAD"}),
        ("range", {}),
    ],
)
def test_a_poll_inside_its_lease_passes_and_changes_nothing(shown_in: str, more: dict[str, Any]) -> None:
    """However the ticket is shown, even where there is no seat at all, and whatever else is asked."""
    full, ticket = shield(1), leased(25)
    headers: Headers = [(b"shield-ticket", ticket.encode())] if shown_in == "header" else cookie(ticket)
    if shown_in == "query":
        headers, more = [], {"query_string": f"shield_ticket={ticket}".encode()}
    if shown_in == "range":
        headers.append((b"range", b"bytes=0-1"))

    async def story() -> Record:
        await call(full, http_scope(PLAYLIST, client=("203.0.113.99", 1)), NO_BODY)
        return await call(full, http_scope(PLAYLIST, headers=headers, **more), NO_BODY)

    record = run(story())
    assert record.status == 200
    assert [name for name, _ in record.headers] == [b"content-length", b"ratelimit-policy", b"ratelimit"]


def test_a_websocket_holds_a_seat_as_on_a_live_path() -> None:
    """It is held, so it is no poll: for as long as it is open, whatever lease its client has."""
    one = ShieldMiddleware(
        chat, Settings(polled_paths="/hls/*", redis_url="memory://", secret=SECRET, capacity=1, streams_per_address=1)
    )

    async def story() -> list[str]:
        server = Server(websocket_scope("/hls/chat", headers=cookie(leased(25))), [CONNECT])
        open_one = asyncio.create_task(one(server.scope, server.receive, server.send))
        await server.until_sent(1)
        assert one._worker is not None
        ledger = one._worker.entrance.admission.seats.ledger
        assert (ledger.streams().guests, ledger.leases.held().guests) == (1, 0)
        other = await call(one, websocket_scope("/hls/chat", client=("203.0.113.99", 1)), [CONNECT])
        polls = await call(one, http_scope(PLAYLIST, client=("203.0.113.99", 1)), NO_BODY)
        assert polls.status == 503
        open_one.cancel()
        await asyncio.gather(open_one, return_exceptions=True)
        assert ledger.streams().guests == 0
        return [message["type"] for message in (*server.record.sent, *other.sent)]

    assert run(story()) == ["websocket.accept", "websocket.close"]


async def chat(scope: Scope, receive: Receive, send: Send) -> None:
    """Accepts a WebSocket and keeps it open."""
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


def test_a_poll_in_the_last_third_of_its_lease_renews_it() -> None:
    """The ticket stays the same one, with a lease that runs from now on."""
    ticket = given(polled(shield(), cookie(leased(8))))
    assert ticket is not None
    assert ticket.id == "0011223344556677"
    assert 29 <= ticket.leased_until_s - time.time() <= 31


def test_a_ticket_of_another_client_is_worth_nothing() -> None:
    """Shown by anybody else it is as none."""
    ticket = given(polled(shield(), cookie(leased(25, client=SIGNER.client_digest(b"token:alice")))))
    assert ticket is not None
    assert ticket.id != "0011223344556677"


def test_without_a_seat_a_poll_is_refused_and_told_why() -> None:
    """503 with a Retry-After that players obey, and the problem document; the app is not asked."""
    app = shield(1, recording_url="https://example.org/recording", retry_after=60)

    async def story() -> Record:
        await call(app, http_scope(PLAYLIST, client=("203.0.113.99", 1)), NO_BODY)
        for _ in range(2):
            record = await call(app, http_scope(PLAYLIST), NO_BODY)
        return record

    record = run(story())
    problem = json.loads(record.body)
    assert record.status == 503
    assert 60 <= int(record.value(b"retry-after")) <= 72
    assert problem["type"].endswith("#temporary-reduced-capacity")
    assert problem["recording_url"] == "https://example.org/recording"
    assert record.value(b"cache-control") == "no-store"
    assert given(record) is None


def test_other_paths_and_preflights_hold_no_seat() -> None:
    """A preflight carries no credential, and a path that is not polled is answered as ever."""
    app = shield(1)
    preflight = [(b"origin", b"https://page.example"), (b"access-control-request-method", b"GET")]
    for record in (polled(app, path="/other"), polled(app, preflight, method="OPTIONS")):
        assert record.status == 200
        assert given(record) is None
    assert given(polled(app)) is not None, "the seat is still free"


def test_a_dry_run_refuses_nobody() -> None:
    """Where there is no seat the poll passes all the same."""
    app = shield(1, dry_run=True)

    async def story() -> list[int]:
        records = [await call(app, http_scope(PLAYLIST, client=(f"203.0.113.{n}", 1)), NO_BODY) for n in range(3)]
        return [record.status for record in records]

    assert run(story()) == [200, 200, 200]


def test_limits_and_the_deny_list_hold_inside_a_lease() -> None:
    """A lease is a seat, and no way around a limit."""
    polls = cookie(leased(25))
    limited = shield(ip_limit="2/hour")
    assert [polled(limited, polls).status for _ in range(3)] == [200, 200, 429]
    assert polled(shield(deny_ips=f"{PEER[0]}/32"), polls).status == 429


def test_a_lease_is_worth_nothing_once_its_key_is_revoked(tmp_path: Path) -> None:
    """Each poll is decided by what it shows: its client is a guest now, and asks for a seat as one."""
    keys = tmp_path / "keys"
    keys.write_text(f"{sha256(b'k-alice').hexdigest()} alice\n")
    key: Headers = [(b"authorization", b"Bearer k-alice")]
    text = polled(shield(api_keys_file=keys), key).value(b"shield-ticket")
    member = SIGNER.read_ticket(text, time.time())
    assert member is not None
    assert member.listener_class is ListenerClass.MEMBER
    keys.write_text(f"{sha256(b'k-bob').hexdigest()} bob\n")
    guest = given(polled(shield(api_keys_file=keys), [*key, *cookie(text)]))
    assert guest is not None
    assert guest.listener_class is ListenerClass.GUEST


def test_an_emergency_closes_a_polled_path_as_its_rule_says() -> None:
    """A path for members is closed to guests, whatever lease they have; and without seats for guests a lease ends."""
    rules = '[{"name": "hls", "path": "/hls/*", "polled": true, "lease_seconds": 6, "emergency": "members"}]'
    for more in ({"rules": rules, "polled_paths": ""}, {}):
        app = shield(100, admin_token=TOKEN, **more)
        change = json.dumps({"mode": "emergency", "for_seconds": 60, "guest_share": 0}).encode()
        headers = [(b"authorization", f"Bearer {TOKEN}".encode()), (b"content-type", b"application/json")]

        async def story(app: ShieldMiddleware = app, change: bytes = change, headers: Headers = headers) -> list[int]:
            first = await call(app, http_scope(PLAYLIST), NO_BODY)
            body = [*NO_BODY]
            body[0] = type(body[0])({"type": "http.request", "body": change, "more_body": False})
            put = await call(app, http_scope("/-/shield/mode", "PUT", headers=headers), body)
            assert put.status == 200, put.body
            await asyncio.sleep(0)
            return [first.status, (await call(app, http_scope(PLAYLIST, client=("203.0.113.9", 1)), NO_BODY)).status]

        assert run(story()) == [200, 503]


def test_the_ticket_of_a_lease_is_kept_by_a_stream() -> None:
    """A page with a chat and a player has one ticket: the stream's new one still holds the player's lease."""

    async def story() -> Ticket | None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await ok(scope, receive, send)

        values = Settings(live_paths="/chat", polled_paths="/hls/*", redis_url="memory://", secret=SECRET, capacity=9)
        record = await call(ShieldMiddleware(app, values), http_scope("/chat", headers=cookie(leased(25))), NO_BODY)
        text = SimpleCookie(record.value(b"set-cookie"))["shield_ticket"].value
        return SIGNER.read_ticket(text, time.time())

    ticket = run(story())
    assert ticket is not None
    assert ticket.leased_until_s - time.time() > 20


def test_the_ticket_of_a_stream_is_worth_one_seat_on_a_polled_path() -> None:
    """However often it is shown there: a player may keep the one that it began with."""

    async def story() -> list[int]:
        app = shield(3, live_paths="/chat", ip_limit="1000/minute")
        record = await call(app, http_scope("/chat"), NO_BODY)
        text = SimpleCookie(record.value(b"set-cookie"))["shield_ticket"].value
        polls = [http_scope(PLAYLIST, headers=cookie(text))] * 20
        polls += [http_scope(PLAYLIST, client=(f"203.0.113.{number}", 1)) for number in (1, 2)]
        return [(await call(app, scope, NO_BODY)).status for scope in polls]

    assert run(story()) == [200] * 22


def test_a_poll_inside_its_lease_costs_little_more_than_verifying_its_ticket() -> None:
    """The signature, and whose it is."""
    text, now_s = leased(28), time.time()

    async def story() -> int:
        app = shield()
        await call(app, http_scope(PLAYLIST, client=("203.0.113.99", 1)), NO_BODY)
        worker = app._worker
        assert worker is not None
        facts = app._reader.read(http_scope(PLAYLIST, headers=cookie(text)))
        decision = worker.gate.decide_now(facts)
        assert isinstance(decision, Decision)
        admission = worker.entrance.admission

        def polls() -> None:
            for _ in range(1000):
                admission._last_shown = ("", None, None, None)
                assert worker.polls.enter(facts, decision)[1] is None

        return least_ns(30, polls)

    def verifies() -> None:
        for _ in range(1000):
            assert SIGNER.read_ticket(text, now_s) is not None

    assert run(story()) <= MOST_TIMES_VERIFIED * least_ns(30, verifies)
