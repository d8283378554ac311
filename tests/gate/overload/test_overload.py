"""Which requests wait and which are shed: ranks, refusals and their cost; the gate checks before it charges."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

import pytest

from gate.doubles import (
    CountingVerifier,
    FlakyStore,
    Heard,
    LoopClock,
    clock_of,
    facts,
    memory_store,
    plan_of,
    requester_at,
    run,
    worker,
    yield_often,
)
from gate.overload.lanes import assert_nothing_left, gatekeeper, until_quiet
from shieldmw import Settings
from shieldmw.core.address import Networks, parse_networks
from shieldmw.core.client import Identity, ListenerClass
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.facts import Facts
from shieldmw.core.lane import Rank
from shieldmw.core.limits import US_PER_S
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.gate.gate import Gate
from shieldmw.gate.overload.delayed_refusals import DelayedRefusals
from shieldmw.gate.overload.gatekeeper import Gatekeeper, Passage
from shieldmw.gate.overload.overload import (
    GUEST_RETRY_S,
    GUEST_SPREAD_S,
    MEMBER_RETRY_S,
    MEMBER_SPREAD_S,
    REFUSALS,
    Overload,
)
from shieldmw.gate.seats.entrance import Entrance
from shieldmw.store.memory import MemoryStore
from shieldmw.wiring import build_worker

ALICE, MIRA = Identity("alice"), Identity("mira", ListenerClass.HOST)
ADDRESS = "203.0.113.7"


async def mira() -> Identity | None:
    """The host app's own check, of a host."""
    return MIRA


GUEST, MEMBER, HOST = facts(), facts("alice"), facts(authenticate=mira)


@dataclass
class Worker:
    """A worker whose app has one place, and what was asked of its store and told to its observers."""

    gate: Gate
    entrance: Entrance
    keeper: Gatekeeper
    overload: Overload
    store: FlakyStore
    heard: Heard
    others: list[asyncio.Task[Passage | Decision]] = field(default_factory=list)

    async def admitted(self, asked: Facts) -> Decision:
        """The decision on a request that is within its limits."""
        decision = await self.gate.decide(asked)
        assert not decision.refused
        return decision

    async def entering(self, asked: Facts, decision: Decision | None = None) -> asyncio.Task[Passage | Decision]:
        """Go into the app as the middleware does, as far as that goes at once."""
        admitted = decision or await self.admitted(asked)

        async def enter() -> Passage | Decision:
            return await self.overload.passage(asked, admitted)

        task = asyncio.create_task(enter())
        await yield_often()
        return task

    async def fill(self, guests: int = 0) -> Passage:
        """Take the one place, and let so many guests wait for it."""
        inside = self.keeper.enter_now(Rank.GUEST)
        assert inside is not None
        self.others = [await self.entering(facts(peer=f"198.51.100.{number}")) for number in range(guests)]
        for task in self.others:
            task.add_done_callback(_end)
        assert self.keeper.lane.waiting == guests
        return inside


def _end(task: asyncio.Task[Passage | Decision]) -> None:
    """A request that is over as soon as it has come to the app."""
    passage = task.result()
    if isinstance(passage, Passage):
        passage.end()


def one_place(*, shadow: bool = False, hold_s: float = 0, wait_us: int = 100_000, **values: Any) -> Worker:
    """A worker on the clock of the loop; ``values`` are Settings."""
    clock = LoopClock()
    store, heard = FlakyStore(memory_store(clock)), Heard()
    one = worker(store, clock, tokens=CountingVerifier({"alice"}), observers=[heard], **values)
    keeper = gatekeeper(1, wait_us)
    overload = Overload(keeper, DelayedRefusals(hold_s), one.entrance.admission.is_returning, [heard], shadow=shadow)
    one.gate._overload = overload
    return Worker(one.gate, one.entrance, keeper, overload, store, heard)


async def ticket_of(one: Worker, asked: Facts) -> str:
    """The ticket of a listener who was seated."""
    live = asked._replace(path="/live", route_path="/live")
    _, entry = one.entrance.enter(live, await one.admitted(live), lambda: None)
    assert entry is not None
    return entry.ticket


async def lease_of(one: Worker, asked: Facts) -> str:
    """The ticket of a viewer who polls."""
    admission, decision = one.entrance.admission, await one.admitted(asked)
    ticket = admission.new_ticket(admission.client_of(None, decision.address), ListenerClass.GUEST, None)
    return admission.signed(ticket._replace(leased_until_s=int(one.entrance.seats.now_s()) + 30))


async def rank_of(one: Worker, asked: Facts) -> Rank:
    """Where a request waits while the app is full."""
    before = [one.keeper.lane.waiting_of(rank) for rank in Rank]
    await one.entering(asked)
    (rank,) = [rank for rank in Rank if one.keeper.lane.waiting_of(rank) > before[rank]]
    return rank


def test_everybody_waits_in_the_own_rank() -> None:
    """A ticket counts for the guest it was made for, and for nobody else; it makes no member of a guest."""

    async def story() -> None:
        one = one_place(live_paths="/live", allow_ips=Networks(parse_networks("192.0.2.0/24")))
        own, members, polls = await ticket_of(one, GUEST), await ticket_of(one, MEMBER), await lease_of(one, GUEST)
        inside = await one.fill()
        other = facts(peer="198.51.100.1")
        expected = [
            (HOST, Rank.HOST),
            (MEMBER, Rank.MEMBER),
            (MEMBER._replace(signed_ticket=own), Rank.MEMBER),
            (GUEST, Rank.GUEST),
            (GUEST._replace(signed_ticket=own), Rank.RETURNING_GUEST),
            (GUEST._replace(signed_ticket=polls), Rank.RETURNING_GUEST),
            (GUEST._replace(signed_ticket=own[:-2]), Rank.GUEST),
            (GUEST._replace(signed_ticket="no paper \udcff at all"), Rank.GUEST),
            (GUEST._replace(signed_ticket=members), Rank.GUEST),
            (other._replace(signed_ticket=own), Rank.GUEST),
            (facts(peer="192.0.2.9"), Rank.HOST),
            (other._replace(preflight=True), Rank.GUEST),
        ]
        for asked, rank in expected:
            assert await rank_of(one, asked) is rank, asked
        inside.end()

    run(story())


def test_what_is_exempt_asks_for_no_passage() -> None:
    """A health check is answered while the app is full, and takes no place."""

    async def story() -> None:
        one = one_place(exempt_paths="/healthz")
        await one.fill()
        healthz = facts(path="/healthz")
        passage = one.overload.enter_now(healthz, await one.admitted(healthz))
        assert passage is not None
        assert one.keeper.lane.places.inside == 1
        passage.begun("healthz")
        assert passage.goes_on()
        assert one.keeper.lane.places.inside == 1

    run(story())


def test_who_has_waited_too_long_is_refused() -> None:
    """With the reason, a wait of its class, and as itself where it is a member; all of it told and counted."""

    async def story() -> None:
        one = one_place()
        inside = await one.fill()
        tasks = [await one.entering(asked) for asked in (GUEST, MEMBER, HOST)]
        guest, member, host = await asyncio.gather(*tasks)
        for refused, identity, least_s, spread_s in (
            (guest, None, GUEST_RETRY_S, GUEST_SPREAD_S),
            (member, ALICE, MEMBER_RETRY_S, MEMBER_SPREAD_S),
            (host, MIRA, MEMBER_RETRY_S, MEMBER_SPREAD_S),
        ):
            assert isinstance(refused, Decision)
            assert (refused.verdict, refused.reason) == (Verdict.REFUSED, Reason.OVERLOAD)
            assert refused.identity == identity
            assert least_s * US_PER_S <= refused.retry_after_us <= (least_s + spread_s) * US_PER_S
        assert one.overload.shed_by_rank == [1, 1, 0, 1]
        assert [event.decision for event in one.heard.events] == [guest, member, host]
        inside.end()
        await until_quiet()
        assert_nothing_left(one.keeper)

    run(story())


def test_those_who_were_shed_do_not_return_together() -> None:
    """Their waits are spread over the whole span, and guests share what is rendered of a bounded number."""

    async def story() -> None:
        one = one_place()
        refusals = [await one.overload.shed(GUEST, Rank.GUEST, None, None, Mode.NORMAL) for _ in range(1000)]
        waits_s = [refusal.retry_after_us / US_PER_S for refusal in refusals]
        assert min(waits_s) < GUEST_RETRY_S + 0.1 * GUEST_SPREAD_S
        assert max(waits_s) > GUEST_RETRY_S + 0.9 * GUEST_SPREAD_S
        assert 20 <= len({id(refusal.rendered) for refusal in refusals}) <= REFUSALS
        members = [await one.overload.shed(MEMBER, Rank.MEMBER, ALICE, None, Mode.NORMAL) for _ in range(100)]
        assert len({refusal.retry_after_us for refusal in members}) > 50

    run(story())


def test_a_guest_that_would_be_shed_is_not_charged() -> None:
    """No call to the store, no place in the queue; a member beside it is charged and waits."""

    async def story() -> None:
        one = one_place(wait_us=800, leases=False)
        inside = await one.fill(guests=20)
        calls = one.store.calls
        for number in range(50):
            decision = await one.gate.decide(facts(peer=f"203.0.113.{number + 100}"))
            assert (decision.verdict, decision.reason) == (Verdict.REFUSED, Reason.OVERLOAD)
        assert (one.store.calls, one.keeper.lane.waiting) == (calls, 20)
        member = await one.entering(MEMBER)
        assert one.store.calls > calls
        assert one.keeper.lane.waiting == 21
        inside.end()
        passage = await member
        assert isinstance(passage, Passage)
        passage.end()
        await until_quiet()

    run(story())


def test_a_guest_refused_for_its_limit_is_told_that_also_while_the_app_is_busy() -> None:
    """What holds for longer goes before what holds for a moment."""

    async def story() -> None:
        one = one_place(wait_us=800, ip_limit="1/hour")
        await one.admitted(GUEST)
        assert (await one.gate.decide(GUEST)).reason is Reason.QUOTA
        inside = await one.fill(guests=20)
        assert (await one.gate.decide(GUEST)).reason is Reason.QUOTA
        assert (await one.gate.decide(facts(peer="203.0.113.8"))).reason is Reason.OVERLOAD
        inside.end()
        await until_quiet()

    run(story())


def test_answers_of_guests_are_held_and_those_of_members_are_not() -> None:
    """Only bots ask again at once; a member has waited long enough."""

    async def story() -> None:
        one = one_place(hold_s=0.4)
        loop = asyncio.get_running_loop()
        for asked, rank, identity, held_s in ((GUEST, Rank.GUEST, None, 0.4), (MEMBER, Rank.MEMBER, ALICE, 0)):
            began_s = loop.time()
            await one.overload.shed(asked, rank, identity, None, Mode.NORMAL)
            assert loop.time() - began_s == pytest.approx(held_s, rel=0.3)

    run(story())


def test_in_shadow_nobody_waits_and_nobody_is_refused() -> None:
    """What would have been is counted and told as a dry run, and the store is asked as ever."""

    async def story() -> None:
        one = one_place(shadow=True, wait_us=1_000, leases=False)
        inside = []
        for number in range(40):
            asked = facts(peer=f"198.51.100.{number}")
            entered = one.overload.enter_now(asked, await one.admitted(asked))
            assert isinstance(entered, Passage)
            inside.append(entered)
        assert one.store.requests == 40
        assert one.keeper.lane.places.inside == 40
        shed = one.overload.shed_by_rank[Rank.GUEST]
        assert shed > 0
        assert {(event.decision.verdict, event.decision.reason) for event in one.heard.events} == {
            (Verdict.DRY_RUN, Reason.OVERLOAD)
        }
        await asyncio.sleep(0.1)  # those that would have waited are shed as well
        assert one.overload.shed_by_rank[Rank.GUEST] == len(one.heard.events) == 39
        for passage in inside:
            passage.end()
        await until_quiet()
        assert_nothing_left(one.keeper)

    run(story())


def test_in_shadow_whose_turn_would_have_come_is_not_counted() -> None:
    """A stand-in takes no place for longer than it is let in."""

    async def story() -> None:
        one = one_place(shadow=True)
        inside = await one.fill()
        for _ in range(3):
            passage = await (await one.entering(GUEST))
            assert isinstance(passage, Passage)
            passage.end()
        assert one.keeper.lane.waiting == 3
        inside.end()
        await until_quiet()
        assert one.overload.shed_by_rank == [0, 0, 0, 0]
        assert one.heard.events == []
        assert_nothing_left(one.keeper)

    run(story())


def test_the_log_says_what_was_shed(caplog: pytest.LogCaptureFixture) -> None:
    """One line for many, with how the app stands."""

    async def story() -> None:
        one = one_place()
        inside = await one.fill()
        for _ in range(100):
            await one.overload.shed(GUEST, Rank.GUEST, None, None, Mode.NORMAL)
        inside.end()

    with caplog.at_level(logging.WARNING, "shieldmw.gate.overload"):
        run(story())
    (record,) = caplog.records
    assert "shed guest: 1; " in record.getMessage()
    assert "1 of 1 requests in flight" in record.getMessage()


@pytest.mark.parametrize(("share", "expected"), [(0.25, 0.25), (0, None), (1, None)])
def test_the_share_of_guests(share: float, expected: float | None) -> None:
    """None or all of it: what others leave."""

    async def story() -> None:
        one = one_place()
        one.overload.share(share)
        assert one.keeper.lane.guest_share == expected

    run(story())


def in_emergency(share: float, seconds: int | None = None) -> ModeChange:
    """What an operator asks for."""
    return ModeChange(Mode.EMERGENCY, "operator", "attack", for_s=seconds, guest_share=share)


def test_the_share_holds_in_an_emergency_and_no_longer() -> None:
    """On the flip, when it is changed, when it is lifted, and when the emergency ends by its time."""

    async def story() -> None:
        worker = build_worker(Settings(redis_url="memory://"), MemoryStore(b"fleet"))
        assert worker.overload is not None
        lane, mode_watch = worker.overload.lane, worker.entrance.admission.seats._mode_watch
        assert lane.guest_share is None
        for share, expected in ((0.25, 0.25), (0.5, 0.5), (0.0, None), (0.25, 0.25)):
            await worker.control.set_mode(in_emergency(share), None)
            assert lane.guest_share == expected
        await worker.control.set_mode(ModeChange(Mode.NORMAL, "operator", "over"), None)
        assert lane.guest_share is None
        await worker.control.set_mode(in_emergency(0.25, seconds=60), None)
        assert lane.guest_share == 0.25
        now_s = mode_watch._now_s
        mode_watch._now_s = lambda: now_s() + 61
        mode_watch.tick()
        assert lane.guest_share is None

    run(story())


@pytest.mark.parametrize(
    ("values", "waits", "sheds"),
    [
        ({}, True, True),
        ({"overload": "shadow"}, False, False),
        ({"dry_run": True}, False, False),
        ({"overload": "shadow", "dry_run": True}, False, False),
    ],
    ids=["on", "shadow", "dry run", "both"],
)
def test_what_the_settings_make_of_it(values: dict[str, Any], waits: bool, sheds: bool) -> None:
    """A dry run delays nobody and refuses nobody, nor does the shadow."""

    async def story() -> None:
        settings = Settings(redis_url="memory://", max_in_flight=1, queue_ms=1, hold_ms=0, **values)
        worker = build_worker(settings, MemoryStore(b"fleet"), clock_of(LoopClock().s))
        overload = worker.overload
        assert overload is not None
        decision = await worker.gate.decide(GUEST)
        inside = [overload.enter_now(GUEST, decision) for _ in range(30)]
        assert inside[0] is not None
        assert (inside[1] is None) is waits
        tasks = [asyncio.create_task(overload.enter(GUEST, decision)) for entered in inside if entered is None]
        await yield_often()
        assert overload.lane.waiting
        refusal = overload.shed_now(GUEST, requester_at(plan_of()))
        assert (refusal is not None) is sheds
        if refusal is not None:
            assert (await refusal).reason is Reason.OVERLOAD
        for task in tasks:
            task.cancel()

    run(story())


def test_off_is_nothing_at_all() -> None:
    """SHIELD_OVERLOAD=off: no lane is built, and nobody asks for a passage."""

    async def story() -> None:
        worker = build_worker(Settings(redis_url="memory://", overload="off"), MemoryStore(b"fleet"))
        assert worker.overload is None

    run(story())
