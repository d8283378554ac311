"""An adaptive limit on the requests inside an app, based on the time until their responses begin. Pure.

Apps that wait for threads, connection pools or upstreams suffer from too much concurrency: beyond what they can work
on in parallel, one more request only makes all of them slower. By Little's law (concurrency = throughput x latency),
latency rises above its usual value once that point is passed. The algorithm is the gradient of Netflix'
concurrency-limits (``Gradient2Limit``) with the baseline of Envoy's adaptive concurrency filter (the response time
while few requests are inside; an attack that lasts minutes would distort a long-term average):

- The usual time is kept per *route*, so slow endpoints beside fast ones do not look like overload. It is a mean, not
  the minimum: pages that are sometimes cached, or requested with a wrong id, have a minimum that means nothing, and one
  such request in a hundred would keep the limit down.
- At the end of a window, the total time of its responses is compared with their total usual time. Slow responses weigh
  more, so many cheap requests do not hide that others wait; the weight of a single one is bounded.
- A window lasts at least as long as a response takes. Otherwise the limit would be lowered twice for the same requests.
- The limit is lowered only on evidence, and only if it is nearly reached. If it is reached and there is no evidence
  against it, it grows, even while no response begins at all.
- Usual times are learnt while at most ``LEAST`` requests are inside. If the app has become slower, the limit therefore
  falls to its minimum first, and then the new usual times are learnt.
- A request that has been inside for several times the usual time, and for at least half a second, gives up its place:
  it waits for something other than the app's work (a long poll, an upstream that hangs), and would keep others out.
"""

from __future__ import annotations

from collections.abc import Hashable
from math import sqrt

# Minimum, maximum and initial value of the limit, in requests.
LEAST = 4
MOST = 16_384
FIRST = 64

# The limit for favoured requests, as a multiple of that for others: they find room when the others have no more.
FAVOURED = 2

# The limit is lowered if the responses of a window took more than this many times their usual time.
TOLERANCE = 2.0

# Shorter response times count as this long, since an event loop alone varies by as much.
FASTEST_US = 1_000

# Cap of one response's time, as a multiple of its usual time: a few slow responses are not overload.
MOST_TIMES = 8

# The same for a route that is not known yet, which may be a slow one.
MOST_TIMES_OF_UNKNOWN = 4

# Shortest and longest window, and the minimum number of responses in all windows but the longest.
WINDOW_US, LONGEST_WINDOW_US = 100_000, 1_000_000
FEWEST_SAMPLES = 16

# Growth of the limit after a window in which it was reached: this fraction of it, but at least its square root.
GROWTH = 1 / 4

# Responses over which a usual time is averaged: with fewer, the few that come from a cache would distort it.
REMEMBERED = 50

# A request holds its place for PATIENCE usual times, within the bounds of PATIENCE_US (least, most), or of
# PATIENCE_OF_FIXED_US if an operator has set the limit; at most for twice as long.
PATIENCE = 4
PATIENCE_US, PATIENCE_OF_FIXED_US = (500_000, 2_000_000), (5_000_000, 60_000_000)

# Factor for all usual times after a window that took less than half of them: they were learnt while the app was cold.
# If they fall too far, the limit falls too, and they are learnt again.
SINK = 0.75

# Maximum number of routes with a usual time; a new one replaces the one updated longest ago.
MOST_ROUTES = 512

# The usual time of a route that is not known yet, and the number of responses that it averages.
_UNKNOWN = (0.0, 0)


class Intake:
    """Counts the requests that entered at about the same time and are still inside."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class AdaptiveLimit:
    """The limit, and the state it is computed from. A ``fixed`` limit above 0 never changes, and holds for all."""

    def __init__(self, fixed: int = 0) -> None:
        self._fixed = fixed > 0
        self.limit = fixed or FIRST
        self.limit_of_favoured = fixed or FIRST * FAVOURED
        self.young = Intake()
        self.old = Intake()
        self._least_us, self._most_us = PATIENCE_OF_FIXED_US if fixed else PATIENCE_US
        self._patience_us = self._least_us
        self._renews_us = 0
        # By route: the usual time, and the number of responses it averages, up to ``REMEMBERED``.
        self._usual_us: dict[Hashable, tuple[float, int]] = {}
        # The usual time over all routes, weighted by their requests.
        self._typical_us = 0.0
        # In this window: how many responses began, the time they took, and their usual times.
        self._samples = 0
        self._took_us = 0.0
        self._expected_us = 0.0
        self._was_reached = False
        self._ends_us = 0

    @property
    def routes(self) -> int:
        """The number of routes with a known usual time."""
        return len(self._usual_us)

    @property
    def inside(self) -> int:
        """The number of places in use."""
        return self.young.count + self.old.count

    def has_room(self, *, favoured: bool) -> bool:
        """Whether one more request may enter."""
        return self.young.count + self.old.count < (self.limit_of_favoured if favoured else self.limit)

    def counts(self, intake: Intake) -> bool:
        """Whether the requests of an intake still hold their places."""
        return intake is self.young or intake is self.old

    def enter(self) -> Intake:
        """Take a place. To give it back, decrement the intake's count."""
        intake = self.young
        intake.count += 1
        return intake

    def sample(self, route: Hashable, took_us: int, now_us: int, inside_then: int) -> None:
        """Record the time until a response began; ``inside_then``: requests inside when it entered, itself included."""
        took_us = max(took_us, FASTEST_US)
        usual_us, count = self._usual_us.get(route, _UNKNOWN)
        if inside_then <= LEAST:
            usual_us = self._learn(route, usual_us, count, took_us)
            count += 1
        most_times = MOST_TIMES
        if not count:  # it may have waited for others, so it is compared with the usual time of all routes
            usual_us, most_times = self._typical_us, MOST_TIMES_OF_UNKNOWN
        if usual_us:
            self._samples += 1
            self._took_us += min(took_us, most_times * usual_us)
            self._expected_us += usual_us
        self._end_window_if_due(now_us)

    def reached(self, now_us: int) -> None:
        """Note that a request is waiting for a place."""
        self._was_reached = True
        self._end_window_if_due(now_us)

    def _learn(self, route: Hashable, usual_us: float, count: int, took_us: int) -> float:
        """The usual time of a route after one more response that did not wait for others."""
        usual = self._usual_us
        if not count:
            usual_us = took_us
            if len(usual) >= MOST_ROUTES:
                del usual[next(iter(usual))]
        count = min(count + 1, REMEMBERED)
        usual_us += (min(took_us, MOST_TIMES * usual_us) - usual_us) / count
        usual.pop(route, None)  # move it to the end: routes at the front are dropped first
        usual[route] = usual_us, count
        self._typical_us += (usual_us - self._typical_us) / (REMEMBERED if self._typical_us else 1)
        return usual_us

    def _end_window_if_due(self, now_us: int) -> None:
        """At the end of a window, adjust the limit by its responses; without any, grow if the limit was reached."""
        if now_us >= self._renews_us:
            self.old, self.young = self.young, Intake()
            self._renews_us = now_us + self._patience_us
        if now_us < self._ends_us:
            return
        if self._samples >= FEWEST_SAMPLES or (self._samples and now_us >= self._ends_us + LONGEST_WINDOW_US):
            self._adjust(now_us)
        elif self._was_reached and not self._samples:
            self._ends_us = now_us + WINDOW_US
            self._grow()

    def _adjust(self, now_us: int) -> None:
        """Adjust the limit and the usual times by the window's responses."""
        gradient = TOLERANCE * self._expected_us / self._took_us
        if 2 * self._took_us < self._expected_us:
            self._usual_us = {route: (usual_us * SINK, count) for route, (usual_us, count) in self._usual_us.items()}
        if gradient < 1.0:
            if self._was_reached or self.inside * 2 >= self.limit:
                self._set(self.limit * gradient + sqrt(self.limit))
        elif self._was_reached:
            self._grow()
        self._ends_us = now_us + max(WINDOW_US, min(int(self._took_us / self._samples), LONGEST_WINDOW_US))
        patience_us = int(PATIENCE * self._expected_us / self._samples)
        self._patience_us = max(self._least_us, min(patience_us, self._most_us))
        self._samples, self._took_us, self._expected_us = 0, 0.0, 0.0
        self._was_reached = False

    def _grow(self) -> None:
        self._set(self.limit + max(sqrt(self.limit), self.limit * GROWTH))
        self._was_reached = False

    def _set(self, limit: float) -> None:
        if not self._fixed:
            self.limit = max(LEAST, min(MOST, int(limit)))
            self.limit_of_favoured = self.limit * FAVOURED
