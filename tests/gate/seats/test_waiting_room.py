"""The waiting room of one worker: who gets a number, and that all who wait for one are answered."""

from __future__ import annotations

import asyncio

from gate.doubles import FakeClock, clock_of, run, yield_often
from shieldmw.core.tickets import ticket_of
from shieldmw.core.waiting import EMPTY, QueueCounters
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.seats.capacity import SeatPlan
from shieldmw.gate.seats.seats import Seats
from shieldmw.gate.seats.waiting_room import ANSWERED_AT_ONCE, MOST_AT_ONCE, WaitingRoom
from shieldmw.store.memory import MemoryStore


class HeldStore(MemoryStore):
    """A store whose queue answers when it is told, once it has counted."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(b"a secret of at least 32 characters", now_us=clock.us)
        self.answers = asyncio.Event()
        self.answers.set()

    async def queue(self, give: int, free: int, known: QueueCounters = EMPTY) -> QueueCounters:
        """Give and call numbers."""
        counters = await super().queue(give, free, known)
        await self.answers.wait()
        return counters


def room_of(clock: FakeClock) -> tuple[WaitingRoom, HeldStore]:
    """The room of a worker that has one seat and has not been granted it."""
    store, own = HeldStore(clock), clock_of(clock.s)
    return WaitingRoom(store, Seats(store, ModeWatch(store, own), SeatPlan(1, 1, 0.0), clock=own), own), store


def test_a_member_that_is_seated_before_the_lease_gets_no_number() -> None:
    """Nobody would come with it, and newcomers would wait for it."""

    async def story() -> None:
        room, store = room_of(FakeClock())
        for client in ("alice", "bob"):
            assert room.wait(client, None) is None
        room.seated("alice", "a ticket")
        await room.refresh()
        assert await store.queue(0, 0) == QueueCounters(2, 1, 0)
        assert (room.number_of("alice", None), room.number_of("bob", None)) == (None, 1)

    run(story())


def test_a_member_that_asks_again_during_a_lease_gets_one_number() -> None:
    """The number of the lease under way is its own."""

    async def story() -> None:
        room, store = room_of(FakeClock())
        room.wait("alice", None)
        store.answers.clear()
        lease = asyncio.create_task(room.refresh())
        await yield_often()
        room.wait("alice", room.number_of("alice", None))
        store.answers.set()
        await lease
        await room.refresh()
        assert room.number_of("alice", None) == 1
        assert await store.queue(0, 0) == QueueCounters(2, 1, 0)

    run(story())


def test_a_crowd_is_answered_in_turn_with_everything_else() -> None:
    """All who wait for a number are answered after one lease, and no turn of the loop has more than a few of them."""

    async def story() -> None:
        room, _ = room_of(FakeClock())
        answered, most, before = 0, 0, 0

        async def member(number: int) -> None:
            nonlocal answered
            room.wait(f"m-{number}", None)
            await room.next_numbers()
            answered += room.number_of(f"m-{number}", None) == number + 1

        members = [asyncio.create_task(member(number)) for number in range(1000)]
        await yield_often()
        lease = asyncio.create_task(room.refresh())
        while not all(task.done() for task in members):
            before = answered
            await asyncio.sleep(0)
            most = max(most, answered - before)
        await lease
        assert (answered, most) == (1000, ANSWERED_AT_ONCE)

    run(story())


def test_other_workers_hear_which_called_members_still_ask() -> None:
    """In batches, once each time; a member that has its seat meanwhile is not announced, and junk is left out."""

    async def story() -> None:
        room, store = room_of(FakeClock())
        told: list[str] = []

        async def tell(change: str) -> None:
            told.append(change)

        store.tell = tell  # type: ignore[method-assign]
        for number in range(MOST_AT_ONCE + 2):
            room.polled(number)
        room.spend(ticket_of(0, "alice"))
        await room.refresh()
        await room.refresh()
        await room.refresh()
        assert [change.count(",") + 1 for change in told] == [MOST_AT_ONCE, 1]
        other, _ = room_of(FakeClock())
        before = other._ahead_of(None)
        other._calls.heard(1000, 0.0)
        for change in (*told, "waiting ", "waiting 7,x,8"):
            other.heard(change)
        assert (before, other._calls.ahead_of(1001, 0.0)) == (0, MOST_AT_ONCE + 1)

    run(story())
