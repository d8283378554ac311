"""A ticket has one stream for each path in the whole fleet, in memory and in a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from gate.doubles import packed
from servers import RedisServer, redis_server
from shieldmw import Identity, Settings
from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.facts import Facts
from shieldmw.gate.seats.admission import Entry
from shieldmw.gate.seats.seat import Seat
from shieldmw.gate.seats.takeover import MOST_AT_ONCE, MOST_WAITING, TAKEN
from shieldmw.gate.worker import Worker
from shieldmw.store.fleet import RedisStore
from shieldmw.store.memory import MemoryStore
from shieldmw.store.port import Store
from shieldmw.store.redis.connection import RedisConnection
from shieldmw.wiring import build_worker

SECRET = b"a secret of at least 32 characters"
ADDRESS = packed("203.0.113.7")
LIMIT_S = 20
PAUSE_S = 0.01


class TellingStore(MemoryStore):
    """A store that notes what it is asked to tell, and that can be away."""

    away = False

    def __init__(self) -> None:
        super().__init__(SECRET)
        self.told: list[str] = []

    async def tell(self, change: str) -> None:
        """Tell, if it is not away."""
        if self.away:
            raise OSError("away")
        self.told.append(change)
        await super().tell(change)


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    """A server for this module."""
    with redis_server("valkey") as server:
        yield server


@pytest.fixture(params=["memory", "valkey"])
def open_store(request: pytest.FixtureRequest) -> Callable[[], Store]:
    """What opens the store of one worker."""
    if request.param == "memory":
        shared = TellingStore()
        return lambda: shared
    server: RedisServer = request.getfixturevalue("valkey")
    server.client().flushall()
    return lambda: RedisStore(RedisConnection(server.url, LIMIT_S), prefix="shield", secret=SECRET, candidate=SECRET)


@dataclass
class Node:
    """One worker's gate, and who was told to leave it."""

    worker: Worker
    left: list[str] = field(default_factory=list)

    def enters(self, who: str, signed_ticket: str | None = None, path: str = "/live") -> Entry:
        """A member finds a seat."""
        facts = Facts(str(ADDRESS), path, path, frozenset({"GET"}), signed_ticket=signed_ticket)
        decision = Decision(Verdict.ALLOWED, Reason.WITHIN_LIMITS, ADDRESS, Identity(who), live=True)
        _, entry = self.worker.entrance.enter(facts, decision, lambda: self.left.append(who))
        assert entry is not None
        return entry

    @property
    def here(self) -> int:
        """How many streams there are."""
        return self.worker.entrance.admission.seats.ledger.present().total


@asynccontextmanager
async def fleet(open_store: Callable[[], Store], count: int = 2) -> AsyncIterator[list[Node]]:
    """Workers on one store that hear each other."""
    settings = Settings(redis_url="memory://")
    async with AsyncExitStack() as stack:
        nodes = [Node(build_worker(settings, open_store())) for _ in range(count)]
        for node in nodes:
            await node.worker.start()
            stack.push_async_callback(node.worker.stop)
        await heard_by_all(nodes, open_store())
        yield nodes


async def heard_by_all(nodes: list[Node], store: Store) -> None:
    """Wait until every worker hears what a probe of the test tells; a stream of a ticket that nobody else has."""
    for node in nodes:
        ledger = node.worker.entrance.admission.seats.ledger
        assert ledger.admit(Seat(ListenerClass.MEMBER, 0, "probe", lambda: None, "p", 0), live=False)
        while ledger.find("probe", "p"):
            await store.tell(f"{TAKEN}test probe:p:1")
            await asyncio.sleep(PAUSE_S)
    await store.aclose()


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    while not condition():  # noqa: ASYNC110  (that of another worker, which tells nobody)
        await asyncio.sleep(PAUSE_S)


def run(story: Coroutine[Any, Any, None]) -> None:
    """Run a story within a limit."""

    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await story

    asyncio.run(limited())


def test_who_comes_back_elsewhere_leaves_here(open_store: Callable[[], Store]) -> None:
    """A ticket that is shown on the second worker ends the stream on the first; other paths and listeners stay."""

    async def story() -> None:
        async with fleet(open_store) as (first, second):
            mine = first.enters("alice")
            first.enters("alice", mine.ticket, "/chat")
            first.enters("bob")
            second.enters("alice", mine.ticket)
            await until(lambda: first.left)
            assert (first.left, second.left) == (["alice"], [])
            back = first.enters("alice", mine.ticket)
            await until(lambda: second.left)
            assert (first.left, second.left) == (["alice"], ["alice"])
            assert first.worker.entrance.admission.seats.ledger.is_live(back.seat.ticket_id)

    run(story())


def test_a_ticket_replayed_a_thousand_times_over_two_workers_leaves_one(open_store: Callable[[], Store]) -> None:
    """However often and wherever a ticket is shown, one stream is left in the fleet, whatever came at the same time."""

    async def story() -> None:
        async with fleet(open_store) as nodes:
            mine = nodes[0].enters("alice")
            for number in range(1000):
                nodes[number % 2].enters("alice", mine.ticket)
                if number % 100 == 0:
                    await asyncio.sleep(0)
            await until(lambda: sum(node.here for node in nodes) <= 1)
            await asyncio.gather(*(node.worker.entrance.admission.takeovers.refresh() for node in nodes))
            assert sum(node.here for node in nodes) == 1

    run(story())


def test_it_costs_no_call_for_each_listener() -> None:
    """Two thousand who come back are told in a handful of messages; new listeners and those who left in none."""
    store = TellingStore()

    async def story() -> None:
        shield = build_worker(Settings(redis_url="memory://"), store)
        node = Node(shield)
        await shield.entrance.admission.refresh()
        tickets = [node.enters(f"member-{number}").ticket for number in range(2000)]
        await shield.entrance.admission.takeovers.refresh()
        assert store.told == []
        back = [node.enters(f"member-{number}", ticket) for number, ticket in enumerate(tickets)]
        await shield.entrance.admission.takeovers.refresh()
        assert len(store.told) == 2000 / MOST_AT_ONCE
        assert max(map(len, store.told)) < 20_000
        node.worker.entrance.admission.seats.release(node.enters("member-0", back[0].ticket).seat)
        await shield.entrance.admission.takeovers.refresh()
        assert len(store.told) == 2000 / MOST_AT_ONCE

    run(story())


def test_an_outage_is_made_up_for() -> None:
    """Streams taken over while the store was away are announced once it answers, and their number is bounded."""
    store = TellingStore()

    async def story() -> None:
        shield = build_worker(Settings(redis_url="memory://"), store)
        node = Node(shield)
        await shield.entrance.admission.refresh()
        node.enters("alice", node.enters("alice").ticket)
        store.away = True
        for _ in range(2):
            with pytest.raises(OSError, match="away"):
                await shield.entrance.admission.takeovers.refresh()
        for number in range(MOST_WAITING + 10):
            shield.entrance.admission.takeovers.came_back(Seat(ListenerClass.MEMBER, 0, str(number), lambda: None))
        assert len(shield.entrance.admission.takeovers) == MOST_WAITING
        store.away = False
        await shield.entrance.admission.takeovers.refresh()
        assert len(store.told) == 1

    run(story())


class SlowStore(TellingStore):
    """A store that tells only when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.may = asyncio.Event()

    async def tell(self, change: str) -> None:
        """Wait, and tell."""
        self.asked.set()
        await self.may.wait()
        await super().tell(change)


def test_two_refreshes_at_once_tell_once() -> None:
    """The second waits for the first: what it tells of streams must come after what is told of their tickets."""

    async def story() -> None:
        store = SlowStore()
        node = Node(build_worker(Settings(redis_url="memory://"), store))
        node.enters("alice", node.enters("alice").ticket)
        takeovers = node.worker.entrance.admission.takeovers
        both = [asyncio.create_task(takeovers.refresh()) for _ in range(2)]
        await store.asked.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not any(task.done() for task in both)
        store.may.set()
        await asyncio.gather(*both)
        assert len(store.told) == 1

    run(story())


def test_who_comes_back_again_while_it_is_told_is_told_again() -> None:
    """The message under way says when it came back first: the others must hear of the later time."""

    async def story() -> None:
        store = SlowStore()
        node = Node(build_worker(Settings(redis_url="memory://"), store))
        ticket = node.enters("alice", node.enters("alice").ticket).ticket
        telling = asyncio.create_task(node.worker.entrance.admission.takeovers.refresh())
        await store.asked.wait()
        node.enters("alice", ticket)
        store.may.set()
        await telling
        assert len(store.told) == 2

    run(story())


OLD = Seat(ListenerClass.MEMBER, 0, "ticket", lambda: None, "path", 1000)
NONSENSE = [
    "",
    "worker",
    "worker ",
    "worker ticket",
    "worker ticket:path",
    "worker ticket:path:late",
    "worker ticket:path:2000:more",
    "worker ticket:other:2000",
    "worker other:path:2000",
    "worker ticket:path:999",
    "worker ,,,",
]


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_and_what_came_before_is_ignored(text: str) -> None:
    """Only a well-formed message about the same ticket and path, of a later stream, ends one."""
    admission = build_worker(Settings(redis_url="memory://"), TellingStore()).entrance.admission
    assert admission.seats.ledger.admit(OLD, live=False)
    admission.takeovers.heard(f"{TAKEN}{text}")
    assert admission.seats.ledger.find("ticket", "path") is OLD
    admission.takeovers.heard(f"{TAKEN}{admission.seats.worker} ticket:path:2000")  # its own words
    assert admission.seats.ledger.find("ticket", "path") is OLD
    admission.takeovers.heard(f"{TAKEN}worker other:path:5,ticket:path:2000")
    assert admission.seats.ledger.find("ticket", "path") is None


def test_the_stream_with_which_a_ticket_began_is_always_the_older_one() -> None:
    """Where clocks differ by more than it took to come back the first stream still goes: nobody will hear of it."""
    admission = build_worker(Settings(redis_url="memory://"), TellingStore()).entrance.admission
    facts = Facts(str(ADDRESS), "/live", "/live", frozenset({"GET"}))
    decision = Decision(Verdict.ALLOWED, Reason.WITHIN_LIMITS, ADDRESS, Identity("alice"), live=True)
    entry = admission.admit(facts, decision, lambda: None)
    assert isinstance(entry, Entry)
    admission.takeovers.heard(f"{TAKEN}worker {entry.seat.ticket_id}:{entry.seat.path}:1")
    assert not admission.seats.ledger.is_live(entry.seat.ticket_id)


def test_of_two_at_the_same_time_one_stays() -> None:
    """Two nodes that hear of each other's stream of the same millisecond agree on which one ends."""
    rooms = [build_worker(Settings(redis_url="memory://"), TellingStore()).entrance.admission for _ in range(2)]
    for admission in rooms:
        assert admission.seats.ledger.admit(Seat(OLD.listener_class, 0, "t", lambda: None, "p", 1000), live=False)
    for admission, other in zip(rooms, reversed(rooms), strict=True):
        admission.takeovers.heard(f"{TAKEN}{other.seats.worker} t:p:1000")
    left = [admission.seats.worker for admission in rooms if admission.seats.ledger.find("t", "p")]
    assert left == [max(admission.seats.worker for admission in rooms)]
