"""Questions are decided by the gate like requests, and answered in the dialect of the proxy that asked."""

from __future__ import annotations

import asyncio
import json
import time
from socket import inet_aton
from typing import Any
from unittest.mock import patch

import pytest
from starlette.types import Receive, Scope, Send

from doors.asgi.harness import NO_BODY, Headers, Record, body, call, http_scope, run, websocket_scope
from doors.asgi.shields import ok
from doors.asgi.test_overload_answers import Busy
from doors.authorize.proxies import ALL, CLIENT, PROXY, ROUTE, Seen, ask, question, shield, true_status
from shieldmw import Settings, ShieldMiddleware
from shieldmw.core.address import Networks, parse_networks
from shieldmw.core.client import ListenerClass
from shieldmw.core.tickets import TICKET_S, Signer, Ticket
from shieldmw.gate.overload.gatekeeper import Gatekeeper

ADMIN = "an admin token, long enough"
SECRET = "a secret of at least 32 characters"
SIGNER = Signer(SECRET.encode(), "shield")
MEMBER: Headers = [(b"x-member", b"alice")]


def problem(record: Record) -> dict[str, Any]:
    """The problem document of a refusal, wherever it is."""
    text = record.value(b"shield-problem") if record.values(b"shield-problem") else record.body.decode()
    found: dict[str, Any] = json.loads(text)
    return found


# --- allowed and refused ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_what_is_allowed(name: str) -> None:
    """200 without a body, and the two RateLimit headers."""
    record = run(ask(shield(ip_limit="5/minute"), question(name)))
    assert (record.status, record.body, record.value(b"content-length")) == (200, b"", "0")
    assert record.value(b"ratelimit").startswith('"ip";r=4;t=')
    assert record.value(b"ratelimit-policy") == '"ip";q=5;w=60'


@pytest.mark.parametrize("name", ALL)
def test_what_a_limit_refuses(name: str) -> None:
    """The client's own limit, with the wait and the problem document; other clients are not concerned."""

    async def story() -> None:
        app = shield(ip_limit="2/hour")
        assert [(await ask(app, question(name))).status for _ in range(2)] == [200, 200]
        record = await ask(app, question(name))
        assert true_status(record) == 429
        assert record.status == (403 if name == "nginx" else 429)
        assert 1790 <= int(record.value(b"retry-after")) <= 2170
        assert problem(record)["violated-policies"] == ["ip"]
        assert int(record.value(b"content-length")) == len(record.body)
        assert record.value(b"cache-control") == "no-store"
        assert record.value(b"ratelimit").startswith('"ip";r=0;t=')
        assert (await ask(app, question(name, address="203.0.113.8"))).status == 200

    run(story())


@pytest.mark.parametrize(("name", "status"), [("nginx", 403), ("envoy", 429), ("caddy", 503)])
def test_what_is_closed_for_now(name: str, status: int) -> None:
    """A 503, which nginx and Envoy would take for a failure of the shield."""
    rules = json.dumps([{"name": "closed", "path": "/x", "emergency": "members"}])

    async def story() -> None:
        app = shield(Seen(), rules=rules, admin_token=ADMIN)
        headers: Headers = [
            (b"authorization", f"Bearer {ADMIN}".encode()),
            (b"content-type", b"application/json"),
        ]
        flip = http_scope("/-/shield/mode", "PUT", headers=headers)
        assert (await call(app, flip, body(b'{"mode": "emergency", "reason": "a test"}'))).status == 200
        guest, member = await ask(app, question(name, "/x")), await ask(app, question(name, "/x", headers=MEMBER))
        assert (guest.status, true_status(guest), problem(guest)["status"]) == (status, 503, 503)
        assert int(guest.value(b"retry-after")) > 0
        assert member.status == 200

    run(story())


def test_a_page_where_the_proxy_passes_it_on() -> None:
    """nginx can only pass on a header, so that is always the document."""

    async def story() -> None:
        for name in ALL:
            app = shield(ip_limit="1/hour")
            scope = question(name, headers=[(b"accept", b"text/html")])
            await ask(app, scope)
            record = await ask(app, scope)
            if name == "nginx":
                assert problem(record)["status"] == 429
            else:
                assert record.value(b"content-type").startswith("text/html")

    run(story())


def test_a_head_request() -> None:
    """The answer to a GET about it has a body, since it has the length of one."""

    async def story() -> None:
        app = shield(ip_limit="1/hour")
        await ask(app, question("caddy"))
        record = await ask(app, question("caddy", method="HEAD"))
        assert len(record.body) == int(record.value(b"content-length")) > 0
        record = await ask(app, question("envoy", method="HEAD"))
        assert (record.body, record.status) == (b"", 429)

    run(story())


def test_a_dry_run_refuses_nothing() -> None:
    """And shows nothing."""

    async def story() -> None:
        app = shield(ip_limit="1/hour", dry_run=True)
        records = [await ask(app, question("nginx")) for _ in range(3)]
        assert [(record.status, record.values(b"ratelimit")) for record in records] == [(200, [])] * 3

    run(story())


# --- who may ask --------------------------------------------------------------------------------


def test_strangers(caplog: pytest.LogCaptureFixture) -> None:
    """All are told the same, charged nothing, and are one line in the log."""

    async def story() -> None:
        app = shield(ip_limit="1/hour", admin_token=ADMIN)
        token = [(b"authorization", f"Bearer {ADMIN}".encode())]
        asked = [question(name, peer=CLIENT, headers=headers) for name in ALL for headers in ([], token)]
        asked.append(question("nginx", peer="nonsense"))
        asked.append(question("nginx", peer=None))
        records = [await ask(app, scope) for scope in asked]
        assert {(record.status, record.body) for record in records} == {(403, records[0].body)}
        assert "SHIELD_TRUSTED_PROXIES" in problem(records[0])["detail"]
        assert (await ask(app, question("nginx"))).status == 200, "the one unit is still there"

    run(story())
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert line.startswith(f"{ROUTE}: untrusted: 1; the last from {CLIENT}, which is not answered")


def test_without_trusted_proxies_nobody_may_ask() -> None:
    """Not even on loopback."""

    async def story() -> None:
        app = ShieldMiddleware(ok, Settings(redis_url="memory://"))
        assert (await ask(app, question("nginx", peer="127.0.0.1"))).status == 403

    run(story())


def test_a_unix_socket() -> None:
    """If it is trusted."""
    assert run(ask(shield(trusted_proxies=Networks(unix=True)), question("nginx", peer=None))).status == 200


def test_beside_the_operators_routes() -> None:
    """No token is needed, none opens the door, and those of clients lock nobody out."""

    async def story() -> None:
        app = shield(ip_limit="off", admin_token=ADMIN)
        wrong: Headers = [(b"authorization", b"Bearer a wrong token of some length")]
        records = [await ask(app, question("nginx", "/-/shield/status", headers=wrong)) for _ in range(100)]
        assert {record.status for record in records} == {200}
        status = http_scope("/-/shield/status", headers=[(b"authorization", f"Bearer {ADMIN}".encode())])
        status["client"] = (PROXY, 1)
        assert (await call(app, status, NO_BODY)).status == 200

    run(story())


def test_another_admin_path() -> None:
    """SHIELD_ADMIN_PATH moves the questions, too."""

    async def story() -> None:
        app = shield(admin_path="/ops")
        assert (await ask(app, question("envoy", "/x", route="/ops/authorize"))).status == 200
        record = await call(app, question("envoy", "/x"), NO_BODY)
        assert record.raised is not None, "it is the app's"

    run(story())


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("/-/shield/authorizes/nginx", None),
        ("/x/-/shield/authorize/nginx", None),
        ("/-/shield//authorize/nginx", None),
        ("/-/shield/authorize/nginx", "/-/shield/%61uthorize/nginx"),
        ("/-/shield/authorize/nginx", "/-/shield/authorize%2fnginx"),
    ],
)
def test_what_is_no_question(path: str, raw: str | None) -> None:
    """Goes to the app."""
    app = ShieldMiddleware(ok, Settings(redis_url="memory://"))
    record = run(call(app, http_scope(path, raw_path=(raw or path).encode()), NO_BODY))
    assert (record.status, record.body) == (200, b"ok")


def test_a_websocket_is_no_question() -> None:
    """A proxy that passes on the client's Upgrade is refused."""
    record = run(call(shield(), websocket_scope(f"{ROUTE}/caddy", client=(PROXY, 1))))
    assert [message["type"] for message in record.sent] == ["websocket.close"]


# --- seats, tickets and the lane ----------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_live_path_holds_a_lease_seat(name: str) -> None:
    """The question ends before the stream begins: its client gets a ticket with a lease, in one cookie and one header,
    which it shows when it comes back; without a seat it is refused."""

    async def story() -> None:
        app = shield(live_paths="/live", capacity=1, secret=SECRET)
        first = await ask(app, question(name, "/live", scheme="https"))
        (cookie,) = first.values(b"set-cookie")
        assert cookie.endswith(b"; Secure")
        ticket = first.value(b"shield-ticket")
        held = SIGNER.read_ticket(ticket, time.time())
        assert held is not None
        assert 29 <= held.leased_until_s - time.time() <= 31
        shown: Headers = [(b"cookie", f"shield_ticket={ticket}".encode())]
        assert (await ask(app, question(name, "/live", headers=shown))).status == 200
        refused = await ask(app, question(name, "/live", address="203.0.113.8"))
        assert true_status(refused) == 503
        assert int(refused.value(b"retry-after")) > 0

    run(story())


def test_a_copied_ticket_of_a_live_path_is_renewed_twice() -> None:
    """As on polled paths: the second time for an answer that got lost."""
    client, now_s = SIGNER.client_digest(b"ip:" + inet_aton(CLIENT)), int(time.time())
    ending = Ticket("0011223344556677", client, ListenerClass.GUEST, now_s + TICKET_S, now_s + 8)
    shown: Headers = [(b"shield-ticket", SIGNER.sign_ticket(ending).encode())]

    async def story() -> None:
        app = shield(live_paths="/live", capacity=1, secret=SECRET)
        records = [await ask(app, question("nginx", "/live", headers=shown)) for _ in range(3)]
        assert [(record.status, len(record.values(b"set-cookie"))) for record in records] == [(200, 1)] * 2 + [(200, 0)]

    run(story())


def test_a_preflight_of_a_live_path_holds_none() -> None:
    """Nor does it need one."""
    headers: Headers = [(b"origin", b"https://x.example"), (b"access-control-request-method", b"GET")]
    record = run(ask(shield(live_paths="/live", capacity=1), question("nginx", "/live", "OPTIONS", headers=headers)))
    assert (record.status, record.values(b"set-cookie")) == (200, [])


def test_a_ticket_is_renewed_on_other_paths() -> None:
    """As it is without a proxy: while a stream is open under it."""
    client = SIGNER.client_digest(b"ip:" + inet_aton(CLIENT))
    signed = SIGNER.sign_ticket(Ticket("0011223344556677", client, ListenerClass.GUEST, int(time.time()) + 600))
    shown: Headers = [(b"shield-ticket", signed.encode())]

    async def story() -> None:
        begun = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            begun.set()
            await asyncio.Event().wait()

        proxies = Networks(parse_networks(PROXY))
        settings = Settings(live_paths="/live", redis_url="memory://", secret=SECRET, trusted_proxies=proxies)
        shielded = ShieldMiddleware(app, settings)
        stream = asyncio.create_task(call(shielded, http_scope("/live", headers=shown, client=(CLIENT, 1))))
        await begun.wait()
        record = await ask(shielded, question("nginx", headers=shown))
        ticket = SIGNER.read_ticket(record.value(b"shield-ticket"), time.time())
        assert ticket is not None
        assert ticket.until_s > time.time() + TICKET_S - 60
        assert record.value(b"shield-ticket") in record.value(b"set-cookie")
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)

    run(story())


def test_the_place_in_the_waiting_room() -> None:
    """Is in the one cookie of the refusal."""

    async def story() -> None:
        app = shield(Seen(), live_paths="/live", capacity=1, secret=SECRET)
        await ask(app, question("nginx", "/live", headers=[(b"x-member", b"bob")]))
        refused = await ask(app, question("nginx", "/live", headers=MEMBER))
        while "ticket" not in problem(refused):  # the numbers are on their way
            refused = await ask(app, question("nginx", "/live", headers=MEMBER))
        assert true_status(refused) == 503
        assert problem(refused)["ticket"] in refused.value(b"set-cookie")

    run(story())


def test_the_lane_does_not_shed_questions() -> None:
    """They do not enter the app: while it is full and others wait, they are answered at once."""

    async def story() -> None:
        busy = Busy(trusted_proxies=Networks(parse_networks(PROXY)), queue_ms=10_000)
        await busy.fill()
        waiting = [await busy.waiting(http_scope()) for _ in range(3)]
        assert busy.shield._worker is not None
        assert busy.lane.waiting == 3
        with patch.object(Gatekeeper, "would_refuse", return_value=True):
            assert (await call(busy.shield, http_scope(), NO_BODY)).status == 503, "what enters the app is shed"
            record = await ask(busy.shield, question("nginx"))
        assert (record.status, busy.lane.waiting) == (200, 3)
        await busy.end()
        assert [(await task).status for task in waiting] == [200] * 3

    run(story())
