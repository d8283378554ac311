"""What an operator is told before the switch: who stays, who leaves, who comes in, who waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldmw.core.forecast import Forecast, forecast
from shieldmw.core.seats import Audience, Capacity, Report, SeatTable

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
