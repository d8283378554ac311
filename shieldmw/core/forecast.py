"""What another mode would do to the listeners that are here now, before an operator switches. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from .seats import UNLIMITED, Audience, Capacity, divided


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


def _by_class(audience: Audience) -> tuple[int, int, int]:
    return audience.hosts, audience.members, audience.guests
