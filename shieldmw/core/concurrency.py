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
- The limit comes down on evidence only, and only where it is nearly reached. Where it is reached and nothing speaks
  against it, it grows, also while no response begins at all.
- Usual times are learnt while no more than ``LEAST`` are inside. So an app that has become slower is learnt anew where
  that has brought the limit down to its least.
- A request that has been inside for several usual times, and half a second, holds no place any more: it waits for
  something else than the app's work (a long poll, an upstream that hangs), and would keep everybody out.
"""

from __future__ import annotations

from collections.abc import Hashable
from math import sqrt

# The limit is never below ``LEAST``, nor above ``MOST``; it begins at ``FIRST``.
LEAST = 4
MOST = 16_384
FIRST = 64

# Of the favoured this many times as many may be inside: what others have filled has room for them.
FAVOURED = 2

# How far times may rise above the usual ones before the limit comes down.
TOLERANCE = 2.0

# What is faster than this is not told apart: a loop's own jitter is as much.
FASTEST_US = 1_000

# One response counts for so many usual times at most: a slow minority is not overload.
MOST_TIMES = 8

# And one of a route that is not known yet for fewer: it may be a slow one.
MOST_TIMES_OF_UNKNOWN = 4

WINDOW_US, LONGEST_WINDOW_US = 100_000, 1_000_000
FEWEST_SAMPLES = 16

# By how much the limit grows in a window where it is reached: a part of it, at least its square root.
GROWTH = 1 / 4

# A usual time is the mean of about so many responses: of fewer it would be chance where some come from a cache.
REMEMBERED = 50

# How long a place is held: so many usual times, within bounds; it may be up to twice that. A limit that an operator has
# set holds for longer.
PATIENCE = 4
PATIENCE_US, PATIENCE_OF_FIXED_US = (500_000, 2_000_000), (5_000_000, 60_000_000)

# In a window whose responses took less than half of what is usual all usual times come down to this part: they were
# learnt while the app was cold. One that has come down too far is learnt anew once the limit follows.
SINK = 0.75

# Routes whose usual times are kept; the one that was learnt longest ago goes for a new one.
MOST_ROUTES = 512

_UNKNOWN = (0.0, 0)


class Intake:
    """The requests that entered at about the same time and are still inside."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class AdaptiveLimit:
    """The limit, and what it is made of. ``fixed`` above 0 is a limit that does not adapt, and holds for everybody."""

    __slots__ = (
        *(
            "_ends_us",
            "_expected_us",
            "_fixed",
            "_least_us",
            "_most_us",
            "_patience_us",
            "_renews_us",
            "_samples",
            "_took_us",
            "_typical_us",
            "_usual_us",
        ),
        *("_was_reached", "limit", "limit_of_favoured", "old", "young"),
    )

    def __init__(self, fixed: int = 0) -> None:
        self._fixed = fixed > 0
        self.limit = fixed or FIRST
        self.limit_of_favoured = fixed or FIRST * FAVOURED
        self.young = Intake()
        self.old = Intake()
        self._least_us, self._most_us = PATIENCE_OF_FIXED_US if fixed else PATIENCE_US
        self._patience_us = self._least_us
        self._renews_us = 0
        # By route: the usual time, and of how many responses it is the mean, up to ``REMEMBERED``.
        self._usual_us: dict[Hashable, tuple[float, int]] = {}
        # Of all routes, each as often as it was asked for.
        self._typical_us = 0.0
        # Of this window: how many responses began, what they took, and what they usually would have.
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
        """Whether one more may enter."""
        return self.young.count + self.old.count < (self.limit_of_favoured if favoured else self.limit)

    def counts(self, intake: Intake) -> bool:
        """Whether those who entered then still hold their places."""
        return intake is self.young or intake is self.old

    def enter(self) -> Intake:
        """Take a place. To leave, one less is in the intake."""
        intake = self.young
        intake.count += 1
        return intake

    def sample(self, route: Hashable, took_us: int, now_us: int, inside_then: int) -> None:
        """A response has begun after so long; ``inside_then`` were inside when it entered, itself included."""
        took_us = max(took_us, FASTEST_US)
        usual_us, count = self._usual_us.get(route, _UNKNOWN)
        if inside_then <= LEAST:
            usual_us = self._learn(route, usual_us, count, took_us)
            count += 1
        most_times = MOST_TIMES
        if not count:  # it may have waited for the others: it is compared with what is usual for all
            usual_us, most_times = self._typical_us, MOST_TIMES_OF_UNKNOWN
        if usual_us:
            self._samples += 1
            self._took_us += min(took_us, most_times * usual_us)
            self._expected_us += usual_us
        self._look(now_us)

    def reached(self, now_us: int) -> None:
        """Somebody waits for a place."""
        self._was_reached = True
        self._look(now_us)

    def _learn(self, route: Hashable, usual_us: float, count: int, took_us: int) -> float:
        """The usual time of a route after one more response that waited for nobody."""
        usual = self._usual_us
        if not count:
            usual_us = took_us
            if len(usual) >= MOST_ROUTES:
                del usual[next(iter(usual))]
        count = min(count + 1, REMEMBERED)
        usual_us += (min(took_us, MOST_TIMES * usual_us) - usual_us) / count
        usual.pop(route, None)  # to the end: those that are asked for stay
        usual[route] = usual_us, count
        self._typical_us += (usual_us - self._typical_us) / (REMEMBERED if self._typical_us else 1)
        return usual_us

    def _look(self, now_us: int) -> None:
        """At the end of a window: judge what it has shown, or grow where it has shown nothing but that all is full."""
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
        """Move the limit by what the window has shown."""
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
