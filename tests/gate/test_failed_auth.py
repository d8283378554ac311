"""Credentials that prove nothing: no client, no bucket, and few signature checks (CASES, bypass 6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import quote

import pytest

from gate.doubles import (
    CountingVerifier,
    FakeClock,
    FlakyStore,
    Worker,
    at_once,
    facts,
    memory_store,
    run,
    worker,
)
from shieldmw import Identity, ListenerClass
from shieldmw.asgi.facts import FactsReader, Reading
from shieldmw.core.decision import Verdict
from shieldmw.core.facts import Facts
from shieldmw.errors import StoreUnavailable

# SHIELD_FAILED_AUTH_LIMIT's default: ten at once, one more every six seconds.
MOST_CHECKS = 10
REFILL_S = 6.0

READER = FactsReader(Reading("x-forwarded-for", "authorization", "session", "token"), None)


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


async def send(one: Worker, requests: list[Facts]) -> list[Verdict]:
    """The verdicts on requests that come one after the other."""
    return [(await one.gate.decide(request)).verdict for request in requests]


@pytest.mark.parametrize(("place", "request_with"), PLACES, ids=[name for name, _ in PLACES])
def test_random_credentials_make_no_buckets_and_few_checks(place: str, request_with: Callable[[str], Facts]) -> None:
    """Wherever they are sent, random credentials are charged to their address alone and soon not even read."""
    clock, tokens = FakeClock(), CountingVerifier()
    store = memory_store(clock)
    verdicts = run(send(worker(store, clock, tokens=tokens), [request_with(f"random-{n}") for n in range(300)]))
    assert verdicts == [Verdict.ALLOWED] * 300
    assert len(store) == 2, "one bucket for guests and one for failed credentials"
    assert tokens.calls == MOST_CHECKS


def test_random_credentials_do_not_escape_the_limit_of_their_address() -> None:
    """The guest limit ends a run of random credentials as if none had been sent."""
    clock = FakeClock()
    one = worker(memory_store(clock), clock, tokens=CountingVerifier(), ip_limit="20/minute")
    verdicts = run(send(one, [facts(f"random-{n}") for n in range(30)]))
    assert verdicts == [Verdict.ALLOWED] * 20 + [Verdict.REFUSED] * 10


@pytest.mark.parametrize("lags", [False, True], ids=["store answers at once", "store answers later"])
@pytest.mark.parametrize("already_failed", [0, 1, 9, 10])
def test_200_concurrent_random_credentials_cause_few_checks(lags: bool, already_failed: int) -> None:
    """Requests that are all under way before the first failure is counted cannot all be verified."""
    clock, tokens = FakeClock(), CountingVerifier()
    store = FlakyStore(memory_store(clock))
    store.lags = lags
    one = worker(store, clock, tokens=tokens)

    async def flood() -> None:
        await send(one, [facts(f"earlier-{n}") for n in range(already_failed)])
        await at_once(lambda n: one.gate.decide(facts(f"random-{n}")), 200)

    run(flood())
    assert tokens.calls == MOST_CHECKS
    assert len(store.inner) == 2


def test_200_concurrent_credentials_that_a_host_looks_up_first_cause_few_checks() -> None:
    """While the host app waits for its database others fail: what is left is looked at again before each check."""
    clock, tokens = FakeClock(), CountingVerifier()
    one = worker(memory_store(clock), clock, tokens=tokens)

    async def looks_it_up() -> Identity | None:
        await asyncio.sleep(0)
        return None

    async def flood() -> None:
        await at_once(lambda n: one.gate.decide(facts(f"random-{n}", authenticate=looks_it_up)), 200)

    run(flood())
    assert tokens.calls == MOST_CHECKS


def test_staggered_random_credentials_cause_few_checks() -> None:
    """Replies that are older than what the worker has counted since do not undo its count."""
    clock, tokens = FakeClock(), CountingVerifier()
    store = FlakyStore(memory_store(clock))
    store.lags = True
    one = worker(store, clock, tokens=tokens)

    async def flood() -> None:
        async def one_after_some(number: int) -> None:
            for _ in range(number % 7):
                await one.gate.decide(facts())
            await one.gate.decide(facts(f"random-{number}"))

        await at_once(one_after_some, 200)

    run(flood())
    assert tokens.calls <= MOST_CHECKS


def test_workers_share_the_count_of_failures() -> None:
    """What one worker has seen fail counts for the next: the fleet checks ten, not ten each."""
    clock, tokens = FakeClock(), CountingVerifier()
    store = memory_store(clock)
    fleet = [worker(store, clock, tokens=tokens) for _ in range(4)]

    async def alternate() -> None:
        for number in range(100):
            await fleet[number % 4].gate.decide(facts(f"random-{number}"))

    run(alternate())
    assert tokens.calls == MOST_CHECKS


def test_a_new_valid_token_waits_for_the_refill_and_a_proven_one_does_not() -> None:
    """While an address has no failure left nothing new is verified for it; what was proven before still counts."""
    clock, tokens = FakeClock(), CountingVerifier(valid={"proven", "new"})
    one = worker(memory_store(clock), clock, tokens=tokens)

    async def who(credential: str, peer: str = "203.0.113.7") -> Identity | None:
        return (await one.gate.decide(facts(credential, peer=peer))).identity

    async def story() -> None:
        assert await who("proven") == Identity("proven")
        await send(one, [facts(f"random-{n}") for n in range(MOST_CHECKS)])
        asked = tokens.calls
        assert await who("new") is None
        assert await who("proven") == Identity("proven")
        assert tokens.calls == asked
        clock.now_s += REFILL_S - 0.001
        assert await who("new") is None, "a millisecond before the first unit is back"
        clock.now_s += 0.001
        assert await who("new") == Identity("new")

    run(story())


def test_another_address_is_not_held_responsible() -> None:
    """Failures of one address stop nobody else's credentials from being verified."""
    clock, tokens = FakeClock(), CountingVerifier(valid={"new"})
    one = worker(memory_store(clock), clock, tokens=tokens)
    run(send(one, [facts(f"random-{n}") for n in range(50)]))
    assert run(one.gate.decide(facts("new", peer="203.0.113.8"))).identity == Identity("new")


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
    one = worker(memory_store(clock), clock, tokens=tokens)
    run(send(one, [facts(f"random-{n}", peer=f"2001:db8:0:{n % 256:x}::1") for n in range(512)]))
    assert tokens.calls == 4 * MOST_CHECKS


def test_failures_count_while_the_store_is_away() -> None:
    """Without the store every worker still counts by itself."""
    for on_failure in ("local", "open", "closed"):
        clock, tokens = FakeClock(), CountingVerifier()
        store = FlakyStore(memory_store(clock), failing=StoreUnavailable("refused"))
        one = worker(store, clock, tokens=tokens, on_redis_failure=on_failure)
        run(send(one, [facts(f"random-{n}") for n in range(100)]))
        assert tokens.calls == MOST_CHECKS, on_failure


def test_while_the_store_is_away_each_worker_of_many_counts_by_the_whole_limit() -> None:
    """Verifying costs a worker's own time: each has its ten failures, and bars nobody longer than they refill."""
    clock, tokens = FakeClock(), CountingVerifier()
    store = FlakyStore(memory_store(clock))
    one = worker(store, clock, tokens=tokens)
    others = [worker(FlakyStore(store.inner), clock) for _ in range(39)]

    async def story() -> None:
        for each in (*others, one):
            await each.seats.refresh()
        assert one.seats.workers == 40
        store.failing = StoreUnavailable("refused")
        await send(one, [facts(f"random-{n}") for n in range(100)])
        assert tokens.calls == MOST_CHECKS
        store.failing = None
        clock.now_s += REFILL_S
        await send(one, [facts(f"later-{n}") for n in range(100)])
        assert tokens.calls == MOST_CHECKS + 1

    run(story())


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
    """It is a guest's, costs a failure, and no signature check."""
    clock, tokens = FakeClock(), CountingVerifier(valid={credential})
    store = memory_store(clock)
    decision = run(worker(store, clock, tokens=tokens).gate.decide(facts(credential)))
    assert decision.identity is None, reason
    assert tokens.calls == 0, reason
    assert len(store) == 2, reason


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
