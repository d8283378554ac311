"""How many requests an app can have inside at once: an adaptive limit, by the time responses take to begin. Pure.

Apps that await (threads, connection pools, upstreams) drown by concurrency: beyond what they work on at once, one more
request only makes all of them wait. Little's law says where that is (concurrency = throughput x latency), and a latency
above its best says that it is passed. This is the gradient of Netflix' concurrency-limits (``Gradient2Limit``) with the
baseline of Envoy's adaptive concurrency filter (the best time; a long average is poisoned by an attack of minutes):

- Each time is divided by the best time of its *route*, so slow endpoints beside fast ones do not look like overload.
- A window is judged by a low quantile of these ratios: congestion slows all requests, a slow minority does not.
- The limit comes down on evidence only, and only where it is nearly reached. Where it is reached and nothing speaks
  against it, it grows, also while no response begins at all.
- A request that has been inside for a second or two holds no place any more: it waits for something else than the app's
  work (a long poll, say). So for slow apps the limit is one of requests a second.
- Where the limit is at its least and requests are slow all the same, the app has become slower, not the crowd larger:
  the best times are learnt anew.
"""

from __future__ import annotations

from collections.abc import Hashable
from math import sqrt

# The limit is never below ``LEAST``, nor above ``MOST``; it begins at ``FIRST``.
LEAST = 4
MOST = 16_384
FIRST = 128

# Of the favoured this many times as many may be inside: what others have filled has room for them.
FAVOURED = 2

# How far times may rise above their best before the limit comes down.
TOLERANCE = 2.0

# What is faster than this is not told apart: a loop's own jitter is as much.
FASTEST_US = 1_000

WINDOW_US = 100_000
FEWEST_SAMPLES = 8
MOST_SAMPLES = 256
QUANTILE = 0.25

# By how much the limit grows in a window where it is reached: a part of it, at least its square root.
GROWTH = 1 / 4

# Places are held for one of these at least, and less than two.
INTAKE_US = 1_000_000

# Routes whose best times are kept; all others share one.
MOST_ROUTES = 512


class Intake:
    """The requests that entered in about the same second and are still inside."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class AdaptiveLimit:
    """The limit, and what it is made of. ``fixed`` above 0 is a limit that does not adapt, and holds for everybody."""

    __slots__ = (
        *("_best_us", "_ends_us", "_fixed", "_ratios", "_renews_us", "_was_reached"),
        *("limit", "limit_of_favoured", "old", "young"),
    )

    def __init__(self, fixed: int = 0) -> None:
        self._fixed = fixed > 0
        self.limit = fixed or FIRST
        self.limit_of_favoured = fixed or FIRST * FAVOURED
        self.young = Intake()
        self.old = Intake()
        self._renews_us = 0
        self._was_reached = False
        self._best_us: dict[Hashable, int] = {}
        self._ratios: list[float] = []
        self._ends_us = 0

    @property
    def routes(self) -> int:
        """How many routes have a best time of their own."""
        return len(self._best_us)

    @property
    def inside(self) -> int:
        """How many places are taken."""
        return self.young.count + self.old.count

    def has_room(self, *, favoured: bool) -> bool:
        """Whether one more may enter."""
        return self.young.count + self.old.count < (self.limit_of_favoured if favoured else self.limit)

    def enter(self) -> Intake:
        """Take a place. To leave, one less is in the intake."""
        intake = self.young
        intake.count += 1
        return intake

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
        self._look(now_us)

    def reached(self, now_us: int) -> None:
        """Somebody waits for a place."""
        if not self._fixed:
            self._was_reached = True
            self._look(now_us)

    def _look(self, now_us: int) -> None:
        """At the end of a window: move the limit by what it has shown."""
        if now_us >= self._renews_us:
            self.old, self.young = self.young, Intake()
            self._renews_us = now_us + INTAKE_US
        if now_us < self._ends_us:
            return
        ratio = self._slowness()
        if len(self._ratios) < FEWEST_SAMPLES and (ratio > TOLERANCE or not self._was_reached):
            return
        if ratio <= TOLERANCE:
            if self._was_reached:
                self._set(self.limit + max(sqrt(self.limit), self.limit * GROWTH))
        elif self._was_reached or self.inside * 2 >= self.limit:
            if self.limit <= LEAST:
                self._best_us = {route: int(best_us * ratio) for route, best_us in self._best_us.items()}
            self._set(self.limit * max(0.5, TOLERANCE / ratio) + sqrt(self.limit))
        self._ratios.clear()
        self._was_reached = False
        self._ends_us = now_us + WINDOW_US

    def _slowness(self) -> float:
        """By how much responses are slower than at their best; 1 where none has begun."""
        ratios = sorted(self._ratios)
        return ratios[int(len(ratios) * QUANTILE)] if ratios else 1.0

    def _set(self, limit: float) -> None:
        self.limit = max(LEAST, min(MOST, int(limit)))
        self.limit_of_favoured = self.limit * FAVOURED
