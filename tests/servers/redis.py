"""Redis and Valkey: real servers on a unix socket and a TCP port, and what a test can do to them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .daemons import Daemon, DebianRedis, WheelValkey
from .places import HOST, free_port, on_free_port, own_directory
from .tls import tls_options, trust, write_certificates

RedisKind = Literal["valkey", "redis"]


@dataclass
class RedisServer:
    """A running Redis-protocol server; nothing is persisted, so a restarted one is empty."""

    kind: RedisKind
    directory: Path
    port: int
    daemon: Daemon
    password: str | None = None
    tls_port: int | None = None
    certificates: Path | None = None
    pid: int | None = None
    _clients: list[redis.Redis] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The URL of the unix socket."""
        return f"unix://{self._login}{self.directory / 's'}"

    @property
    def tcp_url(self) -> str:
        """The URL of the TCP port."""
        return f"redis://{self._login}{HOST}:{self.port}"

    @property
    def tls_url(self) -> str:
        """The URL of the TLS port, with the authority that signed the server's certificate."""
        if self.certificates is None:
            raise ValueError("started without TLS")
        return f"rediss://{self._login}{HOST}:{self.tls_port}?{trust(self.certificates)}"

    @property
    def _login(self) -> str:
        """The user part of a URL: empty, or `:password@`."""
        return "" if self.password is None else f":{quote(self.password, safe='')}@"

    def client(self, url: str | None = None, timeout: float = 5.0) -> redis.Redis:
        """A client that never retries, of `url` or else the unix socket; closed with the server."""
        client = redis.Redis.from_url(
            url or self.url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )
        self._clients.append(client)
        return client

    def start(self) -> None:
        """Start, and set the password only now, since readiness is seen by a PING without one."""
        self.daemon.start()
        with redis.Redis(unix_socket_path=str(self.directory / "s"), socket_timeout=5) as client:
            self.pid = int(client.info("server")["process_id"])
            if self.password is not None:
                client.config_set("requirepass", self.password)

    def stop(self) -> None:
        """End the server politely."""
        self.resume()
        self.daemon.stop()
        self.pid = None

    def restart(self) -> None:
        """Stop if need be, and start again, empty, on the same addresses."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL), leaving its socket file behind."""
        self.daemon.kill()
        self.pid = None

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): connections are still accepted by the kernel, nothing is answered."""
        if self.pid is None:
            raise ValueError("the server is not running")
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let a frozen process go on (SIGCONT); harmless where it is not frozen or not running."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGCONT)

    def ensure_running(self) -> None:
        """Undo what a test did to the server: resume it, and start it again where it is down."""
        self.resume()
        if self.pid is None:
            self.start()

    def log(self) -> str:
        """Everything the server has logged."""
        return self.daemon.log()

    def close(self) -> None:
        """Close the clients and end the server."""
        for client in self._clients:
            client.close()
        self.stop()


@contextmanager
def redis_server(
    kind: RedisKind, *, tls: bool = False, tls_only: Path | None = None, **config: str | int
) -> Iterator[RedisServer]:
    """A server on a unix socket and a TCP port (and a TLS port, for `redis`).

    `tls_only`: with TLS on the port itself, and the certificates in that folder, as a server of a fleet has them.

    `config` is redis.conf with underscores for dashes: `maxmemory="2mb", maxmemory_policy="noeviction"`. A
    password is `requirepass`, and becomes part of the URLs.
    """
    with own_directory() as directory:
        server = on_free_port(lambda port: _start_redis(kind, directory, port, tls, tls_only, config))
        try:
            yield server
        finally:
            server.close()


def _start_redis(
    kind: RedisKind, directory: Path, port: int, tls: bool, tls_only: Path | None, config: Mapping[str, str | int]
) -> RedisServer:
    """Start one server on a given port."""
    options = {name.replace("_", "-"): _redis_value(value) for name, value in config.items()}
    password, tls_port, certificates = options.pop("requirepass", None), None, tls_only
    if (tls or tls_only) and kind != "redis":
        raise ValueError("TLS needs kind 'redis': the Valkey in the wheel is built without it")
    if tls_only:
        tls_port = port
        options |= {"port": "0", "tls-replication": "yes", **tls_options(tls_only, port)}
    elif tls:
        tls_port, certificates = free_port(), directory
        write_certificates(directory)
        options |= tls_options(directory, tls_port)
    daemon = (WheelValkey if kind == "valkey" else DebianRedis)(directory, port, options)
    server = RedisServer(kind, directory, port, daemon, password, tls_port, certificates)
    server.start()
    return server


def _redis_value(value: str | int) -> str:
    """A value as redis.conf spells it."""
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def keys_without_ttl(client: redis.Redis) -> list[str]:
    """The keys that would stay for ever, sorted: there must be none, whatever a test did."""
    keys = [bytes(key) for key in client.scan_iter(count=1000)]
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.pttl(key)
        answers = pipeline.execute()
    return sorted(key.decode(errors="replace") for key, ttl in zip(keys, answers, strict=True) if ttl == -1)
