"""Round trips: calls are grouped, end within their time limit, and need no task or timer each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from shieldmw.errors import NotApplied, StoreError, StoreUnavailable
from shieldmw.store.redis.connection import RedisConnection
from shieldmw.store.redis.round_trips import MOST_CALLS
from store.fleets import until
from store.redis.scripted import EVERY_LOOP, Loop, Peer, bulk, connected, echo, echoes, run_on, scripted
from store.stores import AMPLE_S

# A budget that is used up on purpose, and how long a process is busy with other things.
BUDGET_S = 0.1
BUSY_S = 3 * BUDGET_S


def all_of(connection: RedisConnection, count: int) -> list[asyncio.Task[bytes]]:
    """Calls at once."""
    return [asyncio.create_task(echo(connection, number)) for number in range(count)]


def keep_busy(seconds: float) -> None:
    """Keep this process, and with it its loop, from doing anything else."""
    time.sleep(seconds)


# --- groups


@EVERY_LOOP
def test_calls_that_come_during_a_round_trip_go_together_in_the_next(loop: Loop) -> None:
    """At most so many; the rest follows. A group is sent only when the one before was answered, in a single read."""
    sizes = [1, MOST_CALLS, 44, 1]

    async def groups(peer: Peer) -> None:
        await peer.shake_hands()
        await peer.commands(1)
        await peer.send(bulk(b"connected"))
        for size in sizes:
            commands = await peer.commands(size)
            for _ in range(20):
                await asyncio.sleep(0)
            assert not peer.has_more()
            await peer.send(b"".join(bulk(argument) for *_, argument in commands))

    async def work() -> None:
        async with scripted(groups) as (_, url), connected(url) as connection:
            assert await echo(connection, "") == b"connected"
            replies = await asyncio.gather(*all_of(connection, sum(sizes[:-1])))
            assert replies == [str(number).encode() for number in range(sum(sizes[:-1]))]
            assert await echo(connection, "last") == b"last"

    run_on(loop, work())


def test_calls_that_come_while_we_connect_go_together() -> None:
    """In the first round trip."""

    async def groups(peer: Peer) -> None:
        await peer.shake_hands()
        commands = await peer.commands(5)
        await peer.send(b"".join(bulk(argument) for *_, argument in commands))

    async def work() -> None:
        async with scripted(groups) as (_, url), connected(url) as connection:
            assert await asyncio.gather(*all_of(connection, 5)) == [b"0", b"1", b"2", b"3", b"4"]

    run_on(asyncio.new_event_loop, work())


def test_an_argument_that_cannot_be_sent_fails_its_own_call() -> None:
    """And no other one."""

    async def work() -> None:
        async with scripted(echoes) as (_, url), connected(url) as connection:
            good, bad = all_of(connection, 1)[0], asyncio.create_task(echo(connection, "\ud800"))
            with pytest.raises(StoreError, match="surrogates not allowed"):
                await bad
            assert await good == b"0"

    run_on(asyncio.new_event_loop, work())


# --- what a call costs


def test_a_call_over_an_open_connection_needs_no_task_and_no_timer() -> None:
    """It is sent at once, and all calls share one timer, which is set again only when it has rung."""
    timers: list[float] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        async with scripted(echoes) as (_, url), connected(url) as connection:
            await echo(connection, "connects")
            tasks = asyncio.all_tasks()
            call_at = loop.call_at

            def counted(when: float, callback: Callable[..., object], *arguments: Any, **options: Any) -> Any:
                timers.append(when)
                return call_at(when, callback, *arguments, **options)

            loop.call_at = counted  # type: ignore[method-assign, assignment]
            for _ in range(100):
                replies = connection._round_trips.call([("ECHO", "a")])
                assert asyncio.all_tasks() == tasks
                assert await replies == [b"a"]

    run_on(asyncio.new_event_loop, work())
    assert timers == []


# --- the time limit


async def never(peer: Peer) -> None:
    """A server that accepts, and says nothing."""
    assert await peer.ended() is False


@EVERY_LOOP
def test_connecting_is_part_of_the_time_limit(loop: Loop) -> None:
    """Whatever waits for it fails with it, as not sent; the next call connects again."""

    async def work() -> None:
        async with scripted(never, echoes) as (server, url), connected(url, BUDGET_S) as connection:
            clock = asyncio.get_running_loop().time
            began_s = clock()
            errors = await asyncio.gather(*all_of(connection, 3), return_exceptions=True)
            assert clock() - began_s > BUDGET_S * 0.99
            assert [type(error) for error in errors] == [NotApplied] * 3
            assert await echo(connection, "again") == b"again"
            assert server.connections == 2

    run_on(loop, work())


@EVERY_LOOP
def test_a_late_reply_is_no_later_calls(loop: Loop) -> None:
    """What was sent and not answered in time may have been done, what waited was not; the connection is left."""

    async def late(peer: Peer) -> None:
        await peer.shake_hands()
        [[*_, argument]] = await peer.commands(1)
        await gone.wait()
        with suppress(ConnectionError):
            await peer.send(bulk(argument))
        assert await peer.ended()

    gone = asyncio.Event()

    async def work() -> None:
        async with scripted(late, echoes) as (_, url), connected(url, BUDGET_S) as connection:
            first = asyncio.create_task(echo(connection, "a"))
            await until(lambda: connection._round_trips._protocol is not None, "the connection")
            began_s = time.monotonic()
            errors = await asyncio.gather(first, *all_of(connection, 2), return_exceptions=True)
            assert time.monotonic() - began_s < AMPLE_S / 2
            assert [type(error) for error in errors] == [StoreUnavailable, NotApplied, NotApplied]
            gone.set()
            assert await echo(connection, "b") == b"b"

    run_on(loop, work())


@EVERY_LOOP
def test_each_round_trip_has_the_whole_limit(loop: Loop) -> None:
    """However long those before it took, one after the other."""

    async def slow(peer: Peer) -> None:
        await peer.shake_hands()
        while True:
            [[*_, argument]] = await peer.commands(1)
            await asyncio.sleep(BUSY_S * 0.6)
            await peer.send(bulk(argument))

    async def work() -> None:
        async with scripted(slow) as (server, url), connected(url, BUSY_S) as connection:
            for number in range(4):
                assert await echo(connection, number) == str(number).encode()
            assert server.connections == 1

    run_on(loop, work())


@EVERY_LOOP
def test_a_late_loop_is_forgiven(loop: Loop) -> None:
    """What could only be heard after the limit, since this process was kept from running, is still heard."""

    async def work() -> None:
        async with scripted(echoes) as (server, url), connected(url, BUDGET_S) as connection:
            await echo(connection, "connects")
            for number in range(3):
                call = asyncio.create_task(echo(connection, number))
                await asyncio.sleep(0)
                keep_busy(BUSY_S)  # the server, too, is kept from answering
                assert await call == str(number).encode()
            assert server.connections == 1

    run_on(loop, work())


@EVERY_LOOP
def test_a_late_loop_is_forgiven_once(loop: Loop) -> None:
    """By no more than the limit again: a server that is silent then is too slow."""

    async def silent(peer: Peer) -> None:
        await peer.shake_hands()
        await peer.commands(1)
        await peer.send(bulk(b"connected"))
        assert not await peer.ended()

    async def work() -> None:
        async with scripted(silent) as (_, url), connected(url, BUDGET_S) as connection:
            await echo(connection, "connects")
            began_s = time.monotonic()
            call = asyncio.create_task(echo(connection, "a"))
            await asyncio.sleep(0)
            keep_busy(BUSY_S)
            with pytest.raises(StoreUnavailable):
                await call
            assert BUSY_S + BUDGET_S / 2 <= time.monotonic() - began_s < AMPLE_S / 2

    run_on(loop, work())


# --- leaving a server that may have been replaced


@EVERY_LOOP
def test_a_server_is_left_after_the_round_trip(loop: Loop) -> None:
    """Not in the middle of it: what else it answers holds."""

    async def replica(peer: Peer) -> None:
        await peer.shake_hands()
        commands = await peer.commands(3)
        await peer.send(bulk(b"0") + b"-READONLY You can't write against a read only replica.\r\n")
        await asyncio.sleep(0)
        await peer.send(bulk(commands[2][-1]))
        assert await peer.ended()

    async def work() -> None:
        async with scripted(replica, echoes) as (server, url), connected(url) as connection:
            first, error, last = await asyncio.gather(*all_of(connection, 3), return_exceptions=True)
            assert (first, last) == (b"0", b"2")
            assert isinstance(error, NotApplied)
            for number in range(3):
                assert await echo(connection, number) == str(number).encode()
            assert server.connections == 2

    run_on(loop, work())


@EVERY_LOOP
def test_a_server_that_is_left_and_fails_is_left_once(loop: Loop) -> None:
    """The connection after it stays."""

    async def replica(peer: Peer) -> None:
        await peer.shake_hands()
        await peer.commands(2)
        await peer.send(b"-READONLY You can't write against a read only replica.\r\n")

    async def work() -> None:
        async with scripted(replica, echoes) as (server, url), connected(url) as connection:
            errors = await asyncio.gather(*all_of(connection, 2), return_exceptions=True)
            assert [type(error) for error in errors] == [NotApplied, StoreUnavailable]
            for number in range(3):
                assert await echo(connection, number) == str(number).encode()
            assert server.connections == 2

    run_on(loop, work())


# --- the end


@EVERY_LOOP
def test_a_retired_connection_ends_with_its_last_call(loop: Loop) -> None:
    """Those under way and those that wait are made; then it is closed, and so is what a later call opens."""
    ended: list[bool] = []

    async def retired(peer: Peer) -> None:
        await peer.shake_hands()
        for count in (1, 2):
            commands = await peer.commands(count)
            await retires.wait()
            await peer.send(b"".join(bulk(argument) for *_, argument in commands))
        ended.append(await peer.ended())

    retires = asyncio.Event()

    async def later(peer: Peer) -> None:
        await peer.shake_hands()
        await peer.commands(1)
        await peer.send(bulk(b"later"))
        ended.append(await peer.ended())

    async def work() -> None:
        async with scripted(retired, later) as (_, url), connected(url) as connection:
            first = asyncio.create_task(echo(connection, 0))
            await until(lambda: connection._round_trips._protocol is not None, "the connection")
            others = all_of(connection, 2)
            await asyncio.sleep(0)
            await connection.retire()
            retires.set()
            assert await asyncio.gather(first, *others) == [b"0", b"0", b"1"]
            assert await echo(connection, "x") == b"later"
            await until(lambda: len(ended) == 2, "both to be closed")

    run_on(loop, work())
    assert ended == [True, True]


@EVERY_LOOP
@pytest.mark.parametrize("turns", [*range(12), 50])
def test_closing_at_any_moment_leaves_nothing_behind(loop: Loop, turns: int) -> None:
    """No call that waits, no task, no connection; and a later call opens a new one."""

    async def work() -> None:
        async with scripted(echoes) as (_, url), connected(url) as connection:
            tasks = asyncio.all_tasks()
            calls = all_of(connection, 2)
            for _ in range(turns):
                await asyncio.sleep(0)
            await connection.aclose()
            for result in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(result, StoreUnavailable) or result in (b"0", b"1")
            assert await echo(connection, "again") == b"again"
            await connection.aclose()
            names = {task.get_name() for task in asyncio.all_tasks() - tasks}
            assert "shieldmw store" not in names

    run_on(loop, work())
