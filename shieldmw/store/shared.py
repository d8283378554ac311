"""The store of a fleet, in Redis or Valkey: what is kept under which key, and how it is read back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from secrets import randbits

from shieldmw.core.api_keys import ApiKey, ApiKeyTable, derive_digest_key
from shieldmw.core.bucket import Ask, Outcome
from shieldmw.core.client import Client
from shieldmw.core.debts import Owed
from shieldmw.core.deny import DenyEntry, DenyList, Index, add_to_index
from shieldmw.core.lease import Unspent
from shieldmw.core.mode import ModeChange, ModeState
from shieldmw.core.seats import Capacity, Grant, Report
from shieldmw.core.waiting import EMPTY, Queue
from shieldmw.errors import StoreError

from . import records, scripts, slots
from .calls import Calls, Command
from .keys import KEEP_MS, Keys, Names
from .mirror import Mirror, new_version
from .port import AuditEntry, StoredMode

AUDIT_LENGTH = 1000

# A waiting room that nobody asked anything of for so long is empty: it begins anew.
QUEUE_KEEP_MS = 6 * 3600 * 1000

# So many entries of the deny list are read before the loop goes on: a millisecond.
PARSED_AT_ONCE = 100


class RedisStore:
    """Everything the fleet shares, in one Redis, in a cluster, or at whatever master sentinels name.

    ``secret`` keys all digests; without one, the first worker makes one and keeps it in the store.
    """

    def __init__(self, redis: Calls, *, prefix: str, secret: bytes | None, candidate: bytes) -> None:
        self._redis = redis
        self._names = Names(prefix)
        self._secret = secret
        self._secret_is_set = secret is not None
        self._candidate = candidate
        self._keys = None if secret is None else Keys(prefix, secret)
        self._api_keys = Mirror(redis, self._names.api_keys, self._names.api_keys_log)
        self._deny = Mirror(redis, self._names.deny, self._names.deny_log)
        self._denied: dict[bytes, tuple[bytes, DenyEntry | None]] = {}

    # --- buckets

    async def take(self, asks: Sequence[Ask]) -> Sequence[Outcome]:
        """Take the charges of each ask, all or nothing, by the clock of Redis."""
        keys = self._keys or await self._learn_keys()
        take = slots.take if self._redis.slotted else scripts.take
        return await take(self._redis.run, asks, keys.bucket)

    async def give_back(self, unspent: Sequence[Unspent]) -> None:
        """Give back what was leased and not spent."""
        keys = self._keys or await self._learn_keys()
        give_back = slots.give_back if self._redis.slotted else scripts.give_back
        await give_back(self._redis.run, unspent, keys.bucket)

    async def settle(self, owed: Sequence[Owed]) -> Sequence[Owed]:
        """Charge what a worker admitted by itself; what is left."""
        keys = self._keys or await self._learn_keys()
        settle = slots.settle if self._redis.slotted else scripts.settle
        return await settle(self._redis.run, owed, keys.bucket)

    async def refill(self, client: Client, limit_names: Iterable[str]) -> None:
        """Drop a client's buckets, and tell every worker."""
        keys = self._keys or await self._learn_keys()
        await self._redis.command("UNLINK", *(keys.bucket_of(client, name) for name in limit_names))
        await self._redis.transaction(
            ("HSET", self._names.mode, "epoch", randbits(52)),
            ("PEXPIRE", self._names.mode, KEEP_MS),
            ("PUBLISH", self._names.changes, f"client {keys.client_digest(client)}"),
        )

    # --- the fleet's secret

    async def secret(self) -> bytes:
        """The secret in the store, else ours goes there."""
        if not self._secret_is_set:
            await self._learn_keys()
        if self._secret is None:
            raise StoreError("no secret was learnt from the store")
        return self._secret

    async def _learn_keys(self) -> Keys:
        offered = self._secret or self._candidate
        *_, kept = await self._redis.transaction(
            ("SET", self._names.secret, offered.hex(), "NX"),
            ("PEXPIRE", self._names.secret, KEEP_MS),
            ("GET", self._names.secret),
        )
        secret = records.parse_secret(kept)
        if self._keys is None or secret != self._secret:
            self._secret = secret
            self._keys = Keys(self._names.prefix, secret)
        return self._keys

    # --- tables with a version: API keys and the deny list

    async def api_keys(self, known_version: int | None) -> ApiKeyTable | None:
        """The issued API keys, or None where the version is known; heals a lost secret."""
        known_secret = self._secret
        secret = await self.secret()
        await self._api_keys.refresh()
        if secret == known_secret and self._api_keys.version == known_version:
            return None
        entries = records.ApiKeyRecords(self._api_keys.fields)
        return ApiKeyTable(self._api_keys.version, derive_digest_key(secret), entries)

    async def add_api_key(self, api_key: ApiKey) -> None:
        """Issue a key."""
        text = records.api_key_text(api_key)
        await self._redis.transaction(
            ("HSET", self._names.api_keys, api_key.digest, text), *await self._api_keys.touched([api_key.digest])
        )

    async def revoke_api_keys(self, digests: Sequence[str]) -> int:
        """Revoke keys by their digests; how many there were."""
        if not digests:
            return 0
        revoked, *_ = await self._redis.transaction(
            ("HDEL", self._names.api_keys, *digests), *await self._api_keys.touched(digests)
        )
        return int(revoked)

    async def api_key_count(self) -> int:
        """How many keys are issued, for ``shieldmw check``."""
        return max(0, int(await self._redis.command("HLEN", self._names.api_keys)) - 1)

    async def deny_list(self, known_version: int | None) -> DenyList | None:
        """The entries, or None where the version is known. Those that have not changed are not read again."""
        await self._deny.refresh()
        version = self._deny.version
        if version == known_version:
            return None
        denied: dict[bytes, tuple[bytes, DenyEntry | None]] = {}
        index: Index = {}
        for number, (name, value) in enumerate(list(self._deny.fields.items())):
            known = self._denied.get(name)
            if known is None or known[0] != value:
                known = (value, records.parse_deny(name, value))
            denied[name] = known
            if known[1] is not None:
                add_to_index(index, known[1])
            if number % PARSED_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._denied = denied
        return DenyList(version, tuple(entry for _, entry in denied.values() if entry is not None), index)

    async def deny(self, entry: DenyEntry) -> None:
        """Refuse a network, and say so in the audit."""
        audit = AuditEntry(0, entry.actor, f"deny {entry.network}", "", f"until {entry.until_s:.0f}", entry.reason)
        name = str(entry.network)
        await self._redis.transaction(
            ("HSET", self._names.deny, name, records.deny_text(entry)),
            *await self._deny.touched([name]),
            *self._audited(audit, "deny"),
        )

    async def restore_deny(self, entries: Sequence[DenyEntry]) -> bool:
        """Tell a store that lost the list what it was, and say so in the audit; one that has a list keeps it."""
        names = self._names
        why = "the store had lost the list, which a worker still knew"
        audit = AuditEntry(0, "shieldmw", "deny list", "", f"{len(entries)} networks", why)
        arguments: list[str | int] = [new_version(), records.audit_text(audit), names.changes, KEEP_MS, AUDIT_LENGTH]
        for entry in entries:
            arguments += [str(entry.network), records.deny_text(entry)]
        reply = await self._redis.run("deny", (names.deny, names.audit), arguments)
        return scripts.whole_numbers("deny", reply, 1) == [1]

    async def undeny(self, network: str, actor: str) -> bool:
        """Refuse it no longer; whether it was refused."""
        audit = AuditEntry(0, actor, f"deny {network}", "denied", "not denied", "")
        dropped, *_ = await self._redis.transaction(
            ("HDEL", self._names.deny, network), *await self._deny.touched([network]), *self._audited(audit, "deny")
        )
        return bool(dropped)

    def _audited(self, entry: AuditEntry, change: str) -> tuple[Command, ...]:
        audit = self._names.audit
        return (
            ("XADD", audit, "MAXLEN", AUDIT_LENGTH, "*", "entry", records.audit_text(entry)),
            ("PEXPIRE", audit, KEEP_MS),
            ("PUBLISH", self._names.changes, change),
        )

    # --- the mode

    async def mode(self) -> StoredMode:
        """The mode as it is kept."""
        key = self._names.mode
        now, fields = await self._redis.transaction(
            ("TIME",), ("HMGET", key, "version", "since_us", "until_us", "data", "epoch")
        )
        version, since_us, until_us = (records.whole_number(field, "mode") for field in fields[:3])
        now_us = int(now[0]) * 1_000_000 + int(now[1])
        stored = records.parse_mode(version, since_us, until_us, now_us, fields[3] or b"")
        epoch = fields[4]
        if epoch is None:
            # An empty store. Only then is anything written: to be read again and again must cost no writes.
            *_, epoch = await self._redis.transaction(
                ("HSETNX", key, "epoch", randbits(52)), ("PEXPIRE", key, KEEP_MS), ("HGET", key, "epoch")
            )
        return replace(stored, epoch=records.whole_number(epoch, "epoch"))

    async def set_mode(
        self, change: ModeChange, *, was: ModeState, expected_version: int | None
    ) -> tuple[bool, StoredMode]:
        """Change the mode, unless it is of another version than expected."""
        audit = AuditEntry(0, change.actor, "mode", was.mode, str(change), change.reason)
        return await self._run_mode(
            "set",
            -1 if expected_version is None else expected_version,
            was.version,
            int((change.for_s or 0) * 1_000_000),
            0,
            records.mode_text(change),
            audit,
        )

    async def restore_mode(self, state: ModeState) -> StoredMode:
        """Tell a store that lost it which mode is in force."""
        change = ModeChange(state.mode, state.actor, state.reason, None, state.capacity, state.guest_share)
        why = f"the store had lost version {state.version}, which is in force"
        audit = AuditEntry(0, "shieldmw", "mode", "", state.mode, why)
        until_us, since_us = int((state.until_s or 0) * 1_000_000), int(state.since_s * 1_000_000)
        _, stored = await self._run_mode(
            "restore", state.version, state.version, until_us, since_us, records.mode_text(change), audit
        )
        return stored

    async def _run_mode(
        self, what: str, asked: int, known: int, ends: int, since: int, data: str, audit: AuditEntry
    ) -> tuple[bool, StoredMode]:
        names = self._names
        arguments = (what, asked, known, ends, since, data, records.audit_text(audit), names.changes)
        reply = await self._redis.run("mode", (names.mode, names.audit), (*arguments, KEEP_MS, AUDIT_LENGTH))
        if not isinstance(reply, list) or len(reply) != 6 or not isinstance(reply[5], bytes):
            raise StoreError(f"mode.lua returned {reply!r:.200}: expected five whole numbers and data")
        changed, version, since_us, until_us, now_us = scripts.whole_numbers("mode", reply[:5], 5)
        return changed == 1, records.parse_mode(version, since_us, until_us, now_us, reply[5])

    async def audit(self, count: int) -> list[AuditEntry]:
        """The last changes, the newest first."""
        entries = await self._redis.command("XREVRANGE", self._names.audit, "+", "-", "COUNT", count)
        return records.parse_audit(entries)

    async def note(self, entry: AuditEntry) -> None:
        """Add a change to the audit, now."""
        await self._redis.transaction(*self._audited(entry, "audit"))

    async def tell(self, change: str) -> None:
        """Tell every worker of a change that is not kept."""
        await self._redis.command("PUBLISH", self._names.changes, change)

    async def changes(self) -> AsyncIterator[str]:
        """What changed, as it happens."""
        async for message in self._redis.messages(self._names.changes):
            yield message.decode("utf-8", "replace")

    # --- seats

    async def seats(self, report: Report, capacity: Capacity) -> Grant:
        """Report what a worker holds and wants; what it is granted."""
        return await scripts.seats(self._redis.run, self._names.seats, report, capacity, self._names.changes)

    async def release_seats(self, worker: str) -> None:
        """Give back all seats of a worker that stops."""
        await self._redis.command("HDEL", self._names.seats, worker)

    async def queue(self, give: int, free: int, known: Queue = EMPTY) -> Queue:
        """Take numbers to give out, and call as many as seats came free."""
        return await scripts.queue(self._redis.run, self._names.queue, give, free, known, QUEUE_KEEP_MS)

    # --- the server itself

    async def server_info(self) -> Mapping[str, Mapping[str, str]]:
        """What each server that is written to says of itself, by where it is, for ``shieldmw check``."""
        return {place: _values(info) for place, info in (await self._redis.infos()).items()}

    async def aclose(self) -> None:
        """Close all connections; a later call opens new ones."""
        await self._redis.aclose()


def _values(info: bytes) -> Mapping[str, str]:
    lines = info.decode("utf-8", "replace").splitlines()
    return {name: value for name, mark, value in (line.partition(":") for line in lines) if mark}
