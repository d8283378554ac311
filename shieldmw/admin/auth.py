"""Access to the admin routes: by bearer token, with few attempts, and a growing wait after wrong tokens.

The right token has its own rate limit, which requests without it do not use up. Guesses are limited by address, so
attackers cannot lock the operator out from other addresses; from the operator's own address that takes more than 6,000
wrong tokens a minute. All state is in the worker, so this works without the store and in an emergency.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest

from starlette.responses import Response
from starlette.types import Scope

from shieldmw.core.address import Addressing
from shieldmw.core.bucket import Charge, Charges, statuses
from shieldmw.core.client import Address, AddressClients, Client, address_text
from shieldmw.core.limits import US_PER_S, Limit, aggregate
from shieldmw.core.lockout import Lockout
from shieldmw.doors.asgi.facts import FactsReader
from shieldmw.gate.log_throttle import LogThrottle
from shieldmw.store.memory import MemoryBuckets

from .answers import problem, wait_problem

log = logging.getLogger(__name__)

# Requests with one valid token, from all addresses: enough for a few people whose pages poll every two seconds.
TOKEN_LIMIT = Limit("admin-token", 600, 60, 600)

# Requests of one address without a valid token: far too few to guess one.
LIMIT = Limit("admin", 60, 60, 60)

# Tokens that are still compared for an address that is locked out or has used up its limit. Beyond this even the right
# token is refused there. In a day this is enough to try one in 10**12 of all tokens of 16 hex digits. The limit is per
# address, since one for the whole worker could be used up by a single attacker; a comparison takes microseconds.
GUESSES_LIMIT = Limit("admin-guesses", 6000, 60, 6000)

# Requests of one address for the files of the page, which need no token. They do not use up ``LIMIT``, and a few people
# behind one address can open the page again and again.
PAGE_LIMIT = Limit("admin-page", 600, 60, 600)

ADDRESSES_KEPT = 16_384


_CROSS_SITE = "Requests made by other sites are refused."


class Role(StrEnum):
    """The permissions of a token: everything, or only reading."""

    ADMIN = "admin"
    VIEWER = "viewer"


@dataclass(frozen=True, slots=True)
class Operator:
    """The role and the address of a request that was granted access."""

    role: Role
    address: Address | None


class AdminAuth:
    """Grants access by token: ``view_token`` may only read, ``admin_token`` may also make changes."""

    def __init__(
        self,
        admin_token: str,
        view_token: str | None,
        addressing: Addressing,
        reader: FactsReader,
        *,
        limit: MemoryBuckets | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admin = _digest(admin_token.encode())
        self._view = None if view_token is None else _digest(view_token.encode())
        self._addressing = addressing
        self._reader = reader
        self._limit = MemoryBuckets(most_buckets=ADDRESSES_KEPT) if limit is None else limit
        self._lockout = Lockout()
        self._now_s = now_s
        self._wrong_tokens = LogThrottle(now_s)

    def page_refusal(self, scope: Scope) -> Response | None:
        """The refusal of a request for a file of the page; None if it is granted. A link on another site, such as a
        chat, may lead to the page, but nothing else there may load its files."""
        if _has(scope, b"sec-fetch-site", b"cross-site") and not _has(scope, b"sec-fetch-mode", b"navigate"):
            return problem(403, _CROSS_SITE)
        clients = self._addressing.prefixes.clients(self._address(scope))
        return self._refusal(_charges(clients, PAGE_LIMIT), "from one address")

    def enter(self, scope: Scope) -> Operator | Response:
        """The operator behind a request, or the refusal."""
        # Checked first and not charged: requests that a foreign page makes must not lock its visitor out.
        if _has(scope, b"sec-fetch-site", b"cross-site"):
            return problem(403, _CROSS_SITE)
        address = self._address(scope)
        clients = self._addressing.prefixes.clients(address)
        refusal = self._too_many(clients)
        token = _bearer(scope)
        if token is None:
            return refusal or _unauthorized("Show the admin token, as Authorization: Bearer.")
        # Other clients at the same address must not block the right token.
        if refusal is not None and not self._limit.take_now(_charges(clients, GUESSES_LIMIT)).allowed:
            return refusal
        role = self._role(token)
        if role is None:
            return refusal or self._wrong_token(clients, address)
        return self._with_token(role, scope, clients, address)

    def _address(self, scope: Scope) -> Address | None:
        facts = self._reader.read(scope)
        return self._addressing.locate(facts.peer, facts.forwarded).address

    def _with_token(
        self, role: Role, scope: Scope, clients: AddressClients, address: Address | None
    ) -> Operator | Response:
        refusal = self._refusal((Charge(Client("admin", role, f"admin:{role}"), TOKEN_LIMIT),), "with one token")
        if refusal is not None:
            return refusal
        if role is Role.ADMIN:
            # Only for this role: with the view token one must not get new guesses.
            self._lockout.succeeded(clients)
        elif scope["method"] not in ("GET", "HEAD"):
            return problem(403, "This token may look, but change nothing.")
        return Operator(role, address)

    def _too_many(self, clients: AddressClients) -> Response | None:
        wait_s = self._lockout.wait_s(clients, self._now_s())
        if wait_s > 0:
            return wait_problem(wait_s, "Locked out", "Too many wrong tokens came from this address.")
        return self._refusal(_charges(clients, LIMIT), "from one address")

    def _refusal(self, charges: Charges, whose: str) -> Response | None:
        outcome = self._limit.take_now(charges)
        if outcome.allowed:
            return None
        wait_s = max(status.retry_after_us for status in statuses(charges, outcome)) / US_PER_S
        return wait_problem(wait_s, "Too many requests", f"At most {charges[0].limit.amount} a minute {whose}.")

    def _role(self, token: bytes) -> Role | None:
        digest = _digest(token)
        is_admin = compare_digest(digest, self._admin)
        is_viewer = self._view is not None and compare_digest(digest, self._view)
        if is_admin:
            return Role.ADMIN
        return Role.VIEWER if is_viewer else None

    def _wrong_token(self, clients: AddressClients, address: Address | None) -> Response:
        self._lockout.failed(clients, self._now_s())
        if (counts := self._wrong_tokens.due("wrong")) is not None:
            log.warning("admin tokens: %s; the last from %s", counts, address_text(address))
        return _unauthorized("The token is wrong.")


def _charges(clients: AddressClients, limit: Limit) -> Charges:
    """One unit of the address's limit, and of that of the IPv6 /56 around it."""
    one = Charge(clients.network, limit)
    return (one,) if clients.site is None else (one, Charge(clients.site, aggregate(limit)))


def _digest(token: bytes) -> bytes:
    """The digest of a token. All have the same length, so comparing them does not reveal that of a token."""
    return sha256(token).digest()


def _lines(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def _has(scope: Scope, name: bytes, value: bytes) -> bool:
    return any(line.strip().lower() == value for line in _lines(scope, name))


def _bearer(scope: Scope) -> bytes | None:
    """The bearer token of a request; None for another scheme or a repeated header."""
    lines = _lines(scope, b"authorization")
    if len(lines) != 1:
        return None
    scheme, _, token = lines[0].strip(b" \t").partition(b" ")
    return token.strip(b" \t") or None if scheme.lower() == b"bearer" else None


def _unauthorized(detail: str) -> Response:
    return problem(401, detail, headers={"www-authenticate": "Bearer"})
