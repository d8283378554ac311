"""Signed tickets: the re-admission ticket and the number in the waiting room. Pure; ``now_s`` is Unix time.

Each has fixed fields and a MAC (keyed BLAKE2b, RFC 7693) in base64url, without padding. The key is derived for the
purpose and event, and the client is one of the fields, so none can be used in place of another. Nothing in them is
secret.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from dataclasses import dataclass
from hashlib import blake2b
from hmac import compare_digest
from struct import Struct
from typing import NamedTuple

from .client import ListenerClass
from .seats import COHORTS

# Lifetime of a ticket: longer than a network outage in the middle of an event, and too short to be useful the next day.
TICKET_S = 3600

# Lifetime of a number in the waiting room, renewed each time that it is shown.
NUMBER_S = 600


# The id of a ticket that was a number begins with this, which is not a hexadecimal digit.
_OF_NUMBER = "n"


def ticket_of(number: int, client: str) -> str:
    """The id of the ticket that a number of the waiting room becomes, the same on every worker."""
    return f"{_OF_NUMBER}{number:x}-{client}"


def number_in(ticket_id: str) -> int | None:
    """The number that became the ticket with this id; None if the ticket was never a number, or the id is malformed."""
    if not ticket_id.startswith(_OF_NUMBER):
        return None
    try:
        return int(ticket_id.removeprefix(_OF_NUMBER).partition("-")[0], 16)
    except ValueError:
        return None


class Ticket(NamedTuple):
    """The right of one client to come back before new listeners of its class, until a time.

    ``leased_until_s`` is the end of its lease seat, by the store's clock; 0 if it never had one. ``first_ms`` is when
    the client was first admitted to a stream with it, by that clock, too; renewing does not change it. ``renewal`` is
    a random number of 32 bits for each lease that is signed into the ticket, so that no two copies are the same.
    """

    id: str
    client: str
    listener_class: ListenerClass
    until_s: int
    leased_until_s: int = 0
    first_ms: int = 0
    renewal: int = 0


@dataclass(frozen=True, slots=True)
class Number:
    """A place in the waiting room. Numbers are called in order."""

    number: int
    client: str
    until_s: int


# Class and whether the id is a number's, id, client, until_s, leased_until_s, first_ms, renewal; number, client,
# until_s. With the MAC both are multiples of three bytes, so base64 needs no padding and has no spare bits. Text of
# that length with a character outside base64url decodes to too few bytes, even if the decoder ignores it. Each ticket
# therefore has exactly one text.
_TICKET, _NUMBER = Struct(">BQ12sQQQI"), Struct(">Q12sQ")
_MAC_BYTES = 17

_CLASSES = tuple(ListenerClass)
_IS_NUMBER = 4  # beside the class, which is less

# Between base64url and the standard alphabet; + and /, which are not in base64url, become one that is in neither.
_TO_URL, _FROM_URL = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_+/", b"+/!!")


class Signer:
    """Signs tickets and numbers for one event, and verifies those that are shown."""

    def __init__(self, secret: bytes, event: str) -> None:
        self._key = blake2b(secret, digest_size=32, person=b"shield-tickets").digest()
        self._event = event.encode("utf-8", "surrogatepass")
        # Copying a keyed hash costs less than keying a new one.
        self._clients = blake2b(digest_size=12, key=self._key)
        self._tickets = self._macs(b"ticket")
        self._numbers = self._macs(b"number")

    def client_digest(self, client: bytes) -> str:
        """The digest that represents a client on its tickets: 24 hexadecimal digits."""
        digest = self._clients.copy()
        digest.update(client)
        return digest.hexdigest()

    def number_of(self, ticket_id: str) -> int:
        """A 64-bit digest that represents a ticket's id where ids would take too much room."""
        return int.from_bytes(blake2b(ticket_id.encode(), digest_size=8, key=self._key).digest(), "big")

    def cohort(self, client: bytes, now_s: float) -> int:
        """The cohort of a client in this hour, 0 to 127; reconnecting does not change it."""
        what = b"%b\0%d\0%b" % (self._event, now_s // 3600, client)
        return int.from_bytes(blake2b(what, digest_size=4, key=self._key).digest(), "big") % COHORTS

    def sign_ticket(self, ticket: Ticket) -> str:
        """The ticket as text. Its client is a ``client_digest``, its id 16 hexadecimal digits or a ``ticket_of``."""
        id_, client, listener_class, *rest = ticket
        number = number_in(id_)
        kind = _CLASSES.index(listener_class) + (0 if number is None else _IS_NUMBER)
        fields = kind, int(id_, 16) if number is None else number, bytes.fromhex(client), *rest
        return _signed(_TICKET.pack(*fields), self._tickets)

    def sign_number(self, number: Number) -> str:
        """The number as text."""
        return _signed(_NUMBER.pack(number.number, bytes.fromhex(number.client), number.until_s), self._numbers)

    def read_ticket(self, text: str, now_s: float) -> Ticket | None:
        """The ticket, if it was signed by us for this event and is still valid; otherwise None."""
        data = _read(text, _TICKET.size, self._tickets)
        if data is None:
            return None
        kind, number, digest, until_s, *rest = _TICKET.unpack_from(data)
        if until_s <= now_s:
            return None
        client = digest.hex()
        id_ = ticket_of(number, client) if kind & _IS_NUMBER else data[1:9].hex()
        return Ticket(id_, client, _CLASSES[kind & ~_IS_NUMBER], until_s, *rest)

    def read_number(self, text: str, now_s: float) -> Number | None:
        """The number, if it was signed by us for this event and is still valid; otherwise None."""
        data = _read(text, _NUMBER.size, self._numbers)
        if data is None:
            return None
        number, client, until_s = _NUMBER.unpack_from(data)
        return Number(number, client.hex(), until_s) if until_s > now_s else None

    def _macs(self, purpose: bytes) -> blake2b:
        """The keyed hash of what is signed for a purpose and this event."""
        key = blake2b(self._event, digest_size=32, key=self._key, person=purpose).digest()
        return blake2b(digest_size=_MAC_BYTES, key=key)


def _signed(fields: bytes, macs: blake2b) -> str:
    mac = macs.copy()
    mac.update(fields)
    return b2a_base64(fields + mac.digest(), newline=False).translate(_TO_URL).decode()


def _read(text: str, size: int, macs: blake2b) -> bytes | None:
    """The fields and the MAC of a text that was signed with this key and purpose; None for any other text."""
    if len(text) * 3 != (size + _MAC_BYTES) * 4:
        return None
    try:
        data = a2b_base64(text.encode("ascii").translate(_FROM_URL))
    except ValueError:
        return None
    mac = macs.copy()
    mac.update(data[:size])
    return data if compare_digest(mac.digest(), data[size:]) else None
