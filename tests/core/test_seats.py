"""Dividing seats, the pure model: thousands of random fleets in which nothing may ever be promised twice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from shieldmw.core.seats import (
    COHORTS,
    FIRST_S,
    LEASE_S,
    LOST_GRANT,
    NO_GRANT,
    PAUSE_S,
    SILENT_S,
    Audience,
    Capacity,
    Grant,
    Report,
    SeatTable,
    fair_share,
    granted,
    levels,
)

RUNS = 3000
ROUND_S = 5.0


@dataclass
class Worker:
    """One worker of the model: it obeys its grant at once, and forgets it when its lease has ended."""

    name: str
    want: Audience = field(default_factory=Audience)
    here: Audience = field(default_factory=Audience)
    grant: Grant | None = None
    until_s: float = 0.0

    @property
    def usage(self) -> int:
        """Seats that may be taken at this worker."""
        return max(self.here.total, self.grant.seats if self.grant else 0)

    @property
    def favoured_usage(self) -> int:
        """Seats that hosts and members may have taken at this worker: those of guests, too."""
        return max(self.here.favoured, self.grant.seats if self.grant else 0)

    @property
    def guest_usage(self) -> int:
        """Seats that guests may have taken at this worker."""
        return max(self.here.guests, self.grant.guest_seats if self.grant else 0)

    def refresh(self, table: SeatTable, capacity: Capacity, now_s: float, *, evicts: bool = True) -> Grant:
        """Report, then let in and evict what the grant says."""
        held = self.grant if now_s < self.until_s else None
        seats, guest_seats = (held.seats, held.guest_seats) if held else (NO_GRANT, NO_GRANT)
        report = Report(self.name, self.here, self.here + self.unmet, seats, guest_seats)
        self.grant, self.until_s = table.refresh(report, capacity, now_s), now_s + LEASE_S
        if evicts or self.here.total <= self.grant.seats:
            self.sit(self.grant)
        return self.grant

    def asks(self, want: Audience) -> None:
        """Other listeners want to be here; who no longer does leaves."""
        here, self.want = self.here, want
        self.here = Audience(
            min(here.hosts, want.hosts), min(here.members, want.members), min(here.guests, want.guests)
        )

    def sit(self, grant: Grant) -> None:
        """Hosts, then members, then guests, as far as seats go."""
        hosts = min(self.want.hosts, grant.seats)
        members = min(self.want.members, grant.seats - hosts)
        self.here = Audience(hosts, members, min(self.want.guests, grant.guest_seats, grant.seats - hosts - members))

    @property
    def unmet(self) -> Audience:
        """Who was turned away."""
        want, here = self.want, self.here
        return Audience(
            max(0, want.hosts - here.hosts),
            max(0, want.members - here.members),
            max(0, want.guests - here.guests),
        )


@dataclass
class Fleet:
    """Workers over one table, driven by a seeded dice."""

    dice: random.Random
    capacity: Capacity
    table: SeatTable = field(default_factory=SeatTable)
    workers: list[Worker] = field(default_factory=list)
    now_s: float = 1_000_000.0
    born: int = 0

    @classmethod
    def of(cls, seed: int, workers: int, seats: int, guest_share: float) -> Fleet:
        """A fleet of so many workers that nobody has asked anything of yet."""
        fleet = cls(random.Random(seed), Capacity(seats, int(seats * guest_share)))
        for _ in range(workers):
            fleet.join()
        return fleet

    def join(self) -> Worker:
        """One more worker."""
        self.born += 1
        worker = Worker(f"{self.dice.getrandbits(32):08x}-{self.born}")
        self.workers.append(worker)
        return worker

    def demand(self) -> Audience:
        """Some demand of one worker: none, a little, or more than its part."""
        most = 1 + 3 * self.capacity.seats // max(1, len(self.workers))
        some = [0, self.dice.randint(0, most), self.dice.randint(0, most // 4)]
        return Audience(self.dice.choice([0, 0, 0, 1]), self.dice.choice(some), self.dice.choice(some))

    def round(self, *, in_order: bool = False) -> None:
        """Every worker reports once in five seconds. One that has turned listeners away reports again soon, as the gate
        does: room that others have made is seen only by asking."""
        workers = list(self.workers)
        if not in_order:
            self.dice.shuffle(workers)
        for worker in workers:
            self.now_s += ROUND_S / len(workers)
            worker.refresh(self.table, self.capacity, self.now_s)
        for worker in workers * 3:
            if worker.unmet.total:
                worker.refresh(self.table, self.capacity, self.now_s)

    @property
    def usage(self) -> int:
        """Seats that may be taken anywhere."""
        return sum(worker.usage for worker in self.workers)

    @property
    def favoured_usage(self) -> int:
        """Seats that hosts and members may have taken anywhere."""
        return sum(worker.favoured_usage for worker in self.workers)

    @property
    def guest_usage(self) -> int:
        """Seats that guests may have taken anywhere."""
        return sum(worker.guest_usage for worker in self.workers)

    def recut(self) -> None:
        """Another capacity: a cut as often as a raise."""
        seats = max(1, int(self.capacity.seats * self.dice.choice([0.1, 0.5, 0.8, 1, 1.3, 3])))
        self.capacity = Capacity(seats, int(seats * self.dice.choice([0, 0.2, 0.5, 1])))


def fleets(runs: int, most_workers: int = 200) -> Iterator[Fleet]:
    """Random fleets, small ones more often than large ones."""
    for seed in range(runs):
        dice = random.Random(seed)
        workers = dice.choice([1, 2, 3, dice.randint(1, 20), dice.randint(1, most_workers) if seed % 10 == 0 else 8])
        seats = dice.choice([1, 7, 100, dice.randint(1, 50_000)])
        yield Fleet.of(seed, workers, seats, dice.choice([0, 0.2, 0.5, 1]))


def happens(fleet: Fleet) -> None:
    """One thing of all that can happen to a fleet."""
    dice, workers = fleet.dice, fleet.workers
    fleet.now_s += dice.choice([0.01, 0.2, 1, 5]) / len(workers) if workers else LEASE_S
    what = dice.random()
    if what < 0.70 and workers:
        # Half of the reports come from workers whose evicted listeners have not gone yet.
        dice.choice(workers).refresh(fleet.table, fleet.capacity, fleet.now_s, evicts=dice.random() < 0.5)
    elif what < 0.86 and workers:
        worker = dice.choice(workers)
        worker.asks(fleet.demand())
        if worker.grant and fleet.now_s < worker.until_s and worker.here.total <= worker.grant.seats:
            worker.sit(worker.grant)  # admitted without asking
    elif what < 0.90:
        fleet.join().want = fleet.demand()
    elif what < 0.93 and workers:
        worker = workers.pop(dice.randrange(len(workers)))
        fleet.table.release(worker.name)
    elif what < 0.95 and workers:
        workers.pop(dice.randrange(len(workers)))  # killed: its lease runs on
    elif what < 0.98:
        fleet.recut()


@pytest.mark.thorough
def test_what_may_be_taken_never_grows_above_the_capacity() -> None:
    """Whatever workers do, seats that may be taken stay within capacity; after a cut they never grow until they fit."""
    for fleet in fleets(RUNS):
        for _ in range(60):
            usage, favoured, guests = fleet.usage, fleet.favoured_usage, fleet.guest_usage
            happens(fleet)
            lapsed = [worker for worker in fleet.workers if worker.grant and worker.until_s <= fleet.now_s]
            for worker in lapsed:
                # Who did not report in time has lost its seats; the model's listeners leave with them.
                worker.grant, worker.here = None, Audience()
            assert fleet.usage <= max(usage, fleet.capacity.seats)
            assert fleet.favoured_usage <= max(favoured, fleet.capacity.seats)
            assert fleet.guest_usage <= max(guests, fleet.capacity.guest_seats)


def test_guests_who_must_still_leave_bring_no_seats_for_new_members() -> None:
    """A worker full of guests is granted no seat that members hold elsewhere, while they leave and after that."""
    table, capacity = SeatTable(), Capacity(20, 0)
    a, b = Worker("a", want=Audience(members=12)), Worker("b", want=Audience(members=8, guests=20))
    for _ in range(2):
        for worker in (a, b):
            worker.refresh(table, Capacity(40, 40), 0.0)
    for worker in (a, b):
        worker.refresh(table, capacity, 1.0, evicts=False)
    b.want = Audience(members=18)
    assert b.refresh(table, capacity, 2.0, evicts=False).seats == 8
    b.here = Audience(members=8)
    assert b.refresh(table, capacity, 3.0, evicts=False).seats == 8


@pytest.mark.parametrize("seed", range(40))
def test_a_cut_makes_no_more_members_leave_than_are_too_many(seed: int) -> None:
    """In whatever order workers report and evict some of those beyond their grant, as many stay as there are seats."""
    dice, table, capacity = random.Random(seed), SeatTable(), Capacity(20, 20)
    workers = [Worker(name, here=Audience(members=dice.randint(0, 20))) for name in "abcdef"[: dice.randint(2, 6)]]
    workers[0].here = Audience(members=20)
    for worker in workers:
        worker.want = worker.here
        worker.refresh(table, Capacity(200, 200), 1.0)
    most = {worker.name: 0 for worker in workers}
    for step in range(600):
        worker = dice.choice(workers)
        here = worker.here.members
        if dice.random() < 0.7:
            grant = worker.refresh(table, capacity, 2.0 + step / 100, evicts=False)
            most[worker.name] = max(0, min(here - grant.seats, grant.present.favoured - capacity.seats))
        elif most[worker.name]:
            most[worker.name] -= 1
            worker.here = worker.want = Audience(members=here - 1)
    assert sum(worker.here.members for worker in workers) == 20


@pytest.mark.thorough
def test_members_have_all_they_ask_for_within_two_rounds() -> None:
    """Two rounds after demand or capacity changed, members have their seats, within one of rounding per worker."""
    for fleet in fleets(RUNS, most_workers=40):
        for change in range(2):
            for worker in fleet.workers:
                if fleet.dice.random() < 0.7:
                    worker.asks(fleet.demand())
            if change:
                fleet.recut()
            in_order = fleet.dice.random() < 0.5
            fleet.round(in_order=in_order)
            fleet.round(in_order=in_order)
            wants = [worker.want.hosts + worker.want.members for worker in fleet.workers]
            have = [worker.here.hosts + worker.here.members for worker in fleet.workers]
            assert sum(have) >= min(sum(wants), fleet.capacity.seats) - len(fleet.workers)
            guests = [worker.here.guests for worker in fleet.workers]
            assert sum(guests) <= fleet.capacity.guest_seats
            assert sum(have) + sum(guests) <= fleet.capacity.seats
            if sum(guests):
                assert all(had or not wanted for had, wanted in zip(have, wants, strict=True))


def test_grants_settle_at_the_fair_share_to_the_seat() -> None:
    """While demand stays as it is each worker's grant becomes its pro-rata share, of headroom too."""
    for fleet in fleets(300, most_workers=60):
        for worker in fleet.workers:
            worker.want = fleet.demand()
        for _ in range(4):
            fleet.round()
        workers = sorted(fleet.workers, key=lambda worker: worker.name)
        demands = [worker.here + worker.unmet for worker in workers]
        for index, worker in enumerate(workers):
            assert worker.grant
            share = fair_share(fleet.capacity, demands, index)
            assert worker.grant.seats == share.seats


def test_a_dead_workers_seats_return_after_the_lease() -> None:
    """Seats of a killed worker are lent to nobody while its lease runs, and to others right after."""
    table, capacity = SeatTable(), Capacity(100, 100)
    dead, alive = Worker("dead", want=Audience(members=100)), Worker("alive", want=Audience(members=100))
    dead.refresh(table, capacity, 0.0)
    for now_s in (5.0, LEASE_S - 0.001):
        assert alive.refresh(table, capacity, now_s).seats == 0
    assert alive.refresh(table, capacity, LEASE_S).seats == 100


def test_a_look_at_the_fleet_is_no_report() -> None:
    """It tells what the next report would hear of the others, and changes nothing: neither seats nor leases."""
    table, capacity = SeatTable(), Capacity(100, 100)
    Worker("silent", want=Audience(members=5)).refresh(table, capacity, 0.0)
    Worker("heard", want=Audience(hosts=1, guests=3)).refresh(table, capacity, 10.0)
    before = repr(table)
    fleet = table.fleet(10.0)
    assert (fleet.workers, fleet.demand) == (2, Audience(hosts=1, guests=3))
    assert repr(table) == before
    assert table.fleet(LEASE_S).workers == 1
    assert table.fleet(10.0 + LEASE_S).workers == 0


def test_a_worker_that_stops_returns_its_seats_at_once() -> None:
    """What a worker gives back is there for the next report."""
    table, capacity = SeatTable(), Capacity(100, 100)
    Worker("a", want=Audience(members=100)).refresh(table, capacity, 0.0)
    table.release("a")
    assert Worker("b", want=Audience(members=100)).refresh(table, capacity, 0.0).seats == 100


def test_a_store_that_lost_its_state_never_promises_seats_twice() -> None:
    """In whatever order workers report to an empty table, what all may take stays within capacity."""
    for fleet in fleets(RUNS, most_workers=40):
        for worker in fleet.workers:
            worker.want = fleet.demand()
        fleet.round()
        fleet.round()
        fleet.table = SeatTable()
        order = fleet.workers * 3
        fleet.dice.shuffle(order)
        for worker in order:
            fleet.now_s += LEASE_S / len(order)
            if fleet.dice.random() < 0.3:
                worker.asks(fleet.demand())
            worker.refresh(fleet.table, fleet.capacity, fleet.now_s)
            assert fleet.usage <= fleet.capacity.seats
            assert fleet.guest_usage <= fleet.capacity.guest_seats


def test_a_lost_state_is_made_good_after_one_lease() -> None:
    """While what others hold is unknown nothing grows; a lease later seats are divided anew."""
    table, capacity = SeatTable(), Capacity(100, 100)
    one = Worker("one", want=Audience(members=100))
    one.refresh(table, capacity, 0.0)
    table = SeatTable()
    late = Worker("late", want=Audience(members=100))
    one.refresh(table, capacity, 1.0)
    assert late.refresh(table, capacity, 1.1).seats == 0
    assert one.refresh(table, capacity, 1.2).seats == 50
    one.refresh(table, capacity, 6.0)
    assert late.refresh(table, capacity, 1.0 + LEASE_S - 0.01).seats == 0
    assert late.refresh(table, capacity, 1.0 + LEASE_S).seats == 50


@pytest.mark.parametrize("is_lost", [False, True])
def test_after_an_outage_nobody_grows_before_the_others_are_back(is_lost: bool) -> None:
    """Workers whose grants have ended still hold their seats: the first one that is back does not get these."""
    table, capacity = SeatTable(), Capacity(90, 90)
    for name in "abc":
        table.refresh(Report(name, Audience(members=30), Audience(members=30)), capacity, 0.0)
    table = SeatTable() if is_lost else table
    now_s = LEASE_S + 5.0
    one, two, three = (
        Report(name, Audience(members=here), Audience(members=want), LOST_GRANT, LOST_GRANT)
        for name, here, want in (("a", 10, 35), ("b", 30, 30), ("c", 25, 25))
    )
    assert table.refresh(one, capacity, now_s).seats == 10
    assert table.refresh(two, capacity, now_s + 1.9).seats == 30
    assert table.refresh(three, capacity, now_s + 3.0).seats == 25
    assert table.refresh(one, capacity, now_s + 4.9).seats == 10
    assert table.refresh(one, capacity, now_s + 3.0 + PAUSE_S).seats == 35


def test_a_new_worker_waits_for_those_that_may_come_back() -> None:
    """The first to report after a silence waits for them; where nobody ever was, or all have stopped, it does not."""
    table, capacity = SeatTable(), Capacity(90, 90)
    new, back = Report("n", Audience(), Audience(members=30)), Report("a", Audience(members=60), Audience(members=60))
    table.refresh(back, capacity, 0.0)
    assert table.refresh(new, capacity, LEASE_S + 5.0).seats == 0
    assert table.refresh(replace(back, seats=LOST_GRANT), capacity, LEASE_S + 5.5).seats == 60
    assert table.refresh(new, capacity, LEASE_S + 5.7).seats == 0
    assert table.refresh(new, capacity, LEASE_S + 5.5 + PAUSE_S).seats == 30
    table.release("n")
    table.release("a")
    assert table.refresh(new, capacity, LEASE_S + 8.0).seats == 90


def test_one_worker_that_was_cut_off_stops_nobody() -> None:
    """While others are heard of, what they hold is known."""
    table, capacity = SeatTable(), Capacity(90, 90)
    for now_s in (0.0, 5.0, 10.0, 15.0, 20.0):
        table.refresh(Report("a", Audience(members=30), Audience(members=30)), capacity, now_s)
    back = Report("b", Audience(members=30), Audience(members=60), LOST_GRANT, LOST_GRANT)
    assert table.refresh(back, capacity, 21.0).seats == 30, "a holds the rest until it reports"
    table.refresh(Report("a", Audience(members=30), Audience(members=30)), capacity, 21.1)
    assert table.refresh(back, capacity, 21.2).seats == 60


def test_a_worker_with_an_empty_grant_also_says_that_the_state_was_lost() -> None:
    """A worker that was granted nothing and reports first to an empty table does not get what others hold."""
    table, capacity = SeatTable(), Capacity(10, 10)
    rich, poor = Worker("rich", want=Audience(members=10)), Worker("poor", want=Audience(guests=5))
    rich.refresh(table, capacity, 0.0)
    assert poor.refresh(table, capacity, 0.1).seats == 0
    assert poor.refresh(SeatTable(), capacity, 0.2).seats == 0


def test_a_clock_that_steps_back_keeps_no_dead_worker_for_longer_than_a_lease() -> None:
    """Entries and a guard from an hour ahead are lost state: after one lease they hold nothing back."""
    table, capacity = SeatTable(), Capacity(100, 100)
    alive = Worker("alive", want=Audience(members=100))
    Worker("dead", want=Audience(members=100)).refresh(table, capacity, 3600.0)
    alive.refresh(table, capacity, 3600.0)
    table.guard_until_s = 3600.0 + LEASE_S
    alive.until_s = 0.0  # its own clock did not step; it simply has no lease left
    assert alive.refresh(table, capacity, 0.0).seats == 100


def test_the_naive_rule_starves_the_late_worker_and_ours_does_not() -> None:
    """After a cut by half `min(want, capacity - others)` leaves late workers with nothing; ours does not."""
    names = [f"w{number:02d}" for number in range(20)]
    naive = dict.fromkeys(names, 50)
    table, workers = SeatTable(), [Worker(name, want=Audience(members=50)) for name in names]
    for worker in workers:
        worker.refresh(table, Capacity(1000, 0), 0.0)
    for name in names:
        others = sum(naive.values()) - naive[name]
        naive[name] = max(0, min(50, 500 - others))
    for worker in workers * 2:
        worker.refresh(table, Capacity(500, 0), 1.0)
    assert sum(1 for seats in naive.values() if seats == 0) >= 10
    assert [worker.usage for worker in workers] == [25] * 20


@pytest.mark.parametrize(
    ("fair", "has", "room", "expected"),
    [
        (10, 10, 0, 10),  # it has what it should
        (10, 25, 0, 10),  # shrinking is granted at once
        (10, 25, 99, 10),  # and room is no reason to keep more than is fair
        (10, 4, 20, 10),  # growing into room that is there
        (10, 4, 7, 7),  # growing as far as there is room
        (10, 4, 0, 4),  # no room: what it has stays
        (10, 4, -50, 4),  # after a cut others hold too much: it loses nothing for that
        (0, 0, 5, 0),  # nobody asks
    ],
)
def test_what_is_granted(fair: int, has: int, room: int, expected: int) -> None:
    """Fair where it has as much, else what room allows but never less than it has."""
    assert granted(fair, has, room) == expected


@pytest.mark.parametrize(
    ("capacity", "demands", "shares"),
    [
        # Nobody asks: all is headroom, spread evenly.
        (Capacity(10, 10), [Audience(), Audience()], [Capacity(5, 5), Capacity(5, 5)]),
        # What members leave is spread as headroom; guests ask for none of it.
        (Capacity(10, 0), [Audience(members=4), Audience()], [Capacity(7, 0), Capacity(3, 0)]),
        # Hosts before members before guests.
        (Capacity(4, 4), [Audience(hosts=2), Audience(members=9, guests=9)], [Capacity(2, 0), Capacity(2, 0)]),
        # Too many members: pro rata, and guests get nothing.
        (Capacity(9, 9), [Audience(members=20, guests=5), Audience(members=10)], [Capacity(6, 0), Capacity(3, 0)]),
        # Guests share what is theirs pro rata; the rest of the seats is headroom for members.
        (Capacity(10, 4), [Audience(guests=6), Audience(guests=2)], [Capacity(6, 3), Capacity(4, 1)]),
        # No seats at all.
        (Capacity(0, 0), [Audience(hosts=1, members=1, guests=1)], [Capacity(0, 0)]),
    ],
)
def test_fair_shares(capacity: Capacity, demands: list[Audience], shares: list[Capacity]) -> None:
    """Everything to the higher class, the rest pro rata, what nobody asks for as headroom."""
    assert [fair_share(capacity, demands, index) for index in range(len(demands))] == shares


def test_shares_of_all_workers_sum_to_the_capacity() -> None:
    """No seat is lost and none is made by rounding."""
    dice = random.Random(1)
    for _ in range(RUNS):
        seats = dice.choice([0, 1, 13, 1000, dice.randint(0, 10**7)])
        capacity = Capacity(seats, dice.randint(0, seats))
        demands = [
            Audience(*(dice.choice([0, 1, dice.randint(0, 1 + seats)]) for _ in range(3)))
            for _ in range(dice.randint(1, 30))
        ]
        shares = [fair_share(capacity, demands, index) for index in range(len(demands))]
        assert sum(share.seats for share in shares) == seats
        assert sum(share.guest_seats for share in shares) <= capacity.guest_seats
        assert all(0 <= share.guest_seats <= share.seats for share in shares)


@pytest.mark.parametrize(
    ("capacity", "demand", "present", "expected"),
    [
        (Capacity(100, 100), Audience(0, 50, 50), Audience(), (COHORTS, COHORTS)),  # all fit
        # In a full house: half of the members, no guest; the guests' share is what counts; hosts fill it.
        (Capacity(100, 100), Audience(0, 200, 10), Audience(0, 100, 0), (COHORTS // 2, 0)),
        (Capacity(100, 10), Audience(0, 0, 40), Audience(0, 0, 10), (COHORTS, COHORTS // 4)),
        (Capacity(100, 100), Audience(100, 1, 0), Audience(100, 0, 0), (0, COHORTS)),
        # A seat is free that they may have: nobody is sent away for its cohort.
        (Capacity(100, 100), Audience(0, 200, 10), Audience(0, 99, 0), (COHORTS, COHORTS)),
        (Capacity(100, 100), Audience(0, 200, 10), Audience(0, 99, 1), (COHORTS, 0)),  # a guest's seat is a member's
        (Capacity(100, 10), Audience(0, 0, 40), Audience(0, 0, 9), (COHORTS, COHORTS)),
        (Capacity(100, 10), Audience(0, 0, 40), Audience(0, 95, 5), (COHORTS, COHORTS // 4)),  # no seat at all
        (Capacity(0, 0), Audience(0, 0, 0), Audience(), (COHORTS, COHORTS)),  # nobody asks
    ],
)
def test_levels(capacity: Capacity, demand: Audience, present: Audience, expected: tuple[int, int]) -> None:
    """In a full house, how many of the 128 cohorts would find a seat were all given anew; else all of them."""
    assert levels(capacity, demand, present) == expected


def test_listeners_of_a_worker_that_is_silent_count_no_longer() -> None:
    """Its seats are its own until its lease ends, but its audience is counted where it has gone to."""
    table, capacity = SeatTable(), Capacity(100, 100)
    table.refresh(Report("dead", Audience(members=60), Audience(members=60)), capacity, 0.0)
    alive = Report("alive", Audience(), Audience(members=60))
    soon = table.refresh(alive, capacity, SILENT_S - 0.001)
    assert (soon.present.members, soon.demand.members) == (60, 120)
    later = table.refresh(alive, capacity, SILENT_S)
    assert (later.present.members, later.demand.members, later.workers) == (0, 60, 2)
    assert later.seats <= 40, "the dead worker may still hold its seats"


def test_a_report_newer_than_the_clock_of_a_process_that_looks_is_counted() -> None:
    """Its clock may be late, by no more than it says."""
    table = SeatTable()
    table.refresh(Report("a", Audience(), Audience(members=1)), Capacity(10, 10), 100.0)
    assert table.fleet(99.5).workers == 0
    assert table.fleet(99.5, 2.0).workers == 1
    assert table.fleet(97.0, 2.0).workers == 0


# --- lease seats -----------------------------------------------------------------------------------


def leasing(name: str, count: int, want: int = 0, for_s: float = 30.0) -> Report:
    """A worker whose members all hold lease seats, while some want one."""
    leased = Audience(members=count)
    return Report(name, leased, leased + Audience(members=want), NO_GRANT, NO_GRANT, leased, for_s)


@pytest.mark.parametrize("coming", [0, 5])
def test_the_leases_of_a_dead_worker_hold_their_seats_until_they_end(coming: int) -> None:
    """A killed worker reports no more, but its clients have their leases: nobody else is granted those seats."""
    table, capacity, now_s = SeatTable(), Capacity(100, 100), 1_000_000.0
    table.refresh(Report("other", Audience(members=40), Audience(members=40)), capacity, now_s)
    table.refresh(replace(leasing("dead", 50, for_s=40.0), coming=coming), capacity, now_s)
    table.release("other")
    for after_s, seats in ((LEASE_S, 50 - coming), (39.0, 50 - coming), (40.0, 100)):
        table.refresh(leasing("alive", 0, want=100), capacity, now_s + after_s - FIRST_S)
        grant = table.refresh(leasing("alive", 0, want=100), capacity, now_s + after_s)
        assert (grant.seats, grant.workers) == (seats, 1), after_s
        assert grant.present == Audience(), "its clients are on their way to other workers"
        table.release("alive")


def test_a_worker_that_reports_again_holds_its_leases_once() -> None:
    """What a worker reported before it hung is replaced by what it reports now."""
    table, capacity, now_s = SeatTable(), Capacity(100, 100), 1_000_000.0
    table.refresh(leasing("a", 60), capacity, now_s)
    grant = table.refresh(leasing("a", 50), capacity, now_s + 20.0)
    assert (grant.present.total, grant.leased.total, grant.seats) == (50, 50, 100)


def test_seats_that_clients_have_taken_elsewhere_are_not_granted_again() -> None:
    """Clients that a worker counted renew at another one, beyond its grant: the first may not fill their seats anew."""
    table, capacity, now_s = SeatTable(), Capacity(100, 100), 1_000_000.0
    for _ in range(2):
        for name in "ab":
            table.refresh(leasing(name, 45, want=5), capacity, now_s)
    assert [entry.seats for entry in table.entries.values()] == [50, 50]
    assert table.refresh(leasing("a", 55, want=50), capacity, now_s + 1.0).seats == 55
    assert table.refresh(leasing("b", 35, want=50), capacity, now_s + 1.0).seats == 45
    assert table.refresh(leasing("a", 50, want=50), capacity, now_s + 1.0).seats == 54


@pytest.mark.parametrize("seed", range(40))
def test_clients_that_move_between_workers_are_never_more_than_the_capacity(seed: int) -> None:
    """Each renews at a worker by chance, some leave, others want in: those counted anywhere fit the capacity."""
    dice = random.Random(seed)
    seats, workers = dice.choice([7, 60, 500]), dice.choice([2, 3, 9])
    table, capacity, now_s = SeatTable(), Capacity(seats, seats), 1_000_000.0
    here, granted_, at_report = ([0] * workers for _ in range(3))
    lag: list[list[tuple[float, int]]] = [[] for _ in range(workers)]
    for _ in range(600):
        now_s += 0.1
        for worker in range(workers):
            here[worker] -= here[worker] > 0 and dice.random() < 0.05  # leaves
            if here[worker] and dice.random() < 0.3:  # renews elsewhere
                other = dice.randrange(workers)
                here[worker] -= 1
                here[other] += 1
                lag[worker].append((now_s, 1))
                lag[other].append((now_s, -1))
            if dice.random() < 0.5 and at_report[worker] < granted_[worker]:
                here[worker] += 1  # a new one
                at_report[worker] += 1
        worker = dice.randrange(workers)
        lag[worker] = [(when_s, count) for when_s, count in lag[worker] if when_s > now_s - 100]
        left = max(0, sum(count for _, count in lag[worker]))
        at_report[worker] = here[worker] + left
        report = replace(leasing(f"{worker}", here[worker], want=seats), left=left)
        granted_[worker] = table.refresh(report, capacity, now_s).seats
        assert sum(here) <= seats
