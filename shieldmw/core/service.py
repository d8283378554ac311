"""Whether members are being served: the one thing that an operator must see first. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .seats import Audience
from .text import counted

# Part of the hosts and members that must be served. The rest is what even a calm fleet refuses: a client beyond its own
# limits, a listener who asks again before the next division of seats.
ENOUGH = 0.99


class Served(StrEnum):
    """Whether hosts and members get what they ask for; ``IDLE``: none of them asks for anything."""

    YES = "yes"
    NO = "no"
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class Service:
    """Whether hosts and members are served, the percentage (rounded down to a tenth; None if nobody asks), and why."""

    served: Served
    percent: float | None
    why: str


def service(seated: Audience, demand: Audience, let_in_per_s: float, refused_per_s: float) -> Service:
    """How hosts and members are served: the smaller one of the parts that have a seat and whose requests are let in.

    A listener without a seat asks again and again: it counts once, in the first part.

    Args:
        seated: listeners with a seat.
        demand: listeners with a seat, plus those who lately found none.
        let_in_per_s: requests of hosts and members that were let in.
        refused_per_s: requests of hosts and members that were refused, except because no seat was free.
    """
    unseated = max(0, demand.favoured - seated.favoured)
    parts: list[tuple[float, str]] = []
    if asked := seated.favoured + unseated:
        without = f"{counted(unseated, 'member')} without a seat" if unseated else "every member has a seat"
        parts.append((seated.favoured / asked, without))
    if offered := let_in_per_s + refused_per_s:
        refused = f"{refused_per_s:,.1f} requests of members a second are refused"
        parts.append((let_in_per_s / offered, refused if refused_per_s else "no member is refused"))
    if not parts:
        return Service(Served.IDLE, None, "no member asks for anything at the moment")
    parts.sort(key=lambda one: one[0])
    part, why = parts[0][0], "; ".join(reason for _, reason in parts)
    return Service(Served.YES if part >= ENOUGH else Served.NO, int(part * 1000) / 10, why)
