"""The store of a single process, without a server. Its buckets also decide while Redis is away."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from shieldmw.core import bucket
from shieldmw.core.api_keys import ApiKey, ApiKeyTable, derive_digest_key
from shieldmw.core.bucket import EPOCH_S, Charge, Charges, Outcome, TakeRequest
from shieldmw.core.cache import BoundedCache
from shieldmw.core.claims import Claim, ClaimTable, Ranked, claim_slot
from shieldmw.core.client import Client
from shieldmw.core.debts import Debt, deepest_us, settled_us
from shieldmw.core.deny import DenyEntry, DenyList
from shieldmw.core.lease import Unspent
from shieldmw.core.load import WorkerLoad
from shieldmw.core.portion import Portion, PortionRequest, grant
from shieldmw.core.seats import Capacity, Fleet, Grant, Report, SeatTable
from shieldmw.core.top import TopReport
from shieldmw.core.waiting import EMPTY, QueueCounters

from .port import AUDIT_LENGTH, AuditEntry, C, Document, S, Stored

# Maximum number of buckets.
BUCKETS_KEPT = 262_144

# Most notices that are remembered: those of several long lists of denials, with room for alarms.
NOTICES_KEPT = 1024


def steady_now_us() -> Callable[[], int]:
    """A clock in microseconds since 2025 that never steps: it is set by the wall clock once."""
    offset_us = time.time_ns() // 1000 - EPOCH_S * 1_000_000 - time.monotonic_ns() // 1000
    return lambda: time.monotonic_ns() // 1000 + offset_us


class MemoryBuckets:
    """Buckets in this process, at most ``most_buckets``: the least recently used are dropped.

    ``now_us`` is its clock, in microseconds since 2025-01-01.
    """

    def __init__(self, *, most_buckets: int = BUCKETS_KEPT, now_us: Callable[[], int] | None = None) -> None:
        self.now_us = now_us or steady_now_us()
        self._tats: BoundedCache[str | int, int] = BoundedCache(most_buckets)

    def __len__(self) -> int:
        return len(self._tats)

    def take_now(self, charges: Charges) -> Outcome:
        """Take the charges, without awaiting anything."""
        keys = [self._key(charge) for charge in charges]
        outcome = bucket.take([self._tats.get(key) for key in keys], TakeRequest(charges), self.now_us())
        if outcome.allowed:
            for key, charge, tat_us in zip(keys, charges, outcome.tats_us, strict=True):
                if charge.cost:
                    self._tats.put(key, tat_us)
        return outcome

    def refund_now(self, charges: Charges) -> None:
        """Take back charges that were just allowed."""
        for charge in charges:
            key = self._key(charge)
            if (tat_us := self._tats.get(key)) is not None:
                self._tats.put(key, tat_us - charge.step_us)

    def refused_now(self, charges: Charges) -> bucket.Outcome | None:
        """The refusal of charges that do not fit, or None; charges nothing."""
        stored = [self._tats.get(self._key(charge)) for charge in charges]
        outcome = bucket.take(stored, TakeRequest(charges), self.now_us())
        return None if outcome.allowed else outcome

    def remember(self, charges: Charges, outcome: Outcome) -> None:
        """Remember the TATs of another store's buckets, by this store's clock, unless a later one is known.

        One that is further ahead than debts can move it counts as that far ahead: it may be garbage there.
        """
        tats, now_us = self._tats, outcome.now_us
        shift_us = self.now_us() - now_us
        for charge, tat_us in zip(charges, outcome.tats_us, strict=True):
            if tat_us > now_us:
                key, mine_us = self._key(charge), tat_us + shift_us
                if tat_us > now_us + charge.limit.tau_us:
                    mine_us = min(mine_us, now_us + deepest_us(charge.limit) + shift_us)
                known_us = tats.get(key)
                if known_us is None or known_us < mine_us:
                    tats.put(key, mine_us)

    def refill_now(self, client: Client, limit_names: Iterable[str]) -> None:
        """Make a client's buckets full again."""
        for name in limit_names:
            self._tats.drop(f"{name} {client}")

    def clear(self) -> None:
        """Make all buckets full again."""
        self._tats.clear()

    def _key(self, charge: Charge) -> str | int:
        return charge.bucket


class WarmBuckets(MemoryBuckets):
    """Local copies of a store's buckets, keyed by hashes instead of names.

    Among a quarter of a million buckets, a hash collides with that of another bucket once in 10**13 requests.
    """

    def _key(self, charge: Charge) -> int:
        return charge.number


class MemoryStore(MemoryBuckets):
    """The whole store for a fleet of one worker."""

    def __init__(
        self, secret: bytes, *, most_buckets: int = BUCKETS_KEPT, now_us: Callable[[], int] | None = None
    ) -> None:
        super().__init__(most_buckets=most_buckets, now_us=now_us)
        self._secret = secret
        self._api_keys: Mapping[str, ApiKey] = {}
        self._api_keys_version = 1
        self._deny = DenyList(1)
        self._documents: dict[str, Any] = {}
        self._audit: deque[AuditEntry] = deque(maxlen=AUDIT_LENGTH)
        self._seats = SeatTable()
        self._loads: dict[str, WorkerLoad] = {}
        self._tops: dict[str, TopReport] = {}
        self._notices: BoundedCache[str, str] = BoundedCache(NOTICES_KEPT)
        self._queue = EMPTY
        self._decided: dict[str, Sequence[int]] = {}
        self._claims = ClaimTable()
        self._listening: list[asyncio.Queue[str]] = []
        self._charged: BoundedCache[str, Debt] = BoundedCache(most_buckets)

    async def take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """Take each request's charges, all or nothing. Nothing is prefetched: the buckets are here."""
        return [self.take_now(request.charges) for request in requests]

    async def portion(self, request: PortionRequest) -> Portion:
        """Take several units at once."""
        charge, want, least = request
        portion = grant(self._tats.get(charge.bucket), charge.limit, want, least, self.now_us())
        if portion.units:
            self._tats.put(charge.bucket, portion.tat_us)
        return portion

    async def give_back(self, unspent: Sequence[Unspent]) -> None:
        """Give back the unspent units of portions."""
        for charge, ceiling_us, give_us in unspent:
            if self._tats.get(charge.bucket) == ceiling_us:
                self._tats.put(charge.bucket, ceiling_us - give_us)

    async def settle(self, debts: Sequence[Debt], now_us: int, worker: str) -> Sequence[Debt]:
        """Charge debts, each once, whether they fit or not. Returns none: every charge is confirmed."""
        for debt in debts:
            key = debt.charge.bucket
            before = self._charged.get(f"{key} {worker}")
            charged_us = before.admitted_us if before is not None and before.number == debt.number else 0
            if owed_us := debt.owed_us(now_us, charged_us):
                self._tats.put(key, settled_us(self._tats.get(key), owed_us, debt.charge.limit, self.now_us()))
                self._charged.put(f"{key} {worker}", debt)
        return ()

    async def refill(self, client: Client, limit_names: Iterable[str]) -> None:
        """Make a client's buckets full again."""
        self.refill_now(client, limit_names)
        self._tell("client")

    async def secret(self) -> bytes:
        """The secret that the store was made with."""
        return self._secret

    async def api_keys(self, known_version: int | None) -> ApiKeyTable | None:
        """The issued API keys, or None if their version is known."""
        if known_version == self._api_keys_version:
            return None
        return ApiKeyTable(self._api_keys_version, derive_digest_key(self._secret), self._api_keys)

    async def add_api_key(self, api_key: ApiKey) -> None:
        """Issue a key."""
        self._api_keys = {**self._api_keys, api_key.digest: api_key}
        self._api_keys_version += 1

    async def revoke_api_keys(self, digests: Sequence[str]) -> int:
        """Revoke keys by their digests; returns how many there were."""
        kept = {name: entry for name, entry in self._api_keys.items() if name not in digests}
        revoked = len(self._api_keys) - len(kept)
        self._api_keys = kept
        self._api_keys_version += 1
        return revoked

    async def deny_list(self, known_version: int | None) -> DenyList | None:
        """The entries, or None if their version is known."""
        return None if known_version == self._deny.version else self._deny

    async def deny(self, entry: DenyEntry) -> None:
        """Refuse a network."""
        others = [other for other in self._deny.entries if other.network != entry.network]
        self._deny = DenyList(self._deny.version + 1, (*others, entry))
        what = f"deny {entry.network}"
        self._note(AuditEntry(self._now_s(), entry.actor, what, "", f"until {entry.until_s:.0f}", entry.reason), "deny")

    async def restore_deny(self, entries: Sequence[DenyEntry]) -> bool:
        """Do nothing: this store cannot lose its list."""
        return False

    async def undeny(self, network: str, actor: str) -> bool:
        """Stop refusing a network; returns whether it was refused."""
        kept = tuple(entry for entry in self._deny.entries if str(entry.network) != network)
        dropped = len(kept) < len(self._deny.entries)
        self._deny = DenyList(self._deny.version + 1, kept)
        self._note(AuditEntry(self._now_s(), actor, f"deny {network}", "denied", "not denied", ""), "deny")
        return dropped

    async def document(self, kind: Document[C, S]) -> Stored[S]:
        """The stored document."""
        return self._stored(kind)

    async def set_document(
        self, kind: Document[C, S], change: C, *, was: S, expected_version: int | None
    ) -> tuple[bool, Stored[S]]:
        """Change a document, unless its version is not the expected one."""
        stored = self._stored(kind)
        version, now_s = max(stored.state.version, was.version), stored.now_s
        if expected_version not in (None, version):
            return False, stored
        until_s = now_s + change.for_s if change.for_s else None
        state = replace(kind.parse(kind.text(change).encode()), version=version + 1, since_s=now_s, until_s=until_s)
        self._documents[kind.name] = state
        self._note(AuditEntry(now_s, change.actor, kind.name, str(was), str(change), change.reason), kind.name)
        return True, Stored(state, now_s)

    async def restore_document(self, kind: Document[C, S], state: S) -> Stored[S]:
        """Adopt a document of a higher version. This store itself cannot lose one."""
        if state.version > self._stored(kind).state.version:
            self._documents[kind.name] = state
        return self._stored(kind)

    def _stored(self, kind: Document[C, S]) -> Stored[S]:
        return Stored(self._documents.get(kind.name, kind.nothing), self._now_s())

    async def begin_epoch(self) -> None:
        """Do nothing: a worker that knows the only store of its buckets needs no epoch."""

    async def audit(self, count: int) -> list[AuditEntry]:
        """The last changes, newest first."""
        return list(self._audit)[::-1][:count]

    async def note(self, entry: AuditEntry) -> None:
        """Add a change to the audit log, with the current time."""
        self._note(replace(entry, when_s=self._now_s()), "audit")

    async def tell(self, change: str) -> None:
        """Announce a change to every worker, without storing it."""
        self._tell(change)

    async def changes(self) -> AsyncIterator[str]:
        """Announced changes, as they happen."""
        listener: asyncio.Queue[str] = asyncio.Queue()
        self._listening.append(listener)
        try:
            yield ""
            while True:
                yield await listener.get()
        finally:
            self._listening.remove(listener)

    async def seats(self, report: Report, capacity: Capacity) -> Grant:
        """Report the seats that a worker holds and needs; returns its grant."""
        return self._seats.refresh(report, capacity, self._now_s())

    async def fleet(self, now_s: float) -> Fleet:
        """The state of the fleet."""
        return self._seats.fleet(now_s)

    async def release_seats(self, worker: str) -> None:
        """Give back all seats of a worker that stops."""
        self._seats.release(worker)

    async def report_load(self, load: WorkerLoad) -> None:
        """Store a worker's report."""
        self._loads[load.worker] = load

    async def loads(self, now_s: float) -> list[WorkerLoad]:
        """The reports that are fresh; others are dropped."""
        self._loads = {name: load for name, load in self._loads.items() if load.is_fresh(now_s)}
        return list(self._loads.values())

    async def drop_load(self, worker: str) -> None:
        """Drop the report of a worker that stops."""
        self._loads.pop(worker, None)

    async def is_first(self, notice: str, owner: str) -> bool:
        """Whether this owner was the first to ask for this notice, as far as is remembered."""
        first = self._notices.get(notice)
        if first is None:
            self._notices.put(notice, owner)
        return first in (None, owner)

    async def decided(self, worker: str, counted: Sequence[int], confirmed: Sequence[int]) -> Sequence[int]:
        """Keep what a worker has counted since its start; returns the sums. They are lost with the worker only."""
        before = self._decided.get(worker, counted)
        self._decided[worker] = list(map(max, before, counted))
        return list(map(sum, zip(*self._decided.values(), strict=True)))

    async def report_top(self, report: TopReport) -> None:
        """Store a worker's report of its busiest clients, replacing its previous one."""
        self._tops[report.worker] = report

    async def tops(self, now_s: float) -> list[TopReport]:
        """The reports that are fresh."""
        self._tops = {name: report for name, report in self._tops.items() if report.is_fresh(now_s)}
        return list(self._tops.values())

    async def drop_top(self, worker: str) -> None:
        """Drop the report of a worker that stops."""
        self._tops.pop(worker, None)

    async def queue(self, give: int, free: int, known: QueueCounters = EMPTY) -> QueueCounters:
        """Reserve ``give`` numbers to give out, and call ``free`` numbers, one for each free seat."""
        given = max(self._queue.given, known.given) + give
        called = max(self._queue.called, known.called)
        self._queue = QueueCounters(given - give + 1, given, max(called, min(given, called + free)))
        return self._queue

    async def claim(self, claims: Sequence[Claim], now_s: float, longest_s: int) -> Sequence[Ranked]:
        """Count renewals; returns for each its rank in its round."""
        return self._claims.claim(claim_slot(now_s, longest_s), claims)

    async def aclose(self) -> None:
        """Do nothing: there are no connections."""

    def _now_s(self) -> float:
        return EPOCH_S + self.now_us() / 1_000_000

    def _note(self, entry: AuditEntry, change: str) -> None:
        self._audit.append(entry)
        self._tell(change)

    def _tell(self, change: str) -> None:
        for listener in self._listening:
            listener.put_nowait(change)
