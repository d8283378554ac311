"""Ends the streams of listeners that may no longer stay: network denied, key revoked, or credential ended."""

from __future__ import annotations

import asyncio

from shieldmw.core.decision import Reason
from shieldmw.gate.auth.api_keys import ApiKeys
from shieldmw.gate.auth.identity import Identifier
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.fleet.deny_watch import DenyWatch
from shieldmw.gate.refresher import Refresher

from .seat import Seat
from .seats import Seats

# Interval between two checks. What is checked is itself up to a second old.
EVERY_S = 0.5

# Seats checked without yielding to the loop: about a millisecond's work.
SEATS_AT_ONCE = 1000


class Expulsion:
    """Checks for ended credentials twice a second, and checks every seat when the deny list or the keys change."""

    def __init__(
        self,
        seats: Seats,
        deny_list: DenyWatch,
        identifier: Identifier,
        api_keys: ApiKeys,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._seats = seats
        self._deny_list = deny_list
        self._identifier = identifier
        self._api_keys = api_keys
        self._unix_s = clock.unix_s
        self._seen: tuple[object, object] = (deny_list.deny_list, identifier.epoch)
        self.refresher = Refresher("expulsion", self.refresh, interval_s=EVERY_S, least_s=EVERY_S / 2)

    async def refresh(self) -> None:
        """End the streams that must end now."""
        self._seats.evict(self._seats.ledger.ended(self._unix_s()), Reason.CREDENTIAL_ENDED)
        now = (self._deny_list.deny_list, self._identifier.epoch)
        if all(new is old for new, old in zip(now, self._seen, strict=True)):
            return
        everybody = list(self._seats.ledger)
        for start in range(0, len(everybody), SEATS_AT_ONCE):
            some = everybody[start : start + SEATS_AT_ONCE]
            self._seats.evict([seat for seat in some if self._is_denied(seat)], Reason.DENY_LIST)
            self._seats.evict([seat for seat in some if self._is_revoked(seat)], Reason.CREDENTIAL_ENDED)
            await asyncio.sleep(0)
        self._seen = now

    def _is_denied(self, seat: Seat) -> bool:
        return self._deny_list.left_us(seat.address) > 0

    def _is_revoked(self, seat: Seat) -> bool:
        return seat.api_key is not None and not self._api_keys.is_in_force(seat.api_key)
