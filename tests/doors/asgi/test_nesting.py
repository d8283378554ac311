"""A shield inside a shield: with the same settings the inner one steps aside and logs it, otherwise both decide."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from doors.asgi.harness import Record, call, http_scope, run
from doors.asgi.shields import member, ok
from doors.asgi.test_lifecycle import Served, others, with_lifespan
from doors.asgi.test_same_lifespan import COMPLETE
from shieldmw import Identity, Mode, ModeState, Refused, Settings, ShieldMiddleware, ShieldObserver

TWO = {"ip_limit": "2/day"}

# Nothing listens there: each shield decides on its own, as it does while its store is away.
REDIS = {**TWO, "redis_url": "unix:///nowhere/at.all", "redis_timeout_ms": 1000}


async def somebody(scope: Scope) -> Identity | None:
    """Another check than ``member``."""
    return None


def nested(outer: dict[str, Any], inner: dict[str, Any], app: ASGIApp = ok) -> ShieldMiddleware:
    """A shield around a shield; ``authenticate`` among the settings is the app's own check."""

    def shield(app: ASGIApp, settings: dict[str, Any]) -> ShieldMiddleware:
        rest = {name: value for name, value in settings.items() if name != "authenticate"}
        return ShieldMiddleware(app, Settings(**rest), authenticate=settings.get("authenticate"))

    return shield(shield(app, inner), outer)


async def asked(app: ASGIApp, times: int) -> list[Record]:
    """What a guest is answered, one request after the other."""
    async with Served(app):
        return [await call(app, http_scope()) for _ in range(times)]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of shields inside each other."""
    return [record.message for record in caplog.records if record.name == "shieldmw.doors.asgi.nesting"]


@pytest.mark.parametrize(
    "settings", [TWO, REDIS, {**TWO, "authenticate": member}], ids=["memory", "redis", "own check"]
)
def test_set_up_alike_only_the_outer_one_decides(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """A client has its whole limit, one pair of headers, and the log has one line however many requests come."""
    caplog.set_level(logging.INFO)
    records = run(asked(nested(settings, settings, with_lifespan(*COMPLETE)), 3))
    limit = 3 if "authenticate" in settings else 2
    assert [record.status for record in records] == [200] * limit + [429] * (3 - limit)
    assert len(records[0].values(b"ratelimit-policy")) == 1
    (line,) = said(caplog)
    assert "the inner one steps aside" in line


def test_one_that_steps_aside_runs_nothing() -> None:
    """Neither its lifespan nor a request starts its gate, and the app still hears of its start and of its end."""
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await ok(scope, receive, send)
            return
        for answer in COMPLETE:
            heard.append((await receive())["type"])
            await send({"type": answer})

    async def gates_beside() -> int:
        shield = nested(TWO, TWO, app)
        async with Served(shield):
            await call(shield, http_scope())
            return others()

    # One gate, and the task that plays the server.
    assert run(gates_beside()) == 2
    assert heard == ["lifespan.startup", "lifespan.shutdown"]


def test_an_embedded_server_that_is_not_needed_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shield that is only built starts no server, so one that steps aside does not either."""
    from shieldmw.store.redis import embedded

    started: list[str] = []
    monkeypatch.setattr(embedded.EmbeddedServer, "start", lambda server: started.append(server.url))
    settings = {**TWO, "redis_url": "embedded://", "redis_timeout_ms": 1000}
    run(asked(nested(settings, settings), 1))
    assert len(started) == 1


@pytest.mark.parametrize(
    ("inner", "warned"),
    [
        ({**REDIS, "ip_limit": "1/day"}, True),
        ({**REDIS, "authenticate": somebody}, True),
        ({**REDIS, "key_prefix": "inner", "ip_limit": "1/day"}, False),
        ({**TWO, "ip_limit": "1/day"}, False),
    ],
    ids=["a stricter limit", "a check of its own", "a prefix of its own", "a store of its own"],
)
def test_set_up_otherwise_both_decide(inner: dict[str, Any], warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A limit is never lifted for being inside another. Where both charge the same buckets, the log says it once."""
    records = run(asked(nested({**REDIS, "ip_limit": "5/day"}, inner), 3))
    assert len(records[0].values(b"ratelimit-policy")) == 2
    lines = said(caplog)
    assert len(lines) == warned
    assert all("the same buckets" in line and "SHIELD_KEY_PREFIX" in line for line in lines)


def test_a_scope_of_somebody_else_is_no_shield() -> None:
    """What another middleware calls ``shield`` does not switch ours off."""

    async def statuses() -> list[int]:
        shield = ShieldMiddleware(ok, Settings(**TWO))
        return [(await call(shield, http_scope(shield={"by": "somebody"}))).status for _ in range(3)]

    assert run(statuses()) == [200, 200, 429]


def test_a_scope_that_comes_twice_is_decided_twice() -> None:
    """A shield never takes its own mark for that of another one around it: sending through again is not free."""
    scope = http_scope()

    async def sending_again() -> list[Record]:
        async with Served(shield := ShieldMiddleware(with_lifespan(*COMPLETE), Settings(ip_limit="2/day"))):
            return [await call(shield, scope) for _ in range(3)]

    assert [record.status for record in run(sending_again())] == [200, 200, 429]


class Heard(ShieldObserver):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.refusals = 0
        self.modes: list[Mode] = []

    def refused(self, event: Refused) -> None:
        self.refusals += 1

    def mode_changed(self, state: ModeState) -> None:
        self.modes.append(state.mode)


@pytest.mark.parametrize("has_lifespan", [True, False])
def test_observers_of_one_that_steps_aside_hear_the_outer_one(*, has_lifespan: bool) -> None:
    """Each refusal once, however many workers start; as `shieldmw serve` does around an app that has them."""
    inner, outer = Heard(), Heard()

    async def story() -> None:
        settings = Settings(**TWO)
        app = with_lifespan(*COMPLETE) if has_lifespan else ok
        shield = ShieldMiddleware(ShieldMiddleware(app, settings, observers=[inner]), settings, observers=[outer])
        if has_lifespan:
            for answers in ([200, 200, 429], [429]):
                assert [record.status for record in await asked(shield, len(answers))] == answers
        else:
            assert [(await call(shield, http_scope())).status for _ in range(4)] == [200, 200, 429, 429]

    run(story())
    assert (inner.refusals, outer.refusals) == (2, 2)


def test_observers_of_one_that_decides_itself_hear_it_alone() -> None:
    """Otherwise they would be told of a refusal twice."""
    inner, outer = Heard(), Heard()

    async def story() -> None:
        shield = ShieldMiddleware(ok, Settings(ip_limit="1/day"), observers=[inner])
        around = ShieldMiddleware(shield, Settings(ip_limit="2/day"), observers=[outer])
        assert [(await call(around, http_scope())).status for _ in range(3)] == [200, 429, 429]

    run(story())
    assert (inner.refusals, outer.refusals) == (1, 1)
