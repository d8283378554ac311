"""Every request is counted once, by what became of it in the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from doors.asgi.harness import NO_BODY, Step, body, call, http_scope, run, websocket_scope
from doors.asgi.shields import EVERYONE, ok
from doors.asgi.test_overload_answers import Busy, busy, somebody, until
from doors.asgi.test_overload_uploads import PIECES
from doors.authorize.proxies import ask, question
from doors.authorize.proxies import shield as shield_of_proxies
from shieldmw import Settings, ShieldMiddleware
from shieldmw.core.concurrency import Intake
from shieldmw.core.lane import Rank
from shieldmw.core.mode import Mode, ModeChange
from telemetry.metered import Decisions, decisions

MEMBER = [(b"x-member", b"alice")]
LIVE: dict[str, Any] = {"live_paths": "/live"}
GUEST_IN: tuple[str, str, str] = ("allowed", "within_limits", "guest")
MEMBER_IN: tuple[str, str, str] = ("allowed", "within_limits", "member")


def shielded(**values: Any) -> ShieldMiddleware:
    """A shield in one process, around an app that answers."""
    return ShieldMiddleware(ok, Settings(**{"redis_url": "memory://", **values}), authenticate=somebody)


def counted(*scopes: Scope, change: ModeChange | None = None, **values: Any) -> Decisions:
    """What is counted of these requests, one after the other."""

    async def story() -> Decisions:
        shield = shielded(**values)
        if change is not None:
            await call(shield, http_scope("/healthz"), NO_BODY)
            assert shield._worker is not None
            await shield._worker.control.set_mode(change, None)
        for scope in scopes:
            assert (await call(shield, scope, NO_BODY)).raised is None
        return decisions(shield)

    return run(story())


def test_guests_and_members_are_counted_apart() -> None:
    """Also where they have a limit each, and are refused."""
    scopes = [http_scope()] * 3 + [http_scope(headers=MEMBER)] * 2 + [websocket_scope()]
    assert counted(*scopes, ip_limit="2/day", token_limit="1/day") == {
        GUEST_IN: 2,
        ("refused", "quota", "guest"): 2,
        MEMBER_IN: 1,
        ("refused", "quota", "member"): 1,
    }


@pytest.mark.parametrize(
    ("values", "path", "found"),
    [
        ({}, "/healthz", ("allowed", "exempt", "guest")),
        ({"ip_limit": "off"}, "/", ("allowed", "unlimited", "guest")),
        ({"allow_ips": EVERYONE}, "/", ("allowed", "allow_list", "guest")),
        ({"deny_ips": EVERYONE}, "/", ("refused", "deny_list", "guest")),
        ({"deny_ips": EVERYONE, "dry_run": True}, "/", ("dry_run", "deny_list", "guest")),
        ({**LIVE, "capacity": 0}, "/live", GUEST_IN),
        ({**LIVE, "capacity": 1, "streams_per_address": 0, "overload": "off"}, "/live", GUEST_IN),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value),
)
def test_the_reason_is_that_of_the_decision(values: dict[str, Any], path: str, found: tuple[str, str, str]) -> None:
    """With and without a seat, in a dry run too."""
    assert counted(http_scope(path), **values) == {found: 1}


def test_a_dry_run_counts_what_it_would_have_refused() -> None:
    """Beside what it allows anyway."""
    scopes = [http_scope()] * 3
    assert counted(*scopes, ip_limit="1/day", dry_run=True) == {GUEST_IN: 1, ("dry_run", "quota", "guest"): 2}


def test_guests_are_turned_away_in_an_emergency() -> None:
    """From live paths; members are not."""
    change = ModeChange(Mode.EMERGENCY, "test")
    scopes = [http_scope("/live"), http_scope("/live", headers=MEMBER)]
    found = counted(*scopes, change=change, **LIVE, capacity=10)
    assert found == {("allowed", "exempt", "guest"): 1, ("refused", "no_seat", "guest"): 1, MEMBER_IN: 1}


def test_a_listener_without_a_seat_is_counted_as_refused_alone() -> None:
    """Though the gate had allowed its request."""

    async def story() -> Decisions:
        let_go = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await let_go.wait()
            await ok(scope, receive, send)

        settings = Settings(redis_url="memory://", live_paths="/live", capacity=1)
        shield = ShieldMiddleware(app, settings, authenticate=somebody)
        task = asyncio.create_task(call(shield, http_scope("/live", headers=MEMBER), NO_BODY))
        await until(lambda: shield._worker is not None and shield._worker.entrance.seats.ledger.held().total > 0)
        assert (await call(shield, http_scope("/live"), NO_BODY)).status == 503
        let_go.set()
        await task
        return decisions(shield)

    assert run(story()) == {MEMBER_IN: 1, ("refused", "no_seat", "guest"): 1}


@pytest.mark.parametrize("path", ["/", "/live"])
def test_what_the_lane_sheds_is_counted_as_refused_alone(path: str) -> None:
    """On live paths as well; what holds the place is counted as allowed."""

    async def story(one: Busy) -> Decisions:
        assert (await one.shed(http_scope(path))).status == 503
        return decisions(one.shield)

    assert busy(story, **LIVE, capacity=100) == {GUEST_IN: 1, ("refused", "overload", "guest"): 1}


def test_what_waited_in_the_lane_is_counted_when_it_enters() -> None:
    """Not before, since it may still be shed; and once."""

    async def story(one: Busy) -> tuple[Decisions, Decisions]:
        await one.fill()
        task = await one.waiting(http_scope(headers=MEMBER))
        waiting = decisions(one.shield)
        await one.end()
        assert (await task).status == 200
        return waiting, decisions(one.shield)

    waiting, entered = busy(story, queue_ms=1000)
    assert waiting == {GUEST_IN: 1}
    assert entered == {GUEST_IN: 1, MEMBER_IN: 1}


@pytest.mark.parametrize("fails", [False, True])
def test_an_upload_is_counted_once(fails: bool) -> None:
    """Also if the app fails."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if fails:
            raise RuntimeError("a bug of the app")
        await ok(scope, receive, send)

    async def story() -> Decisions:
        shield = ShieldMiddleware(app, Settings(redis_url="memory://"))
        record = await call(shield, http_scope(method="POST"), body(b"a", b"b"))
        assert (record.raised is not None) == fails
        return decisions(shield)

    assert run(story()) == {GUEST_IN: 1}


@pytest.mark.parametrize("reads", [True, False], ids=["once it is whole", "once its answer begins"])
def test_an_upload_is_counted_while_its_answer_goes_on(reads: bool) -> None:
    """An answer may last for hours: the request is in the app all the same, and cannot be shed any more."""
    found: list[Decisions] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if reads:
            for _ in range(2):
                await receive()
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0)
        found.append(decisions(shield))
        if reads:
            await ok(scope, receive, send)
        else:
            await send({"type": "http.response.body", "body": b""})

    async def story() -> Decisions:
        await call(shield, http_scope(method="POST"), body(b"a", b"b"))
        return decisions(shield)

    shield = ShieldMiddleware(app, Settings(redis_url="memory://"))
    assert run(story()) == {GUEST_IN: 1}
    assert found == [{GUEST_IN: 1}]


def test_a_slow_upload_that_is_shed_is_counted_as_refused_alone() -> None:
    """It had a place, and lost it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        overload = shield._worker.overload if shield._worker is not None else None
        assert overload is not None
        overload.lane.places.young, overload.lane.places.old = Intake(), Intake()
        full = [overload.lane.places.enter() for _ in range(overload.lane.places.limit)]
        for _ in range(5000):
            overload._keeper.queue(Rank.GUEST)
        await receive()
        for intake in full:
            intake.count -= 1

    async def story() -> Decisions:
        assert (await call(shield, http_scope(method="POST"), [Step(PIECES[1])])).status == 503
        return decisions(shield)

    shield = ShieldMiddleware(app, Settings(redis_url="memory://", max_in_flight=1, queue_ms=1, hold_ms=0))
    assert run(story()) == {("refused", "overload", "guest"): 1}


def test_a_preflight_on_a_live_path_is_counted() -> None:
    """It takes no seat, and is answered at once."""
    headers = [(b"origin", b"https://a.example"), (b"access-control-request-method", b"GET")]
    assert counted(http_scope("/live", "OPTIONS", headers=headers), **LIVE, capacity=1) == {GUEST_IN: 1}


def test_a_proxys_question_is_counted_as_the_request_it_is_about() -> None:
    """By the limits of the client that it names."""

    async def story() -> Decisions:
        shield = shield_of_proxies(ip_limit="2/day")
        for _ in range(3):
            await ask(shield, question("nginx"))
        return decisions(shield)

    assert run(story()) == {GUEST_IN: 2, ("refused", "quota", "guest"): 1}


def test_operators_requests_are_not_counted() -> None:
    """Nor is a wrong token there: these are decided by the admin routes."""
    token = "an-admin-token-of-some-length"
    scopes = [http_scope("/-/shield/metrics", headers=[(b"authorization", b"Bearer x")]), http_scope()]
    assert counted(*scopes, admin_token=token) == {GUEST_IN: 1}
