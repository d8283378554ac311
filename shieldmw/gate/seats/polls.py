"""Polled paths: clients hold no connection between two polls, so their seat is a lease, signed into their ticket.

A poll inside its lease needs the signature alone. One in the last third of its lease renews it, one without a lease
asks for a seat in the order of favour, as a stream does. Whichever worker renews or grants a lease counts it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from secrets import randbits

from shieldmw.core.cache import BoundedCache
from shieldmw.core.claims import ASKS_IN, MOST_RENEWALS
from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Decision
from shieldmw.core.facts import Facts
from shieldmw.core.leased import RENEWED_IN
from shieldmw.core.renewed import Renewal, RenewedTickets
from shieldmw.core.tickets import TICKET_S, Ticket

from .admission import Admission, NoSeat, TurnedAway
from .claims import Claims
from .entrance import SEAT_AWAITED_S, Entrance
from .lease_caps import CLIENTS_KEPT, LeaseCaps
from .seat import Seat
from .stream_caps import StreamCaps

# The decision on a poll, and its new ticket if it was given or renewed a lease; without a lease it is a refusal.
Polled = tuple[Decision, str | None]

# The same before the ticket is signed.
_Leased = tuple[Decision, Ticket | None]

# Renewed tickets that are remembered until their lease ends: 4.5 MB, from the first one on.
TICKETS_KEPT = 262_144


@dataclass(slots=True)
class _Newcomer:
    """The last ticket that a client was given without showing one.

    ``has_shown``: the client has shown it since; if not, it may be a player without cookies.
    """

    ticket: Ticket
    has_shown: bool = False


class Polls:
    """Admits polls.

    ``in_urls``: tickets stand in the URLs of playlists, which players ask for again and again. So an old copy counts as
    the newest one that was signed here, and a ticket that several players share is one seat.
    """

    def __init__(
        self, admission: Admission, entrance: Entrance, claims: Claims, caps: StreamCaps, *, in_urls: bool = False
    ) -> None:
        self._admission = admission
        self._entrance = entrance
        self._seats = admission.seats
        self._leases = admission.seats.ledger.leases
        self._now_s = admission.seats.now_s
        self._caps = LeaseCaps(caps)
        self.claims = claims
        self._renewed = RenewedTickets(TICKETS_KEPT)
        self._newcomers: BoundedCache[str, _Newcomer] = BoundedCache(CLIENTS_KEPT)
        self._newest_until_s: BoundedCache[str, int] | None = BoundedCache(CLIENTS_KEPT) if in_urls else None

    def enter(self, facts: Facts, decision: Decision) -> Polled:
        """Let a poll pass, or refuse it."""
        leased = self._enter(facts, decision, may_wait=False)
        assert leased is not None
        decision, ticket = leased
        return decision, None if ticket is None else self._admission.signed(ticket)

    def enter_now(self, facts: Facts, decision: Decision) -> Polled | None:
        """As ``enter``; None if it is worth waiting: the fleet has a seat that this worker has not been granted yet."""
        leased = self._enter(facts, decision, may_wait=True)
        if leased is None:
            return None
        decision, ticket = leased
        return decision, None if ticket is None else self._admission.signed(ticket)

    async def enter_when_due(self, facts: Facts, decision: Decision) -> Polled:
        """As ``enter``, after a moment's wait for the next division of seats; one call serves all who wait."""
        first = facts.signed_ticket is not None and self._admission.is_ours(facts.signed_ticket)
        with suppress(TimeoutError):
            async with asyncio.timeout(SEAT_AWAITED_S):
                while (polled := self.enter_now(facts, decision)) is None:
                    await self._seats.next_grant(first=first)
                return polled
        polled = self.enter(facts, decision)
        if polled[0].refused:
            self._seats.asked_in_vain()
        return polled

    def _enter(self, facts: Facts, decision: Decision, *, may_wait: bool) -> _Leased | None:
        text, identity, now_s = facts.signed_ticket, decision.identity, self._now_s()
        ticket = None if text is None else self._admission.own_ticket(text, identity, decision.address)
        if self._newest_until_s is not None and text is not None:
            ticket = self._newest(self._newest_until_s, text, decision) or ticket
        if ticket is not None and ticket.listener_class is not decision.listener_class:
            ticket = None
        if ticket is None or not ticket.leased_until_s:
            return self._without_lease(facts, decision, ticket, now_s, may_wait=may_wait)
        is_inside = (ticket.leased_until_s - now_s) * RENEWED_IN > decision.lease_s
        newcomer = self._newcomers.young.get(ticket.client) if is_inside else self._newcomers.get(ticket.client)
        if newcomer is not None and newcomer.ticket.id == ticket.id:
            newcomer.has_shown = True  # so that another player of its client is not taken for it
        if is_inside:
            return decision, None
        if now_s < ticket.leased_until_s:
            return self._due(facts, decision, ticket, now_s)
        return self._returning(facts, decision, ticket, now_s, may_wait=may_wait)

    def _newest(self, newest_until_s: BoundedCache[str, int], text: str, decision: Decision) -> Ticket | None:
        """The newest copy of the ticket that is shown, which may have ended itself; None if none was signed here."""
        ticket = self._admission.own_ticket(text, decision.identity, decision.address, or_ended=True)
        if ticket is None:
            return None
        until_s = newest_until_s.get(ticket.id)
        if until_s is None and (renewal := self._renewal_of(ticket, self._now_s())):
            until_s = renewal.until_s  # more tickets are remembered there
        if until_s is None or until_s <= ticket.leased_until_s:
            return None
        newest = ticket._replace(leased_until_s=until_s, until_s=until_s + TICKET_S)
        return newest if newest.until_s > self._now_s() else None

    def _due(self, facts: Facts, decision: Decision, ticket: Ticket, now_s: float) -> _Leased:
        """Renew a lease in its last third. A copy of a ticket that has been renewed passes until its lease ends."""
        if self._seats.is_leaving:
            return decision, None  # another worker renews it
        if self.claims.is_barred(ticket, decision.lease_s):
            if (ticket.leased_until_s - now_s) * ASKS_IN <= decision.lease_s:
                self.claims.asks(ticket, decision.lease_s, now_s)
            return decision, None
        renewal = self._renewal_of(ticket, now_s)
        if renewal is not None:
            return decision, self._leased_again(ticket, decision, renewal, now_s)
        if not self._leases.may_renew(decision.listener_class, self._admission.cohort_of(decision)):
            return self._turned_away(facts, decision, ticket.client)
        until_s = int(now_s) + decision.lease_s
        self._leases.renew(decision.listener_class, ticket.leased_until_s, until_s)
        self._caps.renewed(ticket.client, decision.listener_class, ticket.leased_until_s, until_s, now_s)
        return decision, self._leased(ticket, decision, until_s, now_s, from_s=ticket.leased_until_s)

    def _returning(
        self, facts: Facts, decision: Decision, ticket: Ticket, now_s: float, *, may_wait: bool
    ) -> _Leased | None:
        """A poll with a ticket whose lease has ended: it comes before new clients.

        A copy of one that was renewed here waits until that lease has ended as well: with the same ticket nobody else
        plays then. A player whose answers were lost so waits for less than a lease.
        """
        if self.claims.is_barred(ticket, decision.lease_s):
            self.claims.asks(ticket, decision.lease_s, now_s)
            return self._refused(facts, decision, TurnedAway(why=NoSeat.TOO_MANY_STREAMS))
        renewal = self._renewal_of(ticket, now_s)
        if renewal is None:
            return self._ask(facts, decision, ticket, now_s, may_wait=may_wait)
        if again := self._leased_again(ticket, decision, renewal, now_s):
            return decision, again
        return self._refused(facts, decision, TurnedAway(why=NoSeat.TOO_MANY_STREAMS))

    def _without_lease(
        self, facts: Facts, decision: Decision, shown: Ticket | None, now_s: float, *, may_wait: bool
    ) -> _Leased | None:
        """Decide a poll that shows no ticket, or the ticket of a stream.

        It comes from a new player, or from one that cannot show the ticket that it was given here with its lease."""
        client = self._admission.client_of(decision.identity, decision.address)
        if shown is not None and self.claims.is_barred(shown, decision.lease_s):
            shown = None
        newcomer = self._newcomers.get(client)
        if newcomer is not None and newcomer.ticket.listener_class is not decision.listener_class:
            newcomer = None
        if newcomer is not None and not newcomer.has_shown and now_s < newcomer.ticket.leased_until_s:
            if (newcomer.ticket.leased_until_s - now_s) * RENEWED_IN > decision.lease_s:
                return decision, None
            decision, renewed = self._due(facts, decision, newcomer.ticket, now_s)
            newcomer.ticket = renewed or newcomer.ticket
            # The ticket is not handed out: the poll may be that of another player of this client.
            return decision, None
        number = self._admission.number_shown(facts.signed_ticket, client)
        ticket = shown or self._admission.new_ticket(client, decision.listener_class, number)
        leased = self._ask(facts, decision, ticket, now_s, may_wait=may_wait)
        if leased is not None and leased[1] is not None:
            self._newcomers.put(client, _Newcomer(leased[1]))
        return leased

    def _ask(self, facts: Facts, decision: Decision, ticket: Ticket, now_s: float, *, may_wait: bool) -> _Leased | None:
        """Ask for a seat; None if one is due for which the poll may wait."""
        room, client, name, live = self._admission.room, ticket.client, decision.listener_class, ticket.until_s > 0
        away = None if self._seats.is_leaving else TurnedAway(why=NoSeat.TOO_MANY_STREAMS)
        if away is None or self._caps.is_reached(client, name, now_s):
            return self._refused(facts, decision, away)
        number = None if live else self._admission.number_shown(facts.signed_ticket, client)
        listener = int(client[:16], 16)
        if name is ListenerClass.MEMBER and not live and room.must_wait(number):
            self._seats.turned_away(name, listener)
            return self._turned_away(facts, decision, client)
        seat = Seat(name, self._admission.cohort_of(decision), ticket.id, None, client=listener)
        until_s = int(now_s) + decision.lease_s
        if self._seats.lease(seat, until_s, live=live, called=room.is_called(number)):
            room.seated(client, ticket.id)
            self._caps.granted(client, name, until_s, now_s)
            return decision, self._leased(ticket, decision, until_s, now_s)
        if self._seats.is_due(name):
            if may_wait and self._seats.may_ask():
                return None
            return self._refused(facts, decision, TurnedAway(why=NoSeat.DUE))
        return self._turned_away(facts, decision, client)

    def _leased(
        self, ticket: Ticket, decision: Decision, until_s: int, now_s: float, *, from_s: int = 0, times: int = 1
    ) -> Ticket:
        """The ticket with a new lease, counted from ``from_s`` on (0: from now on).

        The renewal is remembered here and claimed in the fleet; ``times`` counts the renewals from this copy.
        """
        renewed = ticket._replace(until_s=until_s + TICKET_S, leased_until_s=until_s, renewal=randbits(32))
        number = self._admission.ticket_number(ticket.id)
        self._renewed.put(number, Renewal(until_s, ticket.leased_until_s, times), now_s)
        if ticket.until_s:  # the new ticket of a newcomer has no copies
            self.claims.renewed(ticket, renewed, decision.lease_s, now_s, from_s=from_s, is_counted=times == 1)
        if self._newest_until_s is not None:
            self._newest_until_s.put(ticket.id, until_s)
        return renewed

    def _leased_again(self, ticket: Ticket, decision: Decision, renewal: Renewal, now_s: float) -> Ticket | None:
        """The ticket, renewed again to the lease that it got before; None if that is not permitted any more."""
        if renewal.from_s != ticket.leased_until_s or renewal.times >= MOST_RENEWALS:
            return None
        return self._leased(ticket, decision, renewal.until_s, now_s, times=renewal.times + 1)

    def _renewal_of(self, ticket: Ticket, now_s: float) -> Renewal | None:
        """The lease that this copy of a ticket, or another with the same id, was renewed to here, if it still runs."""
        renewal = self._renewed.get(self._admission.ticket_number(ticket.id), now_s)
        return renewal if renewal is not None and renewal.until_s > ticket.leased_until_s else None

    def _turned_away(self, facts: Facts, decision: Decision, client: str) -> _Leased:
        """Refuse for lack of a seat; a member gets a place in the waiting room."""
        if decision.listener_class is ListenerClass.GUEST:
            return self._refused(facts, decision, TurnedAway())
        number = self._admission.number_shown(facts.signed_ticket, client)
        return self._refused(facts, decision, self._admission.wait(client, number))

    def _refused(self, facts: Facts, decision: Decision, away: TurnedAway | None) -> tuple[Decision, None]:
        return self._entrance.refusal(facts, decision, away), None
