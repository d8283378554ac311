"""The lifespan protocol passes through unchanged, however an app handles it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doors.asgi.harness import NO_BODY, Step, call, http_scope, run
from doors.asgi.shields import MODES, Case, Mode, bare, ok, shielded

STARTUP = Step({"type": "lifespan.startup"})
SHUTDOWN = Step({"type": "lifespan.shutdown"})


def lifespan_scope() -> Scope:
    """The scope of a lifespan, with a state."""
    return {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}, "client": None}


def answers(*turns: str | Exception, reads: bool = True) -> Callable[[], ASGIApp]:
    """An app that reads a message and answers it, again and again; or fails."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for turn in turns:
            if reads:
                await receive()
            if isinstance(turn, Exception):
                raise turn
            message: Message = {"type": turn}
            if turn.endswith("failed"):
                message["message"] = "no database"
            await send(message)

    return lambda: app


def starlette(*, at_start: Exception | None = None, at_end: Exception | None = None) -> Callable[[], ASGIApp]:
    """A Starlette app whose lifespan may fail."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        if at_start:
            raise at_start
        yield {"db": "open"}
        if at_end:
            raise at_end

    return lambda: Starlette(lifespan=lifespan)


async def sets_state(scope: Scope, receive: Receive, send: Send) -> None:
    """Fills the state at startup and shows at shutdown what is in it."""
    await receive()
    scope["state"]["db"] = "open"
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send(
        {"type": "lifespan.shutdown.complete", "seen": sorted(scope.keys() - {"shield"}), "state": dict(scope["state"])}
    )


async def answers_http_only(scope: Scope, receive: Receive, send: Send) -> None:
    """Asserts, as many an app does, that there is no such thing as a lifespan."""
    assert scope["type"] == "http"


def lifespan(name: str, app: Callable[[], ASGIApp], *, sends: int, raises: str | None = None) -> Case:
    return Case(name, app, lifespan_scope(), [STARTUP, SHUTDOWN], sends=sends, raises=raises)


COMPLETE = ("lifespan.startup.complete", "lifespan.shutdown.complete")

CASES = [
    lifespan("complete", answers(*COMPLETE), sends=2),
    lifespan("startup failed", answers("lifespan.startup.failed"), sends=1),
    lifespan("shutdown failed", answers(COMPLETE[0], "lifespan.shutdown.failed"), sends=2),
    lifespan("raises before it reads", answers(ValueError("x"), reads=False), sends=0, raises="ValueError"),
    lifespan("raises at startup", answers(ValueError("x")), sends=0, raises="ValueError"),
    lifespan("raises at shutdown", answers(COMPLETE[0], ValueError("x")), sends=1, raises="ValueError"),
    lifespan("asserts http", lambda: answers_http_only, sends=0, raises="AssertionError"),
    lifespan("returns at once", answers(), sends=0),
    lifespan("returns after startup", answers(COMPLETE[0]), sends=1),
    lifespan("sends what nobody knows", answers("lifespan.x", "lifespan.y"), sends=2),
    lifespan("state", lambda: sets_state, sends=2),
    lifespan("starlette", starlette(), sends=2),
    lifespan("starlette, startup fails", starlette(at_start=ValueError("x")), sends=1, raises="ValueError"),
    lifespan("starlette, shutdown fails", starlette(at_end=ValueError("x")), sends=2, raises="ValueError"),
]


@pytest.mark.parametrize("mode", [mode for mode in MODES if not mode.used_up], ids=lambda mode: mode.name)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_lifespan_is_the_same(case: Case, mode: Mode) -> None:
    """Startup and shutdown, complete, failed or not supported at all, are answered and raised as the app does it."""
    alone = bare(case)
    assert len(alone.sent) == case.sends
    assert (alone.raised or "").partition("(")[0] == (case.raises or "")
    for message in alone.sent:  # a traceback has the frames of whoever called
        message.pop("message", None)
    behind = shielded(case, Mode(mode.name, mode.settings, member=mode.member))
    for message in behind.sent:
        message.pop("message", None)
    assert behind == alone


def test_the_lifespans_own_message_of_failure_comes_through() -> None:
    """The text that says why the startup failed is the app's."""
    record = run(call(MODES[1].shield(answers("lifespan.startup.failed")()), lifespan_scope(), [STARTUP]))
    assert record.sent == [{"type": "lifespan.startup.failed", "message": "no database"}]


def test_the_lifespans_state_reaches_the_requests() -> None:
    """What a Starlette app puts into the state at startup is there for its requests, as the server hands it on."""

    async def show(request: Request) -> JSONResponse:
        return JSONResponse({"db": request.state.db})

    @asynccontextmanager
    async def open_db(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        yield {"db": "open"}

    async def serve() -> bytes:
        shield = MODES[1].shield(Starlette(lifespan=open_db, routes=[Route("/", show)]))
        scope = lifespan_scope()
        await call(shield, scope, [STARTUP, SHUTDOWN])
        return (await call(shield, http_scope(state=dict(scope["state"])), NO_BODY)).body

    assert run(serve()) == b'{"db":"open"}'


def test_ok_is_an_app_for_these_tests() -> None:
    """The small app answers 200 behind every mode of the table, or the table would prove nothing."""
    for mode in MODES:
        assert run(call(mode.shield(ok), http_scope())).status == 200
