"""Refusals that need no call: a TAT only grows, so one that is remembered refuses as surely as the store would.

What is kept is a lower bound of the true TAT, on this worker's clock (``clock``); a lower bound that refuses a
client is proof that the bucket would. Only refused clients are kept, so a flood of new clients leaves no trace. A
lease that is given back makes a refusal late by what was given back, at most.

Both tables know their entries by a number of 64 bits that is seeded per process: among a quarter of a million
entries a stranger is taken for one of them once in 10**13 requests, and then has to wait.
"""

from __future__ import annotations

from shieldmw.core.bucket import Charge, Charges, Outcome
from shieldmw.core.client import Client
from shieldmw.core.decision import REFUSED, Decision, combine
from shieldmw.core.facts import Facts
from shieldmw.core.made import made
from shieldmw.core.mode import Mode
from shieldmw.core.rules import RouteRules
from shieldmw.core.table import BoundedCache

BUCKETS_KEPT = 131_072
GUESTS_KEPT = 262_144

# Combinations of rules and mode for which refused guests are kept.
MOST_ROUTE_RULES = 64

# Upper bound of the step by which a guest's wait is rounded up; a tenth of the time to refill one unit if that is less.
LONGEST_GRAIN_US = 250_000
DECISIONS_KEPT = 4096


class Refusals:
    """Known TATs of buckets that have refused, at most ``most_buckets``."""

    def __init__(self, most_buckets: int = BUCKETS_KEPT) -> None:
        self._tats_us: BoundedCache[int, int] = BoundedCache(most_buckets)

    def __len__(self) -> int:
        return len(self._tats_us)

    def remember(self, charges: Charges, outcome: Outcome, sent_us: int) -> None:
        """Remember the TATs of a refusal requested at ``sent_us``, if they can only grow."""
        shift_us = sent_us - outcome.now_us
        first = outcome.refundable
        for charge, tat_us in zip(charges[first:], outcome.tats_us[first:], strict=True):
            if tat_us > outcome.now_us:
                self._tats_us.put(charge.number, tat_us + shift_us)

    def find(self, charges: Charges, now_us: int) -> Outcome | None:
        """The refusal, if the known state of the buckets is enough for one."""
        if not self._tats_us:
            return None
        refused = False
        tats_us = []
        for charge in charges:
            tat_us = self._tats_us.get(charge.number) or now_us
            tats_us.append(tat_us)
            step_us = charge.step_us  # a look is never refused
            refused = refused or (step_us > 0 and tat_us + step_us - now_us > charge.limit.tau_us)
        return Outcome(False, now_us, tuple(tats_us)) if refused else None

    def clear(self) -> None:
        """Forget everything, because a client's buckets were reset."""
        self._tats_us.clear()


class _Refused:
    """The charges of guests under some rules, and the refusals that follow from them, keyed by wait in grains."""

    __slots__ = ("charges", "decisions", "grain_us", "route_rules")

    def __init__(self, charges: Charges, route_rules: RouteRules) -> None:
        self.charges = charges
        self.route_rules = route_rules
        self.grain_us = max(1, min(LONGEST_GRAIN_US, charges[0].limit.unit_us // 10))
        self.decisions: BoundedCache[int, Decision] = BoundedCache(DECISIONS_KEPT)

    def decision(self, full_after_us: int, mode: Mode) -> Decision | None:
        """The refusal while the bucket needs so long to fill; None once it no longer refuses.

        A wait is rounded up to whole grains, so that guests who are refused at about the same time share one decision.
        The caller puts the guest's own charge in.
        """
        charge = self.charges[0]
        if full_after_us + charge.step_us <= charge.limit.tau_us:
            return None
        grains = -(-full_after_us // self.grain_us)
        decision = self.decisions.get(grains)
        if decision is None:
            outcome = Outcome(False, 0, (grains * self.grain_us,))
            decision = combine(self.charges, outcome, None, None, mode, live=self.route_rules.live)
            self.decisions.put(grains, decision)
        return decision


class RefusedGuests:
    """Guests that were refused, recognised by the peer and the forwarding header of their requests.

    They make up a flood, and recognising them saves the work of identifying the client again. Only for rules where
    a single bucket decides.
    """

    def __init__(self, most_guests: int = GUESTS_KEPT) -> None:
        # TAT, and text and slot of the client: plain tuples of plain values are left alone by the garbage collector.
        self._guests: BoundedCache[int, tuple[int, str, str]] = BoundedCache(most_guests)
        self._refused: dict[tuple[RouteRules, Mode], _Refused] = {}

    def remember(self, facts: Facts, route_rules: RouteRules, mode: Mode, charges: Charges, tat_us: int) -> None:
        """Keep a refusal, with the TAT in ticks; ``charges`` are what guests are charged under these rules."""
        if (route_rules, mode) not in self._refused and len(self._refused) < MOST_ROUTE_RULES:
            self._refused[route_rules, mode] = _Refused(charges, route_rules)
        if (route_rules, mode) in self._refused:
            client = charges[0].client
            self._guests.put(_number(facts, route_rules, mode), (tat_us, client.text, client.slot))

    def find(self, facts: Facts, route_rules: RouteRules, mode: Mode, now_us: int) -> Decision | None:
        """The refusal of a guest, or None. Its charges name the client; its ``address`` is None."""
        if not self._refused:
            return None
        refused = self._refused.get((route_rules, mode))
        guest = None if refused is None else self._guests.get(_number(facts, route_rules, mode))
        if refused is None or guest is None:
            return None
        tat_us, text, slot = guest
        shared = refused.decision(tat_us - now_us, mode)
        if shared is None:
            return None
        ((client, limit, cost),) = refused.charges
        charge = made(Charge, (made(Client, (client.kind, text, slot)), limit, cost))
        outcome, wait_us, kept = shared.outcome, shared.retry_after_us, shared.kept
        return made(
            Decision,
            (REFUSED, shared.reason, None, None, (charge,), outcome, wait_us, mode, shared.live, None, None, kept),
        )

    def clear(self) -> None:
        """Forget everything."""
        self._guests.clear()
        self._refused.clear()


def _number(facts: Facts, route_rules: RouteRules, mode: Mode) -> int:
    return hash((facts.peer, facts.forwarded, route_rules, mode))
