"""How many requests an app can have inside at once: an adaptive limit, by the time responses take to begin. Pure.

Apps that await (threads, connection pools, upstreams) drown by concurrency: beyond what they work on at once, one more
request only makes all of them wait. Little's law says where that is (concurrency = throughput x latency), and a latency
above the usual one says that it is passed. This is the gradient of Netflix' concurrency-limits (``Gradient2Limit``)
with the baseline of Envoy's adaptive concurrency filter (what responses take while few are inside; a long average is
poisoned by an attack of minutes):

- The usual time is that of a *route*, so slow endpoints beside fast ones do not look like overload. It is a mean and
  not the best time: of a page that is in a cache now and then, or asked for with a wrong number, the best time says
  nothing, and one such request in a hundred would hold the limit down.
- A window compares the time that its requests took together with the usual one: those inside for long count for more,
  so no crowd of cheap requests hides that others wait. How much a single slow one counts is bounded.
- It is judged no more often than responses take, else it would come down again and again for the same ones.
- Usual times are learnt while no more than ``LEAST`` are inside. So an app that has become slower is learnt anew where
  that has brought the limit down to its least.
"""

from __future__ import annotations

from collections.abc import Hashable
from math import sqrt

# The limit is never below ``LEAST``, nor above ``MOST``; it begins at ``FIRST``.
LEAST = 4
MOST = 4096
FIRST = 128

# How far times may rise above the usual ones before the limit comes down.
TOLERANCE = 2.0

# What is faster than this is not told apart: a loop's own jitter is as much.
FASTEST_US = 1_000

# One response counts for so many usual times at most: a slow minority is not overload.
MOST_TIMES = 8

WINDOW_US, LONGEST_WINDOW_US = 100_000, 1_000_000
FEWEST_SAMPLES = 16

# A usual time is the mean of about so many responses: of fewer it would be chance where some come from a cache.
REMEMBERED = 50

# How long a request holds its place while others wait for one: in usual times, and at least. Uploads that trickle and
# upstreams that hang would else keep everybody out, members too.
PATIENCE, LEAST_PATIENCE_US = 4, 500_000

# Routes whose usual times are kept; the oldest goes for a new one.
MOST_ROUTES = 512


_UNKNOWN = (0.0, 0)


class AdaptiveLimit:
    """The limit, and what it is made of. ``fixed`` above 0 is a limit that does not adapt."""

    __slots__ = (
        "_ends_us",
        "_expected_us",
        "_fixed",
        "_most_inside",
        "_patience_us",
        "_samples",
        "_took_us",
        "_usual_us",
        "inside",
        "limit",
    )

    def __init__(self, fixed: int = 0) -> None:
        self._fixed = fixed > 0
        self.limit = fixed or FIRST
        self.inside = 0
        # By route: the usual time, and of how many responses it is the mean, up to ``REMEMBERED``.
        self._usual_us: dict[Hashable, tuple[float, int]] = {}
        # Of this window: the most that were inside, how many responses began, and how long that took.
        self._most_inside = 0
        self._samples = 0
        self._took_us = 0.0
        self._expected_us = 0.0
        self._ends_us = 0
        self._patience_us = LEAST_PATIENCE_US

    @property
    def patience_us(self) -> int | None:
        """After how long a request that is still inside counts no more where others wait; None for never."""
        return None if self._fixed else self._patience_us

    @property
    def routes(self) -> int:
        """How many routes have a usual time."""
        return len(self._usual_us)

    def room(self) -> int:
        """How many more may enter."""
        return self.limit - self.inside

    def entered(self) -> None:
        """A request goes into the app."""
        self.inside += 1
        if self.inside > self._most_inside:  # noqa: PLR1730  (a call on the way of every request)
            self._most_inside = self.inside

    def left(self) -> None:
        """A request is inside no longer: its response has begun, or it has ended without one."""
        self.inside -= 1

    def sample(self, route: Hashable, took_us: int, now_us: int, inside_then: int) -> None:
        """A response has begun after so long; ``inside_then`` were inside when it entered, itself included."""
        if self._fixed:
            return
        # Without calls of min and max, on the way of every request.
        if took_us < FASTEST_US:  # noqa: PLR1730
            took_us = FASTEST_US
        usual_us, count = self._usual_us.get(route, _UNKNOWN)
        if took_us != usual_us:
            if inside_then <= LEAST:
                usual_us = self._learn(route, usual_us, count, took_us)
            elif not count:
                return  # it may have waited for the others
        counted_us = took_us if took_us < MOST_TIMES * usual_us else MOST_TIMES * usual_us
        self._samples += 1
        self._took_us += counted_us
        self._expected_us += usual_us
        if now_us >= self._ends_us and self._samples >= FEWEST_SAMPLES:
            took_us = int(self._took_us / self._samples)
            self._ends_us = now_us + max(WINDOW_US, min(took_us, LONGEST_WINDOW_US))
            self._judge()

    def _learn(self, route: Hashable, usual_us: float, count: int, took_us: int) -> float:
        """The usual time of a route after one more response that waited for nobody."""
        if not count:
            usual_us = took_us
            if len(self._usual_us) >= MOST_ROUTES:
                del self._usual_us[next(iter(self._usual_us))]
        count = min(count + 1, REMEMBERED)
        usual_us += (min(took_us, MOST_TIMES * usual_us) - usual_us) / count
        self._usual_us[route] = usual_us, count
        return usual_us

    def _judge(self) -> None:
        """Move the limit by what the window has shown; it comes down only where it is used, and up where it is full."""
        gradient = max(0.5, min(1.0, TOLERANCE * self._expected_us / self._took_us))
        comes_down = gradient < 1.0 and 2 * self._most_inside >= self.limit
        if comes_down or self._most_inside >= self.limit:
            self.limit = max(LEAST, min(MOST, int(self.limit * gradient + sqrt(self.limit))))
        self._patience_us = max(LEAST_PATIENCE_US, int(PATIENCE * self._expected_us / self._samples))
        self._samples, self._took_us, self._expected_us = 0, 0.0, 0.0
        self._most_inside = self.inside
