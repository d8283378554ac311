"""The store port: what the gate needs of a store. Implemented by ``MemoryStore`` (one process) and ``RedisStore``.

Every change of buckets, the mode, limits, seats, the waiting room or a table is one atomic round trip (in a cluster,
one for each slot). The exception is ``refill``, which deletes the buckets first and announces that afterwards. Reads
may take several: ``api_keys`` and ``deny_list`` read the version and then the changes since, and ``loads`` drops
reports that are too old.

Every method raises ``StoreUnavailable`` if the store is away or too slow (the operation may have been carried out all
the same), and ``StoreError`` if the answer makes no sense.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

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

# A change of a document that an operator requests, and the document's state.
C = TypeVar("C", bound=ModeChange | OverridesChange)
S = TypeVar("S", bound=ModeState | OverridesState)


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
class AuditEntry:
    """One change: when (Unix seconds), by whom, what was changed, its values before and after, and why."""

    when_s: float
    who: str
    what: str
    was: str
    now: str
    why: str


@dataclass(frozen=True, slots=True)
class Document(Generic[C, S]):
    """A kind of document that operators change: the mode, or the overrides of limits.

    ``name`` is that in its key, its announcements and the audit log. ``nothing`` is its state before any change.
    ``text`` and ``parse`` write and read its record, without version and times.
    """

    name: str
    nothing: S
    text: Callable[[C | S], str]
    parse: Callable[[bytes], S]


@dataclass(frozen=True, slots=True)
class Stored(Generic[S]):
    """A stored document, and the store's clock when it was read (Unix seconds).

    ``epoch`` is kept beside the mode: a number that changes when buckets become full again, because an operator has
    reset them or the store has lost them; None if there is none.
    """

    state: S
    now_s: float
    epoch: int | None = None


class DocumentRegister(Protocol):
    """Keeps the mode, and the limits that operators change: ``MODE`` and ``LIMITS`` of ``documents``; and the epoch."""

    async def document(self, kind: Document[C, S]) -> Stored[S]:
        """The stored document; version 0 if there is none. Nothing is written."""

    async def set_document(
        self, kind: Document[C, S], change: C, *, was: S, expected_version: int | None
    ) -> tuple[bool, Stored[S]]:
        """Change it, unless its version is not the expected one; returns whether it changed, and what it is now."""

    async def restore_document(self, kind: Document[C, S], state: S) -> Stored[S]:
        """Restore it if the store has lost it; a stored one of a higher version stays."""

    async def begin_epoch(self) -> int | None:
        """Begin an epoch if there is none; returns the one that there is. None if there cannot be one."""


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

    async def decided(self, worker: str, counted: Sequence[int], confirmed: Sequence[int]) -> Sequence[int]:
        """Report what a worker has counted since its start, in the order of ``FLEET_DECISIONS``, and what of that the
        store has confirmed before; returns the sums over all workers that there have been."""


class NoticeRegister(Protocol):
    """Lets one worker of the fleet tell others of something."""

    async def is_first(self, notice: str, owner: str) -> bool:
        """Whether this owner was the first to ask for this notice within eight days: longer than any emergency. It may
        ask again, since the store may have heard it without its hearing the reply."""


class Store(
    Buckets,
    DenyRegister,
    DocumentRegister,
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
