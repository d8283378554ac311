"""A worker: all parts of the shield that belong to one event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

from shieldmw.core.decision import Decision
from shieldmw.core.facts import Facts
from shieldmw.core.mode import Mode
from shieldmw.errors import StoreError
from shieldmw.store.port import ChangeFeed

from .auth.failed_auth import FailedAuth
from .decided import DecidedRequests
from .events import ModeObserver
from .fleet.changes import ChangeListener
from .fleet.deny_watch import DenyWatch
from .fleet.limits_watch import LimitsWatch
from .fleet.mode_watch import ModeWatch
from .gate import Gate
from .limiter.limiter import PROBE, Limiter
from .limiter.lookups import Lookups
from .limiter.sharing import cheapest
from .metrics.meter import Meter
from .named_limits import NamedLimits
from .operator.control import Control
from .overload.overload import Overload
from .seats.capacity import SeatPlan
from .seats.claims import COPIES
from .seats.entrance import Entrance
from .seats.polls import Polls
from .seats.stream_messages import STREAMS
from .seats.takeover import TAKEN
from .seats.waiting_room import WAITING


class Background(Protocol):
    """A background task of a worker."""

    async def start(self) -> None:
        """Start; returns soon, whatever fails."""

    async def stop(self) -> None:
        """Stop."""


class Worker:
    """Owns the gate and the parts beside it, and passes announced changes on to them.

    ``start`` before the first request, ``stop`` after the last; both can be repeated.
    """

    def __init__(  # noqa: PLR0913  (all that a worker consists of)
        self,
        gate: Gate,
        entrance: Entrance,
        polls: Polls,
        overload: Overload | None,
        control: Control,
        *,
        named_limits: NamedLimits,
        decided: DecidedRequests,
        limiter: Limiter,
        lookups: Lookups,
        failed_auth: FailedAuth,
        mode_watch: ModeWatch,
        limits_watch: LimitsWatch,
        deny_watch: DenyWatch,
        feed: ChangeFeed,
        background: Sequence[Background],
        meter: Meter,
        now_us: Callable[[], int],
        mode_observers: Sequence[ModeObserver] = (),
    ) -> None:
        self.gate = gate
        self.gate_beside_lane = gate.beside_lane()
        self.entrance = entrance
        self.polls = polls
        self.overload = overload
        self.control = control
        self.named_limits = named_limits
        self.decided = decided.add
        self._decided = decided
        self.decide_now: Callable[[Facts], Decision | Awaitable[Decision]] = gate.decide_now
        self._meter = meter
        self._now_us = now_us
        self._limiter = limiter
        self._lookups = lookups
        self._failed_auth = failed_auth
        self._mode_watch = mode_watch
        self._limits_watch = limits_watch
        self._deny_watch = deny_watch
        self._background = (*background, ChangeListener(feed, self.heard))
        self._mode_observers = tuple(mode_observers)
        self._reported = Mode.NORMAL
        mode_watch.on_change = self.mode_changed
        mode_watch.on_reset = self.invalidate
        limits_watch.on_change = self.limits_changed

    async def measure(self) -> None:
        """Write the gauges, and have the next decision timed; called every few seconds.

        A store that is away is asked before: without a request nobody would see that it answers again.
        """
        if self._limiter.is_away:
            with suppress(StoreError):
                await self._limiter.ask((PROBE,))
        self._meter.read()
        self.decide_now = self._timed

    def _timed(self, facts: Facts) -> Decision | Awaitable[Decision]:
        """One decision of the gate, timed if it takes no call. Only now and then: two looks at the clock for each
        request would take longer than all other metrics."""
        self.decide_now = self.gate.decide_now
        began_us = self._now_us()
        decision = self.gate.decide_now(facts)
        if isinstance(decision, Decision):
            self._decided.counts.decided_locally(self._now_us() - began_us)
        return decision

    async def start(self) -> None:
        """Start the background tasks. Never fails because the store or another server is away."""
        self._decided.start()
        for background in self._background:
            await background.start()

    async def stop(self) -> None:
        """Stop the background tasks, and close the connections."""
        for background in reversed(self._background):
            await background.stop()
        await self._limiter.aclose()

    def mode_changed(self) -> None:
        """Apply the new mode to the seats, and to the guests' share of the app; report it to observers."""
        seats = self.entrance.seats
        seats.mode_changed()
        self.control.mode_changed()
        if self.overload is not None:
            self.overload.share(seats.guest_share)
        before, self._reported = self._reported, self._mode_watch.mode
        # An emergency that is over ends twice: by this worker's clock, and when the fleet agrees.
        if before is not Mode.NORMAL or self._reported is not Mode.NORMAL:
            state = self._mode_watch.state
            state = state if state.mode is self._reported else state.ended()
            for observer in self._mode_observers:
                observer.mode_changed(state)

    def limits_changed(self) -> None:
        """Decide by the limits in force from now on.

        What is known of buckets stays: a bucket has its limit's name, not its numbers, so its TAT still counts. Leases
        of the old limits are not spent any more, and are given back.
        """
        limits = self._limits_watch.in_force
        self._lookups.use(limits.policy)
        limiter = cheapest(self._limiter, limits.policy)
        for gate in (self.gate, self.gate_beside_lane):
            gate.use(limits.policy, limiter)
        seats = self.entrance.seats
        seats.use(SeatPlan.of(limits), self._limits_watch.since_s)
        if self.overload is not None:
            self.overload.share(seats.guest_share)

    def invalidate(self) -> None:
        """Forget what is known of buckets, since some were reset, or the store has lost them."""
        self._limiter.invalidate()
        self._failed_auth.invalidate()

    def heard(self, change: str) -> None:
        """React to an announced change. An empty text means that the subscription has begun."""
        admission = self.entrance.admission
        if change.startswith(STREAMS):
            admission.streams.heard(change)
        elif change.startswith(TAKEN):
            admission.takeovers.heard(change)
        elif change.startswith(COPIES):
            self.polls.claims.heard(change)
        elif change.startswith(WAITING):
            admission.room.heard(change)
        elif change == "seats":
            admission.seats.refresh_soon()
        else:
            self._mode_watch.refresh_soon()
            self._limits_watch.refresh_soon()
            self._deny_watch.refresh_soon()
            if not change:
                admission.streams.listening()
            if change.startswith("client"):
                self.invalidate()
