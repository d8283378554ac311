"""Our own protocol, after redis-py has connected: any reply, in any chunks, on each kind of event loop."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers import RedisServer, redis_server, write_certificates
from shieldmw.errors import NotApplied, StoreError, StoreUnavailable
from shieldmw.store.redis.connection import RedisConnection
from store.fleets import until
from store.redis.scripted import EVERY_LOOP, Loop, Peer, bulk, connected, echo, echoes, run_on, scripted

# A budget that is used up on purpose.
BUDGET_S = 0.1


@pytest.fixture(scope="module")
def tls_server() -> Iterator[RedisServer]:
    """A server with TLS."""
    with redis_server("redis", tls=True) as server:
        yield server


# --- every kind of connection


@EVERY_LOOP
@pytest.mark.parametrize("way", ["url", "tcp_url", "tls_url"])
def test_replies_of_any_size_on_every_kind_of_connection(tls_server: RedisServer, loop: Loop, way: str) -> None:
    """Small and large ones together, each to its own call."""
    texts = [f"{number} " + "x" * (number**5 % 1_000_003) for number in range(40)]

    async def work() -> None:
        async with connected(getattr(tls_server, way)) as connection:
            for _ in range(3):
                replies = await asyncio.gather(*(echo(connection, text) for text in texts))
                assert replies == [text.encode() for text in texts]

    run_on(loop, work())


@EVERY_LOOP
@pytest.mark.parametrize("way", ["url", "tcp_url", "tls_url"])
def test_cancelled_calls_shift_no_replies(tls_server: RedisServer, loop: Loop, way: str) -> None:
    """Two thousand of them, cancelled at any point; the connection stays the same one."""
    chance = random.Random(20261127)

    async def cancel_later(task: asyncio.Task[bytes], turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()

    async def work() -> None:
        cancelled = answered = 0
        async with connected(getattr(tls_server, way)) as connection:
            before = await connection.command("CLIENT", "ID")
            while cancelled < 2_000:
                texts = [f"{answered} {number}" for number in range(200)]
                tasks = [asyncio.create_task(echo(connection, text)) for text in texts]
                hit = [cancel_later(task, chance.randrange(20)) for task in chance.sample(tasks, 150)]
                results = await asyncio.gather(*tasks, *hit, return_exceptions=True)
                for text, result in zip(texts, results, strict=False):
                    if isinstance(result, asyncio.CancelledError):
                        cancelled += 1
                    else:
                        assert result == text.encode()
                        answered += 1
            assert answered > 200
            assert await connection.command("CLIENT", "ID") == before

    run_on(loop, work())


# --- pieces


@EVERY_LOOP
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_replies_in_pieces_of_a_byte(loop: Loop, tls: bool, tmp_path: Path) -> None:
    """Split everywhere: in a length, in a text, between two replies."""
    texts = ["first", "", "in two\r\nlines", "last"]

    async def bytewise(peer: Peer) -> None:
        await peer.shake_hands()
        for count in (1, len(texts) - 1):
            commands = await peer.commands(count)
            for byte in b"".join(bulk(argument) for *_, argument in commands):
                await peer.send(bytes([byte]))
                await asyncio.sleep(0)
        assert not peer.has_more()

    async def work() -> None:
        certificates = tmp_path if tls else None
        if tls:
            write_certificates(tmp_path)
        async with scripted(bytewise, certificates=certificates) as (_, url), connected(url) as connection:
            replies = await asyncio.gather(*(echo(connection, text) for text in texts))
            assert replies == [text.encode() for text in texts]

    run_on(loop, work())


def test_a_reply_in_two_pieces_at_every_place() -> None:
    """An array of everything, split once, at each of its bytes."""
    reply = b"*5\r\n$3\r\nabc\r\n:-17\r\n$-1\r\n*2\r\n+OK\r\n-OOM no\r\n$0\r\n\r\n"

    async def halves(peer: Peer) -> None:
        await peer.shake_hands()
        for place in range(len(reply) + 1):
            await peer.commands(1)
            await peer.send(reply[:place])
            for _ in range(3):
                await asyncio.sleep(0)
            await peer.send(reply[place:])

    async def work() -> None:
        async with scripted(halves) as (server, url), connected(url) as connection:
            for _ in range(len(reply) + 1):
                text, number, nothing, [status, error], empty = await connection.command("X")
                assert (text, number, nothing, status, empty) == (b"abc", -17, None, b"OK", b"")
                assert isinstance(error, NotApplied)
            assert server.connections == 1

    run_on(asyncio.new_event_loop, work())


# --- taking over


@EVERY_LOOP
@pytest.mark.parametrize("surplus", [b"+surplus\r\n", b"$", b"-ERR no\r\n"])
def test_what_came_with_the_last_reply_to_connecting_is_no_calls_reply(loop: Loop, surplus: bytes) -> None:
    """Such a server is left, and nothing was sent to it."""

    async def talks(peer: Peer) -> None:
        await peer.shake_hands(also=surplus)
        assert await peer.ended()

    async def work() -> None:
        async with scripted(talks, echoes) as (_, url), connected(url) as connection:
            with pytest.raises(NotApplied, match="not asked for"):
                await echo(connection, "a")
            assert await echo(connection, "b") == b"b"

    run_on(loop, work())


@EVERY_LOOP
def test_a_server_that_goes_while_we_connect_was_sent_nothing(loop: Loop) -> None:
    """Right after its last reply to redis-py: the call fails, or is made by another connection."""

    async def goes(peer: Peer) -> None:
        await peer.shake_hands()

    async def work() -> None:
        async with scripted(goes, echoes) as (_, url), connected(url) as connection:
            try:
                assert await echo(connection, "a") == b"a"
            except StoreUnavailable:
                assert await echo(connection, "b") == b"b"

    run_on(loop, work())


# --- what is no reply

UNUSABLE: dict[str, bytes] = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "binary": bytes(range(128, 256)),
    "no number": b":one\r\n",
    "a negative length": b"$-7\r\n",
    "a length beyond bounds": b"*99999999999\r\n",
    "an array that is too large": b"*200000000\r\n",
    "one inside another": b"*2\r\n+a\r\n*2147483647\r\n",
    "a push that is too large": b">20000000\r\n",
    "one behind a text without its line end": b"*2\r\n$1\r\naXX*500000000\r\n",
    "one behind a verbatim text without its line end": b"*2\r\n=5\r\ntxt:aXX*500000000\r\n",
    "one behind an empty text and half a line end": b"*2\r\n$0\r\n\rX*500000000\r\n",
    "a deep nest": b"*1\r\n" * 100_000,
    "a push": b">2\r\n+invalidate\r\n+x\r\n",
    "a key that cannot be one": b"%1\r\n*0\r\n+x\r\n",
}


@EVERY_LOOP
@pytest.mark.parametrize("reply", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_what_is_no_reply_is_a_store_error(loop: Loop, reply: bytes) -> None:
    """For the calls that were sent; those behind them were not; and the connection is left."""

    async def nonsense(peer: Peer) -> None:
        await peer.shake_hands()
        await peer.commands(1)
        await peer.send(bulk(b"fine"))
        await peer.commands(2)
        await peer.send(reply)
        assert await peer.ended()

    async def work() -> None:
        async with scripted(nonsense, echoes) as (_, url), connected(url) as connection:
            assert await echo(connection, "a") == b"fine"
            calls = [asyncio.ensure_future(connection.transaction(("GET", text))) for text in "bcd"]
            used_s = time.process_time()
            errors = await asyncio.gather(*calls, return_exceptions=True)
            assert time.process_time() - used_s < 1
            assert [type(error) for error in errors] == [StoreError, NotApplied, NotApplied]
            assert await echo(connection, "e") == b"e"

    run_on(loop, work())


@EVERY_LOOP
def test_an_array_that_is_too_large_while_connecting(loop: Loop) -> None:
    """It waits for its elements, as long as there is time, and no room is reserved for them."""

    async def answers(peer: Peer) -> None:
        await peer.commands(1)
        await peer.send(b"*2000000000\r\n")
        assert await peer.ended()

    async def work() -> None:
        async with scripted(answers, echoes) as (_, url), connected(url, BUDGET_S) as connection:
            with pytest.raises(NotApplied, match="no answer within 100 ms"):
                await echo(connection, "a")
            asked_s = time.process_time()
            assert await echo(connection, "b") == b"b"
            assert time.process_time() - asked_s < 1

    run_on(loop, work())


@pytest.mark.parametrize("place", range(1, 22))
def test_an_array_that_is_too_large_in_two_pieces(place: int) -> None:
    """Its room is never reserved, wherever its head is split; a text that looks like it is just a text."""
    reply, looks = b"*2\r\n$1\r\naXX*200000000\r\n", "call *2000000 times"

    async def pieces(peer: Peer) -> None:
        await peer.shake_hands()
        await peer.commands(1)
        await peer.send(bulk(looks.encode()))
        await peer.commands(1)
        await peer.send(reply[:-place])
        for _ in range(3):
            await asyncio.sleep(0)
        await peer.send(reply[-place:])
        assert await peer.ended()

    async def work() -> None:
        async with scripted(pieces, echoes) as (_, url), connected(url) as connection:
            assert await echo(connection, looks) == looks.encode()
            with pytest.raises(StoreError, match="too large"):
                await echo(connection, "a")
            assert await echo(connection, "b") == b"b"

    run_on(asyncio.new_event_loop, work())


@EVERY_LOOP
@pytest.mark.parametrize("head", [b"$500000000\r\n", b"*500000\r\n+a\r\n", b"+"], ids=["text", "array", "line"])
def test_an_endless_reply_ends_with_the_budget(loop: Loop, head: bytes) -> None:
    """However long the server goes on."""

    async def goes_on(peer: Peer) -> None:
        await peer.shake_hands()
        await peer.commands(1)
        await peer.send(head)
        while True:
            await peer.send(b"x" * 1000 if head != b"*500000\r\n+a\r\n" else b":1\r\n")
            await asyncio.sleep(0.001)

    async def work() -> None:
        async with scripted(goes_on, echoes) as (_, url), connected(url, BUDGET_S) as connection:
            with pytest.raises(StoreUnavailable, match="no answer within 100 ms") as caught:
                await echo(connection, "a")
            assert not isinstance(caught.value, NotApplied)
            assert await echo(connection, "b") == b"b"

    run_on(loop, work())


@EVERY_LOOP
@pytest.mark.parametrize("surplus", [b"+surplus\r\n", b"$", b">1\r\n+x\r\n"])
def test_a_surplus_reply_is_no_later_calls(loop: Loop, surplus: bytes) -> None:
    """It makes us leave the server; the reply before it holds."""

    async def talks(peer: Peer) -> None:
        await peer.shake_hands()
        [[*_, argument]] = await peer.commands(1)
        await peer.send(bulk(argument) + surplus)
        assert await peer.ended()

    async def work() -> None:
        async with scripted(talks, echoes) as (server, url), connected(url) as connection:
            assert await echo(connection, "a") == b"a"
            assert await echo(connection, "b") == b"b"
            assert server.connections == 2

    run_on(loop, work())


@EVERY_LOOP
def test_what_a_server_says_unasked_is_no_later_calls_reply(loop: Loop) -> None:
    """Neither if nobody waits for anything."""

    async def talks(peer: Peer) -> None:
        await peer.shake_hands()
        [[*_, argument]] = await peer.commands(1)
        await peer.send(bulk(argument))
        await asyncio.sleep(0)
        await peer.send(b"+surplus\r\n")
        assert await peer.ended()
        left.set()

    left = asyncio.Event()

    async def work() -> None:
        async with scripted(talks, echoes) as (_, url), connected(url) as connection:
            assert await echo(connection, "a") == b"a"
            await left.wait()
            assert await echo(connection, "b") == b"b"

    run_on(loop, work())


# --- connections that are lost


@EVERY_LOOP
@pytest.mark.parametrize("resets", [False, True], ids=["closed", "reset"])
def test_a_connection_lost_in_the_middle_of_a_group(loop: Loop, resets: bool) -> None:
    """What was answered holds, what was sent may have been done, what was not sent was not; nothing is sent twice."""
    seen: list[list[bytes]] = []

    async def goes(peer: Peer) -> None:
        await peer.shake_hands()
        seen.extend(await peer.commands(1))
        for _ in range(20):  # until the others wait
            await asyncio.sleep(0)
        await peer.send(bulk(b"1"))
        seen.extend(await peer.commands(4))
        await peer.send(bulk(b"2") + bulk(b"3") + b"$1\r\n")
        await answered.wait()
        if resets:
            peer.reset()

    answered = asyncio.Event()

    async def work() -> None:
        async with scripted(goes, echoes) as (_, url), connected(url) as connection:
            calls = [asyncio.ensure_future(echo(connection, str(number))) for number in range(1, 6)]
            assert await asyncio.gather(*calls[:3]) == [b"1", b"2", b"3"]
            behind = asyncio.ensure_future(echo(connection, "6"))
            await asyncio.sleep(0)
            answered.set()
            errors = await asyncio.gather(*calls[3:], behind, return_exceptions=True)
            assert [type(error) for error in errors] == [StoreUnavailable, StoreUnavailable, NotApplied]
            assert await echo(connection, "7") == b"7"
            assert [text for *_, text in seen] == [b"1", b"2", b"3", b"4", b"5"]

    run_on(loop, work())


@EVERY_LOOP
def test_a_reset_in_the_turn_of_a_call_is_unavailable(loop: Loop) -> None:
    """The loop has not told yet that the connection is gone: the call fails, whatever a loop calls that."""

    async def resets(peer: Peer) -> None:
        await peer.shake_hands()
        [[*_, argument]] = await peer.commands(1)
        await peer.send(bulk(argument))
        await asyncio.sleep(0)
        peer.reset()
        for _ in range(5):
            outcomes.extend(await asyncio.gather(echo(connections[0], "x"), return_exceptions=True))

    outcomes: list[bytes | BaseException] = []
    connections: list[RedisConnection] = []

    async def work() -> None:
        async with scripted(resets, echoes) as (_, url), connected(url) as connection:
            connections.append(connection)
            assert await echo(connection, "a") == b"a"
            await until(lambda: len(outcomes) == 5, "the calls")
            assert all(isinstance(one, StoreUnavailable) or one == b"x" for one in outcomes)
            assert outcomes[-1] == b"x"

    run_on(loop, work())


# --- replies of another kind than was asked for


@pytest.mark.parametrize("reply", [b"_\r\n", b"+OK\r\n", b":1\r\n", b"%0\r\n"])
def test_a_transaction_without_replies_is_a_store_error(reply: bytes) -> None:
    """And so is a script that was loaded under no name."""

    async def answers(peer: Peer) -> None:
        await peer.shake_hands()
        await peer.commands(3)
        await peer.send(b"+OK\r\n+QUEUED\r\n" + reply)
        await peer.commands(1)
        await peer.send(b"*0\r\n")

    async def work() -> None:
        async with scripted(answers) as (_, url), connected(url) as connection:
            with pytest.raises(StoreError, match="EXEC"):
                await connection.transaction(("GET", "a"))
            with pytest.raises(StoreError):
                await connection.run("take", ["a"], [])

    run_on(asyncio.new_event_loop, work())
