"""Where tickets and numbers travel: a cookie for browsers, a header or a query parameter for others."""

from __future__ import annotations

from http.cookies import SimpleCookie

from starlette.types import Scope

from shieldmw.core.bounds import MOST_LINES

TICKET_COOKIE = "shield_ticket"
TICKET_HEADER = b"shield-ticket"


def ticket_headers(ticket: str, scope: Scope) -> list[tuple[bytes, bytes]]:
    """What hands a renewed ticket on: a cookie, and the header too for whoever shows it there."""
    headers = [(b"set-cookie", ticket_cookie(ticket, scope))]
    if any(name == TICKET_HEADER for name, _ in scope["headers"][:MOST_LINES]):
        headers.append((TICKET_HEADER, ticket.encode("ascii")))
    return headers


def ticket_cookie(ticket: str, scope: Scope) -> bytes:
    """The ``Set-Cookie`` value that hands a ticket or a number to a browser; for TLS alone where it came by TLS."""
    cookie: SimpleCookie = SimpleCookie({TICKET_COOKIE: ticket})
    morsel = cookie[TICKET_COOKIE]
    morsel["path"], morsel["max-age"], morsel["samesite"], morsel["httponly"] = "/", 3600, "Lax", True
    morsel["secure"] = scope.get("scheme") in ("https", "wss")
    return morsel.OutputString().encode("latin-1")
