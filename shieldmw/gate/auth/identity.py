"""Identifies clients: a subject whose credential has been verified, or a guest, known only by its address."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b
from secrets import token_bytes
from typing import Protocol

from shieldmw.core.bounds import LONGEST_CREDENTIAL
from shieldmw.core.cache import BoundedCache
from shieldmw.core.client import AddressClients, Identity, Proof
from shieldmw.core.credentials import NOT_OF_THE_CREDENTIAL, Failure, Rejected
from shieldmw.core.facts import Facts
from shieldmw.core.metrics import Table
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.log_throttle import LogThrottle

from .api_keys import ApiKeys
from .failed_auth import FailedAuth
from .host import Host
from .time_share import TimeShare

log = logging.getLogger(__name__)

# Maximum number of cached credentials. Failed ones have their own cache, so that invented ones never evict valid ones.
CREDENTIALS_KEPT = 65_536
FAILURES_KEPT = 16_384

# Lifetime of a cached API key, which never expires itself; it is checked again as soon as the table of keys changes.
API_KEY_KEPT_S = 3600.0

# Lifetime of a cached failure.
FAILURE_KEPT_S = 10.0


class TokenVerifier(Protocol):
    """Verifies signed tokens, without waiting for anything."""

    def screen(self, token: str) -> Rejected | None:
        """Reject a token for a reason that is cheap to find; None if its signature must be verified."""

    def verify(self, token: str) -> Proof | None:
        """Verify the token; expensive, so callers bound how often they do it."""


class Identified:
    """The identity that a credential proves, valid until ``until_s`` (Unix time).

    ``identity`` is None for a guest, whose credential is missing or has failed. ``subject`` is a digest of the subject,
    empty for a guest. ``api_key`` is the digest of the API key that proved it, and ``epoch`` the identifier's epoch in
    which that key was last found to be in force.
    """

    __slots__ = ("api_key", "epoch", "identity", "subject", "until_s")

    def __init__(
        self, identity: Identity | None, until_s: float = 0.0, api_key: str | None = None, epoch: object = None
    ) -> None:
        self.identity = identity
        self.subject = b"" if identity is None else _digest(identity.subject)
        self.until_s = until_s
        self.api_key = api_key
        self.epoch = epoch


def _digest(subject: str) -> bytes:
    return blake2b(subject.encode("utf-8", "surrogatepass"), digest_size=16).digest()


GUEST = Identified(None)


class Identifier:
    """Finds the identity of a request, and caches the outcome for each credential until ``epoch`` changes.

    API keys are always looked up, even if other credentials have failed at the same address. Beyond the limit of
    failures, tokens are verified within a share of this worker's time; if that takes too long, the request counts as a
    guest's.
    """

    def __init__(
        self,
        api_keys: ApiKeys,
        tokens: TokenVerifier | None,
        failed_auth: FailedAuth,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._api_keys = api_keys
        self._tokens = tokens
        self._failed_auth = failed_auth
        self._unix_s = clock.unix_s
        self._share: TimeShare[Identified] = TimeShare(clock)
        self._host = Host(clock)
        self._known: BoundedCache[bytes, Identified] = BoundedCache(CREDENTIALS_KEPT)
        self._failed: BoundedCache[bytes, Identified] = BoundedCache(FAILURES_KEPT)
        self._digest_key = token_bytes(32)
        self._throttle = LogThrottle(clock.now_s)
        self.epoch = object()  # unique to this identifier
        api_keys.on_change = self.keys_changed

    @property
    def failures(self) -> Counter[tuple[str, ...]]:
        """Failures of credentials and of the host app since the start, by reason."""
        return self._throttle.totals + self._host.failures

    def entries(self) -> Mapping[Table, int]:
        """How many credentials are cached: those that were accepted, and those that failed."""
        return {Table.CREDENTIALS: len(self._known), Table.FAILED_CREDENTIALS: len(self._failed)}

    def invalidate(self) -> None:
        """Drop all cached proofs, since a key that verified some of them is no longer held."""
        self._known.clear()
        self.keys_changed()

    def token_keys_changed(self, lost: bool) -> None:
        """React to changed keys of tokens; ``lost``: some are no longer held."""
        if lost:
            self.invalidate()
        else:
            self.keys_changed()

    def keys_changed(self) -> None:
        """Check failed credentials and API keys again, since keys have changed. Verified tokens stay cached."""
        self._failed.clear()
        self.epoch = object()

    def identify_now(self, facts: Facts) -> Identified | None:
        """The outcome for the request's credential, if it is known without awaiting anything; otherwise None."""
        credential = facts.credential
        if credential is None:
            return GUEST if facts.authenticate is None else None
        if self._tokens is None and facts.authenticate is None and not self._api_keys:
            return GUEST
        return self._recalled(self._digest(credential))

    async def identify(self, facts: Facts, clients: AddressClients) -> Identified:
        """The outcome for the request's credential. Never raises because of what a client sent."""
        if (known := self.identify_now(facts)) is not None:
            return known
        host_failed = False
        if facts.authenticate is not None:
            identity, host_failed = await self._host.ask(facts.authenticate)
            if identity is not None:
                return Identified(identity)
        if facts.credential is None:
            return GUEST
        return await self._first_sight(facts.credential, clients, host_failed)

    async def _first_sight(self, credential: str, clients: AddressClients, host_failed: bool) -> Identified:
        """Check a credential against API keys and tokens.

        If the host app failed, the credential may be one of its own: then nothing is cached, counted or charged, and
        the next request is passed to the host app again.
        """
        digest = self._digest(credential)
        found = self._without_signature(credential)
        if found is not None:
            return self._judged(digest, found, keep=not host_failed)
        if not host_failed and await self._failed_auth.may_verify(clients):
            # Other requests may have failed meanwhile, or presented the same credential. Nothing is awaited between
            # this check and the local charge, with which `count` begins.
            if (known := self._recalled(digest)) is not None:
                return known
            if self._failed_auth.may_verify_now(clients):
                verified = self._verified(digest, credential, keep=True)
                if verified.identity is None:
                    await self._failed_auth.count(clients)
                return verified
        turn = await self._share.run(
            clients.site or clients.network,
            lambda: self._recalled(digest) or self._verified(digest, credential, keep=not host_failed),
        )
        return turn or self._judged(digest, Rejected(Failure.UNAFFORDABLE), keep=False)

    def _without_signature(self, credential: str) -> Proof | Rejected | None:
        """The outcome if it can be found cheaply; None if the signature must be checked."""
        if not credential:
            return Rejected(Failure.MALFORMED)
        if len(credential) > LONGEST_CREDENTIAL:
            return Rejected(Failure.TOO_LONG)
        found = self._api_keys.find(credential)
        if found is not None:
            digest, identity = found
            return Proof(identity, self._unix_s() + API_KEY_KEPT_S, digest)
        return Rejected(Failure.UNKNOWN_KEY) if self._tokens is None else self._tokens.screen(credential)

    def _verified(self, digest: bytes, credential: str, *, keep: bool) -> Identified:
        proof = None if self._tokens is None else self._tokens.verify(credential)
        return self._judged(digest, proof or Rejected(Failure.SIGNATURE), keep=keep)

    def _judged(self, digest: bytes, found: Proof | Rejected, *, keep: bool) -> Identified:
        """The outcome as an identity; cached if ``keep`` allows it."""
        now_s = self._unix_s()
        if isinstance(found, Proof):
            verified = Identified(found.identity, found.until_s, found.api_key, self.epoch)
            if keep:
                self._known.put(digest, verified)
            return verified
        if (keep or found.reason is Failure.UNAFFORDABLE) and (counts := self._throttle.due(found.reason)):
            log.warning("credentials not accepted, so their requests count as guests' (%s)", counts)
        if not keep or found.reason in NOT_OF_THE_CREDENTIAL:
            return GUEST
        until_s = now_s + FAILURE_KEPT_S
        failed = Identified(None, until_s if found.until_s is None else min(until_s, found.until_s))
        self._failed.put(digest, failed)
        return failed

    def _recalled(self, digest: bytes) -> Identified | None:
        """The cached outcome for a credential, whether it was valid or not."""
        known = self._known.get(digest) or self._failed.get(digest)
        if known is None or known.until_s <= self._unix_s():
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
