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
SIGHT = Sight(NOW_S, ModeState(), CALM, Audience(1, 20, 100), None, {4}, is_store_up=True)


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
        (rated(sent_away=Rates(members=0.1)), [Alarm.MEMBERS_REFUSED]),
        (rated(overload=Rates(hosts=0.1)), [Alarm.MEMBERS_REFUSED]),
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
    """The same as in the alerts for Prometheus."""
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
    for at_s, holds in times:
        now = step(watched, [alarm] if holds else [], at_s)
        watched = now.watched
        told += [(at_s, "begun") for _ in now.begun] + [(at_s, "ended") for _ in now.ended]
    assert told == [(100 + holds_s, "begun"), (200 + holds_s + CALM_S, "ended")]
    assert watched == {}


def test_an_alarm_that_cannot_wait_begins_at_once() -> None:
    """The end of an emergency has a time."""
    now = step({}, [Alarm.EMERGENCY_ENDS], 7.0)
    assert (now.begun, now.watched[Alarm.EMERGENCY_ENDS]) == ((Alarm.EMERGENCY_ENDS,), Watched(7.0, 7.0, True))
