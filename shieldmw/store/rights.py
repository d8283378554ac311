"""Finds the rights that a store's user lacks, by trying commands, scripts and the channel, for ``shieldmw check``.

The store's data is not touched: commands are tried on a key of their own, and scripts on a complete store of their own
beside the real one. Both are deleted at the end; if that fails they expire, after a minute or (if the user may not
delete) after ten years.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from ipaddress import ip_network
from secrets import token_hex

from shieldmw.core.api_keys import ApiKey
from shieldmw.core.bucket import Charge, TakeRequest
from shieldmw.core.client import Client, Identity
from shieldmw.core.debts import Debt
from shieldmw.core.deny import DenyEntry
from shieldmw.core.lease import Unspent
from shieldmw.core.limits import Limit
from shieldmw.core.metrics import FLEET_DECISIONS
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.core.portion import PortionRequest
from shieldmw.core.seats import Audience, Capacity, Report
from shieldmw.core.waiting import EMPTY
from shieldmw.errors import NotPermitted, StoreError, StoreUnavailable

from . import scripts
from .documents import MODE
from .fleet import RedisStore
from .keys import Keys, Names
from .redis.calls import Calls, Command

# Arguments for the scripts that are tried: a client, a charge, and no listeners.
_CLIENT = Client("ip", "check", "ip:check")
_CHARGE = Charge(_CLIENT, Limit("check", 60, 60, 60))
_NOBODY = Audience(0, 0, 0)

# The commands that we send to a server, from scripts or directly, without their keys.
_COMMANDS: Sequence[Sequence[str]] = (
    ("GET",),
    ("SET", "1", "PX", "60000"),
    ("GETEX", "PX", "60000"),
    ("MGET",),
    ("PEXPIRE", "60000"),
    ("TYPE",),
    ("HGET", "version"),
    ("HGETALL",),
    ("HSCAN", "0"),
    ("HLEN",),
    ("HMGET", "version"),
    ("HEXISTS", "version"),
    ("HSET", "version", "1"),
    ("HSETNX", "version", "1"),
    ("HDEL", "version"),
    ("XADD", "*", "entry", "1"),
    ("XREVRANGE", "+", "-", "COUNT", "1"),
    ("DEL",),
    ("UNLINK",),
)


async def missing_rights(store: RedisStore) -> list[str]:
    """One line for each right that a store's user lacks, naming the right and the ACL rule that grants it.

    Raises:
        StoreUnavailable: the store does not answer.
        StoreError: an operation fails although it is allowed.
    """
    redis, prefix, name = store.redis, store.prefix, f"check-{token_hex(4)}"
    channel = Names(prefix).changes
    # The error of a script does not say which command is not allowed, so the commands of scripts are tried first.
    tries = (
        *_commands(redis, f"{prefix}:{{{name}}}:try"),
        ("PUBLISH", lambda: redis.command("PUBLISH", channel, "check")),
        ("SUBSCRIBE", lambda: _listen(redis.messages(channel))),
    )
    missing = [line async for line in _failing(tries, prefix, channel)]
    if not missing:
        trial = _Trial(redis, f"{prefix}:{name}")
        try:
            missing = [line async for line in _failing(trial.scripts(), prefix, channel)]
        finally:
            await trial.remove()
    return list(dict.fromkeys(missing))


Try = tuple[str, Callable[[], Awaitable[object]]]


def _commands(redis: Calls, key: str) -> Sequence[Try]:
    def one(command: Command) -> Callable[[], Awaitable[object]]:
        return lambda: _whatever(redis.command(*command))

    return (
        ("TIME", lambda: redis.transaction(("TIME",), ("GET", key))),
        ("PING", lambda: redis.transaction(("PING",), ("GET", key))),
        ("EVALSHA", lambda: _whatever(redis.run("queue", [key], (0, 0, 60_000, 0, 0)))),
        *((name, one((name, key, *arguments))) for name, *arguments in _COMMANDS),
    )


async def _whatever(asked: Awaitable[object]) -> None:
    """Try a command. Only the right to it matters, so an error for the key's type is ignored."""
    try:
        await asked
    except (NotPermitted, StoreUnavailable):
        raise
    except StoreError:
        return


async def _listen(messages: AsyncIterator[bytes]) -> None:
    async with aclosing(messages) as listening:  # type: ignore[type-var]  # each of them is a generator
        await anext(listening)


async def _failing(tries: Sequence[Try], prefix: str, channel: str) -> AsyncIterator[str]:
    for name, attempt in tries:
        try:
            await attempt()
        except NotPermitted as error:
            yield _said(name, str(error), prefix, channel)


def _said(tried: str, answer: str, prefix: str, channel: str) -> str:
    """The line for a missing right, from the attempt and the server's answer."""
    if "channel" in answer:
        return f"may not {tried} to {channel}: add &{prefix}:*"
    if re.search(r"\bkeys?\b", answer):
        return f"may not use keys that begin with {prefix}: add ~{prefix}:*"
    named = re.search(r"'([a-z|]+)' command", answer)
    command = named[1] if named else tried.lower()
    return f"may not run {command.replace('|', ' ').upper()}: add +{command}"


class _Trial:
    """A store beside the real one, on which each script is run once."""

    def __init__(self, redis: Calls, prefix: str) -> None:
        secret = token_hex(16).encode()
        self._redis = redis
        self._names = Names(prefix)
        self._keys = Keys(prefix, secret)
        self._store = RedisStore(redis, prefix=prefix, secret=secret, candidate=secret)

    def scripts(self) -> Sequence[Try]:
        """A call of each script, by its name."""
        store, run, key_of = self._store, self._redis.run, self._keys.bucket
        change = ModeChange(Mode.NORMAL, "check", "")
        debt = Debt(_CHARGE, 1, _CHARGE.step_us, _CHARGE.step_us, 1)
        entry = DenyEntry(ip_network("192.0.2.0/24"), 0, "check", "")
        key = ApiKey("0" * 64, Identity("check"), 0)
        return (
            ("take", lambda: store.take([TakeRequest((_CHARGE,))])),
            ("portion", lambda: store.portion(PortionRequest(_CHARGE, 1))),
            ("give_back", lambda: store.give_back([Unspent(_CHARGE, 0, 0)])),
            ("refund", lambda: scripts.refund(run, _CHARGE, 0, 0, key_of)),
            ("settle", lambda: store.settle([debt], 0, "check")),
            ("mode", lambda: store.set_document(MODE, change, was=MODE.nothing, expected_version=None)),
            ("change", lambda: store.deny(entry)),
            ("change", lambda: store.add_api_key(key)),
            ("seats", lambda: store.seats(Report("check", _NOBODY, _NOBODY), Capacity(1, 1))),
            ("queue", lambda: store.queue(0, 0, EMPTY)),
            ("claim", lambda: store.claim((), 0.0, 1)),
            (
                "decided",
                lambda: store.decided("check", [1] * len(FLEET_DECISIONS.series), [0] * len(FLEET_DECISIONS.series)),
            ),
        )

    async def remove(self) -> None:
        """Delete all its keys, one at a time, since they may be in several slots."""
        names, bucket = self._names, self._keys.bucket(_CHARGE)
        tables = (names.deny, names.deny_log, names.api_keys, names.api_keys_log)
        kept = (
            *tables,
            names.mode,
            names.limits,
            names.audit,
            names.seats,
            names.queue,
            *names.claims(0),
            *names.decided("check"),
        )
        for key in (*kept, bucket, scripts.settled_key(bucket, "check")):
            await self._redis.command("UNLINK", key)
