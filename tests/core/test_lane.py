"""The lane in virtual time: in order of priority, never idle while requests wait, bounded, and no request lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shieldmw.core.concurrency import AdaptiveLimit, Intake
from shieldmw.core.lane import FAVOURED_WAITS, MOST_WAITING, Lane, Rank

MS = 1000

relaxed = settings(deadline=None, max_examples=300)


@dataclass
class Guest:
    """One request of the simulation; ``cost_us`` is loop time, ``inside_us`` how long it is inside after that."""

    rank: Rank
    cost_us: int = 2 * MS
    inside_us: int = 0
    came_us: int = 0
    entered_us: int | None = None
    is_let_in: bool = False
    is_refused: bool = False
    is_gone: bool = False
    intake: Intake | None = None

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


@dataclass
class App:
    """An event loop with an app behind a lane: each ``turn`` is one poll and all that it brought in."""

    most_inside: int = 1_000_000
    wait_us: int = 100 * MS
    now_us: int = 10**9
    inside: list[tuple[int, Guest]] = field(default_factory=list)
    everybody: list[Guest] = field(default_factory=list)
    entered: list[Guest] = field(default_factory=list)
    ready: list[Guest] = field(default_factory=list)
    on_entry: Callable[[Guest], None] = lambda guest: None

    def __post_init__(self) -> None:
        self.places = AdaptiveLimit(self.most_inside)
        self.lane: Lane[Guest] = Lane(self.wait_us, self.places, self._let_in, self._refuse)

    def _let_in(self, guest: Guest, intake: Intake) -> None:
        self.on_entry(guest)
        guest.is_let_in, guest.intake = True, intake
        self.ready.append(guest)

    def _refuse(self, guest: Guest) -> None:
        guest.is_refused = True

    def _run(self, guest: Guest) -> None:
        guest.entered_us, guest.is_let_in = self.now_us, True
        self.entered.append(guest)
        self.now_us += guest.cost_us
        if guest.inside_us:
            self.inside.append((self.now_us + guest.inside_us, guest))
        else:
            self._finish(guest)

    def _finish(self, guest: Guest) -> None:
        assert guest.intake is not None
        guest.intake.count -= 1
        if self.lane.waiting:
            self.lane.left(self.now_us)

    def arrive(self, guest: Guest) -> None:
        """A request is read, decided, and comes to the lane."""
        guest.came_us = self.now_us
        self.everybody.append(guest)
        guest.intake = self.lane.enters(guest.rank, self.now_us)
        if guest.intake is not None:
            self._run(guest)
        elif self.lane.would_refuse(guest.rank, self.now_us):
            guest.is_refused = True
        else:
            self.lane.wait(guest.rank, guest, self.now_us)

    def turn(self, *guests: Guest) -> None:
        """One turn of the loop: those let in before run, then the new ones; then the lane hears that it has ended."""
        self.now_us += 50
        for entry in [entry for entry in self.inside if entry[0] <= self.now_us]:
            self.inside.remove(entry)
            self._finish(entry[1])
        ready, self.ready = self.ready, []
        for guest in ready:
            self._run(guest)
        for guest in guests:
            self.arrive(guest)
        self.lane.turn(self.now_us)

    def drain(self) -> None:
        """Turn until nobody is left, at least to the end of what is inside."""
        for _ in range(100_000):
            if not (self.lane.waiting or self.inside or self.ready):
                return
            if self.inside and not self.ready:
                self.now_us = max(self.now_us, min(until_us for until_us, _ in self.inside))
            self.turn()
        raise AssertionError("somebody waits for ever")


ranks = st.sampled_from(list(Rank))
guests = st.builds(Guest, ranks, st.integers(0, 20 * MS), st.one_of(st.just(0), st.integers(1, 400 * MS)))
turns = st.lists(st.lists(guests, max_size=20), max_size=20)


def test_a_request_enters_at_once_where_nothing_waits() -> None:
    """The calm way: no queue, no delay."""
    app = App()
    for rank in Rank:
        request = Guest(rank)
        app.turn(request)
        assert request.entered_us == request.came_us


def test_guests_beyond_the_budget_of_a_turn_wait_for_the_next() -> None:
    """Five milliseconds of loop time, at two each: three guests enter, the fourth waits."""
    app = App()
    crowd = [Guest(Rank.GUEST) for _ in range(20)]
    app.turn(*crowd)
    assert [request.entered_us is not None for request in crowd] == [True] * 3 + [False] * 17


def test_members_run_at_once_until_a_larger_budget() -> None:
    """A turn that is full for guests has room for members, up to fifty milliseconds."""
    app = App()
    crowd = [Guest(Rank.GUEST) for _ in range(MOST_WAITING + 10)]
    members = [Guest(Rank.MEMBER) for _ in range(30)]
    app.turn(*crowd, *members)
    assert sum(request.entered_us is not None for request in crowd) == 3
    assert sum(request.entered_us is not None for request in members) == 22


def test_a_full_app_lets_the_highest_class_in_first() -> None:
    """Whatever the order in which they came."""
    app = App(most_inside=1)
    app.turn(Guest(Rank.GUEST, inside_us=5 * MS))
    waiting = [Guest(rank, inside_us=5 * MS) for rank in reversed(Rank)]
    app.turn(*waiting)
    app.drain()
    assert [request.rank for request in app.entered[1:]] == list(Rank)


@relaxed
@given(turns, st.integers(1, 40))
def test_the_order_of_favour_holds_for_everybody_who_waited(plan: list[list[Guest]], most_inside: int) -> None:
    """Nobody is let in while a higher class waits, or while an earlier one of the same class does."""
    app = App(most_inside)

    def check(guest: Guest) -> None:
        for other in app.everybody:
            waits = other is not guest and not other.is_let_in and not other.is_refused
            if waits and other.rank < guest.rank:
                raise AssertionError(f"{guest.rank!r} goes before {other.rank!r}")
            if waits and other.rank is guest.rank and other.came_us < guest.came_us:
                raise AssertionError("a later one goes before an earlier one")

    app.on_entry = check
    for arrivals in plan:
        app.turn(*arrivals)
    app.drain()


@relaxed
@given(turns, st.integers(1, 40), st.randoms(use_true_random=False))
def test_nobody_is_forgotten(plan: list[list[Guest]], most_inside: int, random: object) -> None:
    """All that came were let in, refused, or went away; all places are free again in the end."""
    app = App(most_inside)
    for arrivals in plan:
        app.turn(*arrivals)
        for request in app.everybody:
            waits = not (request.is_let_in or request.is_refused or request.is_gone)
            if waits and random.random() < 0.1:  # type: ignore[attr-defined]
                request.is_gone = True
                app.lane.leave(request.rank, request)
    app.drain()
    for request in app.everybody:
        assert (request.entered_us is not None) + request.is_refused + request.is_gone == 1
    assert app.places.inside == 0
    assert app.lane.waiting == 0


@relaxed
@given(turns, st.integers(1, 40))
def test_the_lane_is_work_conserving(plan: list[list[Guest]], most_inside: int) -> None:
    """Where somebody waits after a turn, that turn was used or the app is full."""
    app = App(most_inside)
    for arrivals in plan:
        app.turn(*arrivals)
        if app.lane.waiting:
            assert app.ready or not app.places.has_room(favoured=True)


@relaxed
@given(turns)
def test_no_wait_of_a_guest_is_longer_than_promised(plan: list[list[Guest]]) -> None:
    """At most as long as members may wait, and a turn more."""
    app = App()
    for arrivals in plan:
        app.turn(*arrivals)
    app.drain()
    longest_us = app.wait_us * FAVOURED_WAITS
    turn_us = max((sum(guest.cost_us for guest in arrivals) for arrivals in plan), default=0) + 100 * MS
    for request in app.everybody:
        if request.entered_us is not None:
            assert request.entered_us - request.came_us <= longest_us + turn_us


def test_a_standing_queue_sheds_guests_and_no_members() -> None:
    """Guests ask for three times what the app can do, members for half: from half a second on guests are shed."""
    app = App()
    answered: Counter[tuple[Rank, bool]] = Counter()
    start_us, last_us = app.now_us, 0
    while app.now_us < start_us + 5_000 * MS:
        spent_us = app.now_us - last_us if last_us else 0
        last_us = app.now_us
        guests_now, members_now = round(spent_us / MS * 1.5), round(spent_us / MS * 0.25)
        app.turn(
            *(Guest(Rank.GUEST) for _ in range(guests_now or 1)), *(Guest(Rank.MEMBER) for _ in range(members_now))
        )
    app.drain()
    for request in app.everybody:
        answered[request.rank, request.is_refused] += 1
    assert answered[Rank.MEMBER, True] == 0
    members_us = [
        request.entered_us - request.came_us
        for request in app.everybody
        if request.rank is Rank.MEMBER and request.entered_us
    ]
    assert max(members_us) <= 100 * MS
    served_us = 2 * MS * sum(not request.is_refused for request in app.everybody)
    assert served_us >= 0.95 * (app.now_us - start_us)


@pytest.mark.parametrize("pause_ms", [50, 150, 300])
@pytest.mark.parametrize("rank", [Rank.MEMBER, Rank.GUEST])
def test_a_pause_within_a_request_sheds_nobody(pause_ms: int, rank: Rank) -> None:
    """What a collection of garbage took says nothing of what requests cost, nor how fast they will enter."""
    app = App()
    due_us = app.now_us
    for _step in range(2000):
        arrivals: list[Guest] = []
        while due_us <= app.now_us:
            cost_us = pause_ms * MS if len(app.everybody) == 700 and not arrivals else 2 * MS
            arrivals.append(Guest(rank, cost_us=cost_us))
            due_us += round(2 * MS / 0.7)
        if not arrivals and not app.lane.waiting and not app.ready:
            app.now_us = due_us
        app.turn(*arrivals)
    app.drain()
    assert sum(request.cost_us > 2 * MS for request in app.everybody) == 1
    assert not any(request.is_refused for request in app.everybody)


@pytest.mark.parametrize("pause_ms", [50, 150, 300])
def test_a_pause_at_seventy_percent_sheds_nobody(pause_ms: int) -> None:
    """A garbage collection is not overload: what came meanwhile drains by itself."""
    app = App()
    due_us = app.now_us
    for step in range(2000):
        if step == 1000:
            app.now_us += pause_ms * MS
        arrivals = []
        while due_us <= app.now_us:
            arrivals.append(Guest(Rank.GUEST))
            due_us += round(2 * MS / 0.7)
        if not arrivals and not app.lane.waiting and not app.ready:
            app.now_us = due_us
        app.turn(*arrivals)
    app.drain()
    assert not any(request.is_refused for request in app.everybody)


def test_guests_have_no_more_than_their_share() -> None:
    """With a share of a quarter guests get a quarter of the loop's time, though members leave more."""
    app = App()
    app.lane.guest_share = 0.25
    start_us = app.now_us
    while app.now_us < start_us + 2_000 * MS:
        app.turn(*(Guest(Rank.GUEST) for _ in range(4)), *(Guest(Rank.MEMBER) for _ in range(2)))
    entered = Counter(request.rank for request in app.entered)
    assert entered[Rank.GUEST] * 2 * MS <= 0.27 * (app.now_us - start_us)
    assert entered[Rank.GUEST] * 2 * MS >= 0.2 * (app.now_us - start_us)


def test_the_longest_turn_is_told_until_it_is_measured_anew() -> None:
    """A short turn after a long one hides nothing; once somebody has read it, it begins again."""
    app = App()
    for cost_us in (5 * MS, 30 * MS, 1 * MS):
        assert app.lane.enters(Rank.GUEST, app.now_us)
        app.now_us += cost_us
        app.lane.turn(app.now_us)
    assert app.lane.longest_turn_us == 30 * MS
    app.lane.longest_turn_us = 0
    assert app.lane.enters(Rank.GUEST, app.now_us)
    app.now_us += 2 * MS
    app.lane.turn(app.now_us)
    assert app.lane.longest_turn_us == 2 * MS


def test_a_queue_full_of_guests_has_room_for_members() -> None:
    """The bound on memory is one for each rank."""
    app = App(most_inside=1, wait_us=10_000 * MS)
    app.turn(Guest(Rank.GUEST, inside_us=5 * MS))
    crowd = [Guest(Rank.GUEST) for _ in range(MOST_WAITING + 10)]
    member = Guest(Rank.MEMBER)
    app.turn(*crowd, member)
    assert [request.is_refused for request in crowd] == [False] * MOST_WAITING + [True] * 10
    assert not member.is_refused
    app.drain()
    assert app.entered[1] is member
