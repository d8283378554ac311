"""Whole workers over one store in virtual time, and listeners who come to them and leave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random

from gate.doubles import LoopClock, clock_of, loop_time, packed, pass_time
from shieldmw import Identity, Settings
from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.facts import Facts
from shieldmw.core.mode import ModeChange
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

    async def comes(self, name: ListenerClass, number: int, ticket: str | None = None, path: str = "/live") -> Decision:
        """Somebody comes, and waits for the answer; told to leave, the listener is gone at once."""
        who = f"{name}-{number}"
        asked = Facts(f"203.0.113.{number}", path, path, frozenset({"GET"}), signed_ticket=ticket)
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
        own = [replace(clock_of(clock.s), random=Random(f"{seed} {number}")) for number in range(workers)]
        nodes, dice = [Node(build_worker(values, store, clock=one)) for one in own], Random(seed)
        for node in nodes:
            node.worker.entrance.seats._share.worker = f"{dice.getrandbits(64):016x}"
            await node.worker.start()
            stack.push_async_callback(node.worker.stop)
        await pass_time(6.0)
        yield Fleet(nodes, dice, store)
