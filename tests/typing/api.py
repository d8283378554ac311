"""The public API as users write it, for mypy --strict only; this file is never run."""

from __future__ import annotations

from typing import assert_type

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from shieldmw import (
    Evicted,
    Identity,
    ListenerClass,
    Mode,
    ModeState,
    Refused,
    Settings,
    SettingsError,
    ShieldError,
    ShieldMiddleware,
    ShieldObserver,
)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """An app of the plainest kind."""


async def check(scope: Scope) -> Identity | None:
    """A site's own sign-in."""
    return Identity("ada", ListenerClass.MEMBER) if scope["type"] == "http" else None


class Counts(ShieldObserver):
    """An observer of a site's own."""

    def refused(self, event: Refused) -> None:
        """Count."""
        assert_type(event.client_address, str | None)
        assert_type(event.policies, tuple[str, ...])

    def evicted(self, event: Evicted) -> None:
        """Count."""
        assert_type(event.count, int)

    def mode_changed(self, state: ModeState) -> None:
        """Note it."""
        assert_type(state.mode, Mode)


# Around an app, with settings from the variables, given, and read from a mapping.
from_environ: ASGIApp = ShieldMiddleware(app)
with_settings: ASGIApp = ShieldMiddleware(app, settings=Settings(ip_limit="5/minute"))
by_position: ASGIApp = ShieldMiddleware(app, Settings.from_environ({"SHIELD_IP_LIMIT": "5/minute"}))
with_check: ASGIApp = ShieldMiddleware(app, authenticate=check)
with_observer: ASGIApp = ShieldMiddleware(app, observers=[Counts(), ShieldObserver()])
nested: ASGIApp = ShieldMiddleware(ShieldMiddleware(app))

# As a framework adds it.
Starlette(middleware=[Middleware(ShieldMiddleware)])
Starlette(middleware=[Middleware(ShieldMiddleware, settings=Settings(), authenticate=check)])
Starlette().add_middleware(ShieldMiddleware, authenticate=check)

# Values.
assert_type(Settings.from_environ(), Settings)
assert_type(Settings().ip_limit, str)
assert_type(Settings().dry_run, bool)
assert_type(Identity("ada").subject, str)
assert_type(Identity("ada").listener_class, ListenerClass)

# Errors.
try:
    Settings(ip_limit="plenty")
except SettingsError as error:
    problems: list[str] = list(error.problems)
    as_shield_error: ShieldError = error


# What must not pass: a check that is no coroutine, a subject that is no text, an app that is none.
def blocking_check(scope: Scope) -> Identity | None:
    """Not awaitable."""
    return None


ShieldMiddleware(app, authenticate=blocking_check)  # type: ignore[arg-type]
ShieldMiddleware(app, None, check)  # type: ignore[call-arg]
ShieldMiddleware("app")  # type: ignore[arg-type]
Identity(7)  # type: ignore[arg-type]
Identity("ada").subject = "eve"  # type: ignore[misc]
