"""Shared by the gate's tests: a fake clock, and real stores and verifiers that fail on demand."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from itertools import cycle
from random import Random
from typing import Any, NamedTuple, TypeVar

from shieldmw import Identity, Settings
from shieldmw.core import bucket
from shieldmw.core.address import Addressing
from shieldmw.core.api_keys import ApiKey, ApiKeyTable
from shieldmw.core.bucket import Outcome, TakeRequest, Term
from shieldmw.core.client import Address, Client, Prefixes, Proof
from shieldmw.core.credentials import Rejected
from shieldmw.core.debts import Debt
from shieldmw.core.decision import Decision, OnStoreFailure
from shieldmw.core.facts import Authenticate, Facts
from shieldmw.core.lease import Unspent
from shieldmw.core.mode import Mode
from shieldmw.core.plan import Plan, Requester
from shieldmw.core.portion import Portion, PortionRequest, grant
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.auth.api_keys import ApiKeys
from shieldmw.gate.auth.failed_auth import FailedAuth
from shieldmw.gate.auth.identity import Identifier, TokenVerifier
from shieldmw.gate.clock import Clock
from shieldmw.gate.events import Evicted, Observer
from shieldmw.gate.fleet.deny_watch import DenyWatch
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.gate import Gate
from shieldmw.gate.limiter.batch import Batch, TakeReply
from shieldmw.gate.limiter.breaker_store import BreakerStore
from shieldmw.gate.limiter.fallback import Fallback
from shieldmw.gate.limiter.leases import MOST_LEASES, Leases
from shieldmw.gate.limiter.limiter import FleetLimiter
from shieldmw.gate.limiter.lookups import Lookups
from shieldmw.gate.limiter.shared_limits import SharedLimits
from shieldmw.gate.limiter.sharing import SharingLimiter
from shieldmw.gate.seats.admission import Admission
from shieldmw.gate.seats.capacity import SeatPlan
from shieldmw.gate.seats.entrance import Entrance
from shieldmw.gate.seats.seats import Seats
from shieldmw.gate.worker import Background
from shieldmw.store.memory import MemoryBuckets, MemoryStore, WarmBuckets
from shieldmw.store.port import PartialFailure, Store

T = TypeVar("T")

# A whole day: where the clock begins matters to nobody, but 0 would hide a mistake.
START_S = 86_400.0

# 2000-01-01 and 2100-01-01: times that are over and to come whatever the clock says.
LONG_AGO_S = 946_684_800
FAR_AHEAD_S = 4_102_444_800

# How long real sockets may take before the virtual clock jumps: loopback delivers at once.
GRACE_S = 0.02


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        self.now_s = START_S
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """The virtual time."""
        return self.now_s


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits for time to pass; real sockets get a moment where there are any beside the loop's own."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now; else the clock jumps."""
        if timeout is None:
            return super().select(None)
        has_sockets = len(self.get_map()) > 1
        ready = super().select(GRACE_S if has_sockets and timeout > 0 else 0)
        if not ready:
            self._loop.now_s += timeout
        return ready


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


async def pass_time(seconds: float) -> None:
    """Let virtual time pass, so that whatever is due meanwhile happens."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "only in virtual time"
    await asyncio.sleep(seconds)


async def yield_often(times: int = 20) -> None:
    """Let every other task go on as far as it can."""
    for _ in range(times):
        await asyncio.sleep(0)


def loop_time() -> float:
    """The time of the running loop."""
    return asyncio.get_running_loop().time()


@dataclass
class FakeClock:
    """A clock that moves when told."""

    now_s: float = START_S

    def s(self) -> float:
        """Seconds."""
        return self.now_s

    def us(self) -> int:
        """Microseconds."""
        return round(self.now_s * 1_000_000)

    monotonic = s


class LoopClock(FakeClock):
    """The clock of the running loop: time passes for workers and for stores as it does for timers."""

    def s(self) -> float:
        """Seconds; outside of a loop it has not begun."""
        try:
            return loop_time()
        except RuntimeError:
            return START_S

    def us(self) -> int:
        """Microseconds."""
        return round(self.s() * 1_000_000)

    monotonic = s


def clock_of(now_s: Callable[[], float]) -> Clock:
    """A worker's clock that shows the seconds of the test, as monotonic and as Unix time."""
    return Clock(lambda: round(now_s() * 1_000_000), now_s, now_s)


class Draws(Random):
    """Random numbers that the test chooses, in turn."""

    def __new__(cls, *_: float) -> Draws:
        """Seeded with nothing."""
        return super().__new__(cls)

    def __init__(self, *numbers: float) -> None:
        super().__init__()
        self._numbers = cycle(numbers)

    def random(self) -> float:
        """The next of them."""
        return next(self._numbers)


class LeasingStore(MemoryStore):
    """A store that charges ahead and takes back, by the reference, as the scripts do in a real one.

    ``ahead_us`` is by how much its clock shows more than the workers'.
    """

    def __init__(self, clock: FakeClock, *, ahead_us: int = 0) -> None:
        super().__init__(b"fleet", now_us=lambda: clock.us() + ahead_us)
        self.tats_us: dict[str, int] = {}
        self.asked_ahead = 0
        self.leased = 0
        self.given_back_us = 0

    async def take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """Take the charges of each ask, all or nothing, and those that are asked for ahead."""
        return [self._decide(ask) for ask in requests]

    def _decide(self, ask: TakeRequest) -> Outcome:
        outcome = bucket.take([self.tats_us.get(charge.bucket) for charge in ask.charges], ask, self.now_us())
        self.asked_ahead += ask.prefetch > 0
        if outcome.allowed:
            self.leased += outcome.leased
            for charge, tat_us in zip(ask.charges, outcome.tats_us, strict=True):
                if charge.cost:
                    self.tats_us[charge.bucket] = tat_us
        return outcome

    async def portion(self, request: PortionRequest) -> Portion:
        """Take several units at once from a bucket that many clients share."""
        charge, want, least = request
        portion = grant(self.tats_us.get(charge.bucket), charge.limit, want, least, self.now_us())
        self.tats_us[charge.bucket] = portion.tat_us
        return portion

    async def give_back(self, unspent: Sequence[Unspent]) -> None:
        """Take back what was not spent, of buckets that nobody has charged since."""
        for charge, ceiling_us, give_us in unspent:
            if self.tats_us.get(charge.bucket) == ceiling_us:
                self.tats_us[charge.bucket] -= give_us
                self.given_back_us += give_us

    async def refill(self, client: Client, limit_names: Iterable[str]) -> None:
        """Make a client's buckets full again."""
        for name in limit_names:
            self.tats_us.pop(f"{name} {client}", None)
        await super().refill(client, ())


class FlakyStore:
    """A store that fails, hangs or lags as it is told, and else answers as the one inside it."""

    def __init__(self, inner: MemoryStore, *, failing: Exception | None = None) -> None:
        self.inner = inner
        self.failing = failing
        self.held: asyncio.Event | None = None
        self.answer_held: asyncio.Event | None = None
        self.hangs_for_s: float | None = None
        self.lags = False
        self.calls = 0
        self.requests = 0
        self.calls_to_give_back = 0
        self.under_way = 0
        self.most_under_way = 0

    async def take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """Take the charges, if it may; a reply that lags was computed before it arrives."""
        self.calls += 1
        self.requests += len(requests)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self._take(requests)
        finally:
            self.under_way -= 1

    async def _take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
        await self._before()
        outcomes = await self.inner.take(requests)
        if self.answer_held is not None:
            await self.answer_held.wait()
        if self.lags:
            await asyncio.sleep(0)
        return outcomes

    async def portion(self, request: PortionRequest) -> Portion:
        """Take several units at once, if it may."""
        self.calls += 1
        await self._before()
        portion = await self.inner.portion(request)
        if self.answer_held is not None:
            await self.answer_held.wait()
        return portion

    async def _before(self) -> None:
        """What stands in the way of a call."""
        if self.held is not None:
            await self.held.wait()
        if self.hangs_for_s is not None:
            await asyncio.sleep(self.hangs_for_s)
            raise StoreUnavailable("too slow")
        if self.failing is not None:
            raise self.failing
        if self.lags:
            await asyncio.sleep(0)

    async def give_back(self, unspent: Sequence[Unspent]) -> None:
        """Take back what was not spent, if it may."""
        self.calls_to_give_back += 1
        if self.failing is not None:
            raise self.failing
        await self.inner.give_back(unspent)

    async def api_keys(self, known_version: int | None) -> ApiKeyTable | None:
        """The issued keys, if it may."""
        if self.failing is not None:
            raise self.failing
        return await self.inner.api_keys(known_version)

    async def add_api_key(self, api_key: ApiKey) -> None:
        """Issue a key."""
        await self.inner.add_api_key(api_key)

    async def revoke_api_keys(self, digests: Sequence[str]) -> int:
        """Revoke keys."""
        return await self.inner.revoke_api_keys(digests)

    async def aclose(self) -> None:
        """Nothing to give back."""

    def __getattr__(self, name: str) -> Any:
        """All else is answered by the one inside."""
        return getattr(self.inner, name)


class PartlyAway(FlakyStore):
    """A cluster: the buckets of some clients are on a node that is away."""

    def __init__(self, inner: MemoryStore, away_for: Collection[str]) -> None:
        super().__init__(inner)
        self.away_for = away_for

    async def take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """Take the charges of those whose node answers."""
        away = [ask.charges[0].client.text in self.away_for for ask in requests]
        outcomes = await super().take([ask for ask, is_away in zip(requests, away, strict=True) if not is_away])
        if all(away):
            raise StoreUnavailable("its node is away")
        if any(away):
            each = iter(outcomes)
            raise PartialFailure([StoreUnavailable("its node is away") if is_away else next(each) for is_away in away])
        return outcomes

    async def settle(self, debts: Sequence[Debt], now_us: int, worker: str) -> Sequence[Debt]:
        """Charge what is owed to the nodes that answer."""
        left = [debt for debt in debts if debt.charge.client.text in self.away_for]
        await self.inner.settle([debt for debt in debts if debt not in left], now_us, worker)
        return left


class BatchOfAnyLoop(Batch):
    """The same for tests that run each step on a loop of its own: a real gate belongs to one."""

    def take(self, requester: Requester | None, request: TakeRequest) -> asyncio.Future[TakeReply | None]:
        """The reply to the request."""
        self._loop = asyncio.get_running_loop()
        return super().take(requester, request)


@dataclass
class CountingVerifier:
    """Proves the tokens it knows, each for its own subject, and counts what it is asked.

    ``costs_s`` is what a check takes by the timer that ``spent_s`` is.
    """

    valid: Collection[str] = ()
    until_s: float = FAR_AHEAD_S
    costs_s: float = 0.0
    spent_s: float = 0.0
    asked: list[str] = field(default_factory=list)

    def screen(self, token: str) -> Rejected | None:
        """All need a check."""
        return None

    def verify(self, token: str) -> Proof | None:
        """A proof that the token's subject is the token."""
        self.asked.append(token)
        self.spent_s += self.costs_s
        return Proof(Identity(token), self.until_s) if token in self.valid else None

    @property
    def calls(self) -> int:
        """How many signatures were checked."""
        return len(self.asked)


class Decided(NamedTuple):
    """What an observer was told of a request."""

    facts: Facts
    decision: Decision


@dataclass
class Heard:
    """An observer that keeps what it is told."""

    events: list[Decided] = field(default_factory=list)
    evictions: list[Evicted] = field(default_factory=list)

    def decided(self, facts: Facts, decision: Decision) -> None:
        """Keep it."""
        self.events.append(Decided(facts, decision))

    def evicted(self, event: Evicted) -> None:
        """Keep it, apart."""
        self.evictions.append(event)


@dataclass
class WorkerParts:
    """One worker's gate, in parts, on a clock of the test's."""

    gate: Gate
    entrance: Entrance
    background: tuple[Background, ...]
    identifier: Identifier
    limiter: FleetLimiter
    local: WarmBuckets
    api_keys: ApiKeys
    clock: FakeClock
    leases: Leases
    mode_watch: ModeWatch
    deny_list: DenyWatch
    seats: Seats

    async def start(self) -> None:
        """Keep fresh what requests need."""
        for background in self.background:
            await background.start()

    async def stop(self) -> None:
        """End that, and give back leases and connections."""
        for background in reversed(self.background):
            await background.stop()
        await self.gate._limiter.aclose()


def worker(
    store: Store,
    clock: FakeClock,
    *,
    tokens: TokenVerifier | None = None,
    file_keys: Mapping[str, Identity] | None = None,
    observers: Sequence[Observer] = (),
    timer_s: Callable[[], float] | None = None,
    **values: Any,
) -> WorkerParts:
    """Wire a gate as `wiring` does, on the clock of the test; `values` are Settings, `timer_s` times its checks."""
    settings = Settings(**values)
    own_clock, loops = clock_of(clock.s), clock_of(loop_time)
    local = WarmBuckets(now_us=clock.us)
    breaker_store = BreakerStore(store, settings.on_redis_failure, loops)
    fallback = Fallback(settings.on_redis_failure, local, lambda: seats.workers, store.settle, loops)
    leases = Leases(store.give_back, most=MOST_LEASES if settings.leases else 0, clock=own_clock)
    shared = SharedLimits(breaker_store, fallback, store.give_back, workers=lambda: seats.workers, clock=own_clock)
    own = FleetLimiter(breaker_store, fallback, leases, own_clock)
    own._batch = BatchOfAnyLoop(breaker_store, own._answered, own._failed, own_clock)
    limiter = SharingLimiter(own, shared, own_clock) if settings.policy.has_shared_limits else own
    failed_auth = FailedAuth(settings.policy, limiter, MemoryBuckets(now_us=clock.us))
    api_keys = ApiKeys(store, file_keys or {})
    identifier = Identifier(api_keys, tokens, failed_auth, replace(own_clock, now_s=timer_s or clock.s))
    mode_watch = ModeWatch(store, own_clock)
    deny_list = DenyWatch(store, mode_watch.store_now_s)
    seats = Seats(store, mode_watch, SeatPlan(0, 0, 0), clock=own_clock)
    addressing = Addressing(
        settings.trusted_proxies, settings.forwarded_header, Prefixes(settings.ipv4_prefix, settings.ipv6_prefix)
    )
    gate = Gate(
        settings.policy,
        Lookups(settings.policy, addressing),
        identifier,
        limiter,
        on_store_failure=OnStoreFailure(settings.on_redis_failure),
        dry_run=settings.dry_run,
        observers=observers,
        deny_list=deny_list,
        mode_watch=mode_watch,
        clock=own_clock,
    )
    admission = Admission(store, seats, "event", clock=own_clock)
    entrance = Entrance(admission, identifier, deny_list, gate.announce, dry_run=settings.dry_run)
    return WorkerParts(
        gate,
        entrance,
        (leases.refresher, shared.refresher, api_keys.refresher),
        identifier,
        own,
        local,
        api_keys,
        clock,
        leases,
        mode_watch,
        deny_list,
        seats,
    )


def packed(text: str) -> Address:
    """An address as the gate has it."""
    return ip_address(text).packed


def nth_address(number: int) -> str:
    """One of many addresses, each another one."""
    return str(ip_address(0x0A000000 + number))


def plan_of(*terms: Term, number: int = 0, mode: Mode = Mode.NORMAL, live: bool = False) -> Plan:
    """A plan of these limits."""
    return Plan(number, terms, Prefixes(32, 64), mode, live=live, closed=False)


def requester_at(plan: Plan, address: str = "203.0.113.7") -> Requester:
    """A guest at an address of its own."""
    return plan.requester(packed(address), None, b"")


def memory_store(clock: FakeClock) -> MemoryStore:
    """The fleet's store, on the clock of the test."""
    return MemoryStore(b"fleet", now_us=clock.us)


def facts(
    credential: str | None = None,
    *,
    peer: str | None = "203.0.113.7",
    path: str = "/hello",
    authenticate: Authenticate | None = None,
) -> Facts:
    """A GET."""
    return Facts(peer, path, path, frozenset({"GET"}), credential=credential, authenticate=authenticate)


async def at_once(work: Callable[[int], Coroutine[Any, Any, T]], count: int) -> list[T]:
    """Start so many at the same time, and wait for all."""
    return list(await asyncio.gather(*(work(number) for number in range(count))))
