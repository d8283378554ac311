"""Signed tickets: the re-admission ticket and the number in the waiting room. Pure; ``now_s`` is Unix time.

Each is ``<payload>.<HMAC-SHA256>`` in base64url. The payload contains its purpose, event, class and client, so that one
cannot be used in place of another. Nothing in it is secret.
"""

from __future__ import annotations

import base64
import hmac
import json
from dataclasses import dataclass
from hashlib import blake2b, sha256

from .bounds import LONGEST_SIGNED_TICKET
from .client import ListenerClass
from .seats import COHORTS

# Lifetime of a ticket: longer than a network outage in the middle of an event, and too short to be useful the next day.
TICKET_S = 3600

# Lifetime of a number in the waiting room; each time it is shown, it is renewed.
NUMBER_S = 600


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right of one client to come back before new listeners of its class, until a time.

    ``first_ms`` is when the client was first admitted with it, by the store's clock; renewing does not change it.
    """

    id: str
    client: str
    listener_class: ListenerClass
    until_s: int
    first_ms: int = 0


@dataclass(frozen=True, slots=True)
class Number:
    """A place in the waiting room. Numbers are called in order."""

    number: int
    client: str
    until_s: int


class Signer:
    """Signs tickets and numbers for one event, and verifies those that are shown."""

    def __init__(self, secret: bytes, event: str) -> None:
        self._key = blake2b(secret, digest_size=32, person=b"shield-tickets").digest()
        self._event = event

    def client_digest(self, client: str) -> str:
        """The digest that represents a client on its tickets."""
        return blake2b(client.encode("utf-8", "surrogatepass"), digest_size=12, key=self._key).hexdigest()

    def cohort(self, client: str, now_s: float) -> int:
        """The cohort of a client in this hour, 0 to 127; reconnecting does not change it."""
        text = f"{self._event}\0{int(now_s // 3600)}\0{client}".encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(text, digest_size=4, key=self._key).digest(), "big") % COHORTS

    def sign_ticket(self, ticket: Ticket) -> str:
        """The ticket as text."""
        return self._sign(["ticket", ticket.id, ticket.client, ticket.listener_class, ticket.until_s, ticket.first_ms])

    def sign_number(self, number: Number) -> str:
        """The number as text."""
        return self._sign(["number", number.number, number.client, number.until_s])

    def read_ticket(self, text: str, now_s: float) -> Ticket | None:
        """The ticket, if it was signed by us for this event and is still valid; otherwise None."""
        match self._read(text):
            case ["ticket", str(id_), str(client), str(name), int(until_s), int(first_ms)] if until_s > now_s:
                return Ticket(id_, client, ListenerClass(name), until_s, first_ms)
        return None

    def read_number(self, text: str, now_s: float) -> Number | None:
        """The number, if it was signed by us for this event and is still valid; otherwise None."""
        match self._read(text):
            case ["number", int(number), str(client), int(until_s)] if until_s > now_s:
                return Number(number, client, until_s)
        return None

    def _sign(self, fields: list[object]) -> str:
        payload = json.dumps([self._event, *fields], separators=(",", ":")).encode()
        return f"{_encode(payload)}.{_encode(self._mac(payload))}"

    def _read(self, text: str) -> list[object] | None:
        if len(text) > LONGEST_SIGNED_TICKET:
            return None
        body, _, mac = text.partition(".")
        payload, shown = _decode(body), _decode(mac)
        if not payload or not shown or not hmac.compare_digest(shown, self._mac(payload)):
            return None
        event, *fields = json.loads(payload)  # signed by us: always a list
        return fields if event == self._event else None

    def _mac(self, payload: bytes) -> bytes:
        return hmac.new(self._key, payload, sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """The bytes of unpadded base64url; empty for anything else."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return b""
    return data if _encode(data) == text else b""
