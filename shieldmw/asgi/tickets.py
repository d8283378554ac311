"""Where tickets and numbers travel: a cookie for browsers, a header or a query parameter for others."""

from __future__ import annotations

from http.cookies import SimpleCookie

TICKET_COOKIE = "shield_ticket"
TICKET_HEADER = b"shield-ticket"


def ticket_cookie(ticket: str, *, secure: bool) -> bytes:
    """The ``Set-Cookie`` value that hands a ticket or a number to a browser."""
    cookie: SimpleCookie = SimpleCookie({TICKET_COOKIE: ticket})
    morsel = cookie[TICKET_COOKIE]
    morsel["path"], morsel["max-age"], morsel["samesite"], morsel["httponly"] = "/", 3600, "Lax", True
    morsel["secure"] = secure
    return morsel.OutputString().encode("latin-1")
