"""A real server that comes back empty: the workers restore the waiting room and the deny list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import redis

from gate.doubles import facts, packed
from servers import RedisServer, redis_server
from shieldmw import Identity, Settings
from shieldmw.core.address import network_of
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.facts import Facts
from shieldmw.gate.operator.control import Control
from shieldmw.gate.seats.admission import Entry
from shieldmw.gate.worker import Worker
from shieldmw.store.fleet import RedisStore
from shieldmw.store.port import AuditEntry
from shieldmw.store.redis.connection import RedisConnection
from shieldmw.wiring import build_worker

SECRET = b"a secret of at least 32 characters"
ADDRESS = packed("203.0.113.7")
LIMIT_S = 20
PAUSE_S = 0.01

DENIED, TAKEN_OFF, OTHER = "198.51.100.0/24", "192.0.2.0/24", "203.0.113.0/24"


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    """A server for this module."""
    with redis_server("valkey") as server:
        yield server


@pytest.fixture
def client(valkey: RedisServer) -> redis.Redis:
    """A connection to it, empty."""
    client = valkey.client()
    client.flushall()
    return client


@asynccontextmanager
async def fleet(server: RedisServer, count: int, *, started: bool = False) -> AsyncIterator[list[Worker]]:
    """Workers of two seats; without ``started`` nothing is done in the background."""
    settings = Settings(redis_url="memory://", capacity=2, ip_limit="off", token_limit="off")
    async with AsyncExitStack() as stack:
        workers = []
        for _ in range(count):
            store = RedisStore(RedisConnection(server.url, LIMIT_S), prefix="shield", secret=SECRET, candidate=SECRET)
            workers.append(build_worker(settings, store))
            stack.push_async_callback(workers[-1].stop)
            if started:
                await workers[-1].start()
        yield workers


def run(story: Coroutine[Any, Any, None]) -> None:
    """Run a story within a limit."""

    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await story

    asyncio.run(limited())


# --- the waiting room -----------------------------------------------------------------------------


def asks(worker: Worker, who: str, signed_ticket: str | None = None) -> tuple[Entry | None, Decision]:
    """A member asks for a seat."""
    asked = Facts(str(ADDRESS), "/live", "/live", frozenset({"GET"}), signed_ticket=signed_ticket)
    decision = Decision(Verdict.ALLOWED, Reason.WITHIN_LIMITS, ADDRESS, Identity(who), live=True)
    after, entry = worker.entrance.enter(asked, decision, lambda: None)
    return entry, after


async def refreshed(worker: Worker) -> None:
    """What the background does, once numbers may be called again."""
    await worker.entrance.admission.seats.refresh()
    worker.entrance.admission.room._call_s = 0.0
    await worker.entrance.admission.refresh()


def test_who_waits_keeps_the_place(valkey: RedisServer, client: redis.Redis) -> None:
    """After FLUSHALL members have the numbers and the positions that they had, and are called next."""

    async def story() -> None:
        async with fleet(valkey, 1) as (worker,):
            await refreshed(worker)
            seats = [asks(worker, f"in-{number}")[0] for number in range(2)]
            for number in range(3):
                asks(worker, f"waits-{number}")
            await refreshed(worker)
            signed_tickets = [asks(worker, f"waits-{number}")[1].signed_ticket for number in range(3)]
            assert seats[0] is not None
            worker.entrance.admission.seats.release(seats[0].seat)
            await refreshed(worker)
            assert asks(worker, "waits-0", signed_tickets[0])[0] is not None
            assert client.hgetall("shield:queue")[b"called"] == b"1"
            client.flushall()
            await refreshed(worker)
            positions = [asks(worker, f"waits-{number}", signed_tickets[number])[1].place for number in (1, 2)]
            assert [place.position for place in positions if place] == [1, 2]
            newcomer = asks(worker, "new")[1].place
            assert newcomer is None or newcomer.position > 2
            assert seats[1] is not None
            worker.entrance.admission.seats.release(seats[1].seat)
            await refreshed(worker)
            assert asks(worker, "waits-2", signed_tickets[2])[0] is None
            assert asks(worker, "waits-1", signed_tickets[1])[0] is not None

    run(story())


# --- the deny list --------------------------------------------------------------------------------


def control(worker: Worker) -> Control:
    """What operators do on a worker."""
    return worker.control


async def deny(worker: Worker, network: str) -> None:
    """An operator denies a network for an hour."""
    await control(worker).denials.deny(network_of(network), 3600, actor="kim", reason="flood", own=None, force=False)


async def denied(worker: Worker) -> list[str]:
    """What is denied, as a worker knows it."""
    return sorted(str(entry.network) for entry in await control(worker).denials.denied())


async def told_again(worker: Worker) -> list[AuditEntry]:
    """What the audit says of a list that was lost."""
    return [entry for entry in await control(worker).audit() if entry.what == "deny list"]


def test_what_was_denied_stays_denied(valkey: RedisServer, client: redis.Redis) -> None:
    """Workers tell an emptied store the list that is in force, once however many they are, and the audit says so."""

    async def story() -> None:
        async with fleet(valkey, 20, started=True) as workers:
            await deny(workers[0], DENIED)
            for worker in workers:
                assert await denied(worker) == [DENIED]
            client.flushall()
            while not client.hexists("shield:{control}:deny", DENIED):
                decision = await workers[7].gate.decide(facts(peer="198.51.100.9"))
                assert decision.reason is Reason.DENY_LIST, "not for a moment"
                await asyncio.sleep(PAUSE_S)
            for worker in workers:
                assert await denied(worker) == [DENIED]
            (entry,) = await told_again(workers[0])
            assert (entry.who, entry.now) == ("shieldmw", "1 networks")
            async with fleet(valkey, 1) as (new,):
                (kept,) = await control(new).denials.denied()
                assert (kept.actor, kept.reason) == ("kim", "flood")

    run(story())


def test_what_was_taken_off_stays_off(valkey: RedisServer, client: redis.Redis) -> None:
    """A worker that missed it does not tell a list again that operators have emptied, nor one that goes on."""

    async def story() -> None:
        async with fleet(valkey, 2) as (operators, late):
            await deny(operators, TAKEN_OFF)
            assert await denied(late) == [TAKEN_OFF]
            assert await control(operators).denials.undeny(network_of(TAKEN_OFF), "kim")
            assert await denied(late) == []
            await deny(operators, DENIED)
            assert await denied(late) == [DENIED]
            client.flushall()
            await deny(operators, OTHER)
            assert await denied(late) == sorted([DENIED, OTHER])
            assert len(await told_again(late)) == 1

    run(story())


def test_what_is_over_is_not_told_again(valkey: RedisServer, client: redis.Redis) -> None:
    """A list of which nothing is in force any more is not worth an entry in the audit."""

    async def story() -> None:
        async with fleet(valkey, 1) as (worker,):
            await control(worker).denials.deny(network_of(DENIED), -1, actor="kim", reason="", own=None, force=False)
            client.flushall()
            assert await denied(worker) == []
            assert await told_again(worker) == []

    run(story())
