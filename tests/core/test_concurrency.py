"""The adaptive limit in virtual time: it finds how much an app works on at once, and is not misled."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random

import pytest

from shieldmw.core.concurrency import FIRST, LEAST, MOST_ROUTES, AdaptiveLimit

MS = 1000


def crowd(
    limit: AdaptiveLimit,
    *,
    places: int,
    service_us: Callable[[], int],
    asking: int,
    seconds: float,
    now_us: int = 0,
    slow_share: float = 0.0,
    seed: int = 1,
) -> tuple[int, int]:
    """A closed crowd before an app that works on ``places`` requests at once, first come, first served.

    ``slow_share`` of the requests go to an endpoint that takes two seconds of nobody's place. Returns how many were
    served, and the virtual time at the end.
    """
    random = Random(seed)
    free_us = [now_us] * places
    inside: list[tuple[int, int, str, int]] = []
    served, end_us, number = 0, now_us + round(seconds * 1_000_000), 0
    while now_us < end_us:
        while limit.room() > 0 and len(inside) < asking:
            limit.inside += 1
            number += 1
            if random.random() < slow_share:
                heapq.heappush(inside, (now_us + 2_000 * MS, number, "slow", now_us))
                continue
            start_us = max(now_us, heapq.heappop(free_us))
            done_us = start_us + service_us()
            heapq.heappush(free_us, done_us)
            heapq.heappush(inside, (done_us, number, "fast", now_us))
        limit.was_full |= limit.room() <= 0 and len(inside) < asking
        now_us, _, route, began_us = heapq.heappop(inside)
        limit.inside -= 1
        limit.sample(route, now_us - began_us, now_us)
        served += 1
    for _ in inside:
        limit.inside -= 1
    return served, now_us


@pytest.mark.parametrize(("places", "service_ms"), [(1, 2), (4, 10), (16, 30), (40, 50)])
def test_the_limit_finds_what_the_app_works_on_at_once(places: int, service_ms: int) -> None:
    """Within two seconds of an attack: enough to keep it busy, and no queue inside that members would feel."""
    limit = AdaptiveLimit()
    random = Random(2)

    def service_us() -> int:
        return round(service_ms * MS * random.uniform(0.9, 1.3))

    _, now_us = crowd(limit, places=places, service_us=service_us, asking=1, seconds=1)
    _, now_us = crowd(limit, places=places, service_us=service_us, asking=700, seconds=2, now_us=now_us)
    served, _ = crowd(limit, places=places, service_us=service_us, asking=700, seconds=3, now_us=now_us)
    assert places <= limit.limit <= max(12, 4 * places)
    assert served >= 0.9 * 3_000 / (service_ms * 1.1) * places


def test_a_slow_endpoint_is_no_overload() -> None:
    """Five requests in a hundred take two seconds, at seventy percent of what the app can do: the limit never falls."""
    limit = AdaptiveLimit()
    crowd(limit, places=16, service_us=lambda: 30 * MS, asking=11 + 40, seconds=10, slow_share=0.05)
    assert limit.limit >= FIRST


def test_an_app_that_has_become_slower_is_not_held_to_its_past() -> None:
    """A deployment that is five times as slow: its best times are learnt anew, and all its places are used."""
    limit = AdaptiveLimit()
    _, now_us = crowd(limit, places=16, service_us=lambda: 10 * MS, asking=16, seconds=2)
    _, now_us = crowd(limit, places=16, service_us=lambda: 50 * MS, asking=700, seconds=10, now_us=now_us)
    served, _ = crowd(limit, places=16, service_us=lambda: 50 * MS, asking=700, seconds=3, now_us=now_us)
    assert served >= 0.9 * 16 * 3_000 / 50


def test_a_limit_that_nobody_reaches_stays() -> None:
    """It grows only where it is what holds requests back."""
    limit = AdaptiveLimit()
    crowd(limit, places=16, service_us=lambda: 10 * MS, asking=8, seconds=5)
    assert limit.limit == FIRST


def test_the_limit_never_falls_below_its_least() -> None:
    """However slow responses become."""
    limit = AdaptiveLimit()
    for step in range(10_000):
        limit.inside += 1
        limit.inside -= 1
        limit.sample("page", MS if step < 10 else (step + 1) * 100 * MS, step * 20 * MS)
        assert limit.limit >= LEAST


def test_a_limit_that_is_set_does_not_move() -> None:
    """SHIELD_MAX_IN_FLIGHT above 0."""
    limit = AdaptiveLimit(fixed=20)
    crowd(limit, places=1, service_us=lambda: 10 * MS, asking=700, seconds=3)
    assert limit.limit == 20


def test_made_up_routes_share_one_entry() -> None:
    """Memory is bounded, whatever paths a flood asks for."""
    limit = AdaptiveLimit()
    for number in range(3 * MOST_ROUTES):
        limit.sample(f"/{number}", MS, number * MS)
    assert limit.routes <= MOST_ROUTES + 1
