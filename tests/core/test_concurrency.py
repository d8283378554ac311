"""The adaptive limit in virtual time: it finds the concurrency that an app can handle, and is not misled."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    fast_share: float = 0.0,
    fast_route: str = "page",
    made_up: bool = False,
    seed: int = 1,
) -> tuple[int, int]:
    """A closed crowd before an app that works on ``places`` requests at once, first come, first served.

    ``slow_share`` of the requests go to an endpoint that takes two seconds of nobody's place, and ``fast_share`` are
    answered in a millisecond without a place, as from a cache. Returns how many of the others were served, and the
    virtual time at the end.
    """
    random = Random(seed)
    free_us = [now_us] * places
    inside: list[tuple[int, int, str, int, int, Intake]] = []
    served, end_us, number = 0, now_us + round(seconds * 1_000_000), 0
    while now_us < end_us:
        while limit.has_room(favoured=False) and len(inside) < asking:
            intake = limit.enter()
            number += 1
            if random.random() < slow_share:
                heapq.heappush(inside, (now_us + 2_000 * MS, number, "slow", now_us, limit.inside, intake))
                continue
            if random.random() < fast_share:
                heapq.heappush(inside, (now_us + MS, number, fast_route, now_us, limit.inside, intake))
                continue
            start_us = max(now_us, heapq.heappop(free_us))
            done_us = start_us + service_us()
            heapq.heappush(free_us, done_us)
            route = f"/{number}" if made_up else "page"
            heapq.heappush(inside, (done_us, number, route, now_us, limit.inside, intake))
        if len(inside) < asking:
            limit.reached(now_us)
        now_us, _, route, began_us, inside_then, intake = heapq.heappop(inside)
        intake.count -= 1
        limit.sample(route, now_us - began_us, now_us, inside_then)
        served += now_us - began_us > MS and route != "slow"
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
    """Five requests in a hundred take two seconds, at seventy percent of what the app can do: all have room."""
    limit = AdaptiveLimit()
    crowd(limit, places=16, service_us=lambda: 30 * MS, asking=11 + 40, seconds=10, slow_share=0.05)
    assert limit.limit >= 11 + 40


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
        limit.sample("page", 3 * MS, now_us, 1001)
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
        limit.reached(number * 100 * MS)
    assert limit.limit == 16
    assert not limit.has_room(favoured=True)


def test_a_fixed_limit_holds_also_for_an_app_that_is_slow() -> None:
    """Queries of three seconds, sixteen at once: nobody enters beside them, since so long is usual."""
    limit = AdaptiveLimit(fixed=16)
    _, now_us = crowd(limit, places=16, service_us=lambda: 3_000 * MS, asking=4, seconds=30)
    served, _ = crowd(limit, places=16, service_us=lambda: 3_000 * MS, asking=100, seconds=60, now_us=now_us)
    assert 0.9 * 16 * 60 / 3 <= served <= 16 * 60 / 3


def test_what_a_cold_app_took_is_unlearnt_though_it_is_never_idle() -> None:
    """The first responses take two seconds, and from then on twenty are always inside: the flood is held back."""
    limit = AdaptiveLimit()
    _, now_us = crowd(limit, places=24, service_us=lambda: 2_000 * MS, asking=4, seconds=2)
    _, now_us = crowd(limit, places=24, service_us=lambda: 50 * MS, asking=20, seconds=10, now_us=now_us)
    crowd(limit, places=24, service_us=lambda: 50 * MS, asking=700, seconds=5, now_us=now_us)
    assert limit.limit <= 4 * 24


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
        limit.sample("poll", 2 * MS if random.random() < 0.2 else 30_000 * MS, step * 30 * MS, 8)
    assert limit.limit == FIRST


def test_the_limit_never_falls_below_its_least() -> None:
    """However slow responses become."""
    limit = AdaptiveLimit()
    for step in range(10_000):
        limit.sample("page", MS if step < 10 else (step + 1) * 100 * MS, step * 20 * MS, limit.limit)
        assert limit.limit >= LEAST


def test_a_limit_that_is_set_does_not_move() -> None:
    """SHIELD_MAX_IN_FLIGHT above 0."""
    limit = AdaptiveLimit(fixed=20)
    crowd(limit, places=1, service_us=lambda: 10 * MS, asking=700, seconds=3)
    assert limit.limit == 20


def test_made_up_routes_are_bounded() -> None:
    """Memory is, whatever paths a flood asks for; and what comes while many are inside teaches nothing."""
    limit = AdaptiveLimit()
    for number in range(3 * MOST_ROUTES):
        limit.sample(f"/{number}", MS, number * MS, 1)
    assert limit.routes == MOST_ROUTES
    for number in range(3 * MOST_ROUTES):
        limit.sample(f"/again/{number}", MS, number * MS, LEAST + 1)
    limit.sample("/1535", 50 * MS, 0, 1)
    assert limit.routes == MOST_ROUTES


@pytest.mark.parametrize("fast_share", [0.01, 0.02, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("fast_route", ["page", "static"])
def test_fast_answers_neither_hold_the_limit_down_nor_hide_that_others_wait(fast_share: float, fast_route: str) -> None:
    """Cache hits, 304 and wrong numbers among the answers of one route, or a flood of favicons beside it: calm is not
    mistaken for overload, and in overload all places are used and no queue builds up inside."""
    limit = AdaptiveLimit()

    def service_us() -> int:
        return 30 * MS

    def ask(asking: int, seconds: float, now_us: int) -> tuple[int, int]:
        return crowd(
            limit,
            places=16,
            service_us=service_us,
            asking=asking,
            seconds=seconds,
            now_us=now_us,
            fast_share=fast_share,
            fast_route=fast_route,
        )

    _, now_us = ask(8, 3, 0)
    assert limit.limit == FIRST
    _, now_us = ask(700, 2, now_us)
    served, _ = ask(700, 3, now_us)
    assert served >= 0.9 * 3_000 / 30 * 16
    assert limit.limit <= 4 * 16


def test_a_slow_minority_of_one_route_is_no_overload() -> None:
    """An endpoint whose answers take two seconds now and then, as where queries are the client's own."""
    limit = AdaptiveLimit()
    random = Random(3)

    def service_us() -> int:
        return 2_000 * MS if random.random() < 0.03 else 20 * MS

    crowd(limit, places=10_000, service_us=service_us, asking=60, seconds=20)
    assert limit.limit >= 60


def test_a_crowd_of_slow_responses_brings_the_limit_down_once() -> None:
    """Responses of two seconds show what was two seconds ago: it is not judged for them every tenth of a second."""
    limit = AdaptiveLimit()
    _, now_us = crowd(limit, places=40, service_us=lambda: 500 * MS, asking=4, seconds=3)
    served, now_us = crowd(limit, places=40, service_us=lambda: 500 * MS, asking=700, seconds=20, now_us=now_us)
    assert served >= 0.9 * 20 * 2 * 40
    assert limit.limit <= 4 * 40


@settings(deadline=None, max_examples=30)
@given(
    places=st.integers(1, 40),
    service_ms=st.integers(2, 100),
    fast_share=st.floats(0, 0.5),
    seed=st.integers(0, 99),
)
def test_nothing_in_the_mix_keeps_places_from_being_used(
    places: int, service_ms: int, fast_share: float, seed: int
) -> None:
    """What an attacker adds to it is part of the mix: the app's places are used, whatever is asked for beside them."""
    limit = AdaptiveLimit()
    now_us, served = 0, 0
    for asking, seconds in ((min(places, 3), 5), (700, 4), (700, 4)):
        served, now_us = crowd(
            limit,
            places=places,
            service_us=lambda: service_ms * MS,
            asking=asking,
            seconds=seconds,
            now_us=now_us,
            fast_share=fast_share,
            seed=seed,
        )
    assert served >= 0.75 * 4_000 / service_ms * places


@pytest.mark.parametrize("fast_share", [0.3, 0.6, 0.9])
def test_quick_pages_do_not_hide_a_small_pool_that_is_congested(fast_share: float) -> None:
    """However many of the requests are answered at once: they are not what is in flight."""
    limit = AdaptiveLimit()
    _, now_us = crowd(limit, places=4, service_us=lambda: 40 * MS, asking=3, seconds=2, fast_share=fast_share)
    crowd(
        limit,
        places=4,
        service_us=lambda: 40 * MS,
        asking=700,
        seconds=5,
        now_us=now_us,
        fast_share=fast_share,
        fast_route="static",
    )
    assert limit.limit <= 24


def test_made_up_routes_do_not_blind_the_limit() -> None:
    """Every request asks for another path: all of them together are compared with what was usual."""
    limit = AdaptiveLimit()
    _, now_us = crowd(limit, places=16, service_us=lambda: 30 * MS, asking=4, seconds=2)
    crowd(limit, places=16, service_us=lambda: 30 * MS, asking=700, seconds=4, now_us=now_us, made_up=True)
    assert limit.limit <= 4 * 16


def test_a_few_long_polls_that_fill_the_limit_open_it_again() -> None:
    """What hangs gives no samples but a few: those that wait are let in within seconds all the same."""
    limit = AdaptiveLimit()
    now_us = 0
    for _ in range(4):
        now_us += 6_000 * MS
        limit.sample("poll", 6_000 * MS, now_us, 1)
    while limit.has_room(favoured=False):
        limit.enter()
    limit.sample("poll", 6_000 * MS, now_us, 64)
    until_us = now_us + 5_000 * MS
    while not limit.has_room(favoured=False) and now_us < until_us:
        now_us += 20 * MS
        limit.reached(now_us)
    assert now_us < until_us
