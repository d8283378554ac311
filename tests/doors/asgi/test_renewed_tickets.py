"""A renewed ticket is sent as a cookie, and also in the ticket's header if the client used that."""

from __future__ import annotations

import asyncio
import time
from http.cookies import SimpleCookie
from socket import inet_aton

import pytest
from starlette.types import Receive, Scope, Send

from doors.asgi.harness import PEER, Headers, Record, call, http_scope, run
from doors.asgi.shields import ok
from shieldmw import Settings, ShieldMiddleware
from shieldmw.core.client import ListenerClass
from shieldmw.core.tickets import TICKET_S, Signer, Ticket
from shieldmw.doors.asgi.tickets import ticket_cookie

SECRET = "a secret of at least 32 characters"
SIGNER = Signer(SECRET.encode(), "shield")
OLD_S, YOUNG_S = 600, TICKET_S - 60


def ticket(left_s: int = OLD_S) -> str:
    """A ticket of the client of the harness that still lives for so long."""
    client = SIGNER.client_digest(b"ip:" + inet_aton(PEER[0]))
    return SIGNER.sign_ticket(Ticket("0011223344556677", client, ListenerClass.GUEST, int(time.time()) + left_s))


def cookie(signed_ticket: str) -> Headers:
    """Shown as a browser does."""
    return [(b"cookie", f"theme=dark; shield_ticket={signed_ticket}".encode())]


def header(signed_ticket: str) -> Headers:
    """Shown as a program does."""
    return [(b"shield-ticket", signed_ticket.encode())]


def asked_for_something_else(headers: Headers, *, path: str = "/", scheme: str = "http") -> Record:
    """The answer to another request while a stream with the ticket is open."""

    async def story() -> Record:
        begun = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/live":
                begun.set()
                await asyncio.Event().wait()
            await ok(scope, receive, send)

        settings = Settings(live_paths="/live", redis_url="memory://", secret=SECRET, exempt_paths="/healthz")
        shield = ShieldMiddleware(app, settings)
        stream = asyncio.create_task(call(shield, http_scope("/live", headers=cookie(ticket()))))
        await begun.wait()
        record = await call(shield, http_scope(path, headers=headers, scheme=scheme))
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
        return record

    return run(story())


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_browser_gets_a_cookie(scheme: str) -> None:
    """The cookie is replaced by one of a whole life, and nothing else is added."""
    record = asked_for_something_else(cookie(ticket()), scheme=scheme)
    morsel = SimpleCookie(record.value(b"set-cookie"))["shield_ticket"]
    renewed = SIGNER.read_ticket(morsel.value, time.time() + TICKET_S - 30)
    assert renewed is not None
    assert renewed.id == "0011223344556677"
    assert bool(morsel["secure"]) == (scheme == "https")
    assert record.values(b"shield-ticket") == []


@pytest.mark.parametrize(("scheme", "secure"), [("http", ""), ("https", "; Secure"), ("ws", ""), ("wss", "; Secure")])
def test_the_cookie_as_it_is_sent(scheme: str, secure: str) -> None:
    """Byte by byte as the standard library would write it, for papers of our own need no quoting."""
    signed_ticket = ticket()
    sent = ticket_cookie(signed_ticket, {"scheme": scheme}).decode("ascii")
    assert sent == f"shield_ticket={signed_ticket}; HttpOnly; Max-Age=3600; Path=/; SameSite=Lax{secure}"
    standard: SimpleCookie = SimpleCookie()
    standard.load(sent)
    assert standard["shield_ticket"].OutputString() == sent


def test_a_program_gets_the_header_too() -> None:
    """A client that shows the ticket in the header gets the new one there."""
    record = asked_for_something_else(header(ticket()))
    assert SIGNER.read_ticket(record.value(b"shield-ticket"), time.time() + TICKET_S - 30)
    assert len(record.values(b"set-cookie")) == 1


@pytest.mark.parametrize("headers", [[], cookie("forged"), cookie(ticket(YOUNG_S)), header("forged")])
def test_others_get_nothing(headers: Headers) -> None:
    """Without a ticket that must be renewed nothing is added."""
    record = asked_for_something_else(headers)
    assert record.status == 200
    assert record.values(b"set-cookie") == record.values(b"shield-ticket") == []
