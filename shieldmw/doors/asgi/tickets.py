"""Encodes tickets and numbers for clients: in a cookie for browsers, in a header for others."""

from __future__ import annotations

from starlette.types import Scope

from shieldmw.core.bounds import MOST_LINES
from shieldmw.core.decision import ALLOWED, Decision
from shieldmw.core.tickets import TICKET_S
from shieldmw.gate.seats.admission import Admission

TICKET_COOKIE = "shield_ticket"
TICKET_HEADER = b"shield-ticket"

_COOKIE = b"%s=%%s; HttpOnly; Max-Age=%d; Path=/; SameSite=Lax" % (TICKET_COOKIE.encode("ascii"), TICKET_S)


def ticket_headers(ticket: str, scope: Scope, *, in_header: bool = False) -> list[tuple[bytes, bytes]]:
    """The headers of a renewed ticket: a cookie, and also the ticket's own header if the client used that.

    ``in_header``: in any case, since players need not keep cookies.
    """
    headers = [(b"set-cookie", ticket_cookie(ticket, scope))]
    if in_header or any(name == TICKET_HEADER for name, _ in scope["headers"][:MOST_LINES]):
        headers.append((TICKET_HEADER, ticket.encode("ascii")))
    return headers


def renewed_headers(
    admission: Admission, signed_ticket: str, decision: Decision, scope: Scope
) -> list[tuple[bytes, bytes]]:
    """The headers of a new ticket, if the one shown is due for renewal."""
    ticket = admission.renewed(signed_ticket, decision) if decision.verdict is ALLOWED else None
    return [] if ticket is None else ticket_headers(ticket, scope)


def ticket_cookie(ticket: str, scope: Scope) -> bytes:
    """The ``Set-Cookie`` value that hands a ticket or a number to a browser; ``Secure`` if the request came by TLS.

    Signed text consists of base64url and dots, so it needs no quoting.
    """
    secure = b"; Secure" if scope.get("scheme") in ("https", "wss") else b""
    return _COOKIE % ticket.encode("ascii") + secure
