"""What a description by keys and values is charged, and to whom."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from doors.asgi.harness import run
from gate.doubles import FakeClock
from servers import redis_server
from shieldmw import Settings
from shieldmw.core.decision import Decision, Reason
from shieldmw.core.facts import Facts
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.gate import named_limits as under_test
from shieldmw.gate.clock import Clock
from shieldmw.gate.worker import Worker
from shieldmw.store.opener import store_opener
from shieldmw.wiring import build_worker

RULES = json.dumps(
    [
        {"name": "search", "path": "/search/*", "limits": "2/hour"},
        {"name": "form", "path": "/form", "methods": ["POST"], "limits": "1/hour"},
        {"name": "user_id", "path": "/-/user", "limits": "3/hour"},
        {"name": "all", "path": "/all", "limits": "2/hour", "per": "everyone"},
        {"name": "visitors", "path": "/guests", "limits": "2/hour", "per": "guests"},
        {"name": "tokens", "path": "/-/tokens", "limits": "30/hour", "cost": 3},
        {"name": "inside", "path": "/inside", "emergency": "members"},
        {"name": "bare", "path": "/bare"},
        {"name": "tried", "path": "/tried", "limits": "2/hour", "dry_run": True},
    ]
)
SETTINGS = {"ip_limit": "4/hour", "rules": RULES, "exempt_paths": "/healthz", "deny_ips": "192.0.2.66/32"}
A, B = "203.0.113.1", "203.0.113.2"

Ask = Callable[..., Awaitable[Decision | None]]


def asking(story: Callable[[Worker, Ask], Awaitable[Any]], **more: Any) -> Any:
    """What comes of a story; ``ask`` takes entries as ``key=value``, and the hits."""

    async def telling() -> Any:
        settings = Settings(**{**SETTINGS, **more})
        clock = FakeClock()
        worker = build_worker(settings, store_opener(settings)(), Clock(clock.us, clock.s))
        await worker.start()

        async def ask(*entries: str, hits: int = 1, domain: str = "web") -> Decision | None:
            pairs = [(entry.partition("=")[0], entry.partition("=")[2]) for entry in entries]
            return await worker.named_limits.decide(domain, pairs, hits)

        try:
            return await story(worker, ask)
        finally:
            await worker.stop()

    return run(telling())


def admitted(*questions: tuple[str, ...], **more: Any) -> list[bool | None]:
    """Whether each of these descriptions is admitted, one after the other; None: it means no limit."""

    async def story(_: Worker, ask: Ask) -> list[bool | None]:
        decisions = [await ask(*entries) for entries in questions]
        return [None if decision is None else not decision.refused for decision in decisions]

    found: list[bool | None] = asking(story, **more)
    return found


NAMED, WHO, ELSE = "generic_key=search", f"remote_address={A}", f"remote_address={B}"
YES, NO = True, False

CASES: dict[str, tuple[Sequence[tuple[str, ...]], Sequence[bool | None]]] = {
    "an address has its own limit": ([(WHO,)] * 5 + [(ELSE,)], [YES] * 4 + [NO, YES]),
    "one that is none is nobody's": ([("remote_address=x",)] * 5 + [(WHO,)], [YES] * 4 + [NO, YES]),
    "all of a /64 are one": ([(f"remote_address=2001:db8::{at}",) for at in range(1, 6)], [YES] * 4 + [NO]),
    "a path adds its rule's": ([(WHO, "path=/search/x?q")] * 3 + [(WHO,)], [YES, YES, NO, YES]),
    "in any spelling": ([(WHO, f"path={path}") for path in ("/search/x", "/%73earch", "//search/y")], [YES, YES, NO]),
    "a rule for POST": (
        [(WHO, "path=/form"), (WHO, "path=/form", "method=post"), (WHO, "path=/form", "method=POST")],
        [YES, YES, NO],
    ),
    "an exempt path": ([(WHO, "path=/healthz")] * 6, [None] * 6),
    "a path alone is shared": ([("path=/search/x",)] * 3, [YES, YES, NO]),
    "a path alone without a rule": ([("path=/",)] * 3, [None] * 3),
    "a rule shared by all": ([("path=/all",), (WHO, "path=/all"), (ELSE, "path=/all")], [YES, YES, NO]),
    "a name, for an address": ([(NAMED, WHO)] * 3 + [(NAMED, ELSE), (WHO,)], [YES, YES, NO, YES, YES]),
    "it is the bucket of the path": ([(NAMED, WHO), (WHO, "path=/search/x"), (NAMED, WHO)], [YES, YES, NO]),
    "a name alone is shared": ([(NAMED,)] * 3 + [("path=/search/x",), (NAMED, WHO)], [YES, YES, NO, NO, YES]),
    "names of other actions": (
        [("header_match=search", WHO), ("query_match=search", WHO), (NAMED, WHO)],
        [YES, YES, NO],
    ),
    "a rule of everyone": ([("generic_key=all", WHO), ("generic_key=all", ELSE), ("generic_key=all",)], [YES, YES, NO]),
    "a rule of guests": ([("generic_key=visitors", WHO), ("path=/guests",), ("generic_key=visitors",)], [YES, YES, NO]),
    "a key with values": ([("user_id=7",)] * 4 + [("user_id=8",)], [YES] * 3 + [NO, YES]),
    "a name for values": ([(NAMED, "tenant=a")] * 3 + [(NAMED, "tenant=b")], [YES, YES, NO, YES]),
    "the last name counts": ([(NAMED, "user_id=7")] * 4, [YES] * 3 + [NO]),
    "values and an address": (
        [("user_id=7", WHO)] * 4 + [("user_id=7", ELSE), ("user_id=7",)],
        [YES] * 3 + [NO, YES, YES],
    ),
    "values and a /64": ([("user_id=7", f"remote_address=2001:db8::{at}") for at in range(4)], [YES] * 3 + [NO]),
    "no value is another entry": (
        [(NAMED, "user=a tenant=b")] * 3 + [(NAMED, "user=a", "tenant=b")],
        [YES, YES, NO, YES],
    ),
    "no value is an address": (
        [(NAMED, f"tenant=a ip:{A}/32")] * 3 + [(NAMED, "tenant=a", WHO)],
        [YES, YES, NO, YES],
    ),
    "an unknown name": ([("generic_key=nothing", WHO)] * 6, [None] * 6),
    "an unknown key": ([("tenant=a",), ("tenant=a", WHO)], [None, None]),
    "a rule without limits": ([("generic_key=bare", WHO)], [None]),
    "nothing at all": ([()], [None]),
    "a rule in dry run": ([("generic_key=tried", WHO)] * 4, [YES] * 4),
    "a path in dry run": ([(WHO, "path=/tried")] * 5, [YES] * 4 + [NO]),
    "a path in dry run alone": ([("path=/tried",)] * 4, [None] * 4),
    "a denied address": ([("remote_address=192.0.2.66",), (NAMED, "remote_address=192.0.2.66")], [NO, NO]),
}


@pytest.mark.parametrize(("questions", "expected"), CASES.values(), ids=CASES.keys())
def test_what_a_description_means(questions: Sequence[tuple[str, ...]], expected: Sequence[bool | None]) -> None:
    """Each is asked in turn, of full buckets."""
    assert admitted(*questions) == expected


def test_domains_keep_values_apart() -> None:
    """The same key and value of two domains are two clients."""

    async def story(_: Worker, ask: Ask) -> list[bool]:
        decisions = [await ask("user_id=7", domain=domain) for domain in ("a", "a", "a", "a", "b")]
        return [decision is not None and decision.refused for decision in decisions]

    assert asking(story) == [False, False, False, True, False]


def test_the_buckets_are_those_of_requests() -> None:
    """What a client has spent by requests is missing here, and the other way round."""

    async def story(worker: Worker, ask: Ask) -> list[bool]:
        facts = Facts(A, "/search/x", "/search/x", frozenset(("GET",)))
        first = await worker.gate.decide(facts)
        second = await ask(NAMED, WHO)
        third = await worker.gate.decide(facts)
        assert second is not None
        return [first.refused, second.refused, third.refused]

    assert asking(story) == [False, False, True]


def test_an_allowed_address_has_no_limit() -> None:
    """SHIELD_ALLOW_IPS, as for requests."""
    assert admitted(*[(WHO,)] * 6, allow_ips=f"{A}/32") == [None] * 6


def test_a_dry_run_refuses_nothing() -> None:
    """It decides, and lets pass."""
    assert admitted(*[(WHO,)] * 6, dry_run=True) == [True] * 6


def test_in_an_emergency_an_address_is_a_guest() -> None:
    """Its limit is that of the emergency, and paths of members are closed to it."""

    async def story(worker: Worker, ask: Ask) -> list[Decision | None]:
        await worker._mode_watch.set(ModeChange(Mode.EMERGENCY, "a test", "a test"), None)
        return [await ask(WHO, "path=/inside"), await ask(WHO), await ask(WHO)]

    closed, first, second = asking(story, emergency_ip_limit="1/hour")
    assert (closed.refused, closed.reason, closed.mode) == (True, Reason.EMERGENCY, Mode.EMERGENCY)
    assert (first.refused, second.refused, second.reason) == (False, True, Reason.QUOTA)


# --- hits -----------------------------------------------------------------------------------------


def left(decision: Decision | None) -> int:
    assert decision is not None
    return decision.statuses[0].remaining


def test_hits_multiply_the_cost() -> None:
    """Three hits of a rule with cost 3 take 9 of its 30 units."""

    async def story(_: Worker, ask: Ask) -> list[int]:
        return [left(await ask("generic_key=tokens", hits=hits)) for hits in (1, 3, 2)]

    assert asking(story) == [27, 18, 12]


def test_a_look_costs_nothing() -> None:
    """Over the limit if one more hit would be; otherwise it says what is left, any number of times."""

    async def story(_: Worker, ask: Ask) -> list[tuple[bool, int]]:
        told = []
        for hits in (0, 0, 9, 0, 1, 0, 0):
            decision = await ask("generic_key=tokens", hits=hits)
            assert decision is not None
            told.append((decision.refused, left(decision)))
        return told

    assert asking(story) == [
        *[(False, 30), (False, 30), (False, 3), (False, 3)],
        *[(False, 0), (True, 0), (True, 0)],
    ]


def test_hits_that_do_not_fit_empty_the_bucket() -> None:
    """They may have happened already: otherwise a client with a little left could have as much as it likes for ever."""

    async def story(_: Worker, ask: Ask) -> list[bool]:
        decisions = [await ask("generic_key=tokens", hits=hits) for hits in (7, 5, 0, 1)]
        return [decision is not None and decision.refused for decision in decisions]

    assert asking(story) == [False, True, True, True]


def test_more_hits_than_a_bucket_holds_take_all_of_it() -> None:
    """They are refused: otherwise that many hits would pass each time the bucket is full."""

    async def story(_: Worker, ask: Ask) -> list[bool]:
        decisions = [await ask("generic_key=tokens", hits=hits) for hits in (2**64 - 1, 0)]
        return [decision is not None and decision.refused for decision in decisions]

    assert asking(story) == [True, True]


def test_a_refusal_of_one_hit_changes_nothing() -> None:
    """The wait does not grow, however often it is asked."""

    async def story(_: Worker, ask: Ask) -> list[int]:
        decisions = [await ask(NAMED, WHO) for _ in range(6)]
        return [decision.retry_after_us for decision in decisions if decision is not None and decision.refused]

    waits = asking(story)
    assert len(waits) == 4
    assert waits == sorted(waits, reverse=True)


# --- the store, the log ---------------------------------------------------------------------------


def test_the_fleet_shares_them() -> None:
    """Two workers on one Redis, exact counts: by address, by value, and shared by all."""
    with redis_server("valkey") as store:
        settings = Settings(**SETTINGS, redis_url=store.url, redis_timeout_ms=5000)

        async def story() -> list[int]:
            workers = [build_worker(settings, store_opener(settings)()) for _ in range(2)]
            counts = []
            for worker in workers:
                await worker.start()
            for entries in ([("remote_address", A)], [("user_id", "7")], [("generic_key", "all")]):
                decisions = [await workers[at % 2].named_limits.decide("web", entries, 1) for at in range(8)]
                counts.append(sum(decision is not None and not decision.refused for decision in decisions))
            for worker in workers:
                await worker.stop()
            return counts

        assert run(story()) == [4, 3, 2]


@pytest.mark.parametrize(
    ("on_failure", "expected"), [("open", [YES] * 3), ("closed", [NO] * 3), ("local", [YES, YES, NO])]
)
def test_without_the_store_it_goes_on(on_failure: str, expected: list[bool]) -> None:
    """As requests do: SHIELD_ON_REDIS_FAILURE."""
    more = {"redis_url": "redis://127.0.0.1:1", "on_redis_failure": on_failure}
    assert admitted(*[(NAMED, WHO)] * 3, **more) == expected


def test_what_is_unknown_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """With the last description, made harmless and short."""
    with caplog.at_level(logging.WARNING, under_test.__name__):
        admitted(*[("generic_key=no\nthing", f"x={'y' * 1000}")] * 5, ("generic_key=bare",))
    (line,) = [record.getMessage() for record in caplog.records]
    assert "pass without a limit: unknown: 1; the last: 'generic_key=no\\nthing, x=yyy" in line
    assert len(line) < 400
