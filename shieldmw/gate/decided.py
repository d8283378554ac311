"""Counts what was decided: in the metrics, and among the busiest clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from shieldmw.core.decision import Decision
from shieldmw.core.facts import Facts
from shieldmw.core.top import Tally

from .metrics.counts import Counts
from .talkers import Decided, Talkers


class DecidedRequests:
    """The requests of one turn of the event loop, counted together at its end: one by one takes twice as long.

    Before it is started each is counted at once. A worker that is killed loses those of the turn under way.
    """

    def __init__(self, counts: Counts, talkers: Talkers) -> None:
        self.counts = counts
        self._talkers = talkers
        self._of_this_turn: list[Decided] = []
        self._at_the_end: Callable[[Callable[[], None]], object] = lambda count: count()

    def start(self) -> None:
        """Count at the end of each turn of the running loop from now on."""
        self._at_the_end = asyncio.get_running_loop().call_soon

    def add(self, facts: Facts, decision: Decision, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Count a request that enters the app or is refused. To be called once for each."""
        requests = self._of_this_turn
        requests.append((facts, decision, headers))
        if len(requests) == 1:
            self._at_the_end(self.count)

    def count(self) -> None:
        """Count those of the turn so far."""
        requests, self._of_this_turn = self._of_this_turn, []
        self.counts.decided([decision for _, decision, _ in requests])
        self._talkers.decided(requests)

    def tallies(self, count: int) -> tuple[float, Tally, Tally]:
        """As ``Talkers.tallies``, with those of the turn so far."""
        self.count()
        return self._talkers.tallies(count)
