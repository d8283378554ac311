"""The decision: one request's verdict, a value that says everything its answer needs."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from .bucket import NEVER_US, Charges, Level, Outcome, levels
from .client import Identity, IPAddress, ListenerClass
from .mode import Mode
from .waiting import Place


class Verdict(StrEnum):
    """What becomes of the request. ``dry_run`` would have been refused, but passes."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    DRY_RUN = "dry_run"

    __hash__ = str.__hash__  # of a word, as quick as one


class Reason(StrEnum):
    """Why; the label of the metric and the word in the log."""

    WITHIN_LIMITS = "within_limits"
    UNLIMITED = "unlimited"
    EXEMPT = "exempt"
    ALLOW_LIST = "allow_list"
    DENY_LIST = "deny_list"
    QUOTA = "quota"
    NEVER = "never"
    EMERGENCY = "emergency"
    NO_SEAT = "no_seat"
    RESTARTING = "restarting"
    STORE_OPEN = "store_open"
    STORE_CLOSED = "store_closed"

    __hash__ = str.__hash__  # of a word, as quick as one


class OnStoreFailure(StrEnum):
    """What becomes of limited requests while the store is away: local buckets decide, all pass, none pass."""

    LOCAL = "local"
    OPEN = "open"
    CLOSED = "closed"


class Decision(NamedTuple):
    """The verdict on one request, and what its answer tells.

    ``levels`` are the buckets it was charged to, ``retry_after_us`` the wait until it would pass
    (0 where nothing says when). ``live``: its response holds a seat. ``place`` and ``paper``: where
    someone without a seat stands in the waiting room, and the signed number to show there. ``kept`` is
    where the floor that answers may keep its answer, as the decision may be given again.
    """

    verdict: Verdict
    reason: Reason
    address: IPAddress | None
    identity: Identity | None = None
    levels: tuple[Level, ...] = ()
    retry_after_us: int = 0
    mode: Mode = Mode.NORMAL
    live: bool = False
    place: Place | None = None
    paper: str | None = None
    kept: list[object] | None = None

    @property
    def refused(self) -> bool:
        """Whether the request must not reach the app."""
        return self.verdict is Verdict.REFUSED

    @property
    def listener_class(self) -> ListenerClass:
        """The class of who is asking."""
        return ListenerClass.GUEST if self.identity is None else self.identity.listener_class

    @property
    def violated(self) -> tuple[str, ...]:
        """The names of the limits that refused."""
        return tuple([level.limit.name for level in self.levels if level.retry_after_us])

    @property
    def nearest(self) -> Level | None:
        """The bucket nearest to its end: the least share of its burst remains."""
        levels = self.levels
        if len(levels) == 1:
            return levels[0]
        return min(levels, key=lambda level: level.remaining / level.limit.burst, default=None)


def combine(
    charges: Charges,
    outcome: Outcome,
    address: IPAddress | None,
    identity: Identity | None,
    mode: Mode = Mode.NORMAL,
    live: bool = False,
) -> Decision:
    """The decision that follows from the outcome of a request's charges."""
    stand = levels(charges, outcome)
    if outcome.allowed:
        return Decision(Verdict.ALLOWED, Reason.WITHIN_LIMITS, address, identity, stand, 0, mode, live)
    waits = [level.retry_after_us for level in stand]
    reason, wait_us = (Reason.NEVER, 0) if NEVER_US in waits else (Reason.QUOTA, max(waits))
    return Decision(Verdict.REFUSED, reason, address, identity, stand, wait_us, mode, live, None, None, [])
