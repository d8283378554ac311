"""The mode in force on this worker: read each second and when a change is announced, kept if reading fails."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from shieldmw.core.limits import US_PER_S
from shieldmw.core.mode import ENDED, Mode, ModeChange, ModeState
from shieldmw.core.text import harmless
from shieldmw.core.versioned import SHIELD
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock, utc
from shieldmw.store.documents import MODE
from shieldmw.store.port import DocumentRegister, Stored

from .versioned_watch import VersionedWatch

log = logging.getLogger(__name__)

# A shift of the store's clock by more than this, beyond what a slow answer explains, counts as a step.
STEP_S = 0.25

# Reads by which the store's clock is known: a slow reply makes it seem late, so the best of them counts. In that time,
# about as many seconds, two clocks drift apart by less than this.
CLOCK_READS = 16
DRIFT_S = 0.001

# Shortest wait of clients that are turned away until an emergency ends, so that they do not all return when it does.
SOONEST_RETRY_S = 5.0


class ModeWatch(VersionedWatch[ModeChange, ModeState]):
    """The mode in force on this worker, and the store's clock.

    An emergency ends at its end time by this worker's own clock, which was synchronized with the store's when the mode
    was read. The owner also sets ``on_reset``, called when remembered buckets are no longer valid: some were refilled,
    the store has lost them, or its clock has stepped.
    """

    on_reset: Callable[[], None]

    def __init__(self, register: DocumentRegister, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(register, MODE, clock.now_s, "the store had lost mode version %d: it is restored")
        self.on_reset = lambda: None
        self._ahead_s = clock.unix_s() - clock.now_s()
        self._least_ahead_s: deque[float] = deque(maxlen=CLOCK_READS)
        self._was = Mode.NORMAL
        self._is_found = False
        self._epoch: int | None = None
        self._epoch_ahead_s = 0.0

    @property
    def mode(self) -> Mode:
        """The current mode."""
        state = self.state
        if state.until_s is None:
            return state.mode
        return state.at(self.store_now_s())

    @property
    def retry_after_us(self) -> int:
        """The wait of clients that are turned away: until the emergency ends; 0 if it does not end by itself."""
        until_s = self.state.until_s
        if until_s is None or self.mode is Mode.NORMAL:
            return 0
        return int(max(until_s - self.store_now_s(), SOONEST_RETRY_S) * US_PER_S)

    def store_now_s(self) -> float:
        """The store's clock in Unix seconds, as estimated by this worker."""
        return self._now_s() + self._ahead_s

    async def set(self, change: ModeChange, expected_version: int | None) -> bool:
        """Change the mode of the fleet; False if its version is not the expected one.

        Raises:
            StoreError: the store could not be changed; nothing has changed here.
        """
        return await self._set(change, expected_version)

    def tick(self) -> None:
        """Call ``on_change`` if the mode has changed by itself, at its end time."""
        if self.mode is not self._was:
            self._was = self.mode
            self.on_change()

    async def _read(self) -> Stored[ModeState]:
        """Read the mode. In an empty store an epoch begins, and only then: regular reads must not cost writes."""
        asked_s = self._now_s()
        stored = await super()._read()
        epoch = stored.epoch if stored.epoch is not None else await self._register.begin_epoch()
        self._follow(epoch, stored.now_s, asked_s)
        return stored

    def _follow(self, epoch: int | None, store_s: float, asked_s: float) -> None:
        """Call ``on_reset`` for a new epoch or a clock that has stepped: both invalidate remembered buckets."""
        least_s, most_s = store_s - self._now_s(), store_s - asked_s
        stepped = not least_s - STEP_S <= self._epoch_ahead_s <= most_s + STEP_S
        if epoch != self._epoch or stepped:
            if self._epoch is not None:
                self.on_reset()
            self._epoch, self._epoch_ahead_s = epoch, most_s

    def _set_clock(self, stored: Stored[ModeState], asked_s: float) -> None:
        """Learn from a reply by how much the store's clock is ahead: at least as far as it seems now, and at most as
        far as it would if the reply had come at once. A best read that is beyond that means that the clock has stepped.
        """
        self._least_ahead_s.append(stored.now_s - self._now_s())
        if max(self._least_ahead_s) > stored.now_s - asked_s + DRIFT_S:
            self._least_ahead_s = deque([self._least_ahead_s[-1]], CLOCK_READS)
        self._ahead_s = max(self._least_ahead_s)

    def _adopt(self, stored: Stored[ModeState], asked_s: float, *, is_switched: bool = False) -> None:
        """Adopt the stored mode. The first one read is logged as found, unless this worker has just set it."""
        self._set_clock(stored, asked_s)
        self._is_found = not (self.has_read or is_switched)
        super()._adopt(stored, asked_s)

    def _adopted(self, was: ModeState) -> None:
        if self._is_found:
            self._log_found()
        else:
            log.warning("mode %s -> %s %s", was.mode, self.state.mode, _who_and_why(self.state))
        self._was = self.mode
        self.on_change()

    def _ending(self) -> ModeChange | None:
        is_over = self.state.mode is Mode.EMERGENCY and self.state.is_over(self.store_now_s())
        return ModeChange(Mode.NORMAL, SHIELD, ENDED) if is_over else None

    def _log_found(self) -> None:
        """Log the mode that was in force before this worker started; an emergency as a warning."""
        state = self.state
        until = "" if state.until_s is None else f", until {utc(state.until_s)}"
        level = logging.INFO if self.mode is Mode.NORMAL else logging.WARNING
        log.log(level, "found mode %s, since %s%s %s", state.mode, utc(state.since_s), until, _who_and_why(state))


def _who_and_why(state: ModeState) -> str:
    """The version of a change, its actor and reason."""
    return f"(version {state.version}) by {harmless(state.actor)}: {harmless(state.reason or 'no reason given')}"
