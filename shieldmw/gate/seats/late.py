"""Members that came with a change of the mode: some workers hear of it later, and admit newcomers by the old one.

If they are too many, they leave before any that were seated. No worker knows how many of them the others have, so each
takes a part: an even one first, and a larger one each time that was not enough.
"""

from __future__ import annotations

from collections import deque
from random import Random

# Parts that each worker takes, each this many times as large as the one before: with the last, 80 workers have none of
# them left, even if all came to one of them.
MOST_PARTS = 5
GROWTH = 3

# Reports that are remembered: a worker may hear of a change a second late, and reports five times a second meanwhile.
REPORTS_KEPT = 10


class Late:
    """Since when members count as late, and how many of them leave here. ``random`` decides on fractions.

    ``spare_others``: there are seats for all that were seated before the change, so if too many are here it is because
    of those late, and none of the others leaves until they are gone.
    """

    def __init__(self, random: Random) -> None:
        self.since_ms: int | None = None
        self.spare_others = False
        self._random = random
        self._reports: deque[tuple[int, int]] = deque(maxlen=REPORTS_KEPT)
        self._round = 0
        self._parts = 0

    def reported(self, now_ms: int, favoured: int) -> None:
        """Note how many hosts and members the fleet had at a report, by the store's clock."""
        self._reports.append((now_ms, favoured))

    def begin(self, since_ms: int, seats: int) -> None:
        """Note a change of the mode at this time, by the store's clock, and how many seats there are now.

        Those late for the last change stay late.
        """
        if self.since_ms is None:
            before = [favoured for at_ms, favoured in self._reports if at_ms < since_ms]
            self.since_ms, self.spare_others = since_ms, not before or before[-1] <= seats
        self._parts = 0

    def end(self, too_many: int) -> None:
        """Note that all workers have heard of the change: those that stay are seated like all others."""
        if not too_many or self._parts >= MOST_PARTS:
            self.since_ms, self.spare_others = None, False

    def part(self, too_many: int, workers: int, round_: int) -> int:
        """How many leave here now of those too many in the fleet; all workers' parts sum to about as many.

        Only the first call in a round counts. A round is the same for all workers, and so long that afterwards each
        knows how many have left.
        """
        is_first, self._round = round_ != self._round, round_
        if workers == 1 or not (is_first and too_many):
            return too_many if workers == 1 else 0
        share = too_many * GROWTH**self._parts / workers
        self._parts += 1
        return int(share + self._random.random())
