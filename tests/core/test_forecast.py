"""What an operator is told before the switch: who stays, who leaves, who comes in, who waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldmw.core.forecast import Forecast, forecast, most_refused
from shieldmw.core.limits import Limit
from shieldmw.core.mode import Mode
from shieldmw.core.paths import PathPattern
from shieldmw.core.rules import Access, Policy, Rule, Scope
from shieldmw.core.seats import Audience, Capacity, Report, SeatTable
from shieldmw.core.traffic import Rates

NOBODY = Audience()
HERE = Audience(1, 12, 18)
WANTED = Audience(1, 14, 20)


@pytest.mark.parametrize(
    ("capacity", "share", "present", "demand", "told"),
    [
        pytest.param(
            *(Capacity(20, 0), 0.0, HERE, WANTED),
            Forecast(Audience(1, 12, 0), Audience(0, 0, 18), Audience(0, 2, 0), Audience(0, 0, 20 - 18)),
            id="guests leave, and members who waited come in",
        ),
        pytest.param(
            *(Capacity(20, 5), 0.25, HERE, WANTED),
            Forecast(Audience(1, 12, 5), Audience(0, 0, 13), Audience(0, 2, 0), Audience(0, 0, 2)),
            id="guests keep what is left of their share",
        ),
        pytest.param(
            *(Capacity(17, 10), 0.5, HERE, WANTED),
            Forecast(Audience(1, 12, 2), Audience(0, 0, 16), Audience(0, 2, 0), Audience(0, 0, 2)),
            id="members take the seats of guests within the share",
        ),
        pytest.param(
            *(Capacity(10, 0), 0.0, HERE, WANTED),
            Forecast(Audience(1, 9, 0), Audience(0, 3, 18), NOBODY, Audience(0, 2, 2)),
            id="too few seats for members",
        ),
        pytest.param(
            *(Capacity(100, 100), 1.0, HERE, WANTED),
            Forecast(HERE, NOBODY, Audience(0, 2, 2), NOBODY),
            id="room for all",
        ),
        pytest.param(
            *(None, 1.0, HERE, WANTED),
            Forecast(HERE, NOBODY, Audience(0, 2, 2), NOBODY),
            id="no limit",
        ),
        pytest.param(
            *(None, 0.0, HERE, WANTED),
            Forecast(Audience(1, 12, 0), Audience(0, 0, 18), Audience(0, 2, 0), Audience(0, 0, 2)),
            id="no limit, and none for guests",
        ),
        pytest.param(
            *(Capacity(20, 20), 1.0, Audience(0, 3, 4), Audience(0, 2, 6)),
            Forecast(Audience(0, 3, 4), NOBODY, Audience(0, 0, 2), NOBODY),
            id="a report of the demand that is older than that of those present",
        ),
        pytest.param(Capacity(0, 0), 0.0, NOBODY, NOBODY, Forecast(NOBODY, NOBODY, NOBODY, NOBODY), id="nobody"),
    ],
)
def test_who_stays_and_who_leaves(
    capacity: Capacity | None, share: float, present: Audience, demand: Audience, told: Forecast
) -> None:
    """By class, and everybody is told of once."""
    assert forecast(capacity, share, present, demand) == told


audiences = st.builds(Audience, *[st.integers(0, 60)] * 3)


@given(st.lists(st.tuples(audiences, audiences), min_size=1, max_size=5), st.integers(1, 200), st.floats(0, 1))
def test_the_cut_does_what_was_told(workers: list[tuple[Audience, Audience]], seats: int, share: float) -> None:
    """Once workers have reported and been granted seats twice, they hold as many of each class as was forecast."""
    capacity = Capacity(seats, int(seats * share))
    present = sum((here for here, _ in workers), NOBODY)
    demand = present + sum((more for _, more in workers), NOBODY)
    told = forecast(capacity, share, present, demand)
    assert told.stay + told.leave == present
    assert told.stay + told.leave + told.come + told.wait == demand
    table = SeatTable()
    for _ in range(2):
        for number, (here, more) in enumerate(workers):
            table.refresh(Report(str(number), NOBODY, here + more), capacity, 1000.0)
    seated = told.stay + told.come
    grants = [(entry.seats, entry.guest_seats) for entry in table.entries.values()]
    assert sum(seats for seats, _ in grants) >= seated.total
    assert sum(guests for _, guests in grants) >= seated.guests
    assert seated.total <= capacity.seats
    assert seated.guests <= capacity.guest_seats
    # Nobody is left out who would fit.
    assert seated.favoured == min(demand.favoured, capacity.seats)
    assert seated.guests == min(demand.guests, capacity.guest_seats, capacity.seats - seated.favoured)


EACH = Limit("ip", 300, 60, 300)
FEW = Limit("ip", 30, 60, 30)
TOGETHER = Limit("guests", 100, 1, 100)
STAYING = Forecast(HERE, NOBODY, NOBODY, NOBODY)
LET_IN = Rates(1.0, 20.0, 1240.0)
TO_EMERGENCY, BACK = (Mode.NORMAL, Mode.EMERGENCY), (Mode.EMERGENCY, Mode.NORMAL)


def closing(access: Access, *, dry_run: bool = False) -> Policy:
    """A path that is closed in an emergency, and the same limits in both modes."""
    return Policy({Scope.IP: (EACH,)}, (Rule("x", PathPattern("/x"), emergency=access, dry_run=dry_run),))


def limited(*limits: Limit) -> Policy:
    """Other limits in an emergency."""
    return Policy({Scope.IP: (EACH,)}, emergency={Scope(limit.name): (limit,) for limit in limits})


@pytest.mark.parametrize(
    ("policy", "modes", "listeners", "told"),
    [
        pytest.param(limited(FEW), TO_EMERGENCY, STAYING, 1240.0, id="each guest may do less"),
        pytest.param(limited(TOGETHER), TO_EMERGENCY, STAYING, 1240.0, id="all guests together may do less"),
        pytest.param(limited(EACH), TO_EMERGENCY, STAYING, 0.0, id="the same limit"),
        pytest.param(limited(FEW), BACK, STAYING, 0.0, id="back to more"),
        pytest.param(limited(FEW), (Mode.EMERGENCY,) * 2, STAYING, 0.0, id="other terms, the same limits"),
        pytest.param(closing(Access.MEMBERS), TO_EMERGENCY, STAYING, 1240.0, id="a path that is closed to guests"),
        pytest.param(closing(Access.CLOSED), TO_EMERGENCY, STAYING, 1261.0, id="a path that is closed to everyone"),
        pytest.param(closing(Access.CLOSED, dry_run=True), TO_EMERGENCY, STAYING, 0.0, id="a rule in a dry run"),
        pytest.param(closing(Access.CLOSED), BACK, STAYING, 0.0, id="a path that is open again"),
        pytest.param(
            *(limited(EACH), TO_EMERGENCY),
            *(Forecast(NOBODY, Audience(0, 0, 1), NOBODY, NOBODY), 1240.0),
            id="guests who lose their seats and poll",
        ),
        pytest.param(
            *(limited(EACH), TO_EMERGENCY),
            *(Forecast(NOBODY, Audience(0, 1, 0), NOBODY, NOBODY), 21.0),
            id="members who lose their seats and poll",
        ),
    ],
)
def test_requests_are_refused_at_most_where_anything_is_stricter(
    policy: Policy, modes: tuple[Mode, Mode], listeners: Forecast, told: float
) -> None:
    """A bound: nobody knows how they are spread over clients and paths."""
    assert most_refused(policy, *modes, listeners, LET_IN) == told
