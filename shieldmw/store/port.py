"""What the gate asks of a store, by concern. Two answer: ``MemoryStore`` (one process) and ``RedisStore``.

Every method is atomic and one round trip (in a cluster: for the keys of each slot), and raises ``StoreUnavailable``
where the store is away or too slow (what was asked may have been done all the same), ``StoreError`` where its answer
makes no sense.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from shieldmw.core.api_keys import ApiKey, ApiKeyTable
from shieldmw.core.bucket import Outcome, TakeRequest
from shieldmw.core.client import Client
from shieldmw.core.debts import Debt
from shieldmw.core.deny import DenyEntry, DenyList
from shieldmw.core.lease import Unspent
from shieldmw.core.load import WorkerLoad
from shieldmw.core.mode import ModeChange, ModeState
from shieldmw.core.seats import Capacity, Fleet, Grant, Report
from shieldmw.core.waiting import EMPTY, QueueCounters
from shieldmw.errors import StoreError, StoreUnavailable


class PartialFailure(StoreUnavailable):
    """Some asks of a call have an outcome, others failed: their buckets are on another server, which is away."""

    def __init__(self, results: Sequence[Outcome | StoreError]) -> None:
        super().__init__(results)
        self.results = results

    def __str__(self) -> str:
        failures = [result for result in self.results if isinstance(result, StoreError)]
        return f"{len(failures)} of {len(self.results)} asks failed, the first with: {failures[0]}"


class Buckets(Protocol):
    """Takes charges."""

    async def take(self, asks: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """Take the charges of each ask, all or nothing, by the store's own clock; in order where buckets are shared.

        Raises:
            TakenInPart: there is an outcome or an error for each.
        """

    async def give_back(self, unspent: Sequence[Unspent]) -> None:
        """Give back what was taken ahead and not spent."""

    async def settle(self, debts: Sequence[Debt], now_us: int, worker: str) -> Sequence[Debt]:
        """Charge a worker's debts, whether they fit or not. Returns the debts whose charge is unconfirmed.

        Unconfirmed and failed debts may be sent again: each is charged once. ``now_us`` is the worker's clock, and
        ``worker`` its unique name.
        """

    async def refill(self, client: Client, limit_names: Iterable[str]) -> None:
        """Make a client's buckets full again, on every worker."""


class ApiKeyRegister(Protocol):
    """Keeps API keys."""

    async def api_keys(self, known_version: int | None) -> ApiKeyTable | None:
        """The issued API keys, or None where they are still of the version that is known."""

    async def add_api_key(self, api_key: ApiKey) -> None:
        """Issue a key: from now on its digest proves its subject."""

    async def revoke_api_keys(self, digests: Sequence[str]) -> int:
        """Revoke keys by their digests; how many there were."""


class DenyRegister(Protocol):
    """Keeps the deny list."""

    async def deny_list(self, known_version: int | None) -> DenyList | None:
        """The entries, or None where they are still of the version that is known; version 0 where there is no list."""

    async def deny(self, entry: DenyEntry) -> None:
        """Refuse a network, instead of what was said of it before."""

    async def restore_deny(self, entries: Sequence[DenyEntry]) -> bool:
        """Tell a store that lost the list what it was; whether it had. One that has a list, be it empty, keeps it."""

    async def undeny(self, network: str, actor: str) -> bool:
        """Refuse it no longer; whether it was refused."""


@dataclass(frozen=True, slots=True)
class StoredMode:
    """The mode as it is kept, and the store's clock when it was read (Unix seconds).

    ``epoch`` is another number once buckets were made full again, by an operator or because the store has lost
    them; None where it was not read.
    """

    state: ModeState
    now_s: float
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change: when (Unix seconds), by whom, what it was and is now, and why."""

    when_s: float
    who: str
    what: str
    was: str
    now: str
    why: str


class ModeRegister(Protocol):
    """Keeps the mode and the audit of all changes."""

    async def mode(self) -> StoredMode:
        """The mode as it is kept; version 0 where there is none."""

    async def look(self) -> StoredMode:
        """The same for a process that is no worker: nothing is written, not even where the store is empty."""

    async def set_mode(
        self, change: ModeChange, *, was: ModeState, expected_version: int | None
    ) -> tuple[bool, StoredMode]:
        """Change the mode, unless it is of another version than expected; whether it changed, and how it is."""

    async def restore_mode(self, state: ModeState) -> StoredMode:
        """Tell a store that lost it which mode is in force; one of a higher version stays."""

    async def audit(self, count: int) -> list[AuditEntry]:
        """The last changes, the newest first."""

    async def note(self, entry: AuditEntry) -> None:
        """Add a change to the audit that no other method adds; the store says when it was."""

    async def tell(self, change: str) -> None:
        """Tell every worker of a change that is not kept; a worker that is not subscribed now misses it."""

    def changes(self) -> AsyncIterator[str]:
        """Yields what changed (``mode``, ``deny``, ``seats``, ``client …``, ``taken …``); first '' once it listens."""


class SeatGrants(Protocol):
    """Divides seats among workers."""

    async def seats(self, report: Report, capacity: Capacity) -> Grant:
        """Report what a worker holds and wants; what it is granted."""

    async def release_seats(self, worker: str) -> None:
        """Give back all seats of a worker that stops."""


class SeatRegister(SeatGrants, Protocol):
    """Divides seats among workers, and counts the waiting room."""

    async def fleet(self, now_s: float) -> Fleet:
        """How the fleet stands at a time of the store's clock (Unix seconds), asked by a process that is no worker:
        nothing is written."""

    async def queue(self, give: int, free: int, known: QueueCounters = EMPTY) -> QueueCounters:
        """Take ``give`` numbers to give out, and call as many as seats came free.

        Counters never go back: a store that lost them goes on from those that the caller knows.
        """


class LoadRegister(Protocol):
    """Keeps what the workers report of their load, for operators to see."""

    async def report_load(self, load: WorkerLoad) -> None:
        """Report how a worker's app stands, instead of what it reported before."""

    async def loads(self, now_s: float) -> list[WorkerLoad]:
        """The reports that are fresh, one a worker; all others are forgotten. ``now_s`` is the store's clock."""

    async def drop_load(self, worker: str) -> None:
        """Forget the report of a worker that stops."""


class Store(Buckets, ApiKeyRegister, DenyRegister, ModeRegister, SeatRegister, LoadRegister, Protocol):
    """All of it."""

    async def secret(self) -> bytes:
        """The secret that the whole fleet signs and digests with."""

    async def aclose(self) -> None:
        """Give back connections; the store can be used again afterwards."""
