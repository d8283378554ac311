"""Signed tickets: the re-admission ticket and the number in the waiting room. Pure; ``now_s`` is Unix time.

Each is ``<payload>.<HMAC-SHA256>`` in base64url. The payload contains its purpose, event, class and client, so that one
cannot be used in place of another. Nothing in it is secret.
"""

from __future__ import annotations

import hmac
import json
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

from .bounds import LONGEST_SIGNED_TICKET
from .client import ListenerClass
from .seats import COHORTS

# Lifetime of a ticket: longer than a network outage in the middle of an event, and too short to be useful the next day.
TICKET_S = 3600

# Lifetime of a number in the waiting room; each time it is shown, it is renewed.
NUMBER_S = 600


class Ticket(NamedTuple):
    """The right of one client to come back before new listeners of its class, until a time.

    ``leased_until_s`` is the end of its lease seat, by the store's clock; 0 if it never had one. ``first_ms`` is when
    the client was first admitted to a stream with it, by that clock, too; renewing does not change it.
    """

    id: str
    client: str
    listener_class: ListenerClass
    until_s: int
    leased_until_s: int = 0
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
        return self._sign(["ticket", *ticket])

    def sign_number(self, number: Number) -> str:
        """The number as text."""
        return self._sign(["number", number.number, number.client, number.until_s])

    def read_ticket(self, text: str, now_s: float) -> Ticket | None:
        """The ticket, if it was signed by us for this event and is still valid; otherwise None."""
        fields = self._read(text)
        if not fields or fields[0] != "ticket" or fields[4] <= now_s:
            return None
        _, id_, client, name, *numbers = fields
        return Ticket(id_, client, _CLASSES[name], *numbers)

    def read_number(self, text: str, now_s: float) -> Number | None:
        """The number, if it was signed by us for this event and is still valid; otherwise None."""
        fields = self._read(text)
        if not fields or fields[0] != "number" or fields[3] <= now_s:
            return None
        return Number(fields[1], fields[2], fields[3])

    def _sign(self, fields: list[object]) -> str:
        payload = json.dumps([self._event, *fields], separators=(",", ":")).encode()
        return f"{_encode(payload)}.{_encode(self._mac(payload))}"

    def _read(self, text: str) -> Sequence[Any]:
        """The fields of a text that we signed for this event, as they were signed; none of any other text."""
        if len(text) > LONGEST_SIGNED_TICKET:
            return ()
        body, _, shown = text.partition(".")
        payload = _decode(body)
        # Both as text: it costs less to encode the right one than to decode what is shown.
        mac = shown.encode("utf-8", "replace")
        if not payload or not hmac.compare_digest(mac, _encode(self._mac(payload)).encode()):
            return ()
        (event, *fields), _ = _parse(payload.decode())
        return fields if event == self._event else ()

    def _mac(self, payload: bytes) -> bytes:
        return hmac.digest(self._key, payload, "sha256")


# Without a search for white space around it, which costs three times as much.
_parse = json.JSONDecoder().raw_decode

_CLASSES = {str(name): name for name in ListenerClass}

_TO_URL, _FROM_URL = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")


def _encode(data: bytes) -> str:
    return b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """The bytes of unpadded base64url; empty for anything else."""
    try:
        data = a2b_base64(text.encode("ascii").translate(_FROM_URL) + b"=" * (-len(text) % 4))
    except ValueError:
        return b""
    return data if _encode(data) == text else b""
