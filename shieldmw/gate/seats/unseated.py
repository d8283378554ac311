"""The listeners that found no seat lately: they are demand, and the fleet divides its seats by demand."""

from __future__ import annotations

from shieldmw.core.client import ListenerClass
from shieldmw.core.distinct import Distinct
from shieldmw.core.seats import Audience

# Listeners of one class that are counted in a round.
MOST = 65_536


class Unseated:
    """Counts the distinct listeners that were turned away in this round and the last. A round is some seconds long.

    A listener is identified by 64 bits of a digest, which are the same on all workers.
    """

    def __init__(self) -> None:
        self._now: dict[ListenerClass, set[int]] = {name: set() for name in ListenerClass}
        self._last: dict[ListenerClass, set[int]] = {name: set() for name in ListenerClass}

    def add(self, name: ListenerClass, listener: int) -> None:
        """Count a listener; asking again in the same round does not count it twice."""
        if len(self._now[name]) < MOST:
            self._now[name].add(listener)
            self._last[name].discard(listener)  # the sets stay disjoint, so that counting is O(1)

    def drop(self, name: ListenerClass, listener: int) -> None:
        """Stop counting a listener, since it has a seat."""
        self._now[name].discard(listener)
        self._last[name].discard(listener)

    def turn(self) -> None:
        """Begin a new round."""
        self._last, self._now = self._now, {name: set() for name in ListenerClass}

    def count(self) -> Audience:
        """The number of listeners turned away, by class."""
        return Audience(*(len(self._now[name]) + len(self._last[name]) for name in ListenerClass))

    def report(self) -> tuple[Distinct, Distinct, Distinct]:
        """A summary for each class, from which the distinct listeners of several workers can be counted together."""
        hosts, members, guests = (Distinct.of(self._now[name], self._last[name]) for name in ListenerClass)
        return hosts, members, guests
