"""The decision: one request's verdict, a value that says everything its answer needs."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from .bucket import NEVER_US, Charges, LimitStatus, Outcome, levels, wait_us
from .client import Identity, IPAddress, ListenerClass
from .made import made
from .mode import Mode
from .waiting import QueuePosition


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
    TOO_MANY_STREAMS = "too_many_streams"
    REPLACED = "replaced"
    CREDENTIAL_ENDED = "credential_ended"
    RESTARTING = "restarting"
    OVERLOAD = "overload"
    STORE_OPEN = "store_open"
    STORE_CLOSED = "store_closed"

    __hash__ = str.__hash__  # of a word, as quick as one


# Python looks for a member of an enum each time it is named; on the way of every request it is not.
ALLOWED, REFUSED = Verdict.ALLOWED, Verdict.REFUSED
WITHIN_LIMITS, EXEMPT = Reason.WITHIN_LIMITS, Reason.EXEMPT


class OnStoreFailure(StrEnum):
    """What becomes of limited requests while the store is away: local buckets decide, all pass, none pass."""

    LOCAL = "local"
    OPEN = "open"
    CLOSED = "closed"


class Decision(NamedTuple):
    """The verdict on one request, and what its answer tells.

    ``charges`` are what it was charged and ``outcome`` what became of them, ``retry_after_us`` the wait
    until it would pass (0 where nothing says when). ``live``: its response holds a seat. ``place`` and
    ``signed_ticket``: where someone without a seat stands in the waiting room, and the signed number to show
    there. ``kept`` is where the floor that answers may keep the answer of a refusal that may be given again.
    """

    verdict: Verdict
    reason: Reason
    address: IPAddress | None
    identity: Identity | None = None
    charges: Charges = ()
    outcome: Outcome | None = None
    retry_after_us: int = 0
    mode: Mode = Mode.NORMAL
    live: bool = False
    place: QueuePosition | None = None
    signed_ticket: str | None = None
    kept: list[object] | None = None

    @property
    def refused(self) -> bool:
        """Whether the request must not reach the app."""
        return self.verdict is REFUSED

    @property
    def listener_class(self) -> ListenerClass:
        """The class of who is asking."""
        return ListenerClass.GUEST if self.identity is None else self.identity.listener_class

    @property
    def levels(self) -> tuple[LimitStatus, ...]:
        """How the buckets stand that it was charged to."""
        return () if self.outcome is None else levels(self.charges, self.outcome)

    @property
    def violated(self) -> tuple[str, ...]:
        """The names of the limits that refused."""
        if self.reason in (Reason.TOO_MANY_STREAMS, Reason.REPLACED):
            return ("streams",)
        return tuple([level.limit.name for level in self.levels if level.retry_after_us])


def nearest(levels: Sequence[LimitStatus]) -> LimitStatus:
    """The bucket nearest to its end: the least share of its burst remains."""
    return min(levels, key=lambda level: level.remaining / level.limit.burst)


def combine(
    charges: Charges,
    outcome: Outcome,
    address: IPAddress | None,
    identity: Identity | None,
    mode: Mode = Mode.NORMAL,
    live: bool = False,
) -> Decision:
    """The decision that follows from the outcome of a request's charges."""
    if outcome.allowed:
        return made(
            Decision,
            (ALLOWED, WITHIN_LIMITS, address, identity, charges, outcome, 0, mode, live, None, None, None),
        )
    left_us = wait_us(charges, outcome)
    reason, left_us = (Reason.NEVER, 0) if left_us == NEVER_US else (Reason.QUOTA, left_us)
    return Decision(REFUSED, reason, address, identity, charges, outcome, left_us, mode, live, kept=[])
