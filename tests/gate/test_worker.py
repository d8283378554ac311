"""A worker as a whole: what it does when the mode, the buckets or the keys change, and the one clock of its parts."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from types import MethodType

import pytest

from gate.doubles import FakeClock, FlakyStore, LoopClock, clock_of, facts, memory_store, packed, pass_time, run
from shieldmw import Settings
from shieldmw.core.client import Prefixes
from shieldmw.core.decision import Decision
from shieldmw.core.deny import DenyList
from shieldmw.core.metrics import DECISIONS, STORE_UP, cell
from shieldmw.core.mode import Mode, ModeChange, ModeState
from shieldmw.core.seats import Capacity, Grant, Report
from shieldmw.core.waiting import AWAITED_S
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.auth.jwks import JwksKeys
from shieldmw.gate.auth.jwt_tokens import JwtVerifier
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.worker import Worker
from shieldmw.store.documents import MODE
from shieldmw.store.memory import MemoryStore
from shieldmw.store.port import C, Document, S, Stored
from shieldmw.wiring import build_worker

EVERYTHING = {
    "redis_url": "redis://127.0.0.1",
    "live_paths": "/live",
    "guests_limit": "100/second",
    "jwt_jwks_url": "http://127.0.0.1:1/jwks",
}

PREFIXES = Prefixes(32, 64)


class PolledStore(MemoryStore):
    """Notes what of the fleet's state is read."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(b"fleet", now_us=clock.us)
        self.read: set[str] = set()

    async def document(self, kind: Document[C, S]) -> Stored[S]:
        """The mode or the limits."""
        self.read.add(kind.name)
        return await super().document(kind)

    async def deny_list(self, known_version: int | None) -> DenyList | None:
        """The deny list."""
        self.read.add("deny list")
        return await super().deny_list(known_version)

    async def seats(self, report: Report, capacity: Capacity) -> Grant:
        """The seats."""
        self.read.add("seats")
        return await super().seats(report, capacity)


# What operators change.
OPERATORS = {"mode", "limits", "deny list"}


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("", OPERATORS),
        ("mode", OPERATORS),
        ("limits", OPERATORS),
        ("deny", OPERATORS),
        ("client ip:203.0.113.7", OPERATORS),
        ("seats", {"seats"}),
        ("taken other 1:2:3", set()),
        ("streams other:1 ", set()),
        ("waiting 1,2", set()),
    ],
)
def test_a_change_that_is_heard_has_only_its_own_part_read_again(change: str, read: set[str]) -> None:
    """At once, not at the next poll; a listener that comes back elsewhere costs no call."""

    async def story() -> None:
        store = PolledStore(LoopClock())
        worker = build_worker(Settings(redis_url="memory://", capacity=10), store, clock_of(LoopClock().s))
        await worker.start()
        await pass_time(0.3)  # what the start has asked for
        store.read.clear()
        worker.heard(change)
        await pass_time(0.3)
        assert store.read == read
        await worker.stop()

    run(story())


def test_a_called_member_that_asks_another_worker_is_waited_for_here() -> None:
    """Long after its call newcomers still come after it."""

    async def story() -> None:
        store = memory_store(LoopClock())
        worker = build_worker(Settings(redis_url="memory://", capacity=10), store, clock_of(LoopClock().s))
        await worker.start()
        room = worker.entrance.admission.room
        await store.queue(2, 2)
        await pass_time(AWAITED_S + 2)
        assert room._ahead_of(None) == 0
        worker.heard("waiting 1,2")
        assert room._ahead_of(None) == 2
        await worker.stop()

    run(story())


@pytest.mark.parametrize(("change", "refused"), [("mode", True), ("client ip:203.0.113.7", False)])
def test_a_client_that_was_reset_elsewhere_is_not_refused_by_memory(change: str, refused: bool) -> None:
    """A known refusal holds without a call, until the worker hears that buckets were reset."""

    async def story() -> None:
        clock = LoopClock()
        store = FlakyStore(memory_store(clock))
        worker = build_worker(Settings(ip_limit="1/hour", leases=False), store, clock_of(clock.s))
        assert not (await worker.gate.decide(facts())).refused
        assert (await worker.gate.decide(facts())).refused
        store.inner.clear()
        worker.heard(change)
        assert (await worker.gate.decide(facts())).refused is refused
        await worker.stop()

    run(story())


def test_a_reset_here_forgets_failed_credentials_too() -> None:
    """The operator's own worker needs to hear of it from nobody."""

    async def story() -> None:
        clock = LoopClock()
        worker = build_worker(Settings(failed_auth_limit="1/hour"), memory_store(clock), clock_of(clock.s))
        clients = PREFIXES.clients(packed("203.0.113.7"))
        await worker._failed_auth.count(clients)
        assert not worker._failed_auth.may_verify_now(clients)
        await worker.control.reset("ip:203.0.113.7", "kim")
        assert worker._failed_auth.may_verify_now(clients)

    run(story())


def test_what_is_known_of_credentials_follows_the_keys() -> None:
    """Issued API keys and fetched keys of tokens: each change reaches what remembers their proofs."""
    worker = build_worker(Settings.model_validate(EVERYTHING), memory_store(FakeClock()))
    identifier = worker.gate._identifier
    assert isinstance(identifier._tokens, JwtVerifier)
    assert isinstance(identifier._tokens._keys, JwksKeys)
    for tell in (identifier._api_keys.on_change, lambda: identifier._tokens._keys.on_change(True)):
        epoch = identifier.epoch
        tell()
        assert identifier.epoch is not epoch


def parts(of: object) -> Iterator[object]:
    """All objects of ours that a worker consists of."""
    found, waiting = {id(of)}, deque([of])
    while waiting:
        part = waiting.popleft()
        yield part
        for value in held_by(part):
            if id(value) not in found:
                found.add(id(value))
                waiting.append(value)


def held_by(part: object) -> Iterator[object]:
    """What an object of ours holds, and whose methods."""
    if isinstance(part, list | tuple):
        yield from part
    elif isinstance(part, MethodType):
        yield part.__self__
    elif type(part).__module__.startswith("shieldmw.gate") and not isinstance(part, Clock):
        yield from getattr(part, "__dict__", {}).values()
        yield from (getattr(part, name) for name in getattr(type(part), "__slots__", ()) if hasattr(part, name))


def test_all_parts_of_a_worker_share_its_clock() -> None:
    """None of them has been left on another one, by which time would pass otherwise."""
    settings, store = Settings.model_validate(EVERYTHING), FlakyStore(memory_store(FakeClock()))
    of_others = {
        id(one)
        for one in (SYSTEM_CLOCK, SYSTEM_CLOCK.now_us, SYSTEM_CLOCK.now_s, SYSTEM_CLOCK.unix_s, SYSTEM_CLOCK.random)
    }
    everything = list(parts(build_worker(settings, store, clock_of(FakeClock().s))))
    assert {"JwtVerifier", "TimeShare", "SharedLimits", "ClientStreams", "DelayedRefusals", "Leases"} <= {
        type(part).__name__ for part in everything
    }
    assert not [part for part in everything for value in held_by(part) if id(value) in of_others]


def test_operators_hear_soon_that_a_worker_follows() -> None:
    """Not with its next report of the load only: while they wait they do not know whether the switch works."""

    async def story() -> None:
        clock = LoopClock()
        store = MemoryStore(b"fleet", now_us=clock.us)
        worker = build_worker(Settings(redis_url="memory://"), store, clock_of(clock.s))
        await worker.start()
        await pass_time(0.5)
        await store.set_document(MODE, ModeChange(Mode.EMERGENCY, "kim"), was=ModeState(), expected_version=None)
        worker.heard("mode")
        await pass_time(0.5)
        (load,) = (await worker.control.status()).overload.workers
        assert load.mode_version == 1
        await worker.stop()

    run(story())


def test_the_requests_of_a_turn_are_counted_at_its_end() -> None:
    """Each of them once, by the metrics and among the busiest."""

    async def story() -> None:
        clock = LoopClock()
        worker = build_worker(Settings(redis_url="memory://", ip_limit="2/day"), memory_store(clock), clock_of(clock.s))
        await worker.start()
        for turn in (1, 2):
            for _ in range(3):
                decision = worker.gate.decide_now(facts())
                assert isinstance(decision, Decision)
                worker.decided(facts(), decision, [])
            assert told(worker) == (3 * (turn - 1), 3 * (turn - 1))
            await asyncio.sleep(0)
            assert told(worker) == (3 * turn, 3 * turn)
        _, requests, refusals = worker._decided._talkers.tallies(1)
        assert (requests.total, refusals.total) == (6, 4)
        await worker.stop()

    def told(worker: Worker) -> tuple[float, int]:
        cells = worker._decided.counts.cells.tolist()
        first = cell(DECISIONS, *DECISIONS.series[0])
        return sum(cells[first : first + len(DECISIONS.series)]), worker._decided._talkers.tallies(1)[1].total

    run(story())


def test_without_a_request_it_is_seen_that_the_store_is_back() -> None:
    """Otherwise an alert for it would not go on a worker that nobody asks."""

    async def story() -> None:
        clock = LoopClock()
        store = FlakyStore(memory_store(clock))
        worker = build_worker(Settings(redis_url="redis://127.0.0.1"), store, clock_of(clock.s))
        await worker.start()
        up = cell(STORE_UP)
        await pass_time(5.0)
        assert worker._decided.counts.cells[up] == 1
        store.failing = StoreUnavailable("away")
        for _ in range(10):
            await worker.gate.decide(facts())
        await pass_time(10.0)
        assert worker._decided.counts.cells[up] == 0
        store.failing = None
        await pass_time(10.0)
        assert worker._decided.counts.cells[up] == 1
        await worker.stop()

    run(story())
