"""An adaptive limit on the requests inside an app, based on the time until their responses begin. Pure.

Apps that await (threads, connection pools, upstreams) suffer from too much concurrency: beyond what they work on at
once, one more request only makes all of them wait. Little's law says where that point is (concurrency = throughput x
latency), and a latency above the usual one says that it has been passed. This is the gradient of Netflix'
concurrency-limits (``Gradient2Limit``) with the baseline of Envoy's adaptive concurrency filter (the time responses
take while few requests are inside; a long average would be poisoned by an attack that lasts minutes):

- The usual time is that of a *route*, so slow endpoints beside fast ones do not look like overload. It is a mean, not
  the best time: for a page that is sometimes cached, or requested with a wrong id, the best time says nothing, and one
  such request in a hundred would hold the limit down.
- A window compares the total time of its requests with their total usual time. Requests that take long count for more,
  so a crowd of cheap requests does not hide that others wait. How much a single slow one counts is bounded.
- A window lasts at least as long as a response takes: otherwise the limit would be lowered again for the same ones.
- The limit is lowered only on evidence, and only if it is nearly reached. If it is reached and there is no evidence
  against it, it grows, even while no response begins at all.
- Usual times are learnt while at most ``LEAST`` requests are inside. So if an app has become slower, its usual times
  are learnt anew once that has lowered the limit to its minimum.
- A request that has been inside for several usual times, and at least half a second, no longer holds its place: it
  waits for something other than the app's work (a long poll, an upstream that hangs), and would keep others out.
"""

from __future__ import annotations

from collections.abc import Hashable
from math import sqrt

# Minimum, maximum and first value of the limit.
LEAST = 4
MOST = 16_384
FIRST = 64

# The limit for favoured requests, as a multiple of the others': they find room where others have filled theirs.
FAVOURED = 2

# How many times its usual time a window may take before the limit is lowered.
TOLERANCE = 2.0

# Shorter times count as this long: an event loop's own jitter is as large.
FASTEST_US = 1_000

# Cap of one response's time, in usual times: a slow minority is not overload.
MOST_TIMES = 8

# The same for a route that is not known yet, which may be a slow one.
MOST_TIMES_OF_UNKNOWN = 4

# Shortest and longest window, and fewest responses in one, unless it is the longest.
WINDOW_US, LONGEST_WINDOW_US = 100_000, 1_000_000
FEWEST_SAMPLES = 16

# Growth of the limit in a window in which it is reached: this fraction, but at least its square root.
GROWTH = 1 / 4

# Responses over which a usual time is averaged: with fewer it would be a matter of chance if some come from a cache.
REMEMBERED = 50

# How long a request holds its place at least: this many usual times, within bounds; up to twice that. The bounds are
# higher if an operator has set the limit.
PATIENCE = 4
PATIENCE_US, PATIENCE_OF_FIXED_US = (500_000, 2_000_000), (5_000_000, 60_000_000)

# Factor on all usual times after a window that took less than half of them: they were learnt while the app was cold. A
# usual time that has sunk too far is learnt anew once the limit follows.
SINK = 0.75

# Most routes whose usual times are kept; the one learnt longest ago is dropped for a new one.
MOST_ROUTES = 512

_UNKNOWN = (0.0, 0)


class Intake:
    """The requests that entered at about the same time and are still inside."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class AdaptiveLimit:
    """The limit, and the state it is computed from. ``fixed`` above 0 is a limit that does not adapt, for everybody."""

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
        """How many routes have a usual time."""
        return len(self._usual_us)

    @property
    def inside(self) -> int:
        """How many places are taken."""
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
        """Take in the time until a response began; ``inside_then`` were inside when it entered, itself included."""
        took_us = max(took_us, FASTEST_US)
        usual_us, count = self._usual_us.get(route, _UNKNOWN)
        if inside_then <= LEAST:
            usual_us = self._learn(route, usual_us, count, took_us)
            count += 1
        most_times = MOST_TIMES
        if not count:  # it may have waited for others, so it is compared with what is usual over all routes
            usual_us, most_times = self._typical_us, MOST_TIMES_OF_UNKNOWN
        if usual_us:
            self._samples += 1
            self._took_us += min(took_us, most_times * usual_us)
            self._expected_us += usual_us
        self._look(now_us)

    def reached(self, now_us: int) -> None:
        """Note that a request is waiting for a place."""
        self._was_reached = True
        self._look(now_us)

    def _learn(self, route: Hashable, usual_us: float, count: int, took_us: int) -> float:
        """The usual time of a route after one more response that did not wait for others."""
        usual = self._usual_us
        if not count:
            usual_us = took_us
            if len(usual) >= MOST_ROUTES:
                del usual[next(iter(usual))]
        count = min(count + 1, REMEMBERED)
        usual_us += (min(took_us, MOST_TIMES * usual_us) - usual_us) / count
        usual.pop(route, None)  # move it to the end, so that routes in use stay
        usual[route] = usual_us, count
        self._typical_us += (usual_us - self._typical_us) / (REMEMBERED if self._typical_us else 1)
        return usual_us

    def _look(self, now_us: int) -> None:
        """At the end of a window, judge its responses; without any, grow if the limit was reached."""
        if now_us >= self._renews_us:
            self.old, self.young = self.young, Intake()
            self._renews_us = now_us + self._patience_us
        if now_us < self._ends_us:
            return
        if self._samples >= FEWEST_SAMPLES or (self._samples and now_us >= self._ends_us + LONGEST_WINDOW_US):
            self._judge(now_us)
        elif self._was_reached and not self._samples:
            self._ends_us = now_us + WINDOW_US
            self._grow()

    def _judge(self, now_us: int) -> None:
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
