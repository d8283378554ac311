"""The lane before the app: which requests enter now, wait for a turn, or are shed. Pure; times are microseconds.

An app on an event loop takes requests in *turns*: all that arrived with one poll of the loop wait for each other, so
the time since the turn began is what the next one has already waited. A turn has a time budget, and the number of
requests inside the app has a limit (``core/concurrency.py``). Beyond either, requests wait in the order of favour, and
enter in the next turns or when one inside has finished.

- A request waits only behind its own class and higher ones; within a class it is first come, first served.
- Work-conserving: nobody waits while the turn and the app have room.
- The queue is shed by time, not by length: a request whose wait would be too long is refused at once. A burst that
  drains by itself is not overload, so the bound for guests applies only once there has been a standing queue for a
  while (the idea of CoDel: Nichols and Jacobson, "Controlling Queue Delay", 2012).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from enum import IntEnum
from typing import Generic, TypeVar

from .client import ListenerClass
from .concurrency import AdaptiveLimit, Intake

W = TypeVar("W", bound=Hashable)


class Rank(IntEnum):
    """The order of favour in the lane; operators' requests bypass the lane."""

    HOST = 0
    MEMBER = 1
    RETURNING_GUEST = 2
    GUEST = 3


RANKS = {ListenerClass.HOST: Rank.HOST, ListenerClass.MEMBER: Rank.MEMBER, ListenerClass.GUEST: Rank.GUEST}

# Module constants, since they are used for each request, and Python looks up an enum's member each time it is named.
_MEMBER, _RETURNING_GUEST = Rank.MEMBER, Rank.RETURNING_GUEST

# Loop time of a turn after which guests wait for the next turn, and after which members and hosts do.
TURN_US = 5_000
FAVOURED_TURN_US = 50_000

# Longest wait of members, and of guests before the queue is standing, as a multiple of a guest's in a standing queue.
FAVOURED_WAITS = 10

# A queue is standing when it has not been empty for this long.
STANDING_US = 1_000_000

# Longest queue of each rank, which bounds memory; per rank, so that a crowd of guests takes no member's place.
MOST_WAITING = 8192

# Weight of the newest sample in the moving averages: about the last ten count.
NEWEST = 0.2

# Cap of a single sample, as a multiple of the average: a pause of the garbage collector is not the cost of a request.
MOST_TIMES = 8

# Window over which the pace of entries is measured while requests wait.
PACE_US = 20_000

# Maximum age of a measured pace. Without a recent one, a new queue assumes the average cost of a request: the pace of
# an attack would be wrong for a burst a minute later.
PACE_HOLDS_US = 1_000_000

# Most requests refused in one turn: refusals cost loop time, too, so a queue that is too long is shed over several.
MOST_REFUSED_A_TURN = 64


class Lane(Generic[W]):
    """The queue of requests before the app.

    ``wait_us`` is the longest wait of a guest in a standing queue. ``places`` limits how many may be inside the app.
    ``enter`` is called with the waiter that was passed to ``wait`` and its place in the app, ``refuse`` with the
    waiter. ``guest_share`` is the largest share of the loop's time that guests may have; None if they may have all that
    others leave. ``longest_turn_us`` is the longest turn since it was last reset to 0.
    """

    __slots__ = (
        *("_began_us", "_cost_us", "_credit_us", "_credited_us", "_enter", "_entered", "_pace_us", "_paced"),
        *("_paced_since_us", "_queues", "_refuse", "_stands_since_us", "_wait_us"),
        *("guest_share", "longest_turn_us", "places", "waiting"),
    )

    def __init__(
        self, wait_us: int, places: AdaptiveLimit, enter: Callable[[W, Intake], None], refuse: Callable[[W], None]
    ) -> None:
        self._wait_us = wait_us
        self.places = places
        self._enter = enter
        self._refuse = refuse
        self._queues: tuple[OrderedDict[W, int], ...] = tuple(OrderedDict() for _ in Rank)
        self.waiting = 0
        self.guest_share: float | None = None
        self._credit_us = 0.0
        self._credited_us = 0
        self._began_us: int | None = None
        self._entered = 0
        self.longest_turn_us = 0
        # Loop time that one request costs; until it is measured, a turn is taken to fit ten.
        self._cost_us = TURN_US / 10
        # Time between two entries while requests wait.
        self._pace_us = self._cost_us
        self._paced = 0
        self._paced_since_us = 0
        self._stands_since_us = 0

    @property
    def is_open(self) -> bool:
        """Whether a turn is under way, so that ``turn`` must be called at its end."""
        return self._began_us is not None

    def waiting_of(self, rank: Rank) -> int:
        """The length of a rank's queue."""
        return len(self._queues[rank])

    def enters(self, rank: Rank, now_us: int) -> Intake | None:
        """The place of a request that arrives now and enters at once; None if it must ``wait`` or be refused."""
        places, began_us = self.places, self._began_us
        if began_us is None:
            self._began_us = now_us
        elif now_us - began_us >= (FAVOURED_TURN_US if rank <= _MEMBER else TURN_US):
            return None
        # ``has_room`` and ``enter`` inlined: every request passes here, and two calls would take a third longer.
        if places.young.count + places.old.count >= (places.limit_of_favoured if rank <= _MEMBER else places.limit):
            return None
        if self.waiting or self.guest_share is not None:
            self._give_credit(now_us)
            if self._ahead_of(rank) or not self._has_credit(rank):
                return None
            self._count_entry(rank)
        self._entered += 1
        intake = places.young
        intake.count += 1
        return intake

    def would_refuse(self, rank: Rank, now_us: int) -> bool:
        """Whether a request that has to wait would have to wait too long."""
        if not self.waiting:
            return False
        ahead = self._ahead_of(rank)
        return ahead >= MOST_WAITING or (ahead + 1) * self._pace_us > self._longest_wait_us(rank, now_us)

    def wait(self, rank: Rank, waiter: W, now_us: int) -> None:
        """Queue a request."""
        if not self.waiting:
            if now_us - self._paced_since_us > PACE_HOLDS_US:
                self._pace_us = self._cost_us
            self._stands_since_us = self._paced_since_us = now_us
            self._paced = 0
            if self._began_us is None:
                self._began_us = now_us
        self._queues[rank][waiter] = now_us
        self.waiting += 1

    def leave(self, rank: Rank, waiter: W) -> None:
        """Remove a request that has been cancelled; does nothing if it is not waiting any more."""
        if self._queues[rank].pop(waiter, None) is not None:
            self.waiting -= 1

    def turn(self, now_us: int) -> None:
        """End the turn: shed requests that have waited too long, and let in those that fit into the next turn.

        No further turn is opened if the queue is empty, or if nothing in it can enter and nothing is to be measured.
        """
        entered = self._entered
        if self._began_us is not None:
            turn_us = now_us - self._began_us
            if turn_us > self.longest_turn_us:  # noqa: PLR1730  (a call would double what a turn costs)
                self.longest_turn_us = turn_us
            if entered:
                self._cost_us = _moved(self._cost_us, turn_us / entered)
        self._entered = 0
        if not self.waiting:
            self._began_us = None
            return
        self._began_us = now_us
        self._measure_pace(now_us)
        self._shed(now_us)
        if self.waiting and not self.places.has_room(favoured=False):
            self.places.reached(now_us)
        self._let_in(now_us)
        if not entered and not self._entered:
            self._began_us = None

    def left(self, now_us: int) -> None:
        """Let requests in when a place in the app has become free while they wait."""
        if self._began_us is None:
            self._began_us = now_us
        self._measure_pace(now_us)
        self._let_in(now_us)

    def _may_enter(self, rank: Rank) -> bool:
        return self.places.has_room(favoured=rank <= _MEMBER) and self._has_credit(rank)

    def _has_credit(self, rank: Rank) -> bool:
        return rank < _RETURNING_GUEST or self.guest_share is None or self._credit_us > 0

    def _count_entry(self, rank: Rank) -> None:
        self._paced += 1
        if self.guest_share is not None and rank >= _RETURNING_GUEST:
            self._credit_us -= self._cost_us

    def _give_credit(self, now_us: int) -> None:
        """Credit guests with their share of the time that has passed; at most a turn's worth is saved up."""
        if self.guest_share is not None:
            credit_us = self._credit_us + (now_us - self._credited_us) * self.guest_share
            self._credit_us, self._credited_us = min(credit_us, TURN_US), now_us

    def _let_in(self, now_us: int) -> None:
        """Let in what fits into the rest of the turn, and at least one request if none has entered in this turn."""
        assert self._began_us is not None
        self._give_credit(now_us)
        used_us = now_us - self._began_us
        for rank in Rank:
            queue = self._queues[rank]
            while queue and self._may_enter(rank):
                if self._entered and used_us + self._entered * self._cost_us >= self._budget_us(rank):
                    break
                waiter, _ = queue.popitem(last=False)
                self.waiting -= 1
                self._count_entry(rank)
                self._entered += 1
                self._enter(waiter, self.places.enter())

    def _shed(self, now_us: int) -> None:
        """Refuse requests that have waited too long, the lowest rank first."""
        left = MOST_REFUSED_A_TURN
        for rank in reversed(Rank):
            queue, longest_us = self._queues[rank], self._longest_wait_us(rank, now_us)
            while queue and left and now_us - next(iter(queue.values())) > longest_us:
                waiter, _ = queue.popitem(last=False)
                self.waiting -= 1
                left -= 1
                self._refuse(waiter)

    def _measure_pace(self, now_us: int) -> None:
        elapsed_us = now_us - self._paced_since_us
        if elapsed_us >= PACE_US:
            self._pace_us = _moved(self._pace_us, elapsed_us / max(1, self._paced))
            self._paced, self._paced_since_us = 0, now_us

    def _budget_us(self, rank: Rank) -> int:
        return FAVOURED_TURN_US if rank <= _MEMBER else TURN_US

    def _longest_wait_us(self, rank: Rank, now_us: int) -> int:
        stands = now_us - self._stands_since_us >= STANDING_US
        favoured = rank <= _MEMBER or not stands
        return self._wait_us * (FAVOURED_WAITS if favoured else 1)

    def _ahead_of(self, rank: Rank) -> int:
        """The number of requests in the queues of this rank and of all higher ones."""
        return sum([len(queue) for queue in self._queues[: rank + 1]])


def _moved(average_us: float, sample_us: float) -> float:
    """The moving average after one more sample."""
    return average_us + NEWEST * (min(sample_us, MOST_TIMES * average_us) - average_us)
