"""Charges failed signature checks to the client's address, so that forged tokens cost only their sender."""

from __future__ import annotations

from shieldmw.core.client import AddressClients
from shieldmw.core.rules import Policy
from shieldmw.gate.limiter.limiter import Limiter
from shieldmw.store.memory import MemoryBuckets


class FailedAuth:
    """Decides whether an address's signatures are checked immediately: only if its ``failed-auth`` bucket is not empty.

    Otherwise they are checked within a share of this worker's time (``time_share``).

    The bucket in the store counts the failures of the whole fleet. A local one is charged in the same step as the
    failed check, so that many concurrent requests cannot all pass before the first one counts. It has the whole limit,
    and decides alone while the store is away.
    """

    def __init__(self, policy: Policy, limiter: Limiter, local: MemoryBuckets) -> None:
        self._policy = policy
        self._limiter = limiter
        self._local = local
        self._epoch = object()  # replaced when buckets are reset: replies to earlier queries are then out of date

    async def may_verify(self, clients: AddressClients) -> bool:
        """Whether the address may fail once more, as far as the fleet knows."""
        if not self.may_verify_now(clients):
            return False
        look = self._policy.failed_auth_charges(clients, 0)
        if not look:
            return True
        epoch = self._epoch
        reply = await self._limiter.ask(look)
        if reply is not None and reply.sent_us is not None and epoch is self._epoch:
            self._local.remember(look, reply.outcome)
        return self.may_verify_now(clients)

    def may_verify_now(self, clients: AddressClients) -> bool:
        """Whether the address may fail once more, as far as this worker knows."""
        return self._local.refused_now(self._policy.failed_auth_charges(clients, 1)) is None

    def invalidate(self) -> None:
        """Forget what this worker knows of failures: buckets were reset, or the store has lost them."""
        self._local.clear()
        self._epoch = object()

    async def count(self, clients: AddressClients) -> None:
        """Charge a failure: locally before anything is awaited, then in the store."""
        charges = self._policy.failed_auth_charges(clients, 1)
        self._local.take_now(charges)
        if charges:
            await self._limiter.ask(charges)
