"""The shields that an app is put behind to check that nothing changes for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doors.asgi.harness import Record, Step, call, comparable, http_scope, run, without_added
from shieldmw import Identity, Settings, ShieldMiddleware
from shieldmw.core.address import Networks, parse_networks

EVERYONE = Networks(parse_networks("0.0.0.0/0, ::/0"), unix=True)
OFF = {"ip_limit": "off", "token_limit": "off", "failed_auth_limit": "off"}


async def member(scope: Scope) -> Identity | None:
    """The host app's own check: everyone is alice."""
    return Identity("alice")


async def ok(scope: Scope, receive: Receive, send: Send) -> None:
    """The smallest app: 200 and two letters; for a WebSocket an accept."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@dataclass(frozen=True)
class Mode:
    """One way to set up the shield. ``adds``: whether its two header lines are expected."""

    name: str
    settings: dict[str, Any]
    adds: bool = False
    member: bool = False
    used_up: bool = False

    def shield(self, app: ASGIApp) -> ShieldMiddleware:
        """The shield around an app."""
        return ShieldMiddleware(app, Settings(**self.settings), authenticate=member if self.member else None)


MODES = (
    Mode("off", OFF),
    Mode("guest", {}, adds=True),
    Mode("member", {"address_limit": "1000/minute"}, adds=True, member=True),
    Mode("allow list", {"ip_limit": "1/day", "allow_ips": EVERYONE}),
    Mode("dry run", {"ip_limit": "1/day", "dry_run": True}, used_up=True),
)


@dataclass(frozen=True)
class Case:
    """An app, and a script to drive it with."""

    name: str
    app: Callable[[], ASGIApp]
    scope: Scope = field(default_factory=http_scope)
    steps: tuple[Step, ...] | list[Step] = ()
    gone_after: int | None = None
    sends: int | None = None
    raises: str | None = None


class Switch:
    """An app that can be exchanged after the shield is around it, so that a bucket can be emptied first."""

    def __init__(self) -> None:
        self.app: ASGIApp = ok

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on to the app of the moment."""
        await self.app(scope, receive, send)


def bare(case: Case) -> Record:
    """What the app does on its own."""
    return run(call(case.app(), copy.deepcopy(case.scope), case.steps, case.gone_after))


def shielded(case: Case, mode: Mode) -> Record:
    """What the app does behind a shield that has already begun; the added lines are taken off again."""

    async def both() -> Record:
        switch = Switch()
        shield = mode.shield(switch)
        if mode.used_up:
            await call(shield, {**http_scope(), "client": case.scope["client"]})
        switch.app = case.app()
        return await call(shield, copy.deepcopy(case.scope), case.steps, case.gone_after)

    record = run(both())
    return without_added(record) if mode.adds else record


def assert_same(case: Case, mode: Mode) -> None:
    """The app does the same with and without the shield, and did what the case expects at all."""
    alone = bare(case)
    if case.sends is not None:
        assert len(alone.sent) == case.sends, f"the case itself: {alone}"
    assert (alone.raised or "").partition("(")[0] == (case.raises or ""), f"the case itself: {alone}"
    assert comparable(shielded(case, mode)) == comparable(alone)


def start(status: int = 200, headers: list[tuple[bytes, bytes]] | None = None, **more: Any) -> Message:
    """The first message of an answer."""
    return {"type": "http.response.start", "status": status, "headers": headers or [], **more}


def part(content: bytes, *, more: bool = False) -> Message:
    """A piece of an answer's body."""
    return {"type": "http.response.body", "body": content, "more_body": more}
