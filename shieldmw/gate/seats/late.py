"""Members that came with a change of the mode: some workers hear of it later, and admit newcomers by the old one.

If they are too many, they leave before any that were seated. No worker knows how many of them the others have, so each
takes a part: an even one first, and a larger one each time that was not enough.
"""

from __future__ import annotations

from collections import deque
from random import Random

# Maximum number of parts, and the growth from one to the next: with the last part, a fleet of 80 workers has evicted
# all late members, even if all of them came to one worker.
MOST_PARTS = 5
GROWTH = 3

# Reports that are remembered: a worker may hear of a change a second late, and reports five times a second meanwhile.
REPORTS_KEPT = 10


class Late:
    """Decides how many late members this worker evicts: those first admitted since ``since_ms`` (the store's clock).

    With ``spare_others`` there are seats for all that were seated before the change, so the late ones are the surplus,
    and no other member leaves before them. ``random`` rounds fractions.
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
        """Stop treating members as late, unless ``too_many`` must still leave and parts remain to be taken.

        Call it once all workers know the change of the mode.
        """
        if not too_many or self._parts >= MOST_PARTS:
            self.since_ms, self.spare_others = None, False

    def part(self, too_many: int, workers: int, round_: int) -> int:
        """The number of late members to evict here now, given that ``too_many`` hosts and members are in the fleet.

        Only the first call in a round counts. A round is the same for all workers, and so long that afterwards each
        knows how many have left.
        """
        is_first, self._round = round_ != self._round, round_
        if workers == 1 or not (is_first and too_many):
            return too_many if workers == 1 else 0
        share = too_many * GROWTH**self._parts / workers
        self._parts += 1
        return int(share + self._random.random())
