"""Several workers on one store in virtual time: seated listeners never lose their seats to newcomers while they fit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import pytest

from gate.doubles import LoopClock, clock_of, loop_time, packed, pass_time, run
from shieldmw import Identity, Settings
from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.facts import Facts
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.core.seats import Audience, Capacity, Grant, Report, fair_share
from shieldmw.core.waiting import EMPTY, QueueCounters
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.seats.admission import Entry
from shieldmw.gate.worker import Worker
from shieldmw.store.memory import MemoryStore
from shieldmw.wiring import build_worker

M, G = ListenerClass.MEMBER, ListenerClass.GUEST

# Shortest interval between two announcements that a worker has less than its share, as in seats.lua.
TOLD_S = 0.25


class FleetStore(MemoryStore):
    """The fleet's store, which also announces that a worker has less than its share, as the script does."""

    _told_s = 0.0
    has_no_numbers = False

    async def queue(self, give: int, free: int, known: QueueCounters = EMPTY) -> QueueCounters:
        """Give and call numbers, if there are any."""
        if self.has_no_numbers:
            raise StoreUnavailable("away")
        return await super().queue(give, free, known)

    async def seats(self, report: Report, capacity: Capacity) -> Grant:
        """Grant seats."""
        grant = await super().seats(report, capacity)
        names = sorted(self._seats.entries)
        entries = [self._seats.entries[name] for name in names]
        share = fair_share(capacity, [entry.demand for entry in entries], names.index(report.worker))
        if grant.seats < share.seats and self._told_s <= loop_time():
            self._told_s = loop_time() + TOLD_S
            await self.tell("seats")
        return grant


@dataclass
class Node:
    """One worker, and its listeners who were told to leave."""

    worker: Worker
    left: list[str] = field(default_factory=list)
    seated: dict[str, Entry] = field(default_factory=dict)

    async def comes(self, name: ListenerClass, number: int, ticket: str | None = None) -> Decision:
        """Somebody comes, and waits for the answer; told to leave, the listener is gone at once."""
        who = f"{name}-{number}"
        asked = Facts(f"203.0.113.{number}", "/live", "/live", frozenset({"GET"}), signed_ticket=ticket)
        address, identity = packed(f"203.0.113.{number}"), None if name is G else Identity(who)
        decision = Decision(Verdict.ALLOWED, Reason.WITHIN_LIMITS, address, identity, live=True)
        entry: Entry | None = None

        def leave() -> None:
            assert entry is not None
            if entry.seat.why is not Reason.REPLACED:
                self.left.append(who)
            self.worker.entrance.seats.release(entry.seat)

        entrance = self.worker.entrance
        entered = entrance.enter_now(asked, decision, leave) or await entrance.enter_when_due(asked, decision, leave)
        decision, entry = entered
        if entry is not None:
            self.seated[who] = entry
        return decision

    @property
    def here(self) -> Audience:
        """Who has a seat."""
        return self.worker.entrance.seats.ledger.present()


@dataclass
class Fleet:
    """Workers that listeners are sent to at random, and the answers."""

    nodes: list[Node]
    dice: Random
    store: FleetStore
    answers: dict[str, Decision] = field(default_factory=dict)

    async def comes(self, name: ListenerClass, number: int, ticket: str | None = None) -> Decision:
        """Somebody comes to one of the workers."""
        answer = await self.dice.choice(self.nodes).comes(name, number, ticket)
        self.answers[f"{name}-{number}"] = answer
        return answer

    def blinks(self, name: ListenerClass, number: int) -> str:
        """Somebody's connection breaks; its ticket."""
        who = f"{name}-{number}"
        node = next(node for node in self.nodes if who in node.seated)
        entry = node.seated.pop(who)
        node.worker.entrance.seats.release(entry.seat)
        return entry.ticket

    async def switch(self, change: ModeChange) -> None:
        """Change the mode through the first worker."""
        await self.nodes[0].worker.control._mode_watch.set(change, None)

    async def fills(self, pairs: int, apart_s: float = 0.05) -> None:
        """Guests and members come by turns, two at a time."""
        for number in range(pairs):
            await self.comes(G, number)
            await self.comes(M, number)
            await pass_time(apart_s)

    def left(self, name: ListenerClass) -> list[str]:
        """The listeners of a class who were told to leave."""
        return [who for node in self.nodes for who in node.left if who.startswith(name)]

    @property
    def here(self) -> Audience:
        """Who has a seat anywhere."""
        return sum((node.here for node in self.nodes), Audience())


@asynccontextmanager
async def fleet(workers: int, seed: int, **settings: int) -> AsyncIterator[Fleet]:
    """Workers of one fleet that have been up for a while."""
    clock = LoopClock()
    store = FleetStore(b"a secret of at least 32 characters", now_us=clock.us)
    async with AsyncExitStack() as stack:
        values = Settings(redis_url="memory://", live_paths="/live", **settings)
        nodes = [Node(build_worker(values, store, clock=clock_of(clock.s))) for _ in range(workers)]
        for node in nodes:
            await node.worker.start()
            stack.push_async_callback(node.worker.stop)
        await pass_time(6.0)
        yield Fleet(nodes, Random(seed), store)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_in_a_cut_no_seated_member_leaves_for_a_new_one(workers: int, seed: int) -> None:
    """While guests are still leaving an emergency whose seats members fill, the newcomers wait, and no member goes."""

    async def story() -> None:
        async with fleet(workers, seed, capacity=40, emergency_capacity=20) as one:
            await one.fills(20)
            assert one.here == Audience(0, 20, 20)
            await one.switch(ModeChange(Mode.EMERGENCY, "ops", for_s=60))
            await pass_time(3.0)
            assert one.here.guests > 0
            for number in range(100, 110):
                await one.comes(M, number)
                await pass_time(0.05)
            newcomers = [one.answers[f"{M}-{number}"] for number in range(100, 110)]
            await pass_time(20.0)
            assert one.left(M) == []
            assert [answer.reason for answer in newcomers] == [Reason.NO_SEAT] * 10
            assert all(answer.place and answer.signed_ticket for answer in newcomers)
            assert one.here == Audience(0, 20, 0)

    run(story())


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_in_a_cut_new_members_take_the_seats_that_members_leave_free(workers: int, seed: int) -> None:
    """Half of the seats are free for members: as many newcomers find one at once, in place of guests."""

    async def story() -> None:
        async with fleet(workers, seed, capacity=40, emergency_capacity=20) as one:
            await one.fills(10)
            for number in range(10, 20):
                await one.comes(G, number)
            await one.switch(ModeChange(Mode.EMERGENCY, "ops", for_s=60))
            await pass_time(3.0)
            for number in range(100, 120):
                await one.comes(M, number)
                await pass_time(0.1)
            await pass_time(10.0)
            assert one.left(M) == []
            assert 20 - workers <= one.here.members <= 20

    run(story())


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_in_a_cut_a_live_member_comes_back_at_once(workers: int, seed: int) -> None:
    """A member whose network blinks takes a guest's seat wherever it comes back, and nobody leaves for it."""

    async def story() -> None:
        async with fleet(workers, seed, capacity=40, emergency_capacity=20) as one:
            await one.fills(20)
            await one.switch(ModeChange(Mode.EMERGENCY, "ops", for_s=60))
            await pass_time(1.5)
            for number in range(2):
                ticket = one.blinks(M, number)
                assert not (await one.comes(M, number, ticket)).refused
                await pass_time(0.3)
            await pass_time(20.0)
            assert one.left(M) == []
            assert one.here == Audience(0, 20, 0)

    run(story())


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("pairs", [2, 20])
@pytest.mark.parametrize("seed", range(5))
def test_nobody_leaves_while_everybody_fits(workers: int, pairs: int, seed: int) -> None:
    """A member at a full worker waits a moment for a seat that is free elsewhere, rather than take a guest's."""

    async def story() -> None:
        async with fleet(workers, seed, capacity=2 * pairs) as one:
            await one.fills(pairs)
            await pass_time(20.0)
            assert one.here == Audience(0, pairs, pairs)
            assert one.left(G) == one.left(M) == []
            assert not any(answer.refused for answer in one.answers.values())

    run(story())


def test_no_member_waits_for_a_number_that_cannot_come() -> None:
    """The first answer has a number, even if none is at hand; while the store is away it comes at once, without."""

    async def story() -> None:
        async with fleet(1, 0, capacity=2) as one:
            for number in range(2):
                await one.comes(M, number)
            answer = await one.comes(M, 10)
            assert answer.place
            one.store.has_no_numbers = True
            await pass_time(2.0)
            one.nodes[0].worker.entrance.admission._numbers.clear()
            began_s = loop_time()
            answer = await one.comes(M, 11)
            assert (answer.refused, answer.place) == (True, None)
            assert loop_time() == began_s

    run(story())
