"""The lease seats that one worker counts, as it follows a cut of the fleet."""

from __future__ import annotations

from shieldmw.core.client import ListenerClass
from shieldmw.core.seats import COHORTS, Audience, Capacity, Grant
from shieldmw.gate.seats.leased_seats import LeasedSeats

G = ListenerClass.GUEST


def test_a_worker_without_leases_cuts_no_deeper_than_the_others() -> None:
    """Guests who poll other workers come to it as well: half of them are told to go, and only once that took a lease
    fewer may stay.
    """
    now_s = 1_800_000_000.0
    leases = LeasedSeats(lambda: now_s, 30)
    everybody = Audience(guests=100)
    grant = Grant(50, 50, COHORTS, 0, 3, everybody, everybody, everybody)
    levels = []
    for _ in range(31):
        leases.report()
        leases.follow(grant, Capacity(50, 50), 1.0)
        levels.append(next(level for level in range(COHORTS, -1, -1) if leases.may_renew(G, level - 1)))
        now_s += 1.0
    assert levels == [COHORTS // 2] * 30 + [COHORTS // 4]
