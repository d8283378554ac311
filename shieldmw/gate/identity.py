"""Who is asking: a verified subject, else a guest on its address. Prove it before it counts."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from secrets import token_bytes
from typing import Protocol

from shieldmw.core.bounds import LONGEST_CREDENTIAL
from shieldmw.core.client import AddressClients, Identity, Proof
from shieldmw.core.credentials import NOT_OF_THE_CREDENTIAL, Failure, Rejected
from shieldmw.core.facts import Facts
from shieldmw.core.table import Table

from .api_keys import ApiKeys
from .failed_auth import FailedAuth
from .host import Host
from .log_throttle import LogThrottle
from .standing import Standings
from .time_share import TimeShare

log = logging.getLogger(__name__)

# Those that failed have a table of their own: however many are made up, none of those that are known is forgotten.
CREDENTIALS_KEPT = 65_536
FAILURES_KEPT = 16_384

# An API key has no end; its entry is looked at again once the table of keys has changed.
API_KEY_KEPT_S = 3600.0

# A credential that failed is not checked again for so long.
FAILURE_KEPT_S = 10.0


class TokenVerifier(Protocol):
    """Proves signed tokens, without waiting for anything."""

    def screen(self, token: str) -> Rejected | None:
        """Why the token proves nobody, as far as that shows at next to no cost; None where it must be verified."""

    def verify(self, token: str) -> Proof | None:
        """Whom the token proves; what it costs is worth bounding."""


class Verified:
    """What a credential turned out to be worth, and until when that holds (Unix time).

    ``api_key``: the digest of the API key that proved it. ``epoch``: when that key was last seen to be in force.
    """

    __slots__ = ("_asked", "_standings", "api_key", "epoch", "identity", "until_s")

    def __init__(
        self, identity: Identity | None, until_s: float = 0.0, api_key: str | None = None, epoch: object = None
    ) -> None:
        self.identity = identity
        self.until_s = until_s
        self.api_key = api_key
        self.epoch = epoch
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
    """Finds the identity of a request; remembers what each credential was worth, until ``epoch`` is another.

    A credential of somebody who is in order is never turned down for what others on the same address present: API
    keys are looked up, whatever failed there, and tokens are verified within a share of this worker's time.
    """

    def __init__(
        self,
        api_keys: ApiKeys,
        tokens: TokenVerifier | None,
        failed_auth: FailedAuth,
        now_s: Callable[[], float] = time.time,
        timer_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._api_keys = api_keys
        self._tokens = tokens
        self._failed_auth = failed_auth
        self._now_s = now_s
        self._share: TimeShare[Verified] = TimeShare(timer_s)
        self._host = Host()
        self._known: Table[bytes, Verified] = Table(CREDENTIALS_KEPT)
        self._failed: Table[bytes, Verified] = Table(FAILURES_KEPT)
        self._digest_key = token_bytes(32)
        self._throttle = LogThrottle()
        self.epoch = object()  # no other identifier has the same

    @property
    def failures(self) -> Counter[tuple[str, ...]]:
        """How many credentials failed since the start, and how often the host app did, by reason."""
        return self._throttle.totals + self._host.failures

    def forget(self) -> None:
        """Forget what credentials were worth: a key that has proven some of them is no longer held."""
        self._known.clear()
        self.keys_changed()

    def keys_changed(self) -> None:
        """Look again at what failed, and at API keys: there are others now. Tokens that were proven stay so."""
        self._failed.clear()
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
        return self._recalled(self._digest(credential))

    async def identify(self, facts: Facts, clients: AddressClients) -> Verified:
        """What the request's credential is worth. Never raises for what a client sent."""
        if (known := self.identify_now(facts)) is not None:
            return known
        host_failed = False
        if facts.authenticate is not None:
            identity, host_failed = await self._host.ask(facts.authenticate)
            if identity is not None:
                return Verified(identity)
        if facts.credential is None:
            return GUEST
        return await self._first_sight(facts.credential, clients, host_failed)

    async def _first_sight(self, credential: str, clients: AddressClients, host_failed: bool) -> Verified:
        """What API keys and tokens say of it.

        Where the host app could not say, it may be the host's: nothing is kept, counted or charged, and the next
        request asks the host again.
        """
        digest = self._digest(credential)
        found = self._without_signature(credential)
        if found is not None:
            return self._judged(digest, found, keep=not host_failed)
        if not host_failed and await self._failed_auth.may_verify(clients):
            # While this request waited, others have failed, or have shown the same. From here on nothing awaits.
            if (known := self._recalled(digest)) is not None:
                return known
            if self._failed_auth.may_verify_now(clients):
                verified = self._verified(digest, credential, keep=True)
                if verified.identity is None:
                    self._failed_auth.count_now(clients)
                    await self._failed_auth.count(clients)
                return verified
        turn = await self._share.run(
            clients.site or clients.one,
            lambda: self._recalled(digest) or self._verified(digest, credential, keep=not host_failed),
        )
        return turn or self._judged(digest, Rejected(Failure.UNAFFORDABLE), keep=False)

    def _without_signature(self, credential: str) -> Proof | Rejected | None:
        """What can be said at next to no cost; None where only a signature can tell."""
        if not credential:
            return Rejected(Failure.MALFORMED)
        if len(credential) > LONGEST_CREDENTIAL:
            return Rejected(Failure.TOO_LONG)
        found = self._api_keys.find(credential)
        if found is not None:
            digest, identity = found
            return Proof(identity, self._now_s() + API_KEY_KEPT_S, digest)
        return Rejected(Failure.UNKNOWN_KEY) if self._tokens is None else self._tokens.screen(credential)

    def _verified(self, digest: bytes, credential: str, *, keep: bool) -> Verified:
        proof = None if self._tokens is None else self._tokens.verify(credential)
        return self._judged(digest, proof or Rejected(Failure.SIGNATURE), keep=keep)

    def _judged(self, digest: bytes, found: Proof | Rejected, *, keep: bool) -> Verified:
        """What was found, remembered if it may be."""
        now_s = self._now_s()
        if isinstance(found, Proof):
            verified = Verified(found.identity, found.until_s, found.api_key, self.epoch)
            if keep:
                self._known.put(digest, verified)
            return verified
        if (keep or found.reason is Failure.UNAFFORDABLE) and (counts := self._throttle.due(found.reason)):
            log.warning("credentials prove nobody, so that their requests are guests' (%s)", counts)
        if not keep or found.reason in NOT_OF_THE_CREDENTIAL:
            return GUEST
        until_s = now_s + FAILURE_KEPT_S
        failed = Verified(None, until_s if found.until_s is None else min(until_s, found.until_s))
        self._failed.put(digest, failed)
        return failed

    def _recalled(self, digest: bytes) -> Verified | None:
        """What is known of a credential, good or bad."""
        known = self._known.get(digest) or self._failed.get(digest)
        if known is None or known.until_s <= self._now_s():
            return None
        if known.api_key is not None and known.epoch is not self.epoch:
            if self._api_keys.identity_of(known.api_key) != known.identity:
                self._known.drop(digest)
                return None
            known.epoch = self.epoch
        return known

    def _digest(self, credential: str) -> bytes:
        text = credential[: LONGEST_CREDENTIAL + 1].encode("utf-8", "surrogatepass")
        return blake2b(text, digest_size=16, key=self._digest_key).digest()
