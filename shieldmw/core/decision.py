"""The decision: a request's verdict, and everything its answer needs."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from .bucket import Costs, LimitStatus, Outcome, remaining, statuses, wait_us
from .client import Address, Identity, ListenerClass
from .made import made
from .mode import Mode
from .waiting import QueuePosition


class Verdict(StrEnum):
    """Whether a request passes. With ``dry_run`` it would have been refused, but passes."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    DRY_RUN = "dry_run"

    __hash__ = str.__hash__  # as fast as that of a string


class Reason(StrEnum):
    """The reason for a verdict; used as the metric's label and in the log."""

    WITHIN_LIMITS = "within_limits"
    UNLIMITED = "unlimited"
    EXEMPT = "exempt"
    ALLOW_LIST = "allow_list"
    DENY_LIST = "deny_list"
    QUOTA = "quota"
    EMERGENCY = "emergency"
    NO_SEAT = "no_seat"
    TOO_MANY_STREAMS = "too_many_streams"
    REPLACED = "replaced"
    CREDENTIAL_ENDED = "credential_ended"
    RESTARTING = "restarting"
    OVERLOAD = "overload"
    STORE_OPEN = "store_open"
    STORE_CLOSED = "store_closed"

    __hash__ = str.__hash__  # as fast as that of a string


# Module constants for the request path, since Python looks up an enum's member each time it is named.
ALLOWED, REFUSED = Verdict.ALLOWED, Verdict.REFUSED
WITHIN_LIMITS, EXEMPT, QUOTA = Reason.WITHIN_LIMITS, Reason.EXEMPT, Reason.QUOTA


class OnStoreFailure(StrEnum):
    """How limited requests are decided while the store is away: by local buckets, all pass, or none pass."""

    LOCAL = "local"
    OPEN = "open"
    CLOSED = "closed"


class Decision(NamedTuple):
    """The verdict on one request, and what its answer needs.

    ``charges`` are what limits the request and what it costs, ``outcome`` what came of it; ``retry_after_us`` is the
    wait until it would pass (0 if that is unknown). ``live``: its response holds a seat; ``lease_s``: the length of the
    lease seat that its client holds there, in seconds, 0 on a path that is not polled. ``place`` and
    ``signed_ticket``: for a listener without a seat, its place in the waiting room and the signed number to show there.
    ``rendered`` is a slot for the rendered answer of a refusal that may be given again.
    """

    verdict: Verdict
    reason: Reason
    address: Address | None
    identity: Identity | None = None
    charges: Costs = ()
    outcome: Outcome | None = None
    retry_after_us: int = 0
    mode: Mode = Mode.NORMAL
    live: bool = False
    place: QueuePosition | None = None
    signed_ticket: str | None = None
    rendered: list[object] | None = None
    lease_s: int = 0

    @property
    def refused(self) -> bool:
        """Whether the request must not reach the app."""
        return self.verdict is REFUSED

    @property
    def listener_class(self) -> ListenerClass:
        """The client's class."""
        return ListenerClass.GUEST if self.identity is None else self.identity.listener_class

    @property
    def statuses(self) -> tuple[LimitStatus, ...]:
        """The status of each limit that was charged."""
        return () if self.outcome is None else statuses(self.charges, self.outcome)

    @property
    def violated(self) -> tuple[str, ...]:
        """The names of the limits that refused."""
        if self.reason in (Reason.TOO_MANY_STREAMS, Reason.REPLACED):
            return ("streams",)
        return tuple([status.limit.name for status in self.statuses if status.retry_after_us])

    def refused_for(self, reason: Reason, wait_us: int = 0) -> Decision:
        """The refusal of a client that was admitted and may not stay, or not enter after all; it holds no charges."""
        return self._replace(
            verdict=REFUSED, reason=reason, charges=(), outcome=None, retry_after_us=wait_us, rendered=None
        )


def nearest(charges: Costs, outcome: Outcome) -> int:
    """The index of the limit nearest to exhaustion: the first with the smallest share of its burst remaining."""
    now_us, least, nearest_at = outcome.now_us, 2.0, 0
    for at, tat_us in enumerate(outcome.tats_us):
        limit = charges[at].limit
        share = remaining(limit, tat_us - now_us) / limit.burst
        if share < least:
            least, nearest_at = share, at
    return nearest_at


def combine(
    charges: Costs,
    outcome: Outcome,
    address: Address | None,
    identity: Identity | None,
    mode: Mode = Mode.NORMAL,
    live: bool = False,
    lease_s: int = 0,
) -> Decision:
    """The decision that follows from the outcome of a request's charges."""
    if outcome.allowed:
        return made(
            Decision,
            (ALLOWED, WITHIN_LIMITS, address, identity, charges, outcome, 0, mode, live, None, None, None, lease_s),
        )
    left_us = wait_us(charges, outcome)
    return Decision(REFUSED, Reason.QUOTA, address, identity, charges, outcome, left_us, mode, live, rendered=[])
