"""A copy of one of the store's tables in this process: read in pages at first, and then only its changes.

A table is a hash with a version among its fields. Beside it there is a log: a stream of the last versions, each with
its predecessor and the names of the fields that it changed. Independent of the meaning of the fields.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from secrets import randbits
from typing import Any

from shieldmw.errors import StoreError, StoreUnavailable

from .records import mark, pairs
from .redis.calls import Calls

# The field that holds a table's version.
VERSION = b"version"

# Fields per page. Reading one takes the server and this process half a millisecond; other tasks run between pages.
PAGE = 500

# Maximum versions in the log, and changed fields read one by one; beyond either the whole table is read again.
LOGGED = 100
MOST_FIELDS = 500


class Mirror:
    """The fields of one table as they were at ``version``, which is 0 if the store has no such table."""

    def __init__(self, redis: Calls, key: str, log: str) -> None:
        self._redis = redis
        self._key = key
        self._log = log
        self._lock = asyncio.Lock()
        self.version = 0
        self.fields: dict[bytes, bytes] = {}

    @property
    def keys(self) -> tuple[str, str]:
        """The table and its log."""
        return self._key, self._log

    async def refresh(self) -> None:
        """Bring the copy up to date. Changes made during the read have another version, and are read the next time.

        Raises:
            StoreError: as the store's calls do; the copy stays as it was.
        """
        async with self._lock:
            version = mark(await self._redis.command("HGET", self._key, VERSION))
            if version == self.version:
                return
            names = changed_fields(await self._logged(), self.version, version)
            if names is None:
                self.fields = await self._all()
            elif names:
                values = await self._redis.command("HMGET", self._key, *names)
                for name, value in zip(names, values, strict=True):
                    if value is None:
                        self.fields.pop(name, None)
                    else:
                        self.fields[name] = value
            self.version = version

    async def _logged(self) -> Sequence[Any]:
        """The log, newest first; empty if the key holds something foreign."""
        try:
            log: Sequence[Any] = await self._redis.command("XREVRANGE", self._log, "+", "-", "COUNT", LOGGED)
        except StoreUnavailable:
            raise
        except StoreError:
            return ()
        return log

    async def _all(self) -> dict[bytes, bytes]:
        """All fields. Those that do not change meanwhile are certainly included (Redis, "SCAN guarantees")."""
        found: dict[bytes, bytes] = {}
        cursor: Any = b"0"
        while True:
            cursor, page = await self._redis.command("HSCAN", self._key, cursor, "COUNT", PAGE)
            found.update(pairs(page))
            if cursor == b"0":
                found.pop(VERSION, None)
                return found


def changed_fields(log: Sequence[Any], known: int, version: int) -> list[bytes] | None:
    """The fields that changed between two versions, by the log's entries, newest first; None if the log is not enough.

    It is not if too much has changed, or if a change of the table was not logged.
    """
    names: dict[bytes, None] = {}
    expected: bytes | None = None
    for _, flat in log:
        entry = pairs(flat)
        logged = entry.get(b"version")
        if expected is None and logged != b"%d" % version:
            continue  # newer than the version that was read
        changed = entry.get(b"fields", b"").split()
        names.update(dict.fromkeys(changed))
        if (expected is not None and logged != expected) or not changed or len(names) > MOST_FIELDS:
            return None
        expected = entry.get(b"before", b"")
        if known and expected == b"%d" % known:
            return list(names)
    return None


def new_version() -> int:
    """A random version: never 0, and never one used before, even if the store has lost its data."""
    return randbits(52) + 1
