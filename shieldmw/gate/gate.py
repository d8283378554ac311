"""The gate: one request's facts in, one decision out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from shieldmw.core.bucket import Outcome, wait_us
from shieldmw.core.decision import ALLOWED, Decision, OnStoreFailure, Reason, Verdict, combine
from shieldmw.core.deny import DenyList
from shieldmw.core.facts import Facts
from shieldmw.core.limits import US_PER_S
from shieldmw.core.made import made
from shieldmw.core.mode import Mode
from shieldmw.core.rules import Policy, RouteRules

from . import clock
from .auth.identity import GUEST, Identifier, Verified
from .events import Decided, Observer
from .fleet.deny_watch import DenyWatch
from .fleet.mode_watch import ModeWatch
from .limiter.batch import TakeReply
from .limiter.client_state import ClientState
from .limiter.limiter import Limiter
from .limiter.lookups import AddressInfo, Lookups
from .limiter.pool import SharedReply
from .limiter.refusals import RefusedGuests
from .limiter.shared_limits import SharedCharges
from .overload.overload import Overload

# A refusal may be given again for so long: what it says of the wait is then so much more than true.
REFUSAL_KEPT_US = 250_000

# What holds for every path that is not exempt, whatever else is said of it.
NOTHING_SHARED = SharedReply((), True, 0, ())

ANY_PATH, ANY_PREFLIGHT = RouteRules(), RouteRules(preflight=True)


class Way(NamedTuple):
    """The result of identifying a client, kept with the facts that led to it; valid while all of this is unchanged."""

    mode: Mode
    address_info: AddressInfo
    client_state: ClientState
    verified: Verified
    epoch: object
    deny_list: DenyList


class Gate:
    """Decides requests, and nothing else. Observers hear of its decisions."""

    def __init__(  # noqa: PLR0913  (all that a decision needs)
        self,
        policy: Policy,
        lookups: Lookups,
        identifier: Identifier,
        limiter: Limiter,
        *,
        on_store_failure: OnStoreFailure,
        dry_run: bool,
        observers: Sequence[Observer] = (),
        deny_list: DenyWatch,
        mode_watch: ModeWatch,
        overload: Overload | None = None,
        now_us: Callable[[], int] = clock.now_us,
    ) -> None:
        self._policy = policy
        self._lookups = lookups
        self._identifier = identifier
        self._limiter = limiter
        self._on_store_failure = on_store_failure
        self._dry_run = dry_run
        self._observers = tuple(observers)
        self._deny_list = deny_list
        self._mode_watch = mode_watch
        self._now_us = now_us
        self._invalidated_us = now_us() - 1
        self._refused_guests = RefusedGuests()
        self._denied_then = deny_list.entries
        self._overload = overload

    def invalidate(self) -> None:
        """Forget what is known of buckets: a client's were reset, or the store has lost them."""
        self._invalidated_us = self._now_us()
        self._limiter.invalidate()
        self._refused_guests.clear()

    async def decide(self, facts: Facts) -> Decision:
        """The decision on one request."""
        decision = self.decide_now(facts)
        return decision if isinstance(decision, Decision) else await decision

    def decide_now(self, facts: Facts) -> Decision | Awaitable[Decision]:
        """The decision, made without a task, a future or a lock; if that is not possible, what to await for it."""
        mode = self._mode_watch.mode
        if facts.kept:
            way: Way = facts.kept[0]
            if (
                way.mode is mode
                and way.deny_list is self._deny_list.entries
                and (way.verified is GUEST or self._identifier.stands(way.verified, way.epoch))
            ):
                return self._charge(facts, way.address_info, way.client_state)
        route_rules = self._lookups.route_rules_at_hand(facts)
        if route_rules is None:
            return self._path_last(facts, mode)
        refusal = self._refused_again(facts, route_rules, mode)
        if refusal is not None:
            return self.announce(facts, refusal)
        address_info = self._lookups.address_info(facts)
        for_anyone = self._decided_for_anyone(address_info, route_rules, mode)
        if for_anyone is not None:
            return self.announce(facts, for_anyone)
        verified = GUEST if _is_guest(facts) else self._identifier.identify_now(facts)
        if verified is None:
            return self._identify(facts, address_info, route_rules)
        client_state = self._client_state(address_info, route_rules, verified, mode)
        if facts.kept is not None and (facts.credential is None or verified is not GUEST):
            facts.kept[:] = [
                Way(mode, address_info, client_state, verified, self._identifier.epoch, self._deny_list.entries)
            ]
        return self._charge(facts, address_info, client_state)

    def _path_last(self, facts: Facts, mode: Mode) -> Decision | Awaitable[Decision]:
        """The decision on a path that is slow to parse: it is not parsed for clients that are refused on any path."""
        address_info = self._lookups.address_info(facts)
        route_rules = None
        for_anyone = self._decided_for_anyone(address_info, ANY_PATH, mode)
        if for_anyone is None and self._policy.may_be_exempt(facts):
            route_rules = self._lookups.route_rules(facts)
            for_anyone = self._decided_for_anyone(address_info, route_rules, mode)
        if for_anyone is not None:
            return self.announce(facts, for_anyone)
        verified = GUEST if _is_guest(facts) else self._identifier.identify_now(facts)
        return (
            self._identify(facts, address_info, route_rules)
            if verified is None
            else self._on(route_rules, facts, address_info, verified)
        )

    def _refused_again(self, facts: Facts, route_rules: RouteRules, mode: Mode) -> Decision | None:
        """The refusal of a guest that was refused before, unless the deny list has changed since."""
        guests = self._refused_guests
        if not _is_guest(facts):
            return None
        if self._deny_list.entries is not self._denied_then:
            self._denied_then = self._deny_list.entries
            guests.clear()
        return guests.find(facts, route_rules, mode, self._now_us())

    def _decided_for_anyone(self, address_info: AddressInfo, route_rules: RouteRules, mode: Mode) -> Decision | None:
        """The decision if it does not depend on the client's identity."""
        if address_info.denied:
            return Decision(Verdict.REFUSED, Reason.DENY_LIST, address_info.address, mode=mode)
        if self._deny_list.entries.entries and (left_s := self._deny_list.left_s(address_info.address)) > 0:
            left_us = int(left_s * US_PER_S)
            return Decision(Verdict.REFUSED, Reason.DENY_LIST, address_info.address, retry_after_us=left_us, mode=mode)
        return Decision(Verdict.ALLOWED, Reason.EXEMPT, address_info.address, mode=mode) if route_rules.exempt else None

    async def _identify(self, facts: Facts, address_info: AddressInfo, route_rules: RouteRules | None) -> Decision:
        verified = await self._identifier.identify(facts, address_info.clients)
        decision = self._on(route_rules, facts, address_info, verified)
        return decision if isinstance(decision, Decision) else await decision

    def _on(
        self, route_rules: RouteRules | None, facts: Facts, address_info: AddressInfo, verified: Verified
    ) -> Decision | Awaitable[Decision]:
        """The decision under these rules; None: they are read only if they can matter to the client."""
        if route_rules is None:
            refusal = self._refused_anywhere(facts, address_info, verified)
            if refusal is not None:
                return refusal
            route_rules = self._lookups.route_rules(facts)
        return self._charge(
            facts, address_info, self._client_state(address_info, route_rules, verified, self._mode_watch.mode)
        )

    def _refused_anywhere(self, facts: Facts, address_info: AddressInfo, verified: Verified) -> Decision | None:
        """The refusal of a client whose default limits, which every path is charged to, are exhausted.

        What a path is charged beyond them is not looked at. A lease may still have something left: a client that
        has one is charged in the usual way.
        """
        if self._dry_run or address_info.allowed or not self._policy.charges_everywhere():
            return None
        route_rules = ANY_PREFLIGHT if facts.preflight else ANY_PATH
        client_state = self._client_state(address_info, route_rules, verified, self._mode_watch.mode)
        if client_state.lease is not None or not client_state.charges:
            return None
        now_us = self._now_us()
        refusal = self._refused_just_now(address_info, client_state, now_us)
        if refusal is not None:
            return self.announce(facts, refusal)
        outcome = self._limiter.refused_now(client_state.charges, now_us)
        if outcome is None:
            return None
        return self._combined(facts, address_info, client_state, TakeReply(client_state.charges, outcome, now_us))

    def _client_state(
        self, address_info: AddressInfo, route_rules: RouteRules, verified: Verified, mode: Mode
    ) -> ClientState:
        """The state of a client: guests' is kept with their address, members' with their proof."""
        identity = verified.identity
        client_states = address_info.client_states if identity is None else verified.client_states
        if client_states is None:
            charges = self._policy.charges(route_rules, identity, address_info.clients, mode)
            client_state = ClientState(charges, identity, mode, route_rules)
        else:
            client_state = client_states.of(self._policy, route_rules, identity, address_info.clients, mode)
        if not client_state.knows_shared:
            client_state.knows_shared = True
            client_state.shared = self._limiter.shared.of(self._policy.shared_charges(route_rules, identity, mode))
            client_state.all_charges += () if client_state.shared is None else client_state.shared.charges
        return client_state

    def _charge(
        self, facts: Facts, address_info: AddressInfo, client_state: ClientState
    ) -> Decision | Awaitable[Decision]:
        """The decision once the client is identified."""
        if client_state.closed:
            closed = Decision(
                Verdict.REFUSED, Reason.EMERGENCY, address_info.address, client_state.identity, mode=client_state.mode
            )
            return self.announce(facts, closed)
        shared = client_state.shared
        if address_info.allowed or not (client_state.charges or shared is not None):
            reason = Reason.ALLOW_LIST if address_info.allowed else Reason.UNLIMITED
            return self.announce(facts, _passes(client_state, address_info, reason))
        now_us = self._now_us()
        if client_state.refusal is not None or (self._overload is not None and self._overload.lane.waiting):
            refusal = self._refused_uncharged(facts, address_info, client_state, now_us)
            if refusal is not None:
                return refusal
        if shared is not None:
            return self._charge_shared(facts, address_info, client_state, shared, now_us)
        outcome = self._limiter.take_now(client_state, now_us)
        if outcome is not None and outcome.allowed and not self._dry_run:
            return combine(
                client_state.charges,
                outcome,
                address_info.address,
                client_state.identity,
                client_state.mode,
                client_state.live,
            )
        return (
            self._ask_store(facts, address_info, client_state, now_us)
            if outcome is None
            else self._combined(facts, address_info, client_state, TakeReply(client_state.charges, outcome, now_us))
        )

    def _charge_shared(
        self, facts: Facts, address_info: AddressInfo, client_state: ClientState, shared: SharedCharges, now_us: int
    ) -> Decision | Awaitable[Decision]:
        """The decision of a request that is charged shared limits. They come first: if they refuse, nothing else is
        charged, and if the client's own refuse, they get back what was taken.
        """
        tats_us = shared.spend(now_us)
        if tats_us is None:
            refusal = shared.refused_now(now_us)
            if refusal is None:
                return self._wait_for_shared(facts, address_info, client_state, shared)
            return self._charge_behind(facts, address_info, client_state, refusal, None, now_us)
        outcome = self._limiter.take_now(client_state, now_us) if client_state.charges else None
        if outcome is not None and outcome.allowed and not self._dry_run:
            return combine(
                client_state.all_charges,
                made(Outcome, (True, outcome.now_us, outcome.tats_us + tats_us, 0, 0)),
                address_info.address,
                client_state.identity,
                client_state.mode,
                client_state.live,
            )
        return self._charge_behind(facts, address_info, client_state, shared.last(now_us, tats_us), outcome, now_us)

    async def _wait_for_shared(
        self, facts: Facts, address_info: AddressInfo, client_state: ClientState, shared: SharedCharges
    ) -> Decision:
        taken = await shared.take()
        if taken is None:
            if self._on_store_failure is not OnStoreFailure.OPEN or not client_state.charges:
                return self._without_store(facts, address_info, client_state)
            taken = NOTHING_SHARED
        now_us, outcome = self._now_us(), None
        if taken.allowed and client_state.charges:
            outcome = self._limiter.take_now(client_state, now_us)
        decision = self._charge_behind(facts, address_info, client_state, taken, outcome, now_us)
        return decision if isinstance(decision, Decision) else await decision

    def _charge_behind(
        self,
        facts: Facts,
        address_info: AddressInfo,
        client_state: ClientState,
        taken: SharedReply,
        outcome: Outcome | None,
        now_us: int,
    ) -> Decision | Awaitable[Decision]:
        """The decision once shared limits were charged, and with the outcome of the client's own charges, if known."""
        if not taken.allowed:
            refused = Outcome(False, taken.now_us, taken.tats_us)
            identity, mode, live = client_state.identity, client_state.mode, client_state.live
            decision = combine(taken.charges, refused, address_info.address, identity, mode, live)
            if identity is None:  # guests share an answer; a member's has no link to sign in
                decision = decision._replace(kept=taken.kept)
            return self.announce(facts, decision)
        if not client_state.charges:
            outcome = Outcome(True, taken.now_us, ())
        if outcome is None:
            return self._ask_store_behind(facts, address_info, client_state, taken, now_us)
        told = _with_shared(TakeReply(client_state.charges, outcome, now_us), taken)
        return self._combined(facts, address_info, client_state, told)

    async def _ask_store_behind(
        self, facts: Facts, address_info: AddressInfo, client_state: ClientState, taken: SharedReply, now_us: int
    ) -> Decision:
        try:
            told = await self._limiter.take(client_state, now_us)
        except asyncio.CancelledError:
            taken.refund()
            raise
        if told is None:
            if self._on_store_failure is not OnStoreFailure.OPEN:
                taken.refund()
            return self._without_store(facts, address_info, client_state)
        return self._combined(facts, address_info, client_state, _with_shared(told, taken))

    def _refused_uncharged(
        self, facts: Facts, address_info: AddressInfo, client_state: ClientState, now_us: int
    ) -> Decision | Awaitable[Decision] | None:
        """The refusal that the client was given a moment ago, or that of a saturated app."""
        refusal = self._refused_just_now(address_info, client_state, now_us)
        if refusal is not None:
            return self.announce(facts, refusal)
        if (
            self._overload is None
            or (rank := self._overload.sheds(facts, client_state.identity, address_info.address)) is None
        ):
            return None
        return self._overload.shed(facts, rank, client_state.identity, address_info.address, client_state.mode)

    def _refused_just_now(self, address_info: AddressInfo, client_state: ClientState, now_us: int) -> Decision | None:
        """The last refusal, repeated for a moment while it certainly holds; a member's only to the same address."""
        refusal = client_state.refusal
        if (
            refusal is None
            or now_us >= client_state.refusal_until_us
            or client_state.refused_us <= self._invalidated_us
        ):
            return None
        return refusal if client_state.identity is None or refusal.address is address_info.address else None

    async def _ask_store(
        self, facts: Facts, address_info: AddressInfo, client_state: ClientState, now_us: int
    ) -> Decision:
        told = await self._limiter.take(client_state, now_us)
        if told is not None:
            return self._combined(facts, address_info, client_state, told)
        return self._without_store(facts, address_info, client_state)

    def _without_store(self, facts: Facts, address_info: AddressInfo, client_state: ClientState) -> Decision:
        """The decision while the store is away, if there is no fallback."""
        if self._on_store_failure is OnStoreFailure.OPEN:
            return self.announce(facts, _passes(client_state, address_info, Reason.STORE_OPEN))
        identity, mode = client_state.identity, client_state.mode
        return self.announce(
            facts, Decision(Verdict.REFUSED, Reason.STORE_CLOSED, address_info.address, identity, mode=mode)
        )

    def _combined(
        self, facts: Facts, address_info: AddressInfo, client_state: ClientState, told: TakeReply
    ) -> Decision:
        """The decision that follows from an outcome. A refusal is kept for a moment, to be repeated."""
        charges, outcome, sent_us = told
        if outcome.allowed:
            decision = combine(
                charges, outcome, address_info.address, client_state.identity, client_state.mode, client_state.live
            )
            return self.announce(facts, decision)
        since_us = self._now_us() if sent_us is None else sent_us
        refusal = None if sent_us is None else self._refused_guest(facts, client_state, outcome, sent_us)
        if refusal is None:
            refusal = combine(
                charges, outcome, address_info.address, client_state.identity, client_state.mode, client_state.live
            )
        client_state.refusal = refusal
        client_state.refused_us = since_us
        client_state.refusal_until_us = since_us + min(wait_us(charges, outcome), REFUSAL_KEPT_US)
        return self.announce(facts, refusal)

    def _refused_guest(
        self, facts: Facts, client_state: ClientState, outcome: Outcome, sent_us: int
    ) -> Decision | None:
        """The refusal of a guest that is recognised by its requests from now on; None if that is not possible."""
        guests, charges = self._refused_guests, client_state.charges
        if len(charges) != 1 or not _is_guest(facts) or sent_us <= self._invalidated_us:
            return None
        route_rules, mode = client_state.route_rules, client_state.mode
        guests.remember(facts, route_rules, mode, charges, outcome.tats_us[0] - outcome.now_us + sent_us)
        return guests.find(facts, route_rules, mode, sent_us)

    def announce(self, facts: Facts, decision: Decision) -> Decision:
        """The decision as it is given; observers are notified of refusals, and of those that a dry run lets pass."""
        if self._dry_run:
            decision = _in_dry_run(decision)
        if self._observers and decision.verdict is not ALLOWED:
            event = made(Decided, (facts, decision))
            for observer in self._observers:
                observer.decided(event)
        return decision


def _with_shared(told: TakeReply, taken: SharedReply) -> TakeReply:
    """The reply to the client's own charges and those that were taken from shared limits."""
    charges, outcome, sent_us = told
    if not outcome.allowed:
        taken.refund()
        return told
    return TakeReply(charges + taken.charges, taken.joined(outcome), sent_us)


def _is_guest(facts: Facts) -> bool:
    """Whether the request shows no credential, so that its client can only be a guest."""
    return facts.credential is None and facts.authenticate is None


def _passes(client_state: ClientState, address_info: AddressInfo, reason: Reason) -> Decision:
    return Decision(
        Verdict.ALLOWED,
        reason,
        address_info.address,
        client_state.identity,
        mode=client_state.mode,
        live=client_state.live,
    )


def _in_dry_run(decision: Decision) -> Decision:
    """The same for observers, but with nothing that a client could notice."""
    if decision.refused:
        return decision._replace(verdict=Verdict.DRY_RUN)
    return decision._replace(charges=(), outcome=None)
