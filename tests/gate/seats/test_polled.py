"""Whole workers over one store in virtual time, and viewers that poll any of them: lease seats of a fleet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from heapq import heapreplace
from random import Random
from typing import Any

import pytest

from gate.doubles import LoopClock, clock_of, loop_time, nth_address, packed, pass_time, run
from gate.seats.fleet import FleetStore
from shieldmw import Identity, Settings
from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.facts import Facts
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.core.renewed import RenewedTickets
from shieldmw.core.seats import Grant
from shieldmw.core.tickets import Ticket
from shieldmw.gate.seats.seat import Seat
from shieldmw.gate.worker import Worker
from shieldmw.wiring import build_worker

M, G = ListenerClass.MEMBER, ListenerClass.GUEST
LEASE_S = 30
POLL_S = 4.0

# How often those who watch are counted.
LOOK_S = 0.5

SECRET = b"a secret of at least 32 characters"


@dataclass
class Viewer:
    """A player: the ticket that it shows, and how it fared."""

    name: ListenerClass
    number: int
    ticket: str | None = None
    keeps_ticket: bool = True
    polls: int = 0
    refused: list[Decision] = field(default_factory=list)
    plays: bool = False
    played_until_s: float = 0.0
    lease_s: int = LEASE_S

    @property
    def identity(self) -> Identity | None:
        """The member, None for a guest."""
        return None if self.name is G else Identity(f"member-{self.number}")

    def facts(self) -> Facts:
        """Its next poll."""
        address = nth_address(self.number)
        return Facts(address, "/hls/a", "/hls/a", frozenset({"GET"}), signed_ticket=self.ticket)

    def polls_at(self, worker: Worker) -> Decision:
        """Poll once; a refusal may hold a number."""
        decision, ticket = worker.polls.enter(self.facts(), admitted(self))
        self.polls += 1
        self.plays = not decision.refused
        if decision.refused:
            self.refused.append(decision)
            ticket = decision.signed_ticket
        else:
            self.played_until_s = loop_time()
        if ticket is not None and self.keeps_ticket:
            self.ticket = ticket
        return decision


def admitted(viewer: Viewer) -> Decision:
    """The gate's decision on its next poll."""
    address = packed(nth_address(viewer.number))
    return Decision(Verdict.ALLOWED, Reason.WITHIN_LIMITS, address, viewer.identity, lease_s=viewer.lease_s)


@dataclass
class Fleet:
    """Workers that viewers' polls reach at random, and every lease that was ever signed."""

    workers: list[Worker]
    dice: Random
    store: FleetStore
    leases: dict[str, int] = field(default_factory=dict)
    most: int = 0
    looked_s: float = 0.0

    def ticket(self, text: str | None) -> Ticket | None:
        """What a ticket says."""
        if text is None:
            return None
        return self.workers[0].entrance.admission._signer.read_ticket(text, loop_time())

    def polls(self, viewer: Viewer, worker: Worker | None = None) -> Decision:
        """A poll reaches one of the workers."""
        decision = viewer.polls_at(worker or self.dice.choice(self.workers))
        shown = self.ticket(viewer.ticket)
        if shown is not None:
            self.leases[shown.id] = max(self.leases.get(shown.id, 0), shown.leased_until_s)
        if loop_time() >= self.looked_s + LOOK_S or len(self.leases) < 200:
            self.looked_s, self.most = loop_time(), max(self.most, self.leased)
        return decision

    async def plays(
        self, viewers: list[Viewer], for_s: float, each: Callable[[float], None] = lambda now_s: None
    ) -> None:
        """Let viewers poll every four seconds, each in its own phase; those that are refused ask again likewise."""
        end_s = loop_time() + for_s
        phases = [self.dice.random() * POLL_S for _ in viewers]
        due = sorted((loop_time() + phase, number) for number, phase in enumerate(phases))
        while due and due[0][0] < end_s:
            when_s, number = due[0]
            if when_s > loop_time():
                await pass_time(when_s - loop_time())
            self.polls(viewers[number])
            each(loop_time())
            heapreplace(due, (when_s + POLL_S, number))
        await pass_time(max(0.0, end_s - loop_time()))

    @property
    def leased(self) -> int:
        """How many leases run, of all that were signed."""
        now_s = self.workers[0].entrance.seats.now_s()
        return sum(until_s > now_s for until_s in self.leases.values())

    @property
    def counted(self) -> int:
        """How many the workers count."""
        return sum(worker.entrance.seats.ledger.leases.present().total for worker in self.workers)

    async def switch(self, change: ModeChange) -> None:
        """Change the mode through the first worker."""
        await self.workers[0].control._mode_watch.set(change, None)

    def kill(self, worker: Worker) -> None:
        """A worker is gone in the middle of whatever it did: it reports no more, and gives nothing back."""
        self.workers.remove(worker)
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task() and _works_for(task, worker):
                task.cancel()


def _works_for(task: asyncio.Task[Any], worker: Worker) -> bool:
    seats = worker.entrance.seats
    return task in (seats._stepper, seats._refresher._task)


@asynccontextmanager
async def fleet(
    workers: int, capacity: int, seed: int = 1, apart_s: float = 0.0, **settings: object
) -> AsyncIterator[Fleet]:
    """Workers of one fleet that have been up for a while; their own clocks show times ``apart_s`` from each other."""
    clock = LoopClock()
    store = FleetStore(SECRET, now_us=clock.us)
    values: dict[str, Any] = {"redis_url": "memory://", "polled_paths": "/hls/*", "capacity": capacity, **settings}
    async with AsyncExitStack() as stack:
        nodes, dice = [], Random(seed)
        for number in range(workers):
            own = clock_of(lambda number=number: clock.s() + number * apart_s)  # type: ignore[misc]
            node = build_worker(Settings(**values), store, clock=own)
            node.entrance.seats._share.worker = f"{dice.getrandbits(64):016x}"
            await node.start()
            stack.push_async_callback(node.stop)
            nodes.append(node)
        await pass_time(6.0)
        yield Fleet(nodes, dice, store)


def viewers(name: ListenerClass, count: int, first: int = 0) -> list[Viewer]:
    """So many players, each of a client of its own."""
    return [Viewer(name, first + number) for number in range(count)]


@pytest.mark.parametrize("apart_s", [0.0, 5.0, -40.0])
def test_a_full_house_is_never_overfull_and_keeps_its_viewers(apart_s: float) -> None:
    """Twice as many want in as there are seats: whoever got one keeps it, whatever clocks the workers have."""

    async def story() -> None:
        async with fleet(3, 60, apart_s=apart_s) as all_of_them:
            crowd = viewers(G, 120)
            await all_of_them.plays(crowd, 40)
            seated = [viewer for viewer in crowd if viewer.plays]
            assert 54 <= len(seated) <= 60
            for viewer in crowd:
                viewer.refused.clear()
            await all_of_them.plays(crowd, 200)
            assert [viewer.number for viewer in seated if viewer.refused] == []
            assert 54 <= all_of_them.leased <= all_of_them.most <= 60
            assert 54 <= all_of_them.counted <= 60

    run(story())


@pytest.mark.parametrize("seed", range(6))
def test_viewers_that_come_and_go_fill_the_seats(seed: int) -> None:
    """With viewers that stay for five minutes and others who want in, at least nine of ten seats are watched."""

    async def story() -> None:
        async with fleet(3, 100, seed) as all_of_them:
            crowd = viewers(G, 160)
            away: dict[int, float] = {}
            watching: list[int] = []

            def come_and_go(now_s: float) -> None:
                viewer = all_of_them.dice.choice(crowd)
                if viewer.plays and all_of_them.dice.random() < 160 * (POLL_S / len(crowd)) / 300:
                    viewer.ticket, viewer.plays = None, False  # another one comes in its place
                    viewer.number += 1000
                    away[viewer.number] = now_s
                watching.append(sum(viewer.plays for viewer in crowd))

            await all_of_them.plays(crowd, 60)
            await all_of_them.plays(crowd, 300, come_and_go)
            assert away
            assert all_of_them.most <= 100
            assert sum(watching) / len(watching) >= 90

    run(story())


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_that_is_killed_gives_its_seats_to_nobody(seed: int) -> None:
    """Its clients go on at the others and keep their seats; whoever waits gets none of them while their leases run."""

    async def story() -> None:
        async with fleet(3, 60, seed) as all_of_them:
            crowd = viewers(G, 120)
            await all_of_them.plays(crowd, 60)
            seated = [viewer for viewer in crowd if viewer.plays]
            all_of_them.kill(all_of_them.workers[1])
            for viewer in crowd:
                viewer.refused.clear()
            await all_of_them.plays(crowd, 20)
            gone, stay = seated[:20], [viewer for viewer in crowd if viewer not in seated[:20]]
            await all_of_them.plays(stay, 100)
            assert [viewer.number for viewer in stay if viewer.refused and viewer in seated] == []
            assert all_of_them.most <= 60
            assert all(viewer.ticket for viewer in gone)
            assert all_of_them.leased >= 54, "the seats of those who left are taken again"

    run(story())


def test_a_cut_lets_guests_go_and_members_stay() -> None:
    """To 60 % with half members: guests are refused and told why within 12 s and a lease, no member misses a poll."""

    async def story() -> None:
        async with fleet(3, 100) as all_of_them:
            members, guests = viewers(M, 50), viewers(G, 50, first=100)
            await all_of_them.plays(members + guests, 40)
            assert all(viewer.plays for viewer in members)
            playing = sum(viewer.plays for viewer in guests)
            assert playing >= 47
            for viewer in members + guests:
                viewer.refused.clear()
            began_s = loop_time()
            await all_of_them.switch(ModeChange(Mode.EMERGENCY, "ops", capacity=60, guest_share=0.0))
            await all_of_them.plays(members + guests, 120)
            assert [viewer.number for viewer in members if viewer.refused] == []
            assert max(viewer.played_until_s for viewer in guests) - began_s <= 12 + LEASE_S
            assert {decision.reason for viewer in guests for decision in viewer.refused} == {Reason.NO_SEAT}
            assert all_of_them.leased == 50
            await all_of_them.switch(ModeChange(Mode.NORMAL, "ops"))
            await all_of_them.plays(members + guests, 20)
            assert sum(viewer.plays for viewer in guests) >= playing - 3
            assert all_of_them.most <= 100

    run(story())


def test_a_cut_keeps_as_many_guests_as_there_is_room_for() -> None:
    """Of 100 guests 60 stay, and those that go do not come back before the others."""

    async def story() -> None:
        async with fleet(3, 200) as all_of_them:
            guests = viewers(G, 200)
            await all_of_them.plays(guests, 40)
            await all_of_them.switch(ModeChange(Mode.EMERGENCY, "ops", capacity=120, guest_share=1.0))
            await all_of_them.plays(guests, 12 + LEASE_S)
            stay = [viewer for viewer in guests if viewer.plays]
            assert 100 <= len(stay) <= 135, "cohorts are not all of one size"
            for viewer in guests:
                viewer.refused.clear()
            await all_of_them.plays(guests, 3 * LEASE_S)
            assert 108 <= all_of_them.leased <= 120
            await all_of_them.plays(guests, 120)
            assert len([viewer.number for viewer in stay if viewer.refused]) <= len(stay) - 108
            assert 108 <= all_of_them.leased <= 120

    run(story())


def test_a_new_viewer_waits_for_a_seat_that_is_due() -> None:
    """Where this worker has given all that it was granted, and the fleet has seats left: players ask only once more.

    In a full house nobody waits.
    """

    async def story() -> None:
        async with fleet(2, 20) as all_of_them:
            here = all_of_them.workers[0]
            crowd = viewers(G, 30)
            came_s = loop_time()
            answered = await asyncio.gather(*(waits_at(here, viewer) for viewer in crowd[:20]))
            assert [decision.refused for decision in answered] == [False] * 20
            assert 0.1 < loop_time() - came_s < 2.0
            assert here.polls.enter_now(crowd[0].facts(), admitted(crowd[0])) is not None
            came_s = loop_time()
            await pass_time(1.0)
            answered = await asyncio.gather(*(waits_at(here, viewer) for viewer in crowd[20:]))
            assert all(decision.refused for decision in answered)
            assert loop_time() - came_s == 1.0
            assert here.entrance.seats.ledger.leases.present().guests == 20

    run(story())


async def waits_at(worker: Worker, viewer: Viewer) -> Decision:
    """A poll that waits for as long as the shield lets it."""
    asked = viewer.facts(), admitted(viewer)
    decision, ticket = worker.polls.enter_now(*asked) or await worker.polls.enter_when_due(*asked)
    viewer.ticket = ticket or viewer.ticket
    return decision


def test_members_take_the_seats_of_guests() -> None:
    """In a house full of guests members wait for as long as a lease at most; as many guests go as members come."""

    async def story() -> None:
        async with fleet(3, 60) as all_of_them:
            guests = viewers(G, 60)
            await all_of_them.plays(guests, 40)
            members = viewers(M, 20, first=100)
            await all_of_them.plays(guests + members, 12 + 2 * LEASE_S)
            assert sum(viewer.plays for viewer in members) >= 18
            assert sum(viewer.plays for viewer in guests) >= 30
            assert all_of_them.most <= 60

    run(story())


def test_a_ticket_shared_by_a_hundred_players_is_one_seat() -> None:
    """All play on the lease that they copied; then it is renewed for one, and once more, and the others are told."""

    async def story() -> None:
        async with fleet(1, 60) as all_of_them:
            first = Viewer(M, 1)
            all_of_them.polls(first)
            sharers = [first, *(Viewer(M, 1, first.ticket) for _ in range(99))]
            await all_of_them.plays(sharers, 25)
            assert all(viewer.plays for viewer in sharers)
            assert (all_of_them.counted, all_of_them.leased) == (1, 1)
            await all_of_them.plays(sharers, 300)
            assert sum(viewer.plays for viewer in sharers) <= 2
            assert {decision.reason for viewer in sharers for decision in viewer.refused} == {Reason.TOO_MANY_STREAMS}
            assert all_of_them.counted <= 2

    run(story())


def test_a_player_that_keeps_no_ticket_is_found_by_its_client() -> None:
    """It holds one seat on each worker that it polls, and keeps it."""

    async def story() -> None:
        async with fleet(2, 60) as all_of_them:
            player = Viewer(G, 1, keeps_ticket=False)
            await all_of_them.plays([player], 300)
            assert not player.refused
            assert all_of_them.counted <= 2
            await all_of_them.plays([], LEASE_S + 10)
            assert all_of_them.counted == 0

    run(story())


@pytest.mark.parametrize(("name", "cap"), [(M, 3), (G, 20)])
def test_players_of_one_client_are_capped(name: ListenerClass, cap: int) -> None:
    """Of 40 players on one account or behind one address as many get a seat in a lease as have a stream."""

    async def story() -> None:
        async with fleet(1, 100) as all_of_them:
            players = [Viewer(name, 1) for _ in range(40)]
            for player in players:
                for _ in range(2):
                    all_of_them.polls(player)
                await pass_time(0.1)
            assert sum(player.plays for player in players) == all_of_them.counted == cap
            assert {player.refused[-1].reason for player in players if player.refused} == {Reason.TOO_MANY_STREAMS}

    run(story())


def test_a_poll_inside_its_lease_leaves_nothing_behind() -> None:
    """However many polls come, the store is not asked, and no table grows."""

    async def story() -> None:
        async with fleet(1, 1000) as all_of_them:
            (worker,) = all_of_them.workers
            crowd = viewers(G, 500)
            for viewer in crowd:
                all_of_them.polls(viewer)
            tables = _sizes(worker)
            asked = _calls(all_of_them.store)
            for viewer in crowd * 5:
                assert all_of_them.polls(viewer).verdict is Verdict.ALLOWED
            assert _sizes(worker) == tables
            assert asked == []

    run(story())


def _sizes(worker: Worker) -> list[int]:
    """The sizes of all that a worker keeps for viewers."""
    polls, leases = worker.polls, worker.entrance.seats.ledger.leases
    counts = [of_class.counts for of_class in leases._by_class.values()]
    return [
        len(polls._newcomers),
        polls._renewed._entries.count(0),
        *(len(each._begin) + len(each._end) for each in counts),
    ]


def _calls(store: FleetStore) -> list[str]:
    """What the store is asked from now on."""
    calls: list[str] = []

    def noting(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*values: Any) -> Any:
            calls.append(name)
            return inner(*values)

        return noted

    for name in ("take", "seats", "queue", "tell"):
        setattr(store, name, noting(name, getattr(store, name)))
    return calls


def test_renewals_cost_a_report_each_second() -> None:
    """However many viewers poll, the store is asked once a second by a worker, and not for each renewal."""

    async def story() -> None:
        async with fleet(2, 3000) as all_of_them:
            crowd = viewers(G, 2000)
            await all_of_them.plays(crowd, 40)
            asked = _calls(all_of_them.store)
            await all_of_them.plays(crowd, 30)
            assert asked.count("seats") <= 2 * 30 * 1.2
            assert asked.count("take") == 0

    run(story())


def test_a_worker_that_stops_lets_leases_run_and_grants_none() -> None:
    """A poll inside its lease passes to the end; a new one is told to come back soon, and the seats return later."""

    async def story() -> None:
        async with fleet(2, 60) as all_of_them:
            worker, other = all_of_them.workers
            seated, late = viewers(G, 30), Viewer(G, 100)
            for viewer in seated:
                all_of_them.polls(viewer, worker)
            worker.entrance.seats.leave()
            await pass_time(0.5)
            assert all_of_them.polls(seated[0], worker).verdict is Verdict.ALLOWED
            assert all_of_them.polls(late, worker).reason is Reason.RESTARTING
            crowd = viewers(G, 60, first=200)
            await pass_time(LEASE_S - 10)
            for viewer in crowd:
                all_of_them.polls(viewer, other)
            await pass_time(3)
            for viewer in crowd:
                all_of_them.polls(viewer, other)
            assert all_of_them.most <= 60
            await pass_time(LEASE_S)
            for viewer in crowd:
                all_of_them.polls(viewer, other)
            await pass_time(3)
            for viewer in crowd:
                all_of_them.polls(viewer, other)
            assert sum(viewer.plays for viewer in crowd) == 60

    run(story())


# --- streams beside polls ---------------------------------------------------------------------------


@dataclass
class Stream:
    """A listener of a stream: it is told to leave and is gone at once."""

    name: ListenerClass
    number: int
    seat: Seat | None = None
    ticket: str | None = None

    def comes_to(self, worker: Worker) -> bool:
        """Ask for a seat; whether there was one."""
        identity = None if self.name is G else Identity(f"listener-{self.number}")
        address = nth_address(100_000 + self.number)
        asked = Facts(address, "/live", "/live", frozenset({"GET"}), signed_ticket=self.ticket)
        decision = Decision(Verdict.ALLOWED, Reason.WITHIN_LIMITS, packed(address), identity, live=True)
        seats = worker.entrance.seats

        def leave() -> None:
            seat, self.seat = self.seat, None
            assert seat is not None
            seats.release(seat)

        _, entry = worker.entrance.enter(asked, decision, leave)
        self.seat = None if entry is None else entry.seat
        self.ticket = None if entry is None else entry.ticket
        return self.seat is not None


@pytest.mark.parametrize("seed", range(1, 6))
def test_streams_and_leases_share_one_capacity(seed: int) -> None:
    """Each seat is held by one of them; in a cut guests of both kinds go, in about the same part."""

    async def story() -> None:
        async with fleet(3, 120, seed, live_paths="/live") as all_of_them:
            crowd = viewers(G, 90)
            streams = [Stream(G, number) for number in range(90)]

            def come(_: float) -> None:
                stream = all_of_them.dice.choice(streams)
                if stream.seat is None:
                    stream.comes_to(all_of_them.dice.choice(all_of_them.workers))
                assert all_of_them.leased + sum(one.seat is not None for one in streams) <= 120

            await all_of_them.plays(crowd, 60, come)
            here = sum(stream.seat is not None for stream in streams)
            playing = sum(viewer.plays for viewer in crowd)
            assert here >= 20
            assert playing >= 20
            assert here + playing >= 108
            await all_of_them.plays(crowd, 60, come)
            left = here - sum(stream.seat is not None for stream in streams)
            assert left <= 4, "a few in a minute, since a full house is shared out anew, and nobody for newcomers"
            await all_of_them.switch(ModeChange(Mode.EMERGENCY, "ops", capacity=60, guest_share=1.0))
            await all_of_them.plays(crowd, 12 + LEASE_S)
            stay = sum(stream.seat is not None for stream in streams)
            watch = sum(viewer.plays for viewer in crowd)
            assert abs(stay / here - 0.5) <= 0.15
            assert abs(watch / playing - 0.5) <= 0.15, "cohorts are not all of one size"
            await all_of_them.plays(crowd, 2 * LEASE_S)
            assert all_of_them.leased + sum(stream.seat is not None for stream in streams) <= 60

    run(story())


def test_a_ticket_is_one_seat_for_each_live_path_and_one_for_its_polls() -> None:
    """A page with a chat and a player holds two seats with one ticket; however often it opens them, no more."""

    async def story() -> None:
        async with fleet(1, 3, live_paths="/live") as all_of_them:
            (worker,) = all_of_them.workers
            player, chat = Viewer(G, 1), Stream(G, 1 - 100_000)
            all_of_them.polls(player)
            for _ in range(5):
                chat.ticket = player.ticket
                assert chat.comes_to(worker)
                player.ticket = chat.ticket
                assert all_of_them.polls(player).verdict is Verdict.ALLOWED
                await pass_time(LEASE_S - 5)
            assert worker.entrance.seats.ledger.held().total == 2
            assert [all_of_them.polls(viewer).refused for viewer in viewers(G, 2, first=100)] == [False, True]

    run(story())


# --- one poll after the other ------------------------------------------------------------------------


def test_an_answer_that_is_lost_costs_no_seat() -> None:
    """The player shows its old ticket again, and gets the same lease once more, counted once; but not a third time."""

    async def story() -> None:
        async with fleet(1, 60) as all_of_them:
            player = Viewer(G, 1)
            all_of_them.polls(player)
            old = player.ticket
            await pass_time(LEASE_S - 8)
            tickets = []
            for _ in range(3):
                player.ticket = old
                assert all_of_them.polls(player).verdict is Verdict.ALLOWED
                tickets.append(player.ticket)
            first, again, third = [all_of_them.ticket(text) for text in tickets]
            assert third == all_of_them.ticket(old)
            assert first is not None
            assert again is not None
            assert first.leased_until_s == again.leased_until_s
            assert first.renewal != again.renewal
            await pass_time(10)
            assert all_of_them.counted == 1

    run(story())


def test_a_member_without_a_seat_gets_a_number_and_its_seat_in_turn() -> None:
    """The waiting room is that of streams: a number is shown with the polls, and becomes the ticket."""

    async def story() -> None:
        async with fleet(1, 5) as all_of_them:
            seated, late = viewers(M, 5), Viewer(M, 100)
            await all_of_them.plays(seated, 10)
            await all_of_them.plays([*seated, late], 20)
            assert late.refused[-1].place is not None
            assert late.refused[-1].place.position == 1
            await all_of_them.plays([*seated[1:], late], 2 * LEASE_S)
            assert late.plays
            shown = all_of_them.ticket(late.ticket)
            assert shown is not None
            assert shown.id.startswith("n"), "its number has become the ticket"

    run(story())


def test_a_viewer_that_was_away_comes_back_before_new_ones() -> None:
    """After an outage of its network the ticket, whose lease has ended, takes the free seat before strangers."""

    async def story() -> None:
        async with fleet(1, 10) as all_of_them:
            away, strangers = Viewer(G, 1), viewers(G, 30, first=100)
            all_of_them.polls(away)
            await all_of_them.plays(viewers(G, 9, first=10), 20)
            await pass_time(2 * LEASE_S)
            (worker,) = all_of_them.workers
            worker.entrance.seats._share.grant = replace_level(worker, 0)
            assert all(all_of_them.polls(stranger).refused for stranger in strangers)
            assert not all_of_them.polls(away).refused

    run(story())


def replace_level(worker: Worker, level: int) -> Grant:
    """The worker's grant, as if new guests of so many cohorts were admitted."""
    grant = worker.entrance.seats.grant
    assert grant is not None
    return replace(grant, guest_level=level)


def test_a_short_lease_beside_a_long_one_is_renewed_in_its_own_time() -> None:
    """Where another path has leases of ten minutes, one of six seconds is renewed again and again."""

    async def story() -> None:
        rules = '[{"name": "r", "path": "/long", "polled": true, "lease_seconds": 600}]'
        async with fleet(1, 60, rules=rules) as all_of_them:
            player = Viewer(G, 1, lease_s=6)
            for _ in range(60):
                assert all_of_them.polls(player).verdict is Verdict.ALLOWED
                await pass_time(1.5)
            assert all_of_them.counted == 1

    run(story())


def test_a_ticket_is_one_seat_on_paths_with_leases_of_several_lengths() -> None:
    """Whichever of them a copy of it is shown on: one renewed on one path is renewed on no other."""

    async def story() -> None:
        async with fleet(1, 60) as all_of_them:
            player = Viewer(G, 1, lease_s=6)
            all_of_them.polls(player)
            await pass_time(5)
            copies = [Viewer(G, 1, player.ticket, lease_s=lease_s) for lease_s in (6, 12, 30, 60, 300, 600)]
            for _ in range(30):
                for copy in copies:
                    copy.keeps_ticket = copy is copies[0]
                    all_of_them.polls(copy)
                await pass_time(1.9)
            assert not copies[0].refused
            assert all(copy.refused for copy in copies[1:])
            assert (all_of_them.counted, all_of_them.leased) == (1, 1)

    run(story())


def test_a_copy_of_a_ticket_is_found_out_however_many_long_leases_there_are() -> None:
    """Ten minutes' leases take the places of no shorter ones: each is remembered until it ends."""

    async def story() -> None:
        rules = '[{"name": "r", "path": "/long", "polled": true, "lease_seconds": 600}]'
        async with fleet(1, 10_000, rules=rules) as all_of_them:
            (worker,) = all_of_them.workers
            worker.polls._renewed = RenewedTickets(4096)
            for viewer in viewers(G, 1500, first=100):
                viewer.lease_s = 600
                all_of_them.polls(viewer)
            player = Viewer(M, 1, lease_s=6)
            all_of_them.polls(player)
            copy = Viewer(M, 1, player.ticket, lease_s=6, keeps_ticket=False)
            for _ in range(20):
                await pass_time(1.5)
                all_of_them.polls(player)
                all_of_them.polls(copy)
            assert copy.refused
            assert not player.refused

    run(story())


def test_a_viewer_whose_answers_were_lost_waits_for_less_than_a_lease() -> None:
    """Both that it may get: it is refused until the lease that it was given has ended, and then comes back."""

    async def story() -> None:
        async with fleet(1, 60) as all_of_them:
            player = Viewer(M, 1)
            all_of_them.polls(player)
            await pass_time(LEASE_S - 8)
            player.keeps_ticket = False
            for _ in range(2):
                all_of_them.polls(player)
            player.keeps_ticket = True
            await pass_time(9)
            began_s = loop_time()
            while all_of_them.polls(player).refused:
                assert player.refused[-1].reason is Reason.TOO_MANY_STREAMS
                await pass_time(1)
            assert loop_time() - began_s < LEASE_S
            await pass_time(1)
            assert (all_of_them.counted, all_of_them.leased) == (1, 1)

    run(story())


def test_the_seats_of_workers_that_stop_are_not_held_beyond_their_leases() -> None:
    """A worker was granted seats for newcomers, too: after its last report nobody will come to it."""
    rules = '[{"name": "r", "path": "/hls/a", "polled": true, "lease_seconds": 600}]'

    async def story() -> None:
        async with fleet(3, 100, rules=rules) as all_of_them:
            few = viewers(G, 4)
            for viewer in few:
                viewer.lease_s = 600
            await all_of_them.plays(few, 20)
            for worker in all_of_them.workers[1:]:
                Viewer(G, 50 + len(all_of_them.workers), lease_s=600).polls_at(worker)
                all_of_them.workers.remove(worker)
                await worker.stop()
            new = viewers(G, 60, first=100)
            await all_of_them.plays(few + new, 20)
            assert sum(viewer.plays for viewer in new) == 60

    run(story())


def test_a_clock_that_is_set_back_leaves_no_seats_taken() -> None:
    """By more than a lease, as at a failover: what is granted then ends by the new time."""

    async def story() -> None:
        async with fleet(2, 60) as all_of_them:
            crowd = viewers(G, 20)
            await all_of_them.plays(crowd, 60)
            shown_us = all_of_them.store.now_us
            all_of_them.store.now_us = lambda: shown_us() - 90_000_000
            await all_of_them.plays(crowd + viewers(G, 30, first=500), 60)
            await pass_time(90)
            assert all_of_them.counted == 0

    run(story())


def test_a_cut_of_members_takes_those_on_streams_beside_those_who_poll() -> None:
    """Where no guest is left, each kind of member bears its part, and neither outlasts the other."""

    async def story() -> None:
        async with fleet(3, 120, live_paths="/live") as all_of_them:
            crowd = viewers(M, 50)
            streams = [Stream(M, 500 + number) for number in range(50)]
            await all_of_them.plays(crowd, 20)
            assert all(stream.comes_to(all_of_them.dice.choice(all_of_them.workers)) for stream in streams)
            await all_of_them.plays(crowd, 40)
            await all_of_them.switch(ModeChange(Mode.EMERGENCY, "ops", capacity=60, guest_share=0.0))
            await all_of_them.plays(crowd, 60)
            here = sum(stream.seat is not None for stream in streams)
            assert 15 <= here <= 30
            assert here + all_of_them.leased <= 63

    run(story())


@pytest.mark.parametrize("seed", range(4))
def test_members_on_streams_stay_while_the_leases_of_guests_end(seed: int) -> None:
    """Members fit, most of them at one worker: none leaves, and new ones come only once guests' leases have ended."""

    async def story() -> None:
        async with fleet(3, 100, seed, live_paths="/live") as all_of_them:
            dice, crowd = all_of_them.dice, viewers(G, 50)
            members, new = ([Stream(M, first + number) for number in range(50)] for first in (500, 600))
            for member in members:
                member.comes_to(dice.choice([all_of_them.workers[0], dice.choice(all_of_them.workers)]))
            await all_of_them.plays(crowd, 45)
            seated = [member for member in members if member.seat is not None]
            await all_of_them.switch(ModeChange(Mode.EMERGENCY, "ops", capacity=60, guest_share=0.0))
            await all_of_them.plays(crowd, 1.0)

            def taken() -> int:
                return all_of_them.leased + sum(one.seat is not None for one in members + new)

            least = taken()

            def come(_: float) -> None:
                nonlocal least
                dice.choice([one for one in new if one.seat is None]).comes_to(dice.choice(all_of_them.workers))
                assert taken() <= max(60, least)
                least = min(least, taken())

            await all_of_them.plays(crowd, LEASE_S + 15, come)
            assert len(seated) >= 45
            assert all(member.seat is not None for member in seated)
            assert 54 <= taken() <= 60

    run(story())
