"""Invalid credentials: they create no client and no bucket, and cause few signature checks (bypass 6)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import pytest

from core.addresses import PREFIXES, packed
from gate.doubles import (
    CountingVerifier,
    FakeClock,
    FlakyStore,
    WorkerParts,
    at_once,
    facts,
    loop_time,
    memory_store,
    pass_time,
    run,
    worker,
    yield_often,
)
from shieldmw import Identity, ListenerClass, Settings
from shieldmw.core.decision import Decision, Verdict
from shieldmw.core.facts import Facts
from shieldmw.doors.asgi.facts import CredentialSources, FactsReader
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.auth import identity
from shieldmw.gate.auth.failed_auth import FailedAuth
from shieldmw.gate.auth.time_share import BURST_S, LONGEST_WAIT_S, SHARE
from shieldmw.store.memory import MemoryBuckets
from shieldmw.store.port import Store

# SHIELD_FAILED_AUTH_LIMIT's default: ten at once.
MOST_CHECKS = 10

# What a check takes in these tests.
CHECK_S = 0.001

READER = FactsReader(CredentialSources("x-forwarded-for", "authorization", "session", "token"), None)


def scope_facts(*, headers: list[tuple[bytes, bytes]] | None = None, query: str = "") -> Facts:
    """The facts of a GET with these headers and this query."""
    return READER.read(
        {
            "type": "http",
            "method": "GET",
            "path": "/hello",
            "query_string": query.encode(),
            "headers": headers or [],
            "client": ("203.0.113.7", 50_000),
        }
    )


PLACES: list[tuple[str, Callable[[str], Facts]]] = [
    ("bearer", lambda text: scope_facts(headers=[(b"authorization", b"Bearer " + text.encode())])),
    ("bare API key", lambda text: scope_facts(headers=[(b"authorization", text.encode())])),
    ("cookie", lambda text: scope_facts(headers=[(b"cookie", b"a=b; session=" + text.encode())])),
    ("query", lambda text: scope_facts(query=f"x=1&token={quote(text)}")),
]


async def send(one: WorkerParts, requests: list[Facts]) -> list[Verdict]:
    """The verdicts on requests that come one after the other."""
    return [(await one.gate.decide(request)).verdict for request in requests]


def paced(store: Store, clock: FakeClock, tokens: CountingVerifier, **values: Any) -> WorkerParts:
    """A worker for which a check takes a millisecond."""
    tokens.costs_s = CHECK_S
    return worker(store, clock, tokens=tokens, timer_s=lambda: tokens.spent_s, **values)


def affordable(checked_free: int, elapsed_s: float) -> float:
    """How many checks there may be: those before the address had failed too often, and then a share of the time."""
    return checked_free + (BURST_S + SHARE * elapsed_s) / CHECK_S + 1


@pytest.mark.parametrize(("place", "request_with"), PLACES, ids=[name for name, _ in PLACES])
def test_random_credentials_make_no_buckets_and_few_checks(place: str, request_with: Callable[[str], Facts]) -> None:
    """Wherever they are sent, they are charged to their address alone, and checked within a share of the time."""
    clock, tokens = FakeClock(), CountingVerifier()
    store = memory_store(clock)
    one = paced(store, clock, tokens)

    async def story() -> tuple[list[Verdict], float]:
        begun_s = loop_time()
        return await send(one, [request_with(f"random-{n}") for n in range(300)]), loop_time() - begun_s

    verdicts, elapsed_s = run(story())
    assert verdicts == [Verdict.ALLOWED] * 300
    assert len(store) == 2, "one bucket for guests and one for failed credentials"
    assert MOST_CHECKS < tokens.calls <= affordable(MOST_CHECKS, elapsed_s)


def test_random_credentials_do_not_escape_the_limit_of_their_address() -> None:
    """The guest limit ends a run of random credentials as if none had been sent."""
    clock = FakeClock()
    one = worker(memory_store(clock), clock, tokens=CountingVerifier(), ip_limit="20/minute")
    verdicts = run(send(one, [facts(f"random-{n}") for n in range(30)]))
    assert verdicts == [Verdict.ALLOWED] * 20 + [Verdict.REFUSED] * 10


@pytest.mark.parametrize("lags", [False, True], ids=["store answers at once", "store answers later"])
@pytest.mark.parametrize("already_failed", [0, 1, 9, 10])
def test_1000_concurrent_random_credentials_cause_few_checks(lags: bool, already_failed: int) -> None:
    """Requests that are all under way before the first failure is counted cannot all be verified."""
    clock, tokens = FakeClock(), CountingVerifier()
    store = FlakyStore(memory_store(clock))
    store.lags = lags
    one = paced(store, clock, tokens)

    async def flood() -> float:
        begun_s = loop_time()
        await send(one, [facts(f"earlier-{n}") for n in range(already_failed)])
        await at_once(lambda n: one.gate.decide(facts(f"random-{n}")), 1000)
        return loop_time() - begun_s

    elapsed_s = run(flood())
    assert elapsed_s <= LONGEST_WAIT_S, "nobody waits for longer"
    assert tokens.calls <= affordable(MOST_CHECKS, elapsed_s)
    assert len(store.inner) == 2
    assert one.identifier.failures[("unaffordable",)] == 1000 + already_failed - tokens.calls


def test_workers_share_the_count_of_failures() -> None:
    """What one worker has seen fail counts for the next: the fleet checks ten at once, not ten each."""
    clock, tokens = FakeClock(), CountingVerifier()
    store = memory_store(clock)
    fleet = [paced(store, clock, tokens) for _ in range(4)]

    async def alternate() -> float:
        begun_s = loop_time()
        for number in range(400):
            await fleet[number % 4].gate.decide(facts(f"random-{number}"))
        return loop_time() - begun_s

    # Each has a share of its own; a fleet that did not share the count would check forty at once.
    assert run(alternate()) >= (400 - MOST_CHECKS - 4 * (BURST_S / CHECK_S + 1)) * CHECK_S / SHARE / 4


def test_members_are_verified_however_much_others_at_their_address_forge() -> None:
    """Beside three forged tokens for each good one, all at once: forty of forty members are members."""
    good = {f"member-{n}" for n in range(40)}
    clock, tokens = FakeClock(), CountingVerifier(valid=good)
    one = paced(memory_store(clock), clock, tokens)

    async def story() -> set[str]:
        await send(one, [facts(f"earlier-{n}") for n in range(50)])
        members = set()
        for number in range(40):
            requests = [facts(f"forged-{number}-{n}") for n in range(3)] + [facts(f"member-{number}")]
            decisions = await asyncio.gather(*(one.gate.decide(request) for request in requests))
            members |= {decision.identity.subject for decision in decisions if decision.identity is not None}
        return members

    assert run(story()) == good


def test_a_flood_from_one_address_takes_no_turns_from_another() -> None:
    """Addresses take turns: behind the one a thousand wait, behind the other a member, and the member is verified."""
    clock, tokens = FakeClock(), CountingVerifier(valid={"member"})
    one = paced(memory_store(clock), clock, tokens)
    other = "203.0.113.8"

    async def story() -> tuple[Identity | None, int]:
        for peer in (facts().peer, other):
            await send(one, [facts(f"earlier-{peer}-{n}", peer=peer) for n in range(MOST_CHECKS)])
        flood = [asyncio.create_task(_decide(one, facts(f"random-{n}"))) for n in range(1000)]
        await yield_often()
        before = tokens.calls
        decision = await one.gate.decide(facts("member", peer=other))
        checked = tokens.calls - before
        await asyncio.gather(*flood)
        return decision.identity, checked

    identity, checked = run(story())
    assert identity == Identity("member")
    assert checked <= 3, "the member's turn came next but one"


async def _decide(one: WorkerParts, request: Facts) -> Decision:
    return await one.gate.decide(request)


def test_one_token_that_many_requests_wait_with_is_checked_once() -> None:
    """A member's page makes twenty requests at once, behind an address that has failed too often."""
    clock, tokens = FakeClock(), CountingVerifier(valid={"member"})
    one = paced(memory_store(clock), clock, tokens)

    async def story() -> list[Identity | None]:
        await send(one, [facts(f"earlier-{n}") for n in range(100)])
        del tokens.asked[:]
        decisions = await at_once(lambda _: one.gate.decide(facts("member")), 20)
        return [decision.identity for decision in decisions]

    assert run(story()) == [Identity("member")] * 20
    assert tokens.asked == ["member"]


def test_what_was_not_checked_is_checked_the_next_time() -> None:
    """A member whose turn did not come is a guest for that request, and for no longer."""
    clock, tokens = FakeClock(), CountingVerifier(valid={"member"})
    one = paced(memory_store(clock), clock, tokens)

    async def story() -> list[Identity | None]:
        await send(one, [facts(f"earlier-{n}") for n in range(MOST_CHECKS)])
        tokens.costs_s = 10.0
        await send(one, [facts("takes all the time there is")])
        tokens.costs_s = CHECK_S
        turned_down = await one.gate.decide(facts("member"))
        await pass_time(40.0)
        return [turned_down.identity, (await one.gate.decide(facts("member"))).identity]

    assert run(story()) == [None, Identity("member")]


def test_a_member_who_is_known_waits_for_nothing() -> None:
    """While nobody else can be verified, what was proven before counts at once."""
    clock, tokens = FakeClock(), CountingVerifier(valid={"proven"})
    one = paced(memory_store(clock), clock, tokens)

    async def story() -> None:
        assert (await one.gate.decide(facts("proven"))).identity == Identity("proven")
        await send(one, [facts(f"random-{n}") for n in range(MOST_CHECKS)])
        tokens.costs_s = 10.0
        await send(one, [facts("takes all the time there is")])
        verified = one.identifier.identify_now(facts("proven"))
        assert verified is not None
        assert verified.identity == Identity("proven")

    run(story())


def test_made_up_credentials_make_nobody_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many fail, members that were proven stay known: failures have a table of their own."""
    monkeypatch.setattr(identity, "CREDENTIALS_KEPT", 16)
    monkeypatch.setattr(identity, "FAILURES_KEPT", 16, raising=False)
    clock, tokens = FakeClock(), CountingVerifier(valid={"proven"})
    one = worker(memory_store(clock), clock, tokens=tokens)

    async def story() -> None:
        await send(one, [facts("proven"), *(facts(f"random-{n}") for n in range(100))])
        asked = tokens.calls
        assert (await one.gate.decide(facts("proven"))).identity == Identity("proven")
        assert tokens.calls == asked

    run(story())


def test_api_keys_are_looked_up_whatever_failed_at_their_address() -> None:
    """A key costs one lookup in a table: no forger at its address makes a guest of its owner."""
    clock, tokens = FakeClock(), CountingVerifier()
    keys = {sha256(b"key of alice").hexdigest(): Identity("alice")}
    one = paced(memory_store(clock), clock, tokens, file_keys=keys)

    async def story() -> Identity | None:
        await send(one, [facts(f"random-{n}") for n in range(MOST_CHECKS)])
        tokens.costs_s = 10.0
        await send(one, [facts("takes all the time there is")])
        return (await one.gate.decide(facts("key of alice"))).identity

    assert run(story()) == Identity("alice")


def test_failures_are_counted_by_reason_and_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """An operator sees that credentials fail, and why, without a line for each."""
    clock = FakeClock()
    one = worker(memory_store(clock), clock, tokens=CountingVerifier())
    with caplog.at_level(logging.DEBUG, logger="shieldmw"):
        run(send(one, [*(facts(f"random-{n}") for n in range(50)), facts("x" * 9000)]))
    assert one.identifier.failures == {("signature",): 50, ("too_long",): 1}
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "credentials not accepted, so their requests count as guests' (signature: 1)"


def test_what_the_store_said_before_a_reset_is_forgotten() -> None:
    """An operator resets a client while its bucket is being looked at: its signatures are checked at once again."""
    clock = FakeClock()
    store = FlakyStore(memory_store(clock))
    one = worker(store, clock)
    elsewhere, failed_auth = (
        FailedAuth(Settings().policy, one.limiter, MemoryBuckets(now_us=clock.us)) for _ in range(2)
    )
    clients = PREFIXES.clients(packed("203.0.113.7"))

    async def story() -> None:
        for _ in range(MOST_CHECKS):
            await elsewhere.count(clients)
        store.answer_held = asyncio.Event()
        looking = asyncio.create_task(failed_auth.may_verify(clients))
        await yield_often()
        failed_auth.invalidate()
        store.answer_held.set()
        assert await looking
        assert failed_auth.may_verify_now(clients)
        assert not await failed_auth.may_verify(clients)

    run(story())


def test_valid_credentials_cost_their_address_nothing() -> None:
    """A NAT full of members may come all at once: only failures are charged."""
    clock, tokens = FakeClock(), CountingVerifier(valid={f"member-{n}" for n in range(200)})
    store = FlakyStore(memory_store(clock))
    store.lags = True
    one = worker(store, clock, tokens=tokens)

    async def all_at_once() -> list[ListenerClass]:
        decisions = await at_once(lambda n: one.gate.decide(facts(f"member-{n}")), 200)
        return [decision.listener_class for decision in decisions]

    assert run(all_at_once()) == [ListenerClass.MEMBER] * 200


def test_rotating_through_an_ipv6_site_gains_four_times_at_most() -> None:
    """Every /64 of a /56 fails on its own, but together they cause at most four times the checks."""
    clock, tokens = FakeClock(), CountingVerifier()
    one = paced(memory_store(clock), clock, tokens)

    async def story() -> float:
        begun_s = loop_time()
        await send(one, [facts(f"random-{n}", peer=f"2001:db8:0:{n % 256:x}::1") for n in range(512)])
        return loop_time() - begun_s

    elapsed_s = run(story())
    assert elapsed_s > 1.0, "most had to wait"
    assert tokens.calls <= affordable(4 * MOST_CHECKS, elapsed_s)


@pytest.mark.parametrize("on_failure", ["local", "open", "closed"])
def test_failures_count_while_the_store_is_away(on_failure: str) -> None:
    """Without the store every worker still counts by itself, by the whole limit."""
    clock, tokens = FakeClock(), CountingVerifier()
    store = FlakyStore(memory_store(clock), failing=StoreUnavailable("refused"))
    one = paced(store, clock, tokens, on_redis_failure=on_failure)

    async def story() -> float:
        begun_s = loop_time()
        await send(one, [facts(f"random-{n}") for n in range(200)])
        return loop_time() - begun_s

    elapsed_s = run(story())
    assert elapsed_s > 0.5, "most had to wait"
    assert tokens.calls <= affordable(MOST_CHECKS, elapsed_s)


def test_without_the_limit_every_credential_is_verified() -> None:
    """`failed-auth` turned off is off: the limit, and not something else, is what the tests above see."""
    clock, tokens = FakeClock(), CountingVerifier()
    one = worker(memory_store(clock), clock, tokens=tokens, failed_auth_limit="off")
    run(send(one, [facts(f"random-{n}") for n in range(50)]))
    assert tokens.calls == 50


def test_a_failed_credential_shown_again_is_remembered_but_not_for_long() -> None:
    """The same wrong credential is checked and charged once in ten seconds."""
    clock, tokens = FakeClock(), CountingVerifier()
    one = worker(memory_store(clock), clock, tokens=tokens)
    run(send(one, [facts("wrong")] * 50))
    assert tokens.calls == 1
    clock.now_s += 9.999
    run(send(one, [facts("wrong")]))
    assert tokens.calls == 1
    clock.now_s += 0.001
    run(send(one, [facts("wrong")]))
    assert tokens.calls == 2


@pytest.mark.parametrize(
    ("credential", "reason"),
    [
        ("", "an empty credential"),
        ("x" * 8193, "longer than any real one"),
        ("x" * 1_000_000, "1 MB"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_a_credential_fails_unread(credential: str, reason: str) -> None:
    """It is a guest's, and costs neither a failure nor a signature check."""
    clock, tokens = FakeClock(), CountingVerifier(valid={credential})
    store = memory_store(clock)
    decision = run(worker(store, clock, tokens=tokens).gate.decide(facts(credential)))
    assert decision.identity is None, reason
    assert tokens.calls == 0, reason
    assert len(store) == 1, reason


@pytest.mark.parametrize(
    "credential", ["a:b{}", "\r\nX: y", "\x00", "\ud800", "\U0001f512", "ip:203.0.113.7", "%s%n", "x" * 8192]
)
def test_hostile_text_is_just_a_wrong_credential(credential: str) -> None:
    """Whatever bytes a credential is made of, its sender is a guest and nothing raises."""
    clock, tokens = FakeClock(), CountingVerifier()
    one = worker(memory_store(clock), clock, tokens=tokens)
    decision = run(one.gate.decide(facts(credential)))
    assert (decision.verdict, decision.identity) == (Verdict.ALLOWED, None)
    assert tokens.asked == [credential]


def test_nothing_is_charged_where_no_credential_could_be_proven() -> None:
    """An app that knows no keys and no JWT at all may be sent any Authorization header it likes."""
    clock = FakeClock()
    store = memory_store(clock)
    run(send(worker(store, clock), [facts(f"for the app itself {n}") for n in range(30)]))
    assert len(store) == 1
