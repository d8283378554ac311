"""The counts of a drill: for each client the outcomes of its requests, for each group how long the answers took.

Pure and bounded: no socket, no clock (times are arguments, in seconds of one monotonic clock), no list that
grows. It does not use the shield's code, whose mistakes it could not find otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final


class Outcome(Enum):
    """The outcome of one request."""

    SERVED = "served"
    """The app answered with what was asked for (a status below 400)."""
    APP_ERROR = "app error"
    """Let through, but the app itself answered 4xx or 5xx."""
    REFUSED = "refused"
    """Refused by the shield: the client sent too many (429)."""
    TURNED_AWAY = "turned away"
    """Refused by the shield, however few the client sent: reduced capacity for now (503)."""
    LOST = "lost"
    """No answer: timed out, cut off, or so far behind its schedule that it was never sent."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """The allowance of one limit for one client: a rate and a burst."""

    rate_per_s: float
    burst: int

    def most(self, active_s: float) -> int:
        """The most requests that may be let through in any span of ``active_s`` seconds."""
        return self.burst + math.floor(self.rate_per_s * active_s)


# Beyond a second a page seems not to respond.
PROMPT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests by outcome. ``asked`` includes those still in flight."""

    asked: int = 0
    served: int = 0
    app_error: int = 0
    refused: int = 0
    turned_away: int = 0
    lost: int = 0

    @property
    def let_through(self) -> int:
        """Requests that passed the client's limit, whether the app served them or failed."""
        return self.served + self.app_error

    @property
    def answered(self) -> int:
        """All but those lost and those in flight."""
        return self.let_through + self.refused + self.turned_away

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.asked + other.asked,
            self.served + other.served,
            self.app_error + other.app_error,
            self.refused + other.refused,
            self.turned_away + other.turned_away,
            self.lost + other.lost,
        )


class ClientTally:
    """One client's requests, and the span in which it was active."""

    __slots__ = ("_asked", "_ended", "_first_sent_s", "_last_answer_s", "prompt")

    def __init__(self) -> None:
        self._asked = 0
        self._ended = dict.fromkeys(Outcome, 0)
        self.prompt = 0
        """How many were served within ``PROMPT_S``."""
        self._first_sent_s: float | None = None
        self._last_answer_s = -math.inf

    def sending(self, at_s: float) -> None:
        """Call just before a request is sent, so that the span is never shorter than it was for the limit."""
        self._asked += 1
        if self._first_sent_s is None:
            self._first_sent_s = at_s

    def ended(self, outcome: Outcome, at_s: float, took_s: float = 0.0) -> None:
        """Call once for each ``sending``, after the answer was read. A lost request does not prolong the span."""
        self._ended[outcome] += 1
        self.prompt += outcome is Outcome.SERVED and took_s <= PROMPT_S
        if outcome is not Outcome.LOST:
            self._last_answer_s = max(self._last_answer_s, at_s)

    def never_sent(self) -> None:
        """Count a request that was due but came too late to be sent: the client asked for it and did not get it."""
        self._asked += 1
        self._ended[Outcome.LOST] += 1

    @property
    def counts(self) -> Counts:
        """As of now."""
        ended = self._ended
        return Counts(
            self._asked,
            ended[Outcome.SERVED],
            ended[Outcome.APP_ERROR],
            ended[Outcome.REFUSED],
            ended[Outcome.TURNED_AWAY],
            ended[Outcome.LOST],
        )

    @property
    def active_s(self) -> float:
        """From before the first request was sent to after the last answer."""
        return 0.0 if self._first_sent_s is None else max(0.0, self._last_answer_s - self._first_sent_s)


_SHORTEST_S: Final = 0.0001
_STEP: Final = 1.05
_BUCKETS: Final = 280  # 0.1 ms * 1.05**279 is 82 s, longer than any request here may take


class Latencies:
    """A histogram in steps of 5 %: the same few kilobytes for ten answers or ten million."""

    __slots__ = ("_buckets", "_count")

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        self._buckets = [0] * _BUCKETS
        self._count = 0
        for value in seconds:
            self.add(value)

    def add(self, seconds: float) -> None:
        """One more answer, and how long it took."""
        index = 0 if seconds <= _SHORTEST_S else math.ceil(math.log(seconds / _SHORTEST_S, _STEP))
        self._buckets[min(index, _BUCKETS - 1)] += 1
        self._count += 1

    def quantile_s(self, share: float) -> float | None:
        """The time within which ``share`` (0..1) of the answers came, rounded up to the next step.

        None if there were no answers.
        """
        rank = max(1, math.ceil(share * self._count))
        seen = 0
        for index, count in enumerate(self._buckets):
            seen += count
            if seen >= rank:
                return float(_SHORTEST_S * _STEP**index)
        return None


@dataclass(slots=True)
class GroupTally:
    """A group's clients. Each has its own bucket: the group is allowed the sum of what its clients are allowed."""

    name: str
    allowance: Allowance
    promised_share: float | None = None
    """The part of its requests that the group is promised; None for no such promise."""
    polite: bool = True
    """Whether it is worth a remark if a client is refused that sent no more than its limit."""
    clients: dict[str, ClientTally] = field(default_factory=dict)
    latencies: Latencies = field(default_factory=Latencies)

    def of(self, client: str) -> ClientTally:
        """The tally of a client; a new one if it has not asked before."""
        return self.clients.setdefault(client, ClientTally())

    def counts(self) -> Counts:
        """The sum over the clients, as of now."""
        return sum((client.counts for client in self.clients.values()), Counts())

    def prompt(self) -> int:
        """The number of requests that were served within ``PROMPT_S``."""
        return sum(client.prompt for client in self.clients.values())

    def allowed(self) -> int:
        """The sum over the clients that asked: burst + rate * active time."""
        return sum(self.allowed_to(client) for client in self.clients.values())

    def allowed_to(self, client: ClientTally) -> int:
        """The most that one of its clients may have got; 0 if it did not ask."""
        return self.allowance.most(client.active_s) if client.counts.asked else 0
