"""Alarms worth waking somebody for: when each begins, and when it is over. Pure.

An alarm begins once its condition has held for a while, and is over once it has not held for longer, so that one that
comes and goes is one alarm.

They are much like those in ``examples/prometheus/alerts.yml``, but requests are rated over one minute (there an attack
over two), and only those of one ``serve`` or worker; workers disagree if they follow different versions (there, other
modes); the end of an emergency that was short from the start is none; and what a worker cannot see of itself (that it
is silent or not scraped) or that can wait (a waiting room that grows, a late loop) is there alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from .mode import Mode, ModeState
from .seats import Audience
from .service import ENOUGH
from .traffic import Outcome, Rates

# Guests' refused requests per second from which an attack is suspected.
ATTACK_PER_S = 50.0

# An emergency that ends within this time raises an alarm, unless it was no longer than this in all.
ENDS_SOON_S = 300.0

# An alarm is over after this long without its condition.
CALM_S = 120.0


class Alarm(StrEnum):
    """The alarms by name."""

    MEMBERS_REFUSED = "members_refused"
    MEMBERS_WITHOUT_SEATS = "members_without_seats"
    ATTACK_SUSPECTED = "attack_suspected"
    WORKERS_DISAGREE = "workers_disagree"
    EMERGENCY_ENDS = "emergency_ends"
    STORE_AWAY = "store_away"


# How long its condition must hold before an alarm begins.
HOLDS_S: Mapping[Alarm, float] = {
    Alarm.MEMBERS_REFUSED: 60.0,
    Alarm.MEMBERS_WITHOUT_SEATS: 60.0,
    Alarm.ATTACK_SUSPECTED: 120.0,
    Alarm.WORKERS_DISAGREE: 15.0,
    Alarm.EMERGENCY_ENDS: 0.0,
    Alarm.STORE_AWAY: 30.0,
}


@dataclass(frozen=True, slots=True)
class Sight:
    """What a worker sees at ``now_s`` (Unix seconds by the store's clock).

    ``rates``: requests per second in the last minute; ``excused``: those sent away as the seats tell or the operator
    wants. ``seats`` None means no limit. ``versions``: of the modes that the fleet's workers follow, empty if unknown.
    ``is_store_up`` is False if any worker of this host lacks the store.
    """

    now_s: float
    mode: ModeState
    rates: Mapping[Outcome, Rates]
    excused: Rates
    demand: Audience
    seats: int | None
    versions: Collection[int]
    is_store_up: bool


@dataclass(frozen=True, slots=True)
class Watched:
    """An alarm whose condition has held since ``since_s``, and was last seen to hold at ``seen_s``. It began at
    ``begun_s``; None if it has not held for long enough."""

    since_s: float
    seen_s: float
    begun_s: float | None = None


def conditions(sight: Sight) -> dict[Alarm, str]:
    """The alarms whose conditions hold, each in words."""
    found = {}
    sent_away = sight.rates[Outcome.SENT_AWAY].favoured - sight.excused.favoured
    turned_away = sent_away + sight.rates[Outcome.OVERLOAD].favoured
    if turned_away > (1 - ENOUGH) * (turned_away + sight.rates[Outcome.LET_IN].favoured):
        found[Alarm.MEMBERS_REFUSED] = f"members are turned away, {turned_away:,.1f} requests a second"
    if sight.seats is not None and sight.demand.favoured > sight.seats:
        wanting = f"{sight.demand.favoured:,} hosts and members want one of {sight.seats:,} seats"
        found[Alarm.MEMBERS_WITHOUT_SEATS] = wanting
    refused = sum(rate.guests for outcome, rate in sight.rates.items() if outcome is not Outcome.LET_IN)
    let_in = sight.rates[Outcome.LET_IN]
    if refused > max(ATTACK_PER_S, let_in.favoured + let_in.guests):
        found[Alarm.ATTACK_SUSPECTED] = f"more requests are refused than let in, {refused:,.0f} of guests a second"
    if len(set(sight.versions)) > 1:
        found[Alarm.WORKERS_DISAGREE] = "workers do not follow the same version of the mode"
    if _ends_soon(sight.mode, sight.now_s):
        found[Alarm.EMERGENCY_ENDS] = "the emergency ends by itself within five minutes"
    if not sight.is_store_up:
        found[Alarm.STORE_AWAY] = "a worker cannot reach the store, and decides by SHIELD_ON_REDIS_FAILURE"
    return found


def _ends_soon(state: ModeState, now_s: float) -> bool:
    if state.mode is Mode.NORMAL or state.until_s is None or state.until_s - state.since_s <= ENDS_SOON_S:
        return False
    return 0 < state.until_s - now_s <= ENDS_SOON_S


def step(before: Mapping[Alarm, Watched], holding: Collection[Alarm], now_s: float) -> Mapping[Alarm, Watched]:
    """The alarms to watch, from those watched before and those whose conditions hold now. One that has begun stays
    until it is over, whatever the clock does."""
    watched = {}
    for alarm in Alarm:
        known = before.get(alarm)
        if alarm in holding:
            since_s, begun_s = (now_s, None) if known is None else (min(known.since_s, now_s), known.begun_s)
            if begun_s is None and now_s - since_s >= HOLDS_S[alarm]:
                begun_s = now_s
            watched[alarm] = Watched(since_s, now_s, begun_s)
        elif known is not None and known.begun_s is not None and now_s - known.seen_s < CALM_S:
            watched[alarm] = replace(known, seen_s=min(known.seen_s, now_s))
    return watched
