"""When an alarm begins, and when it is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from shieldmw.core.alarms import CALM_S, HOLDS_S, Alarm, Sight, Watched, conditions, step
from shieldmw.core.mode import Mode, ModeState
from shieldmw.core.seats import Audience
from shieldmw.core.traffic import Outcome, Rates

NOW_S = 1_800_000_000.0
CALM = {**dict.fromkeys(Outcome, Rates()), Outcome.LET_IN: Rates(1, 20, 100)}
SIGHT = Sight(NOW_S, ModeState(), CALM, Rates(), Audience(1, 20, 100), None, {4}, is_store_up=True)


def emergency(left_s: float, lasts_s: float = 1800) -> Sight:
    """An emergency that ends in so many seconds."""
    return replace(SIGHT, mode=ModeState(4, NOW_S + left_s - lasts_s, NOW_S + left_s, mode=Mode.EMERGENCY))


def rated(**rates: Rates) -> Sight:
    """Some rates by outcome."""
    return replace(SIGHT, rates={**CALM, **{Outcome(name): rate for name, rate in rates.items()}})


@pytest.mark.parametrize(
    ("sight", "alarms"),
    [
        (SIGHT, []),
        (rated(sent_away=Rates(members=5)), [Alarm.MEMBERS_REFUSED]),
        (rated(overload=Rates(hosts=5)), [Alarm.MEMBERS_REFUSED]),
        (rated(let_in=Rates(members=100), overload=Rates(members=0.9)), []),
        (rated(let_in=Rates(members=100), overload=Rates(members=1.2)), [Alarm.MEMBERS_REFUSED]),
        (replace(rated(sent_away=Rates(members=5)), excused=Rates(members=5)), []),
        (replace(rated(sent_away=Rates(members=5)), excused=Rates(members=4)), [Alarm.MEMBERS_REFUSED]),
        (rated(over_limit=Rates(members=9), denied=Rates(members=9)), []),  # its own limits, or denied by an operator
        (rated(over_limit=Rates(guests=100), denied=Rates(guests=100)), [Alarm.ATTACK_SUSPECTED]),
        (rated(over_limit=Rates(guests=120)), []),  # fewer than are let in
        (rated(over_limit=Rates(guests=49), let_in=Rates()), []),  # few
        (replace(SIGHT, seats=21), []),
        (replace(SIGHT, seats=20), [Alarm.MEMBERS_WITHOUT_SEATS]),
        (replace(SIGHT, versions={4, 5}), [Alarm.WORKERS_DISAGREE]),
        (replace(SIGHT, versions=()), []),
        (emergency(301), []),
        (emergency(300), [Alarm.EMERGENCY_ENDS]),
        (emergency(0), []),
        (emergency(100, lasts_s=240), []),  # it was meant to be short
        (replace(SIGHT, is_store_up=False), [Alarm.STORE_AWAY]),
    ],
)
def test_each_alarm_has_a_condition(sight: Sight, alarms: list[Alarm]) -> None:
    """Much as in the alerts for Prometheus."""
    assert list(conditions(sight)) == alarms


def test_an_alarm_begins_once_its_condition_has_held_and_ends_once_it_has_not() -> None:
    """One that comes and goes is one alarm; one that does not last is none."""
    alarm, holds_s = Alarm.MEMBERS_REFUSED, HOLDS_S[Alarm.MEMBERS_REFUSED]
    told: list[tuple[float, str]] = []
    watched: Mapping[Alarm, Watched] = {}
    times = [
        *((0.0, True), (holds_s - 1, True), (holds_s - 0.5, False)),  # it did not last
        *((100.0, True), (100 + holds_s, True), (105 + holds_s, True)),
        *((110 + holds_s, False), (200 + holds_s, True), (199 + holds_s + CALM_S, False)),  # comes and goes
        *((200 + holds_s + CALM_S, False), (500 + holds_s + CALM_S, False)),
    ]
    had_begun = False
    for at_s, holds in times:
        watched = step(watched, [alarm] if holds else [], at_s)
        has_begun = alarm in watched and watched[alarm].begun_s is not None
        if has_begun is not had_begun:
            told.append((at_s, "begun" if has_begun else "ended"))
        had_begun = has_begun
    assert told == [(100 + holds_s, "begun"), (200 + holds_s + CALM_S, "ended")]
    assert watched == {}


def test_an_alarm_that_cannot_wait_begins_at_once() -> None:
    """The end of an emergency has a time."""
    assert step({}, [Alarm.EMERGENCY_ENDS], 7.0) == {Alarm.EMERGENCY_ENDS: Watched(7.0, 7.0, 7.0)}


def test_an_alarm_that_has_begun_is_not_begun_again_by_a_clock_that_steps_back() -> None:
    """The store may have failed over to a server whose clock is behind."""
    alarm, holds_s = Alarm.MEMBERS_REFUSED, HOLDS_S[Alarm.MEMBERS_REFUSED]
    watched = step(step({}, [alarm], NOW_S), [alarm], NOW_S + holds_s)
    begun_s = watched[alarm].begun_s
    assert begun_s == NOW_S + holds_s
    for at_s in (NOW_S - 30, NOW_S - 30 + holds_s, NOW_S + holds_s):
        watched = step(watched, [alarm], at_s)
        assert watched[alarm].begun_s == begun_s
    watched = step(watched, [], NOW_S - 3600)
    assert watched[alarm].begun_s == begun_s
    assert step(watched, [], NOW_S - 3600 + CALM_S) == {}, "it would have lasted until the old time has come again"
