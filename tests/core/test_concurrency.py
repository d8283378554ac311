"""The adaptive limit in virtual time: it finds how much an app works on at once, and is not misled."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random

import pytest

from shieldmw.core.concurrency import FIRST, LEAST, MOST_ROUTES, AdaptiveLimit, Intake

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
    inside: list[tuple[int, int, str, int, Intake]] = []
    served, end_us, number = 0, now_us + round(seconds * 1_000_000), 0
    while now_us < end_us:
        while limit.has_room(favoured=False) and len(inside) < asking:
            intake = limit.enter()
            number += 1
            if random.random() < slow_share:
                heapq.heappush(inside, (now_us + 2_000 * MS, number, "slow", now_us, intake))
                continue
            start_us = max(now_us, heapq.heappop(free_us))
            done_us = start_us + service_us()
            heapq.heappush(free_us, done_us)
            heapq.heappush(inside, (done_us, number, "fast", now_us, intake))
        if len(inside) < asking:
            limit.reached(now_us)
        now_us, _, route, began_us, intake = heapq.heappop(inside)
        intake.count -= 1
        limit.sample(route, now_us - began_us, now_us)
        served += 1
    for *_, intake in inside:
        intake.count -= 1
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


def test_requests_that_wait_for_something_else_hold_no_place_for_long() -> None:
    """Long polls: a thousand that stay for half a minute have left their places after two seconds."""
    limit = AdaptiveLimit()
    polls = [limit.enter() for _ in range(1000)]
    assert not limit.has_room(favoured=True)
    now_us = 30_000 * MS
    for step in range(300):
        now_us += 10 * MS
        intake = limit.enter()
        intake.count -= 1
        limit.sample("page", 3 * MS, now_us)
        if step == 210:
            assert limit.inside == 0
    for intake in polls:
        intake.count -= 1
    assert limit.inside == 0


def test_a_limit_that_is_reached_grows_while_nothing_speaks_against_it() -> None:
    """A thousand long polls that come within a second are all inside before those who wait have lost their patience."""
    limit = AdaptiveLimit()
    inside = now_us = 0
    while inside < 1000 and now_us < 5_000 * MS:
        now_us += 5 * MS
        while limit.has_room(favoured=False) and inside < 1000:
            limit.enter()
            inside += 1
        if inside < 1000:
            limit.reached(now_us)
    assert now_us <= 1_500 * MS


def test_a_fixed_limit_does_not_grow_however_long_it_is_reached() -> None:
    """It is an operator's word, for members as for guests."""
    limit = AdaptiveLimit(fixed=16)
    for number in range(16):
        limit.enter()
        limit.reached(number * 1000 * MS)
    assert limit.limit == 16
    assert not limit.has_room(favoured=True)


def test_what_guests_fill_has_room_for_the_favoured() -> None:
    """As many again."""
    limit = AdaptiveLimit()
    while limit.has_room(favoured=False):
        limit.enter()
    assert limit.has_room(favoured=True)
    while limit.has_room(favoured=True):
        limit.enter()
    assert limit.inside == 2 * FIRST


def test_times_that_differ_by_nature_do_not_bring_a_limit_down_that_is_not_reached() -> None:
    """Answers that come at once or after half a minute, by chance: nothing waits, so nothing is to be mended."""
    limit = AdaptiveLimit()
    random = Random(3)
    for step in range(5000):
        limit.sample("poll", 2 * MS if random.random() < 0.2 else 30_000 * MS, step * 30 * MS)
    assert limit.limit == FIRST


def test_the_limit_never_falls_below_its_least() -> None:
    """However slow responses become."""
    limit = AdaptiveLimit()
    for step in range(10_000):
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
