"""How many requests an app can have inside at once: an adaptive limit, by the time responses take to begin. Pure.

Apps that await (threads, connection pools, upstreams) drown by concurrency: beyond what they work on at once, one more
request only makes all of them wait. Little's law says where that is (concurrency = throughput x latency), and a latency
above its best says that it is passed. This is the gradient of Netflix' concurrency-limits (``Gradient2Limit``) with the
baseline of Envoy's adaptive concurrency filter (the best time; a long average is poisoned by an attack of minutes):

- Each time is divided by the best time of its *route*, so slow endpoints beside fast ones do not look like overload.
- A window is judged by a low quantile of these ratios: congestion slows all requests, a slow minority does not.
- Where the limit is at its least and requests are slow all the same, the app has become slower, not the crowd larger:
  the best times are learnt anew.
"""

from __future__ import annotations

from collections.abc import Hashable
from math import sqrt

# The limit is never below ``LEAST``, nor above ``MOST``; it begins at ``FIRST``.
LEAST = 4
MOST = 4096
FIRST = 128

# How far times may rise above their best before the limit comes down.
TOLERANCE = 2.0

# What is faster than this is not told apart: a loop's own jitter is as much.
FASTEST_US = 1_000

WINDOW_US = 100_000
FEWEST_SAMPLES = 8
MOST_SAMPLES = 256
QUANTILE = 0.25

# Routes whose best times are kept; all others share one.
MOST_ROUTES = 512


class AdaptiveLimit:
    """The limit, and what it is made of. ``fixed`` above 0 is a limit that does not adapt.

    ``inside`` are the requests whose responses have not begun: whoever lets them in counts them, and sets ``was_full``
    where one had to wait for a place.
    """

    __slots__ = ("_best_us", "_ends_us", "_fixed", "_ratios", "inside", "limit", "was_full")

    def __init__(self, fixed: int = 0) -> None:
        self._fixed = fixed > 0
        self.limit = fixed or FIRST
        self.inside = 0
        self.was_full = False
        self._best_us: dict[Hashable, int] = {}
        self._ratios: list[float] = []
        self._ends_us = 0

    @property
    def routes(self) -> int:
        """How many routes have a best time of their own."""
        return len(self._best_us)

    def room(self) -> int:
        """How many more may enter."""
        return self.limit - self.inside

    def sample(self, route: Hashable, took_us: int, now_us: int) -> None:
        """A response has begun after so long."""
        if self._fixed:
            return
        took_us = max(took_us, FASTEST_US)
        best = self._best_us
        if route not in best and len(best) >= MOST_ROUTES:
            route = None
        best_us = best[route] = min(took_us, best.get(route, took_us))
        if len(self._ratios) < MOST_SAMPLES:
            self._ratios.append(took_us / best_us)
        if now_us >= self._ends_us and len(self._ratios) >= FEWEST_SAMPLES:
            self._judge()
            self._ends_us = now_us + WINDOW_US

    def _judge(self) -> None:
        """Move the limit by what the window has shown."""
        ratios = sorted(self._ratios)
        ratio = ratios[int(len(ratios) * QUANTILE)]
        gradient = max(0.5, min(1.0, TOLERANCE / ratio))
        if gradient < 1.0 and self.limit <= LEAST:
            self._best_us = {route: int(best_us * ratio) for route, best_us in self._best_us.items()}
        if gradient < 1.0 or self.was_full:
            self.limit = max(LEAST, min(MOST, int(self.limit * gradient + sqrt(self.limit))))
        self._ratios.clear()
        self.was_full = False
