"""Overload protection: while the app has more work than it can do, some admitted requests wait and some are shed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from shieldmw.core.client import Address, Identity
from shieldmw.core.decision import EXEMPT, REFUSED, Decision, Reason, Verdict
from shieldmw.core.facts import Facts
from shieldmw.core.lane import RANKS, Rank
from shieldmw.core.limits import US_PER_S
from shieldmw.core.mode import Mode
from shieldmw.core.plan import Requester
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.events import Observer

from .delayed_refusals import DelayedRefusals
from .gatekeeper import Gatekeeper, Passage, Waiter
from .overload_log import OverloadLog

# Shortest ``Retry-After`` of shed requests, and by how much it varies: guests come back over ten seconds, members over
# two.
GUEST_RETRY_S, GUEST_SPREAD_S = 5, 10
MEMBER_RETRY_S, MEMBER_SPREAD_S = 1, 2

# Ready-made refusals of guests, each with another wait; they share what is rendered, so that it is made only once.
REFUSALS = 32

_GUEST = Rank.GUEST


class Overload:
    """Lets requests into the app in the order of favour. ``is_returning`` says whether a guest's ticket is its own.

    In ``shadow`` mode nothing is delayed or refused, but what would be refused is counted and observed.
    """

    def __init__(
        self,
        keeper: Gatekeeper,
        holding: DelayedRefusals,
        is_returning: Callable[[str, Identity | None, Address | None], bool],
        observers: Sequence[Observer] = (),
        *,
        shadow: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._keeper = keeper
        self.lane = keeper.lane
        self._delayed_refusals = holding
        self._is_returning = is_returning
        self._observers = tuple(observers)
        self._shadow = shadow
        self._random = clock.random
        self.shed_by_rank = [0] * len(Rank)  # since the start
        self._last_longest_us = 0
        self._refusals: dict[Mode, list[Decision]] = {}
        self._log = OverloadLog(self._load_in_words, shadow=shadow, clock=clock)

    def _load_in_words(self) -> str:
        lane, places = self.lane, self.lane.places
        return (
            f"turns of the event loop take up to {lane.longest_turn_us // 1000} ms, "
            f"{places.inside} of {places.limit} requests in flight, {lane.waiting} waiting"
        )

    @property
    def longest_turn_us(self) -> int:
        """The longest turn of the event loop in this period and the last one."""
        return max(self._last_longest_us, self.lane.longest_turn_us)

    def begin_period(self) -> None:
        """Start a new period for the longest turn, and log the end of an overload. Called every few seconds, after
        the load was reported."""
        self._last_longest_us, self.lane.longest_turn_us = self.lane.longest_turn_us, 0
        self._log.look()

    def share(self, guests: float) -> None:
        """Cap the guests' share of the loop's time from now on; 0 or 1 means no cap, so they get what others leave."""
        self.lane.guest_share = guests if 0 < guests < 1 else None

    def enter_now(self, facts: Facts, decision: Decision) -> Passage | None:
        """The passage of a request that enters the app at once; None if ``enter`` must be awaited."""
        if decision.reason is EXEMPT:
            return self._keeper.enter_without_a_place()
        identity = decision.identity
        passage = self._keeper.enter_now(_GUEST if identity is None else RANKS[identity.listener_class])
        if passage is None and self._shadow:
            self._wait_in_shadow(facts, decision)
            return self._keeper.enter_anyway()
        return passage

    async def passage(self, facts: Facts, decision: Decision) -> Passage | Decision:
        """The passage of a request, at once or when its turn comes, or the refusal if that would take too long."""
        return self.enter_now(facts, decision) or await self.enter(facts, decision)

    async def enter(self, facts: Facts, decision: Decision) -> Passage | Decision:
        """The passage of a request when its turn comes, or the refusal if that would take too long."""
        identity, address = decision.identity, decision.address
        rank = self._rank_of(facts, decision)
        if not self._keeper.would_refuse(rank):
            passage = await self._keeper.wait(rank)
            if passage is not None:
                return passage
        return await self.shed(facts, rank, identity, address, decision.mode)

    def shed_now(self, facts: Facts, requester: Requester) -> Awaitable[Decision] | None:
        """The refusal of a request that would have to wait too long, before it costs a charge; None for another."""
        plan, address, identity, *_ = requester
        rank = self._rank(facts, identity, address)
        if self._shadow or not self._keeper.would_refuse(rank):
            return None
        return self.shed(facts, rank, identity, address, plan.mode)

    async def shed(
        self, facts: Facts, rank: Rank, identity: Identity | None, address: Address | None, mode: Mode
    ) -> Decision:
        """The refusal of a request, returned when it is time to send it."""
        if identity is None:
            refusal = self._random.choice(self._refusals_of_guests(mode))._replace(address=address)
        else:
            refusal = _refusal(MEMBER_RETRY_S + self._random.random() * MEMBER_SPREAD_S, mode, address, identity)
        self._tell(facts, rank, refusal)
        if identity is None:
            await self._delayed_refusals.stay()
        return refusal

    def _wait_in_shadow(self, facts: Facts, decision: Decision) -> None:
        """Queue a stand-in for a request that enters anyway, to find out what would have happened to it."""
        rank = self._rank_of(facts, decision)
        would_be = decision._replace(verdict=Verdict.DRY_RUN, reason=Reason.OVERLOAD)
        if self._keeper.would_refuse(rank):
            self._tell(facts, rank, would_be)
            return

        def decided(stand_in: Waiter) -> None:
            intake = stand_in.result()
            if intake is not None:
                self._keeper.give_back(intake)
            else:
                self._tell(facts, rank, would_be)

        self._keeper.queue(rank).add_done_callback(decided)

    def _rank_of(self, facts: Facts, decision: Decision) -> Rank:
        if decision.reason is Reason.ALLOW_LIST:  # such as monitoring: among the last to be shed
            return Rank.HOST
        return self._rank(facts, decision.identity, decision.address)

    def _rank(self, facts: Facts, identity: Identity | None, address: Address | None) -> Rank:
        rank = _GUEST if identity is None else RANKS[identity.listener_class]
        if rank is not _GUEST:
            return rank
        returns = facts.signed_ticket is not None and self._is_returning(facts.signed_ticket, identity, address)
        return Rank.RETURNING_GUEST if returns else rank

    def _refusals_of_guests(self, mode: Mode) -> list[Decision]:
        """Refusals with waits from the shortest to the longest."""
        refusals = self._refusals.get(mode)
        if refusals is None:
            waits_s = [GUEST_RETRY_S + GUEST_SPREAD_S * step / REFUSALS for step in range(REFUSALS)]
            refusals = self._refusals[mode] = [_refusal(wait_s, mode) for wait_s in waits_s]
        return refusals

    def _tell(self, facts: Facts, rank: Rank, refusal: Decision) -> None:
        self.shed_by_rank[rank] += 1
        for observer in self._observers:
            observer.decided(facts, refusal)
        self._log.shed(rank)


def _refusal(wait_s: float, mode: Mode, address: Address | None = None, identity: Identity | None = None) -> Decision:
    retry_after_us = int(wait_s * US_PER_S)
    return Decision(REFUSED, Reason.OVERLOAD, address, identity, retry_after_us=retry_after_us, mode=mode, rendered=[])
