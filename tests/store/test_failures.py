"""Store failures on real servers: always a StoreError, within the budget, sent only once, and recovered from."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import redis
import uvloop

from servers import HOST, RedisKind, RedisServer, free_port, redis_server, wait_until
from shieldmw.core.api_keys import ApiKey, derive_digest_key, digest
from shieldmw.core.bucket import Outcome
from shieldmw.core.client import Identity
from shieldmw.errors import StoreError, StoreUnavailable
from shieldmw.store.fleet import RedisStore
from shieldmw.store.keys import Keys
from shieldmw.store.redis.connection import RedisConnection
from store.faults import RESET, proxy_to
from store.stores import API_KEYS_KEY, SECRET, SECRET_KEY, all_keys, calls, one, opened, run, slow_limit, take

KEPT_MS = 3_600_000

# The budget of a call that is meant to end by it, and a bound that only a call without budget exceeds.
BUDGET_S = 0.05
GENEROUS_S = 2.0

# What a server on a busy machine may need to do what it was asked.
PATIENCE_S = 10.0

LIMIT = slow_limit(100)
BUCKET = Keys("shield", SECRET).bucket(one(LIMIT)[0])
API_KEY = ApiKey("a" * 64, Identity("alice"), 1_700_000_000)

Ask = Callable[[RedisStore], Awaitable[object]]

ASKS: dict[str, Ask] = {
    "take": lambda store: take(store, one(LIMIT)),
    "api_keys": lambda store: store.api_keys(None),
    "add_api_key": lambda store: store.add_api_key(API_KEY),
    "revoke_api_keys": lambda store: store.revoke_api_keys([API_KEY.digest]),
    "server_info": lambda store: store.server_info(),
}
EVERY_ASK = pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())


async def take_some(store: RedisStore, cost: int = 1) -> Outcome:
    """Some units of the bucket under test."""
    return await take(store, one(LIMIT, cost))


async def taken(store: RedisStore) -> int:
    """How many units of the bucket were taken."""
    outcome = await take_some(store, 0)
    return (outcome.tats_us[0] - outcome.now_us + LIMIT.unit_us - 1) // LIMIT.unit_us


async def fails(asked: Awaitable[object]) -> StoreUnavailable:
    """The failure that the store is away, well within the 5 s that redis-py waits by itself."""
    async with asyncio.timeout(GENEROUS_S):
        with pytest.raises(StoreUnavailable) as caught:
            await asked
    return caught.value


# --- scripts --------------------------------------------------------------------------------------


def test_a_flushed_script_is_loaded_again(server: RedisServer) -> None:
    """After SCRIPT FLUSH the very next take loads the script once and is charged once."""
    client = server.client()

    async def work() -> None:
        async with opened(server.url) as store:
            for number in range(1, 4):
                client.script_flush()
                client.config_resetstat()
                assert (await take_some(store)).allowed
                assert calls(client, "script|load", "script") == 1
                assert await taken(store) == number

    run(work())


def test_a_known_script_is_not_sent_again(server: RedisServer) -> None:
    """From the second take on each is one EVALSHA and nothing else."""
    client = server.client()

    async def work() -> None:
        async with opened(server.url) as store:
            await take_some(store)
            client.config_resetstat()
            for _ in range(10):
                await take_some(store)
            stats = client.info("commandstats")
            inside = {"cmdstat_time", "cmdstat_mget", "cmdstat_set", "cmdstat_config|resetstat", "cmdstat_info"}
            assert stats["cmdstat_evalsha"]["calls"] == 10
            assert set(stats) - inside == {"cmdstat_evalsha"}

    run(work())


def test_many_takes_at_once_survive_a_script_flush(server: RedisServer) -> None:
    """Every one of them meets NOSCRIPT or not, and each is charged exactly once."""
    client = server.client()

    async def work() -> None:
        async with opened(server.url) as store:
            for _ in range(5):
                client.script_flush()
                outcomes = await asyncio.gather(*(take_some(store) for _ in range(10)))
                assert all(outcome.allowed for outcome in outcomes)
            assert await taken(store) == 50

    run(work())


# --- nonsense in the store ------------------------------------------------------------------------


def as_list(client: redis.Redis, key: str) -> None:
    """A key of another type than any of ours."""
    client.rpush(key, "x")
    client.pexpire(key, KEPT_MS)


def as_text(client: redis.Redis, key: str) -> None:
    """Bytes that mean nothing."""
    client.set(key, b"\xff\x00 no number", px=KEPT_MS)


@pytest.mark.parametrize(
    ("key", "spoil", "requests"),
    [
        (SECRET_KEY, as_list, ["take", "api_keys"]),
        (SECRET_KEY, as_text, ["take", "api_keys"]),
        (API_KEYS_KEY, as_list, ["api_keys"]),
        (API_KEYS_KEY, as_text, ["api_keys"]),
    ],
)
def test_a_key_of_another_kind_is_a_store_error(
    server: RedisServer, key: str, spoil: Callable[[redis.Redis, str], None], requests: list[str]
) -> None:
    """Never another exception; and when the key is gone the same store works."""
    client = server.client()
    spoil(client, key)

    async def work() -> None:
        secret = None if key == SECRET_KEY else SECRET
        async with opened(server.url, secret=secret) as store:
            for name in requests:
                with pytest.raises(StoreError) as caught:
                    await ASKS[name](store)
                assert not isinstance(caught.value, StoreUnavailable)
            client.delete(key)
            for name in requests:
                await ASKS[name](store)

    run(work())


NONSENSE = {
    "empty": b"",
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe",
    "null": b"null",
    "a number": b"1",
    "a list": b"[]",
    "nothing in it": b"{}",
    "no class": b'{"subject": "bob", "created": 1}',
    "an unknown class": b'{"subject": "bob", "class": "king", "created": 1}',
    "a class that is a list": b'{"subject": "bob", "class": [], "created": 1}',
    "an empty subject": b'{"subject": "", "class": "member", "created": 1}',
    "a subject too long": json.dumps({"subject": "x" * 1025, "class": "member", "created": 1}).encode(),
    "a date that is text": b'{"subject": "bob", "class": "member", "created": "soon"}',
    "a date that is null": b'{"subject": "bob", "class": "member", "created": null}',
    "an endless date": b'{"subject": "bob", "class": "member", "created": 1e999}',
    "a date that is no number": b'{"subject": "bob", "class": "member", "created": NaN}',
    "a date of 5000 digits": b'{"subject": "bob", "class": "member", "created": ' + b"9" * 5000 + b"}",
    "a deep nest": b"[" * 200_000,
}


@pytest.mark.parametrize("value", NONSENSE.values(), ids=NONSENSE.keys())
def test_an_api_key_that_cannot_be_read_hides_no_other(
    server: RedisServer, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left out with a line in the log, and the keys beside it work."""
    client = server.client()
    good = ApiKey(digest("good", derive_digest_key(SECRET)), Identity("alice"), 1)

    async def work() -> None:
        async with opened(server.url) as store:
            await store.add_api_key(good)
            client.hset(API_KEYS_KEY, "b" * 64, value)
            table = await store.api_keys(None)
            assert table is not None
            assert table.entries == {good.digest: good}

    with caplog.at_level(logging.WARNING):
        run(work())
    assert "an API key in the store cannot be read" in caplog.text


# --- hung, gone, reset ----------------------------------------------------------------------------


@EVERY_ASK
def test_a_hung_server_costs_one_budget(own: RedisServer, ask: Ask) -> None:
    """Stopped in the middle (SIGSTOP), on a connection that is open already."""

    async def work() -> None:
        async with opened(own.url, timeout_s=BUDGET_S) as store:
            await ready(store)
            own.pause()
            await fails(ask(store))
            own.resume()
            await ready(store)

    run(work())


def test_a_hung_server_is_asked_once(own: RedisServer) -> None:
    """The take that timed out was sent once: when the server goes on it charges one unit, not two."""
    client = own.client()

    async def work() -> None:
        async with opened(own.url, timeout_s=BUDGET_S) as store:
            await ready(store)
            before = await taken(store)
            client.config_resetstat()
            own.pause()
            await fails(take_some(store))
            own.resume()
            wait_until(lambda: calls(client, "evalsha"), PATIENCE_S, "the take that had timed out")
            assert calls(client, "evalsha") == 1
            await ready(store)
            assert await taken(store) == before + 1

    run(work())


def test_many_takes_on_a_hung_server_all_end(own: RedisServer) -> None:
    """More at once than there are connections: each ends within its budget, none waits for the others' budgets."""

    async def work() -> None:
        async with opened(own.url, timeout_s=BUDGET_S) as store:
            for _ in range(5):
                await ready(store)
                own.pause()
                await asyncio.gather(*(fails(take_some(store)) for _ in range(200)))
                own.resume()
            await ready(store)

    run(work())


async def ready(store: RedisStore) -> None:
    """The store answers, after as many failures as a server needs that has just come back."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(StoreUnavailable):
                await take_some(store, 0)
                return
            await asyncio.sleep(0.01)


@EVERY_ASK
def test_a_server_that_refuses_is_unavailable(ask: Ask) -> None:
    """Nobody listens on the port."""

    async def work() -> None:
        async with opened(f"redis://127.0.0.1:{free_port()}") as store:
            for _ in range(3):
                await fails(ask(store))

    run(work())


def test_a_socket_that_is_not_there_is_unavailable() -> None:
    """No server has made its unix socket yet."""

    async def work() -> None:
        async with opened("unix:///nonexistent/redis.sock") as store:
            await fails(take_some(store))

    run(work())


def test_a_host_without_an_address_is_unavailable() -> None:
    """The name cannot be resolved."""

    async def work() -> None:
        async with opened("redis://no-such-host.invalid:6379") as store:
            await fails(take_some(store))

    run(work())


def test_a_killed_server_is_away_until_it_is_back(own: RedisServer) -> None:
    """Killed under open connections (SIGKILL), then started empty: the first take after that works, with a secret."""

    async def work() -> None:
        async with opened(own.url, secret=None) as store:
            await asyncio.gather(*(take_some(store) for _ in range(20)))
            own.kill()
            for _ in range(3):
                await fails(take_some(store))
            own.start()
            assert (await take_some(store)).allowed
            assert await taken(store) == 1

    run(work())


HARM: dict[str, Callable[[bytes], bytes]] = {
    "before the reply": lambda reply: b"",
    "in the middle of the reply": lambda reply: reply[: len(reply) // 2],
    "after its first byte": lambda reply: reply[:1],
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
def test_a_reset_is_unavailable_and_not_retried(server: RedisServer, harm: Callable[[bytes], bytes]) -> None:
    """The connection breaks after the charge was taken: sent once, charged once, and the next take works."""

    async def work() -> None:
        async with proxy_to(server.port) as proxy, opened(proxy.url) as store:
            await take_some(store)
            proxy.seen, proxy.harm = 0, harm
            await fails(take_some(store))
            assert proxy.seen == 1
            proxy.harm = None
            assert await taken(store) == 2

    run(work())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_reset_while_nobody_waits_fails_nothing(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Something on the way forgets idle connections: the next call opens another."""
    forgets = threading.Event()

    def serve(listening: socket.socket) -> None:
        for _ in range(2):
            connection, _ = listening.accept()
            with connection:
                while b"PING" not in (data := connection.recv(65_536)):
                    connection.sendall(b"+OK\r\n" * data.count(b"*"))
                connection.sendall(b"+OK\r\n")
                forgets.wait(PATIENCE_S)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    async def work(port: int) -> None:
        connection = RedisConnection(f"redis://{HOST}:{port}", GENEROUS_S)
        async with asyncio.timeout(PATIENCE_S):
            await connection.command("PING")
            forgets.set()
            await asyncio.sleep(0.1)
            assert await connection.command("PING") == b"OK"
        await connection.aclose()

    with socket.create_server((HOST, 0)) as listening, asyncio.Runner(loop_factory=loop) as runner:
        server = threading.Thread(target=serve, args=(listening,), daemon=True)
        server.start()
        runner.run(work(listening.getsockname()[1]))
        server.join(PATIENCE_S)


@pytest.mark.parametrize("turns", range(4))
def test_closing_leaves_no_call_waiting(own: RedisServer, turns: int) -> None:
    """However far it was: one whose turn had not begun is told too."""

    async def work() -> None:
        connection = RedisConnection(own.url, GENEROUS_S)
        call = asyncio.create_task(connection.command("PING"))
        for _ in range(turns):
            await asyncio.sleep(0)
        await connection.aclose()
        async with asyncio.timeout(PATIENCE_S):
            with suppress(StoreUnavailable):
                assert await call == b"PONG"
        await connection.aclose()

    run(work())


REPLIES: dict[str, bytes] = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "binary": bytes(range(128, 256)),
    "another type": b"+OK\r\n",
    "null": b"_\r\n",
    "an empty array": b"*0\r\n",
    "an error that is not UTF-8": b"-ERR \xff\xfe\r\n",
    "an unknown error": b"-STRANGE thing\r\n",
    "an error without what it should say": b"-MOVED\r\n",
    "text for numbers": b"*3\r\n+1\r\n+2\r\n+3\r\n",
    "too few numbers": b"*2\r\n:1\r\n:2\r\n",
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES.keys())
def test_a_reply_that_makes_no_sense_is_a_store_error(server: RedisServer, reply: bytes) -> None:
    """Whatever answers there, it is never another exception, and the next take is not harmed by it."""

    async def work() -> None:
        async with proxy_to(server.port) as proxy, opened(proxy.url) as store:
            await take_some(store)
            proxy.resets, proxy.harm = False, lambda _: reply
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(StoreError):
                    await take_some(store)
            proxy.harm = None
            assert await taken(store) == 2

    run(work())


# --- answers that mean "not now" ------------------------------------------------------------------


def test_a_replica_is_unavailable(own: RedisServer) -> None:
    """READONLY, as after a failover to another server; and promoted again it works."""
    client = own.client()

    async def work() -> None:
        async with opened(own.url) as store:
            await take_some(store)
            client.replicaof("127.0.0.1", str(free_port()))
            assert "read only replica" in str(await fails(take_some(store)))
            client.replicaof("NO", "ONE")
            assert (await take_some(store)).allowed
            assert await taken(store) == 2

    run(work())


def test_a_replica_without_its_primary_is_unavailable(own: RedisServer) -> None:
    """MASTERDOWN, where stale data are not served."""
    client = own.client()

    async def work() -> None:
        async with opened(own.url) as store:
            await take_some(store)
            client.config_set("replica-serve-stale-data", "no")
            client.replicaof("127.0.0.1", str(free_port()))
            await fails(take_some(store))
            client.replicaof("NO", "ONE")
            assert (await take_some(store)).allowed

    run(work())


def test_a_full_server_is_unavailable(own: RedisServer) -> None:
    """OOM with noeviction: nothing is charged, in no bucket of the row; and with memory again it works."""
    client = own.client()
    client.config_set("maxmemory-policy", "noeviction")

    async def work() -> None:
        async with opened(own.url) as store:
            await take_some(store)
            client.config_set("maxmemory", 1)
            charges = [*one(LIMIT), *one(slow_limit(5, "other"))]
            assert "maxmemory" in str(await fails(take(store, charges)))
            client.config_set("maxmemory", 0)
            assert await taken(store) == 1
            assert all_keys(client) == [BUCKET]

    run(work())


def debug(client: redis.Redis, *words: str) -> None:
    """A DEBUG command, which redis-py has no method for."""
    execute: Callable[..., object] = client.execute_command
    execute("DEBUG", *words)


def test_a_loading_server_is_unavailable(own: RedisServer) -> None:
    """LOADING: the server answers while it reads its data, but not us; afterwards the bucket is what it was."""
    client, other = own.client(), own.client()
    debug(client, "POPULATE", "300", "filler", "2000")
    client.config_set("loading-process-events-interval-bytes", 1024)

    async def work() -> None:
        async with opened(own.url) as store:
            await take_some(store)
            client.config_set("key-load-delay", 5000)
            reload = threading.Thread(target=debug, args=(client, "RELOAD"))
            reload.start()
            try:
                wait_until(lambda: other.info("persistence")["loading"], PATIENCE_S, "the server to load")
                assert "loading" in str(await fails(take_some(store)))
                other.config_set("key-load-delay", 0)
            finally:
                reload.join()
            assert (await take_some(store)).allowed
            assert await taken(store) == 2

    run(work())


def test_a_server_without_a_free_connection_is_unavailable(own: RedisServer) -> None:
    """maxclients reached by others; and with room again it works."""
    client = own.client()
    client.config_set("maxclients", 1)

    async def work() -> None:
        async with opened(own.url) as store:
            await fails(take_some(store))
            client.config_set("maxclients", 100)
            assert (await take_some(store)).allowed

    run(work())


# --- passwords ------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["a-wrong-password", ""])
def test_a_wrong_password_fails_without_being_told(kind: RedisKind, given: str) -> None:
    """Neither the message, nor what caused it, nor the log has the password."""
    with redis_server(kind, requirepass="the-right-password") as own:
        url = own.url.replace("the-right-password", given) if given else own.url.replace(":the-right-password@", "")

        async def work() -> None:
            async with opened(url) as store:
                for ask in ASKS.values():
                    with pytest.raises(StoreError) as caught:
                        await ask(store)
                    error: BaseException | None = caught.value
                    while error is not None:
                        assert "password" not in str(error) or "a-wrong-password" not in str(error)
                        assert "the-right-password" not in str(error)
                        error = error.__cause__

        run(work())
