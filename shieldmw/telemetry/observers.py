"""Events for the code of users: requests refused, listeners evicted, changes of the mode."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from shieldmw.core.client import ListenerClass, address_text
from shieldmw.core.decision import Decision
from shieldmw.core.facts import Facts
from shieldmw.core.limits import US_PER_S
from shieldmw.core.mode import Mode, ModeState
from shieldmw.gate.events import Evicted
from shieldmw.gate.log_throttle import LogThrottle

log = logging.getLogger("shieldmw.observers")

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Refused:
    """A request was refused, or would have been (``outcome`` is ``dry_run``).

    ``path``, ``client_address`` and ``subject`` are the client's text, of any length its server permits.
    ``client_address`` and ``subject`` are None if unknown; ``policies`` are the names of the limits that refused it.
    ``retry_after_s`` is 0 if no limit determines the wait.
    """

    outcome: str
    reason: str
    path: str
    client_address: str | None
    subject: str | None
    listener_class: ListenerClass
    mode: Mode
    policies: tuple[str, ...]
    retry_after_s: float


class ShieldObserver:
    """What ``ShieldMiddleware(app, observers=[...])`` reports to. Override the methods for the events you need.

    They are called on the event loop, and requests wait for them: count, or put the event into a queue. An exception is
    logged and changes nothing. Each worker reports only its own events.
    """

    def refused(self, event: Refused) -> None:
        """A request was refused, or would have been if not for the dry run. Allowed requests are not reported."""

    def evicted(self, event: Evicted) -> None:
        """Listeners of one class were evicted in one step of a cut."""

    def mode_changed(self, state: ModeState) -> None:
        """The mode has changed on this worker, or an emergency's terms have. Also called at the start of a worker
        that finds an emergency."""


class Reporter:
    """Passes the gate's events on to the observers of users. Those of a shield inside this one may be added later."""

    def __init__(self, observers: Sequence[ShieldObserver], now_s: Callable[[], float] = time.monotonic) -> None:
        self._observers = observers
        self._failed = LogThrottle(now_s)

    def decided(self, facts: Facts, decision: Decision) -> None:
        """Report a refusal."""
        if not self._observers:
            return
        identity = decision.identity
        event = Refused(
            outcome=decision.verdict.value,
            reason=decision.reason.value,
            path=facts.path,
            client_address=address_text(decision.address),
            subject=None if identity is None else identity.subject,
            listener_class=decision.listener_class,
            mode=decision.mode,
            policies=tuple(decision.violated),
            retry_after_s=decision.retry_after_us / US_PER_S,
        )
        for observer in self._observers:
            self._report(observer.refused, event)

    def evicted(self, event: Evicted) -> None:
        """Report an eviction."""
        for observer in self._observers:
            self._report(observer.evicted, event)

    def mode_changed(self, state: ModeState) -> None:
        """Report a change of the mode."""
        for observer in self._observers:
            self._report(observer.mode_changed, state)

    def _report(self, report: Callable[[E], None], event: E) -> None:
        try:
            report(event)
        except Exception:
            counts = self._failed.due("failed")
            if counts is not None:
                log.exception("an observer of the shield has failed (%s); the request goes on", counts)
