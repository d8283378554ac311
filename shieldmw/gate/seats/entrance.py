"""The entrance of live paths: an admitted request takes a seat, waits a moment for one, or is turned away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto

from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.facts import Facts
from shieldmw.core.limits import US_PER_S
from shieldmw.gate.auth.identity import GUEST, Identifier
from shieldmw.gate.fleet.deny_watch import DenyWatch

from .admission import Admission, Entry, NoSeat, TurnedAway

# How long a listener waits for a seat that the fleet has and its worker has not, and when to ask again if it did not
# come: a dead worker's seats return within 15 s, all others sooner.
SEAT_AWAITED_S = 1.0
SEAT_DUE_US = 2 * US_PER_S


class Awaited(Enum):
    """What a listener without a seat gets if it waits a moment."""

    SEAT = auto()
    NUMBER = auto()


class Entrance:
    """Seats for admitted requests. ``announce`` tells observers of a refusal, and returns it as it is given.

    In a ``dry_run`` nobody is asked to leave.
    """

    def __init__(
        self,
        admission: Admission,
        identifier: Identifier,
        deny_list: DenyWatch,
        announce: Callable[[Facts, Decision], Decision],
        *,
        dry_run: bool,
    ) -> None:
        self.admission = admission
        self.seats = admission.seats
        self._identifier = identifier
        self._deny_list = deny_list
        self._announce = announce
        self._dry_run = dry_run

    def enter(self, facts: Facts, decision: Decision, leave: Callable[[], None]) -> tuple[Decision, Entry | None]:
        """Take a seat for a live response; without one the decision is a refusal.

        ``leave`` is called when the listener must go. The seat is given back to ``admission.seats``.
        """
        return self._entered(facts, decision, self._try_to_enter(facts, decision, leave))

    def enter_now(
        self, facts: Facts, decision: Decision, leave: Callable[[], None]
    ) -> tuple[Decision, Entry | None] | None:
        """As ``enter``; None if it is worth waiting: the fleet has a seat that this worker has not been granted yet,
        or a number of the waiting room is about to come.
        """
        entered = self._enter_or_wait(facts, decision, leave)
        return None if isinstance(entered, Awaited) else entered

    async def enter_when_due(
        self, facts: Facts, decision: Decision, leave: Callable[[], None]
    ) -> tuple[Decision, Entry | None]:
        """As ``enter``, after a moment's wait for the next division of seats, or for the next numbers of the waiting
        room; one call serves all who wait.
        """
        first = facts.signed_ticket is not None and self.admission.is_ours(facts.signed_ticket)
        awaited = None
        with suppress(TimeoutError):
            async with asyncio.timeout(SEAT_AWAITED_S):
                while isinstance(entered := self._enter_or_wait(facts, decision, leave), Awaited):
                    awaited = entered
                    if awaited is Awaited.SEAT:
                        await self.seats.next_grant(first=first)
                    else:
                        await self.admission.room.next_numbers()
                return entered
        entered = self.enter(facts, decision, leave)
        if entered[1] is None and awaited is Awaited.SEAT:
            self.seats.asked_in_vain()
        return entered

    def _enter_or_wait(
        self, facts: Facts, decision: Decision, leave: Callable[[], None]
    ) -> tuple[Decision, Entry | None] | Awaited:
        may_wait = self.seats.may_ask()
        entry = self._try_to_enter(facts, decision, leave, may_wait=may_wait)
        if isinstance(entry, TurnedAway) and entry.why is NoSeat.DUE and may_wait:
            return Awaited.SEAT
        is_guest = decision.listener_class is ListenerClass.GUEST
        if entry == TurnedAway() and not is_guest and self.admission.room.may_await_number():
            return Awaited.NUMBER
        return self._entered(facts, decision, entry)

    def _try_to_enter(
        self, facts: Facts, decision: Decision, leave: Callable[[], None], *, may_wait: bool = False
    ) -> Entry | TurnedAway | Decision | None:
        """The seat, or what becomes of a listener without one; None while this worker stops.

        The decision may be a second old. If the client has been denied or its key revoked since, it had no stream yet
        that could be ended, so both are checked again here.
        """
        if self.seats.is_leaving:
            return None
        if left_us := self._deny_list.left_us(decision.address):
            return decision.refused_for(Reason.DENY_LIST, left_us)
        proof = self._identifier.identify_now(facts) or GUEST
        is_proven_here = decision.identity is not None and facts.credential is not None and facts.authenticate is None
        if is_proven_here and proof.identity is None:
            return decision.refused_for(Reason.CREDENTIAL_ENDED)
        return self.admission.admit(facts, decision, None if self._dry_run else leave, proof, may_wait=may_wait)

    def _entered(
        self, facts: Facts, decision: Decision, entry: Entry | TurnedAway | Decision | None
    ) -> tuple[Decision, Entry | None]:
        if isinstance(entry, Entry):
            return decision, entry
        if isinstance(entry, Decision):
            return self._announce(facts, entry), None
        return self.refusal(facts, decision, entry), None

    def refusal(self, facts: Facts, decision: Decision, away: TurnedAway | None) -> Decision:
        """The refusal of a client that found no seat, or came while this worker stops (None)."""
        refused = decision._replace(verdict=Verdict.REFUSED, reason=Reason.RESTARTING)
        if away is not None:
            reason = Reason.TOO_MANY_STREAMS if away.why is NoSeat.TOO_MANY_STREAMS else Reason.NO_SEAT
            is_free_soon = away.why in (NoSeat.DUE, NoSeat.VACATING)
            wait_us = SEAT_DUE_US if is_free_soon else self.seats.retry_after_us if reason is Reason.NO_SEAT else 0
            refused = refused._replace(
                reason=reason, retry_after_us=wait_us, place=away.place, signed_ticket=away.signed_ticket
            )
        return self._announce(facts, refused)
