"""The store port: what the gate needs of a store. Implemented by ``MemoryStore`` (one process) and ``RedisStore``.

Every change of buckets, the mode, limits, seats, the waiting room or a table is one atomic round trip (in a cluster,
one for each slot). The exception is ``refill``, which deletes the buckets first and announces that afterwards. Reads
may take several: ``api_keys`` and ``deny_list`` read the version and then the changes since; ``mode`` writes an epoch
to an empty store, and ``loads`` drops reports that are too old.

Every method raises ``StoreUnavailable`` if the store is away or too slow (the operation may have been carried out all
the same), and ``StoreError`` if the answer makes no sense.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from shieldmw.core.api_keys import ApiKey, ApiKeyTable
from shieldmw.core.bucket import Outcome, TakeRequest
from shieldmw.core.claims import Claim, Ranked
from shieldmw.core.client import Client
from shieldmw.core.debts import Debt
from shieldmw.core.deny import DenyEntry, DenyList
from shieldmw.core.lease import Unspent
from shieldmw.core.load import WorkerLoad
from shieldmw.core.mode import ModeChange, ModeState
from shieldmw.core.overrides import OverridesChange, OverridesState
from shieldmw.core.portion import Portion, PortionRequest
from shieldmw.core.seats import Capacity, Fleet, Grant, Report
from shieldmw.core.top import TopReport
from shieldmw.core.waiting import EMPTY, QueueCounters
from shieldmw.errors import StoreError, StoreUnavailable

# Number of changes kept in the audit log.
AUDIT_LENGTH = 1000


class PartialFailure(StoreUnavailable):
    """Some requests of a call have an outcome, others failed because their buckets are on a server that is away."""

    def __init__(self, results: Sequence[Outcome | StoreError]) -> None:
        super().__init__(results)
        self.results = results

    def __str__(self) -> str:
        failures = [result for result in self.results if isinstance(result, StoreError)]
        return f"{len(failures)} of {len(self.results)} requests failed, the first with: {failures[0]}"


class ChargeTaker(Protocol):
    """Takes charges: a store, or a wrapper around one."""

    async def take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """Take each request's charges, all or nothing, by the store's own clock; in order if they share buckets.

        Raises:
            PartialFailure: holds an outcome or an error for each request.
        """

    async def portion(self, request: PortionRequest) -> Portion:
        """Take several units at once from a bucket that many clients share, by the store's own clock."""

    async def aclose(self) -> None:
        """Close the connections; a later call opens new ones."""


class Buckets(ChargeTaker, Protocol):
    """Keeps buckets."""

    async def give_back(self, unspent: Sequence[Unspent]) -> None:
        """Give back units that were prefetched and not spent."""

    async def settle(self, debts: Sequence[Debt], now_us: int, worker: str) -> Sequence[Debt]:
        """Charge a worker's debts, whether they fit or not. Returns the debts whose charge is unconfirmed.

        Unconfirmed and failed debts may be sent again: each is charged only once. ``now_us`` is the worker's clock,
        and ``worker`` its unique name.
        """

    async def refill(self, client: Client, limit_names: Iterable[str]) -> None:
        """Refill a client's buckets, on every worker."""


class DenyRegister(Protocol):
    """Keeps the deny list."""

    async def deny_list(self, known_version: int | None) -> DenyList | None:
        """The entries, or None if they are still at ``known_version``; version 0 means that there is no list."""

    async def deny(self, entry: DenyEntry) -> None:
        """Refuse a network, replacing its entry if it has one."""

    async def restore_deny(self, entries: Sequence[DenyEntry]) -> bool:
        """Restore the list if the store has lost it; returns whether it had. An existing list stays, even if empty."""

    async def undeny(self, network: str, actor: str) -> bool:
        """Stop refusing a network; returns whether it was refused."""


@dataclass(frozen=True, slots=True)
class StoredMode:
    """The stored mode, and the store's clock when it was read (Unix seconds).

    ``epoch`` is a number that changes when buckets become full again, because an operator has reset them or the store
    has lost them; None if it was not read.
    """

    state: ModeState
    now_s: float
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change: when (Unix seconds), by whom, what was changed, its values before and after, and why."""

    when_s: float
    who: str
    what: str
    was: str
    now: str
    why: str


class ModeRegister(Protocol):
    """Keeps the mode."""

    async def mode(self) -> StoredMode:
        """The stored mode; version 0 if there is none."""

    async def look(self) -> StoredMode:
        """The stored mode, for a process that is not a worker: nothing is written, not even if the store is empty."""

    async def set_mode(
        self, change: ModeChange, *, was: ModeState, expected_version: int | None
    ) -> tuple[bool, StoredMode]:
        """Change the mode, unless its version is not the expected one; returns whether it changed, and the mode now."""

    async def restore_mode(self, state: ModeState) -> StoredMode:
        """Restore the mode if the store has lost it; a stored mode of a higher version stays."""


@dataclass(frozen=True, slots=True)
class StoredLimits:
    """The stored overrides of limits, and the store's clock when they were read (Unix seconds)."""

    state: OverridesState
    now_s: float


class LimitsRegister(Protocol):
    """Keeps the limits that operators change."""

    async def limits(self) -> StoredLimits:
        """The stored overrides; version 0 if there are none. Nothing is written."""

    async def set_limits(
        self, change: OverridesChange, *, was: OverridesState, expected_version: int | None
    ) -> tuple[bool, StoredLimits]:
        """Change them, unless their version is not the expected one; returns whether they changed, and those now."""

    async def restore_limits(self, state: OverridesState) -> StoredLimits:
        """Restore them if the store has lost them; stored ones of a higher version stay."""


class ChangeFeed(Protocol):
    """Announces changes to all workers."""

    async def tell(self, change: str) -> None:
        """Announce a change to every worker; it is not stored, so a worker that is not subscribed misses it."""

    def changes(self) -> AsyncIterator[str]:
        """Yields '' once subscribed, then what changed: ``mode``, ``limits``, ``deny``, ``seats``, ``audit``,
        ``client …``, ``taken …``, ``streams …``, ``waiting …`` or ``copies …``."""


class SeatGrants(Protocol):
    """Divides seats among workers."""

    async def seats(self, report: Report, capacity: Capacity) -> Grant:
        """Report the seats that a worker holds and needs; returns its grant."""

    async def release_seats(self, worker: str) -> None:
        """Give back all seats of a worker that stops."""


class SeatRegister(SeatGrants, Protocol):
    """Divides seats among workers, and counts the waiting room."""

    async def fleet(self, now_s: float) -> Fleet:
        """The state of the fleet at a time of the store's clock (Unix seconds), for a process that is not a worker:
        nothing is written."""

    async def queue(self, give: int, free: int, known: QueueCounters = EMPTY) -> QueueCounters:
        """Reserve ``give`` numbers to give out, and call ``free`` numbers, one for each free seat.

        Counters never go back: a store that has lost them continues from those that the caller knows.
        """


class LeaseRegister(ChangeFeed, Protocol):
    """Counts the renewals of tickets with lease seats in the whole fleet."""

    async def claim(self, claims: Sequence[Claim], now_s: float, longest_s: int) -> Sequence[Ranked]:
        """Count renewals; returns for each its rank in its round. ``longest_s`` is the longest lease."""


class LoadRegister(Protocol):
    """Keeps the workers' reports of their load, for operators."""

    async def report_load(self, load: WorkerLoad) -> None:
        """Store a worker's report, replacing its previous one."""

    async def loads(self, now_s: float) -> list[WorkerLoad]:
        """The reports that are fresh, one per worker; others are dropped. ``now_s`` is the store's clock."""

    async def drop_load(self, worker: str) -> None:
        """Drop the report of a worker that stops."""


class TopRegister(Protocol):
    """Keeps the workers' reports of their busiest clients, for operators."""

    async def report_top(self, report: TopReport) -> None:
        """Store a worker's report, replacing its previous one."""

    async def tops(self, now_s: float) -> list[TopReport]:
        """The reports that are fresh, one per worker; others are dropped. ``now_s`` is the store's clock."""

    async def drop_top(self, worker: str) -> None:
        """Drop the report of a worker that stops."""


class DecisionRegister(Protocol):
    """Sums up the decisions of all workers."""

    async def decided(self, worker: str, counted: Sequence[int]) -> Sequence[int]:
        """Report what a worker has counted since its start, in the order of ``FLEET_DECISIONS``; returns the sums over
        all workers that there have been."""


class NoticeRegister(Protocol):
    """Lets one worker of the fleet tell others of something."""

    async def is_first(self, notice: str) -> bool:
        """Whether this is the first call for this notice within eight days: longer than any emergency."""


class Store(
    Buckets,
    DenyRegister,
    ModeRegister,
    LimitsRegister,
    SeatRegister,
    LeaseRegister,
    LoadRegister,
    TopRegister,
    DecisionRegister,
    NoticeRegister,
    Protocol,
):
    """The whole port, with API keys and the audit log."""

    async def api_keys(self, known_version: int | None) -> ApiKeyTable | None:
        """The issued API keys, or None if they are still at ``known_version``."""

    async def add_api_key(self, api_key: ApiKey) -> None:
        """Issue a key: from now on its digest proves its subject."""

    async def revoke_api_keys(self, digests: Sequence[str]) -> int:
        """Revoke keys by their digests; returns how many there were."""

    async def audit(self, count: int) -> list[AuditEntry]:
        """The last changes, newest first."""

    async def note(self, entry: AuditEntry) -> None:
        """Add a change to the audit log that no other method logs; the store sets its time."""

    async def secret(self) -> bytes:
        """The secret with which the whole fleet signs and digests."""
