"""Leases on several workers: the bucket keeps its promise, whether they are spent, left idle or given back.

Buckets are shared by several workers as in a store. What they spend is held against sliding windows in true time, and
against plain GCRA: the TAT that the same spends would have made is never later than the store's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shieldmw.core.bucket import Charge, Charges, Outcome, TakeRequest, take
from shieldmw.core.client import Client
from shieldmw.core.lease import Lease, Unspent
from shieldmw.core.limits import Limit

ALICE = Client("token", "alice", "token:alice")
START_US = 10**9
WORKERS = 3
AHEAD_US = 77_777_777
S = 1_000_000

relaxed = settings(deadline=None, max_examples=400)


def charges_of(limits: Sequence[Limit], costs: Sequence[int]) -> Charges:
    """One charge for each limit."""
    return tuple(Charge(ALICE, limit, cost) for limit, cost in zip(limits, costs, strict=True))


@dataclass
class World:
    """A store's buckets, the true time, and workers with at most one lease each.

    The store's clock is true, the workers' show less. ``plain_us`` are the TATs of plain GCRA; ``overtaken_us`` is for
    how long answers were under way that spends of the lease overtook.
    """

    limits: list[Limit]
    now_us: int = START_US
    tats_us: dict[str, int] = field(default_factory=dict)
    leases: dict[int, Lease] = field(default_factory=dict)
    answers: list[tuple[int, Charges, Outcome]] = field(default_factory=list)
    under_way: list[tuple[Unspent, ...]] = field(default_factory=list)
    plain_us: dict[str, int] = field(default_factory=dict)
    overtaken_us: int = 0
    spent: list[tuple[int, dict[str, int]]] = field(default_factory=list)

    def take(self, charges: Charges, prefetch: int = 0) -> Outcome:
        """A call to the store."""
        stored = [self.tats_us.get(charge.limit.name) for charge in charges]
        outcome = take(stored, TakeRequest(charges, prefetch), self.now_us)
        if outcome.allowed:
            taken = {
                charge.limit.name: tat for charge, tat in zip(charges, outcome.tats_us, strict=True) if charge.cost
            }
            self.tats_us |= taken
            self._note(charges)
        return outcome

    def lease(self, worker: int, prefetch: int, costs: Sequence[int]) -> None:
        """A call that asks for more ahead; a lease that the worker had is lost."""
        charges = charges_of(self.limits, costs)
        outcome = self.take(charges, prefetch)
        if outcome.leased:
            self.leases[worker] = Lease(charges, outcome, -AHEAD_US)

    def alone(self, worker: int, times: int, at_once: bool) -> None:
        """A worker's own calls for the charges of its lease, and no more; they are answered at once, or later."""
        lease = self.leases.get(worker)
        if lease is not None:
            self.answers += [(worker, lease.charges, self.take(lease.charges)) for _ in range(times)]
        while at_once and self.answers:
            self.answer()

    def answer(self, which: int = 0) -> None:
        """A worker hears of a call, whatever has become of the lease that it had then."""
        if self.answers:
            worker, charges, outcome = self.answers.pop(which % len(self.answers))
            lease = self.leases.get(worker)
            if lease is not None and lease.charges == charges:
                lease.absorb(outcome)

    def spend(self, worker: int, times: int, late_us: int) -> None:
        """Requests from a lease, by a clock that is so late."""
        for _ in range(times):
            if worker not in self.leases or self.leases[worker].spend(self.now_us - AHEAD_US + late_us) is None:
                return
            self._note(self.leases[worker].charges)
            self.overtaken_us = max([self.overtaken_us, *(self.now_us - late.now_us for _, _, late in self.answers)])

    def give_back(self, worker: int, late_us: int, at_once: bool) -> None:
        """Give a lease back: at once, or with a call that arrives later."""
        if worker in self.leases:
            self.under_way.append(self.leases.pop(worker).unspent(self.now_us - AHEAD_US + late_us))
            if at_once:
                self.arrive(-1)

    def arrive(self, which: int = 0) -> None:
        """The store takes back what was sent to it, if nobody has charged the bucket since the lease was taken.

        Anything laxer lets more pass: another worker's lease counts on the TAT that it found, and charges that came
        while the call was under way count on a bucket that was not full.
        """
        if self.under_way:
            for given in self.under_way.pop(which):
                name = given.charge.limit.name
                if self.tats_us.get(name) == given.ceiling_us:
                    self.tats_us[name] -= given.give_us

    def drain(self, part: int) -> None:
        """Charge each bucket with all that the store says is left, or a part of it."""
        for limit in self.limits:
            left = (limit.tau_us - max(0, self.tats_us.get(limit.name, 0) - self.now_us)) // limit.unit_us
            if left // part:
                self.take(charges_of([limit], [left // part]))

    def wait(self, quarters: int) -> None:
        """Some quarters of a unit's time go by."""
        self.now_us += quarters * self.limits[0].unit_us // 4

    def refill(self, which: int, more_us: int) -> None:
        """Time goes by until a bucket looks full in the store, give or take a microsecond."""
        name = self.limits[which % len(self.limits)].name
        self.now_us = max(self.now_us, self.tats_us.get(name, 0) + more_us)

    def assert_none_missing(self) -> None:
        """What the store holds is what is spent, or held by leases: no spend was given back."""
        for name, plain_us in self.plain_us.items():
            assert max(plain_us, self.now_us) <= max(self.tats_us[name], self.now_us)

    def assert_promise(self) -> None:
        """No window of the true time holds more than burst + rate * D of any bucket."""
        for limit in self.limits:
            mine = [(at_us, costs[limit.name]) for at_us, costs in self.spent if costs.get(limit.name)]
            for first in range(len(mine)):
                total = 0
                for at_us, cost in mine[first:]:
                    total += cost
                    over_us = (total - limit.burst) * limit.unit_us - (at_us - mine[first][0])
                    assert over_us <= 0, f"{limit.name}: {total} units in {at_us - mine[first][0]} us"

    def _note(self, charges: Charges) -> None:
        costs = {charge.limit.name: charge.cost for charge in charges}
        for charge in charges:
            if charge.cost:
                name = charge.limit.name
                self.plain_us[name] = max(self.plain_us.get(name, 0), self.now_us) + charge.step_us
        if self.spent and self.spent[-1][0] == self.now_us:
            same = self.spent[-1][1]
            costs = {name: same.get(name, 0) + costs.get(name, 0) for name in same | costs}
            self.spent[-1] = (self.now_us, costs)
        else:
            self.spent.append((self.now_us, costs))


Event = tuple[str, tuple[object, ...]]
Trace = tuple[list[Limit], list[Event], list[int]]


def events(buckets: int) -> st.SearchStrategy[list[Event]]:
    """What happens, crowded around leases that overlap and buckets that look full."""
    worker = st.integers(0, WORKERS - 1)
    costs = st.tuples(*[st.sampled_from([1, 1, 1, 2, 5, 0])] * buckets).filter(any)
    late = st.sampled_from([0, 0, 0, 1, 50_000])
    event = st.one_of(
        st.tuples(st.just("lease"), st.tuples(worker, st.just(1000), st.just((1,) * buckets))),
        st.tuples(st.just("give_back"), st.tuples(worker, st.just(0), st.just(True))),
        st.tuples(st.just("refill"), st.tuples(st.just(0), st.just(0))),
        st.tuples(st.just("lease"), st.tuples(worker, st.sampled_from([1000, 10, 0]), costs)),
        st.tuples(st.just("alone"), st.tuples(worker, st.integers(1, 3), st.booleans())),
        st.tuples(st.just("alone"), st.tuples(worker, st.just(1), st.just(True))),
        st.tuples(st.just("answer"), st.tuples(st.integers(0, 3))),
        st.tuples(st.just("drain"), st.tuples(st.integers(1, 4))),
        st.tuples(st.just("spend"), st.tuples(worker, st.integers(1, 30), late)),
        st.tuples(st.just("give_back"), st.tuples(worker, late, st.booleans())),
        st.tuples(st.just("arrive"), st.just(())),
        st.tuples(st.just("wait"), st.tuples(st.integers(0, 1000))),
        st.tuples(st.just("refill"), st.tuples(st.integers(0, 1), st.sampled_from([-1, 0, 1]))),
    )
    return st.lists(event, min_size=3, max_size=14)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """One or two buckets, what happens, and in which order the workers spend what they have at the end."""
    limits = [
        Limit(
            f"limit-{number}",
            draw(st.sampled_from([1, 7, 1000, 1_000_000])),
            draw(st.sampled_from([1, 60])),
            draw(st.sampled_from([16, 40, 100, 1000])),
        )
        for number in range(draw(st.sampled_from([1, 1, 2])))
    ]
    return limits, draw(events(len(limits))), draw(st.permutations(range(WORKERS)))


def play(trace: Trace) -> World:
    """Let it happen; at the end everything is spent, given back and drained at one instant."""
    limits, happened, order = trace
    world = World(limits)
    for name, arguments in happened:
        getattr(world, name)(*arguments)
        world.assert_none_missing()
    for worker in order:
        world.spend(worker, 2000, 0)
    while world.under_way:
        world.arrive()
    world.assert_none_missing()
    world.drain(1)
    return world


@relaxed
@given(traces())
def test_leases_never_let_more_pass(trace: Trace) -> None:
    """Several workers, with leases that lie idle, cross and come back late: burst + rate * D holds to the unit."""
    play(trace).assert_promise()


def test_a_lease_given_back_under_another_lets_nothing_more_pass() -> None:
    """The shortest case: two leases, the first comes back, time goes by, then the second is spent on a full bucket."""
    world = World([Limit("ip", 1, 1, 16)])
    world.lease(0, 1000, (1,))
    world.lease(1, 1000, (1,))
    world.give_back(0, 0, True)
    world.refill(0, 0)
    world.spend(1, 10, 0)
    world.drain(1)
    world.assert_promise()


def test_a_lease_given_back_late_lets_nothing_more_pass() -> None:
    """What was unspent when the call was sent may have come back by itself, and been spent, when it arrives."""
    world = World([Limit("ip", 1, 1, 100)])
    world.lease(0, 10, (1,))
    world.give_back(0, 0, False)
    world.wait(4 * 10)
    world.drain(2)
    world.arrive()
    world.drain(1)
    world.assert_promise()


# --- one worker alone loses nothing -----------------------------------------------------------------


def own_events() -> st.SearchStrategy[list[Event]]:
    """What one worker does with its lease while nobody else charges the buckets."""
    event = st.one_of(
        st.tuples(st.just("spend"), st.tuples(st.just(0), st.integers(1, 30), st.just(0))),
        st.tuples(st.just("alone"), st.tuples(st.just(0), st.integers(1, 3), st.booleans())),
        st.tuples(st.just("answer"), st.just(())),
        st.tuples(st.just("wait"), st.tuples(st.integers(0, 40))),
        st.tuples(st.just("refill"), st.tuples(st.integers(0, 1), st.sampled_from([-1, 0, 1]))),
    )
    return st.lists(event, max_size=10)


@st.composite
def own_traces(draw: st.DrawFn) -> tuple[list[Limit], list[list[Event]]]:
    """One or two buckets, and what happens in each of a few leases."""
    limits = [Limit(f"limit-{number}", 7, 1, draw(st.sampled_from([40, 100, 1000]))) for number in range(2)]
    return limits[: draw(st.integers(1, 2))], draw(st.lists(own_events(), min_size=1, max_size=3))


@relaxed
@given(own_traces())
def test_one_worker_alone_loses_nothing(trace: tuple[list[Limit], list[list[Event]]]) -> None:
    """Once its lease is back the TAT is that of plain GCRA, whatever the worker charged behind the lease.

    It is later only where spends overtook an answer, and then by no more than the answer took.
    """
    limits, each = trace
    world = World(limits)
    for happened in each:
        world.lease(0, 1000, (1,) * len(limits))
        for name, arguments in happened:
            getattr(world, name)(*arguments)
        while world.answers:
            world.answer()
        world.give_back(0, 0, True)
        for name, plain_us in world.plain_us.items():
            late_us = max(world.tats_us[name], world.now_us) - max(plain_us, world.now_us)
            assert 0 <= late_us <= world.overtaken_us


SLOW = Limit("ip", 1, 1, 100)


def test_a_charge_behind_the_lease_counts_as_if_it_came_before() -> None:
    """Nothing less can be spent, and all of it can be given back, of a TAT that is the ceiling again."""
    world = World([SLOW])
    world.lease(0, 8, (1,))
    (before,) = world.leases[0].unspent(START_US - AHEAD_US)
    world.alone(0, 3, True)
    (after,) = world.leases[0].unspent(START_US - AHEAD_US)
    assert after == before._replace(ceiling_us=before.ceiling_us + 3 * S)
    assert after.ceiling_us == world.tats_us["ip"]


def test_a_charge_behind_another_workers_changes_nothing() -> None:
    """A worker that charged in between may hold a lease, and counts on what was taken before it."""
    world = World([SLOW])
    world.lease(0, 8, (1,))
    before = world.leases[0].unspent(START_US - AHEAD_US)
    world.lease(1, 8, (1,))
    world.alone(0, 3, True)
    assert world.leases[0].unspent(START_US - AHEAD_US) == before


def test_a_charge_from_before_the_lease_changes_nothing() -> None:
    """Its answer may come later than the lease's, as it may come from a lease that is over."""
    world = World([SLOW])
    world.lease(0, 1, (1,))
    world.alone(0, 3, False)
    world.lease(0, 8, (1,))
    before = world.leases[0].unspent(START_US - AHEAD_US)
    while world.answers:
        world.answer()
    assert world.leases[0].unspent(START_US - AHEAD_US) == before


def test_a_refusal_is_no_charge() -> None:
    """Though the TAT that it tells of is a step above the ceiling: another worker's charge is."""
    limits = [SLOW, replace(SLOW, name="other")]
    world = World(limits)
    world.lease(0, 8, (1, 1))
    before = world.leases[0].unspent(START_US - AHEAD_US)
    assert world.take(charges_of(limits, [1, 100 - 9])).allowed
    world.alone(0, 1, False)
    [(_, _, refused)] = world.answers
    assert (refused.allowed, refused.tats_us[0]) == (False, START_US + 10 * S)
    world.answer()
    assert world.leases[0].unspent(START_US - AHEAD_US) == before


def test_each_bucket_absorbs_for_itself() -> None:
    """Where another client charged the bucket of a site, the one of the address is given back all the same."""
    limits = [SLOW, replace(SLOW, name="site")]
    world = World(limits)
    world.lease(0, 8, (1, 1))
    ip, site = world.leases[0].unspent(START_US - AHEAD_US)
    world.take(charges_of(limits[1:], [1]))
    world.alone(0, 1, True)
    assert world.leases[0].unspent(START_US - AHEAD_US) == (ip._replace(ceiling_us=ip.ceiling_us + S), site)
    world.give_back(0, 0, True)
    assert world.tats_us["ip"] == world.plain_us["ip"]


# --- what a lease gives -----------------------------------------------------------------------------


SPENDS = st.lists(st.tuples(st.integers(0, 5 * S), st.integers(0, 5 * S)), max_size=40)


@relaxed
@given(st.integers(16, 200), st.integers(0, 1000), st.integers(1, 3), SPENDS)
def test_no_spend_goes_beyond_the_ceiling(burst: int, prefetch: int, cost: int, spends: list[tuple[int, int]]) -> None:
    """However early or late, a spend ends at or below the TAT that the store holds, and each moves a step at least."""
    charges = charges_of([Limit("ip", 1, 1, burst)], [cost])
    outcome = take([None], TakeRequest(charges, prefetch), START_US)
    if not outcome.allowed:
        return
    lease, now_us = Lease(charges, outcome), START_US
    tats_us = [outcome.tats_us[0] - outcome.leased * charges[0].step_us]
    for later_us, late_us in spends:
        now_us += later_us
        spent = lease.spend(now_us + late_us)
        if spent is not None:
            assert spent.allowed
            assert spent.tats_us[0] <= outcome.tats_us[0]
            assert spent.tats_us[0] == max(tats_us[-1], now_us + late_us) + charges[0].step_us
            tats_us.append(spent.tats_us[0])
    assert all(after - before >= charges[0].step_us for before, after in pairwise(tats_us))
    assert len(tats_us) - 1 <= outcome.leased


@relaxed
@given(st.integers(16, 200), st.integers(1, 1000), st.integers(0, 300 * S))
def test_an_idle_lease_shrinks_as_its_bucket_refills(burst: int, prefetch: int, idle_us: int) -> None:
    """What can be spent and what can be given back shrink alike, to nothing where the bucket is full again."""
    charges = charges_of([Limit("ip", 1, 1, burst)], [1])
    outcome = take([None], TakeRequest(charges, prefetch), START_US)
    lease, now_us = Lease(charges, outcome), START_US + idle_us
    left_us = min(outcome.leased * S, max(0, outcome.tats_us[0] - now_us))
    assert [given.give_us for given in lease.unspent(now_us)] == [left_us] * bool(left_us)
    assert all(lease.spend(now_us) for _ in range(left_us // S))
    assert lease.spend(now_us) is None


@pytest.mark.parametrize("narrow", [0, 1, 2])
def test_several_charges_are_spent_all_or_nothing(narrow: int) -> None:
    """Wherever the bucket stands that refills first, its end is the lease's, and no other is spent by then."""
    limits = [Limit(f"limit-{number}", 1, 1, 100) for number in range(3)]
    limits[narrow] = replace(limits[narrow], amount=10, burst=1000)
    charges = charges_of(limits, [1, 1, 1])
    outcome = take([None] * 3, TakeRequest(charges, 5), START_US)
    lease = Lease(charges, outcome)
    before = lease.unspent(START_US + S)
    assert len(before) == 2
    assert lease.spend(START_US + S) is None
    assert lease.unspent(START_US + S) == before


@relaxed
@given(
    st.builds(Limit, st.just("x"), st.integers(1, 100), st.sampled_from([1, 60]), st.integers(1, 200)),
    st.integers(0, 5),
    st.integers(0, 10),
    st.integers(-S, S),
    st.lists(st.tuples(st.integers(0, 100), st.booleans()), max_size=40),
)
def test_one_bucket_is_spent_as_one_of_several(
    limit: Limit, cost: int, prefetch: int, shift_us: int, steps: list[tuple[int, bool]]
) -> None:
    """The short way for a single bucket gives what the way for several does; also after the store was asked again."""
    charge = Charge(ALICE, limit, min(cost, limit.burst))
    outcome = take([None], TakeRequest((charge,), prefetch), START_US)
    twice = outcome._replace(tats_us=outcome.tats_us * 2)
    single, general = Lease((charge,), outcome, shift_us), Lease((charge, charge), twice, shift_us)
    now_us, stored_us = START_US + shift_us, outcome.tats_us[0]
    for hundredths, asks in steps:
        now_us += hundredths * limit.unit_us // 100
        if asks:
            told = take([stored_us], TakeRequest((charge,)), now_us - shift_us)
            if told.allowed:
                stored_us = told.tats_us[0]
            single.absorb(told)
            general.absorb(told._replace(tats_us=told.tats_us * 2))
        else:
            spent, expected = single.spend(now_us), general.spend(now_us)
            assert (spent is None) is (expected is None)
            if spent is not None and expected is not None:
                assert spent == expected._replace(tats_us=expected.tats_us[:1])
        assert single.unspent(now_us) == general.unspent(now_us)[:1]
