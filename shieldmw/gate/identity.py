"""Who is asking: a verified subject, else a guest on its address. Prove it before it counts."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from hashlib import blake2b
from secrets import token_bytes
from typing import Protocol

from shieldmw.core.bounds import LONGEST_CREDENTIAL
from shieldmw.core.client import AddressClients, Identity, Proof
from shieldmw.core.facts import Facts
from shieldmw.core.table import Table

from .api_keys import ApiKeys
from .failed_auth import FailedAuth
from .standing import Standings

log = logging.getLogger(__name__)

CREDENTIALS_KEPT = 65_536

# An API key has no end; its entry is dropped the moment the table of keys changes.
API_KEY_KEPT_S = 3600.0

# A credential that failed is not checked again for so long.
FAILURE_KEPT_S = 10.0


# How long a credential that the host app proved may be shown to it again without a look at
# its address's failures.
HOST_TRUST_S = 60.0


class TokenVerifier(Protocol):
    """Proves signed tokens."""

    def verify(self, token: str) -> Proof | None:
        """Whom the token proves, without waiting for anything."""


class Verified:
    """What a credential turned out to be worth, and until when that holds (Unix time).

    ``by_host``: the host app proved it, and is asked again each time.
    """

    __slots__ = ("_asked", "_standings", "by_host", "identity", "until_s")

    def __init__(self, identity: Identity | None, until_s: float = 0.0, *, by_host: bool = False) -> None:
        self.identity = identity
        self.until_s = until_s
        self.by_host = by_host
        self._asked = False
        self._standings: Standings | None = None

    @property
    def standings(self) -> Standings | None:
        """How its subject stands; kept from the second request on, since most of a live audience make one."""
        if self._asked and self._standings is None:
            self._standings = Standings()
        self._asked = True
        return self._standings


GUEST = Verified(None)


class Identifier:
    """Finds the identity of a request; remembers what each credential was worth, until ``epoch`` is another."""

    def __init__(
        self,
        api_keys: ApiKeys,
        tokens: TokenVerifier | None,
        failed_auth: FailedAuth,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._api_keys = api_keys
        self._tokens = tokens
        self._failed_auth = failed_auth
        self._now_s = now_s
        self._known: Table[bytes, Verified] = Table(CREDENTIALS_KEPT)
        self._digest_key = token_bytes(32)
        self.epoch = object()  # no other identifier has the same

    def forget(self) -> None:
        """Forget what credentials were worth, because the keys have changed."""
        self._known.clear()
        self.epoch = object()

    def stands(self, verified: Verified, epoch: object) -> bool:
        """Whether what was known of a credential in an epoch still holds."""
        return epoch is self.epoch and verified.until_s > self._now_s()

    def identify_now(self, facts: Facts) -> Verified | None:
        """What is known of the request's credential; None where something must be awaited to know it."""
        credential = facts.credential
        if credential is None:
            return GUEST if facts.authenticate is None else None
        if not (facts.authenticate or self._api_keys or self._tokens):
            return GUEST
        known = self._known.get(self._digest(credential))
        return None if known is None or known.by_host or known.until_s <= self._now_s() else known

    async def identify(self, facts: Facts, clients: AddressClients) -> Verified:
        """What the request's credential is worth. Never raises for what a client sent."""
        if (known := self.identify_now(facts)) is not None:
            return known
        identity = None
        if facts.credential is None or self._is_hosts(facts.credential):
            identity = await self._ask_host(facts)
        if identity is not None or facts.credential is None:
            return Verified(identity)
        return await self._first_sight(facts, facts.credential, clients)

    def _is_hosts(self, credential: str) -> bool:
        known = self._known.get(self._digest(credential))
        return known is not None and known.by_host and known.until_s > self._now_s()

    async def _first_sight(self, facts: Facts, credential: str, clients: AddressClients) -> Verified:
        if not await self._failed_auth.may_verify(clients):
            return GUEST
        if identity := await self._ask_host(facts):
            self._known.put(self._digest(credential), Verified(None, self._now_s() + HOST_TRUST_S, by_host=True))
            return Verified(identity)
        return await self._verify(credential, clients)

    async def _verify(self, credential: str, clients: AddressClients) -> Verified:
        # Up to count_now nothing awaits: no other request of this address can slip in between.
        if not self._failed_auth.may_verify_now(clients):
            return GUEST
        proof = self._prove(credential)
        if proof is not None:
            verified = Verified(proof.identity, proof.until_s)
            self._known.put(self._digest(credential), verified)
            return verified
        self._known.put(self._digest(credential), Verified(None, self._now_s() + FAILURE_KEPT_S))
        self._failed_auth.count_now(clients)
        await self._failed_auth.count(clients)
        return GUEST

    def _prove(self, credential: str) -> Proof | None:
        if not 0 < len(credential) <= LONGEST_CREDENTIAL:
            return None
        if identity := self._api_keys.verify(credential):
            return Proof(identity, self._now_s() + API_KEY_KEPT_S)
        return None if self._tokens is None else self._tokens.verify(credential)

    async def _ask_host(self, facts: Facts) -> Identity | None:
        """What the host app says of the request; a host that fails says nothing."""
        if facts.authenticate is None:
            return None
        try:
            return await facts.authenticate()
        except Exception as error:
            # Its message may hold what was presented, and so may the lines of a traceback.
            log.error(
                "the app's authenticate raised %s (%s): the request is a guest's", type(error).__name__, _where(error)
            )
            return None

    def _digest(self, credential: str) -> bytes:
        text = credential[: LONGEST_CREDENTIAL + 1].encode("utf-8", "surrogatepass")
        return blake2b(text, digest_size=16, key=self._digest_key).digest()


def _where(error: Exception) -> str:
    """File and line where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "nowhere known"
