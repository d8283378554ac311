"""What another mode would do to the listeners and requests that come now, before an operator switches. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .limits import Limit
from .mode import Mode
from .rules import Access, Policy, Scope
from .seats import UNLIMITED, Audience, Capacity, divided
from .traffic import Rates


@dataclass(frozen=True, slots=True)
class Forecast:
    """Listeners by class: those with a seat ``stay`` or ``leave``; those without one ``come`` in or ``wait``."""

    stay: Audience
    leave: Audience
    come: Audience
    wait: Audience


def forecast(capacity: Capacity | None, guest_share: float, present: Audience, demand: Audience) -> Forecast:
    """The listeners once the seats are divided by this capacity (None: no limit), if nobody comes or goes meanwhile.

    The division is the one that grants seats. ``demand`` includes the listeners ``present``, unless one of the two
    reports is older than the other.
    """
    wanted = Audience(*(max(pair) for pair in zip(_by_class(present), _by_class(demand), strict=True)))
    if capacity is None:
        capacity = Capacity(UNLIMITED.seats, UNLIMITED.guest_seats if guest_share > 0 else 0)
    seated, _, _ = divided(capacity, [wanted], 0)
    stay = Audience(*(min(pair) for pair in zip(_by_class(present), _by_class(seated), strict=True)))
    come = seated - stay
    return Forecast(stay, present - stay, come, wanted - present - come)


def most_refused(policy: Policy, before: Mode, after: Mode, listeners: Forecast, let_in: Rates) -> float:
    """The most requests per second that the other mode could refuse of those ``let_in`` now.

    All of a class, if anything becomes stricter for it: how they are spread over clients and paths is not known.
    """
    begins = after is Mode.EMERGENCY and before is Mode.NORMAL
    closes = {rule.emergency for rule in policy.rules if begins and not rule.dry_run}
    is_stricter = any(
        _is_stricter(policy.limits(scope, after), policy.limits(scope, before)) for scope in (Scope.IP, Scope.GUESTS)
    )
    of_guests = is_stricter or listeners.leave.guests > 0 or bool(closes - {Access.OPEN})
    of_favoured = listeners.leave.favoured > 0 or Access.CLOSED in closes
    return (let_in.guests if of_guests else 0.0) + (let_in.favoured if of_favoured else 0.0)


def _is_stricter(after: Iterable[Limit], before: Iterable[Limit]) -> bool:
    """Whether limits may refuse what others let in: not if each is at least as wide as one of those."""
    known = tuple(before)
    return not all(
        any(limit.rate_per_s >= one.rate_per_s and limit.burst >= one.burst for one in known) for limit in after
    )


def _by_class(audience: Audience) -> tuple[int, int, int]:
    return audience.hosts, audience.members, audience.guests
