"""The fleet's store in Redis or Valkey: writes its state under the keys of ``keys``, and reads it back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from secrets import randbits
from typing import TypeVar

from shieldmw.core.api_keys import ApiKey, ApiKeyTable, derive_digest_key
from shieldmw.core.bucket import Outcome, TakeRequest
from shieldmw.core.claims import Claim, Ranked, claim_slot, claim_slot_s
from shieldmw.core.client import Client
from shieldmw.core.debts import Debt
from shieldmw.core.deny import DenyEntry, DenyList, Index, add_to_index
from shieldmw.core.lease import Unspent
from shieldmw.core.load import WorkerLoad
from shieldmw.core.portion import Portion, PortionRequest
from shieldmw.core.seats import Capacity, Fleet, Grant, Report
from shieldmw.core.top import TopReport
from shieldmw.core.waiting import EMPTY, QueueCounters
from shieldmw.errors import NotApplied, StoreError

from . import records, scripts, slots
from .counted import Called, counted
from .keys import KEEP_MS, Keys, Names
from .mirror import LOGGED, MOST_FIELDS, Mirror, new_version
from .port import AUDIT_LENGTH, AuditEntry, C, Document, S, Stored
from .redis.calls import Calls

# Tolerance for the store's clock as known to a process that only reads: on a busy machine answers arrive late.
LATE_S = 2.0

# TTL of the waiting room: after this long without a call it is empty, and starts over.
QUEUE_KEEP_MS = 6 * 3600 * 1000

# TTL of a table of workers' reports, renewed by each report; each also carries its own time, which limits its age.
REPORT_KEEP_MS = 60_000

# TTL of the fleet's decisions, and of each worker's part: longer than an outage of the store that a worker survives.
DECIDED_KEEP_MS = 8 * 86_400_000

# What ``mode.lua`` answers instead of "changed" if the version cannot be followed by another.
LAST_VERSION = 2

# TTL of a notice: workers that start in an emergency hear of it anew, and none lasts for longer than a week.
NOTICE_KEEP_MS = 8 * 86_400_000

# COUNT of the HSCAN over the reports: enough for the table of this many workers, and a bound if foreign data is there.
MOST_REPORTS = 2048

# Entries of the deny list parsed before yielding to the loop: about a millisecond.
PARSED_AT_ONCE = 100

R = TypeVar("R", WorkerLoad, TopReport)


class RedisStore:
    """The fleet's shared state in one Redis, in a cluster, or at the master that Sentinels name.

    ``secret`` keys all digests. If it is None, the first worker stores its ``candidate``, and all workers use that.
    ``called`` counts the calls of scripts.
    """

    def __init__(
        self, redis: Calls, *, prefix: str, secret: bytes | None, candidate: bytes, called: Called | None = None
    ) -> None:
        self.redis = redis
        self._run = redis.run if called is None else counted(redis.run, called)
        self.prefix = prefix
        self._names = Names(prefix)
        self._secret = secret
        self._secret_is_set = secret is not None
        self._candidate = candidate
        self._keys = None if secret is None else Keys(prefix, secret)
        self._api_keys = Mirror(redis, self._names.api_keys, self._names.api_keys_log)
        self._deny = Mirror(redis, self._names.deny, self._names.deny_log)
        self._denied: dict[bytes, tuple[bytes, DenyEntry | None]] = {}

    # --- buckets

    async def take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """Take each request's charges, all or nothing, by Redis' clock."""
        keys = self._keys or await self._learn_keys()
        take = slots.take if self.redis.slotted else scripts.take
        return await take(self._run, requests, keys.bucket)

    async def portion(self, request: PortionRequest) -> Portion:
        """Take several units at once from a bucket that many clients share, which has a slot of its own."""
        keys = self._keys or await self._learn_keys()
        return await scripts.portion(self._run, request, keys.bucket)

    async def give_back(self, unspent: Sequence[Unspent]) -> None:
        """Give back units that were prefetched and not spent."""
        keys = self._keys or await self._learn_keys()
        give_back = slots.give_back if self.redis.slotted else scripts.give_back
        await give_back(self._run, unspent, keys.bucket)

    async def settle(self, debts: Sequence[Debt], now_us: int, worker: str) -> Sequence[Debt]:
        """Charge a worker's debts, each once. Returns the debts whose charge is unconfirmed."""
        keys = self._keys or await self._learn_keys()
        if self.redis.slotted:
            return await slots.settle(self._run, debts, now_us, worker, keys.bucket)
        await scripts.settle(self._run, debts, now_us, worker, keys.bucket)
        return ()

    async def refill(self, client: Client, limit_names: Iterable[str]) -> None:
        """Delete a client's buckets, and notify every worker."""
        keys = self._keys or await self._learn_keys()
        await self.redis.command("UNLINK", *(keys.bucket_of(client, name) for name in limit_names))
        change = f"client {keys.client_digest(client)}"
        await self._change(self._names.mode, put=("epoch", randbits(52)), announce=change)

    # --- the fleet's secret

    async def secret(self) -> bytes:
        """The secret in the store. If there is none, this worker's is stored."""
        if not self._secret_is_set:
            await self._learn_keys()
        if self._secret is None:
            raise StoreError("no secret was learnt from the store")
        return self._secret

    async def _learn_keys(self) -> Keys:
        key, offered = self._names.secret, self._secret or self._candidate
        # Without a transaction if the secret exists: a server whose memory is full rejects transactions.
        kept = await self.redis.command("GETEX", key, "PX", KEEP_MS)
        if kept is None:
            *_, kept = await self.redis.transaction(
                ("SET", key, offered.hex(), "NX"), ("PEXPIRE", key, KEEP_MS), ("GET", key)
            )
        secret = records.parse_secret(kept)
        if self._keys is None or secret != self._secret:
            self._secret = secret
            self._keys = Keys(self._names.prefix, secret)
        return self._keys

    # --- tables with a version: API keys and the deny list

    async def api_keys(self, known_version: int | None) -> ApiKeyTable | None:
        """The issued API keys, or None if their version is known; restores a lost secret."""
        known_secret = self._secret
        secret = await self.secret()
        await self._api_keys.refresh()
        if secret == known_secret and self._api_keys.version == known_version:
            return None
        entries = records.ApiKeyRecords(self._api_keys.fields)
        return ApiKeyTable(self._api_keys.version, derive_digest_key(secret), entries)

    async def add_api_key(self, api_key: ApiKey) -> None:
        """Issue a key."""
        await self._change(self._api_keys, put=(api_key.digest, records.api_key_text(api_key)))

    async def revoke_api_keys(self, digests: Sequence[str]) -> int:
        """Revoke keys by their digests; returns how many there were."""
        if not digests:
            return 0
        return await self._change(self._api_keys, drop=digests)

    async def api_key_count(self) -> int:
        """The number of issued keys, for ``shieldmw check``."""
        return max(0, int(await self.redis.command("HLEN", self._names.api_keys)) - 1)

    async def deny_list(self, known_version: int | None) -> DenyList | None:
        """The entries, or None if their version is known. Unchanged entries are not parsed again."""
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
        """Refuse a network, and log it in the audit log."""
        audit = AuditEntry(0, entry.actor, f"deny {entry.network}", "", f"until {entry.until_s:.0f}", entry.reason)
        put = (str(entry.network), records.deny_text(entry))
        await self._change(self._deny, put=put, audit=audit, announce="deny")

    async def restore_deny(self, entries: Sequence[DenyEntry]) -> bool:
        """Restore the list if the store has lost it, and log that in the audit log; a list that exists stays."""
        why = "the store had lost the list, which a worker still knew"
        audit = AuditEntry(0, "shieldmw", "deny list", "", f"{len(entries)} networks", why)
        put: list[str] = []
        for entry in entries:
            put += (str(entry.network), records.deny_text(entry))
        return await self._change(self._deny, put=put, audit=audit, announce="deny", when="lost") >= 0

    async def undeny(self, network: str, actor: str) -> bool:
        """Stop refusing a network; returns whether it was refused."""
        audit = AuditEntry(0, actor, f"deny {network}", "denied", "not denied", "")
        return await self._change(self._deny, drop=[network], audit=audit, announce="deny") > 0

    async def _change(
        self,
        table: Mirror | str,
        *,
        drop: Sequence[str] = (),
        put: Sequence[str | int] = (),
        audit: AuditEntry | None = None,
        announce: str = "",
        when: str = "always",
        keep_ms: int = KEEP_MS,
    ) -> int:
        """Run ``change.lua``: drop and set fields of a table, or of a hash without versions; log and announce it.

        Returns the number of dropped fields.
        """
        names = self._names
        keys, version = ([table], "") if isinstance(table, str) else (list(table.keys), str(new_version()))
        if audit is not None:
            keys.append(names.audit)
        text = "" if audit is None else records.audit_text(audit)
        arguments = (keep_ms, version, LOGGED, MOST_FIELDS, text, AUDIT_LENGTH, names.changes, announce, when)
        reply = await self._run("change", keys, (*arguments, len(drop), *drop, *put))
        return scripts.whole_numbers("change", [reply], 1)[0]

    # --- documents: the mode and the limits

    async def document(self, kind: Document[C, S]) -> Stored[S]:
        """The stored document."""
        _, stored = await self._run_mode(kind, "read")
        return stored

    async def set_document(
        self, kind: Document[C, S], change: C, *, was: S, expected_version: int | None
    ) -> tuple[bool, Stored[S]]:
        """Change a document, unless its version is not the expected one."""
        asked = -1 if expected_version is None else expected_version
        for_us = int((change.for_s or 0) * 1_000_000)
        audit = AuditEntry(0, change.actor, kind.name, str(was), str(change), change.reason)
        return await self._run_mode(kind, "set", asked, was.version, for_us, 0, kind.text(change), audit)

    async def restore_document(self, kind: Document[C, S], state: S) -> Stored[S]:
        """Restore a document if the store has lost it."""
        why = f"the store had lost version {state.version}, which is in force"
        audit = AuditEntry(0, "shieldmw", kind.name, "", str(state), why)
        until_us, since_us = int((state.until_s or 0) * 1_000_000), int(state.since_s * 1_000_000)
        _, stored = await self._run_mode(
            kind, "restore", state.version, state.version, until_us, since_us, kind.text(state), audit
        )
        return stored

    async def _run_mode(
        self,
        kind: Document[C, S],
        what: str,
        asked: int = 0,
        known: int = 0,
        ends: int = 0,
        since: int = 0,
        data: str = "",
        audit: AuditEntry | None = None,
    ) -> tuple[bool, Stored[S]]:
        """Run ``mode.lua`` on a document; returns whether it changed, and what it is now."""
        names = self._names
        key = names.mode if kind.name == "mode" else names.limits
        audit_text = "" if audit is None else records.audit_text(audit)
        arguments = (what, asked, known, ends, since, data, audit_text, names.changes, KEEP_MS, AUDIT_LENGTH)
        reply = await self._run("mode", (key, names.audit), (*arguments, kind.name))
        if not isinstance(reply, list) or len(reply) != 7 or any(type(text) is not bytes for text in reply[5:]):
            raise StoreError(f"mode.lua returned {reply!r:.200}: expected five whole numbers, data and epoch")
        if reply[0] == LAST_VERSION:
            raise NotApplied(
                f"{key} has version {reply[1]}, which somebody else wrote, and there can be no later one: "
                "delete the key, and restart all workers together"
            )
        changed, *numbers = scripts.whole_numbers("mode", reply[:5], 5)
        return changed == 1, records.parse_document(kind, numbers, *reply[5:])

    async def begin_epoch(self) -> int | None:
        """Begin an epoch if there is none; None if the server's memory is full."""
        key, epoch = self._names.mode, None
        with suppress(NotApplied):
            *_, epoch = await self.redis.transaction(
                ("HSETNX", key, "epoch", randbits(52)), ("PEXPIRE", key, KEEP_MS), ("HGET", key, "epoch")
            )
        return records.mark(epoch) if epoch else None

    async def audit(self, count: int) -> list[AuditEntry]:
        """The last changes, newest first."""
        entries = await self.redis.command("XREVRANGE", self._names.audit, "+", "-", "COUNT", count)
        return records.parse_audit(entries)

    async def note(self, entry: AuditEntry) -> None:
        """Add a change to the audit log, with the current time."""
        await self._change(self._names.mode, audit=entry, announce="audit")

    async def tell(self, change: str) -> None:
        """Announce a change to every worker, without storing it."""
        await self.redis.command("PUBLISH", self._names.changes, change)

    async def changes(self) -> AsyncIterator[str]:
        """Announced changes, as they happen."""
        async for message in self.redis.messages(self._names.changes):
            yield message.decode("utf-8", "replace")

    # --- seats

    async def seats(self, report: Report, capacity: Capacity) -> Grant:
        """Report the seats that a worker holds and needs; returns its grant."""
        return await scripts.seats(self._run, self._names.seats, report, capacity, self._names.changes)

    async def fleet(self, now_s: float) -> Fleet:
        """The state of the fleet, by its workers' last reports."""
        return records.parse_seats(await self.redis.command("HGETALL", self._names.seats)).fleet(now_s, LATE_S)

    async def release_seats(self, worker: str) -> None:
        """Give back all seats of a worker that stops."""
        await self.redis.command("HDEL", self._names.seats, worker)

    async def queue(self, give: int, free: int, known: QueueCounters = EMPTY) -> QueueCounters:
        """Reserve ``give`` numbers to give out, and call ``free`` numbers, one for each free seat."""
        return await scripts.queue(self._run, self._names.queue, give, free, known, QUEUE_KEEP_MS)

    async def claim(self, claims: Sequence[Claim], now_s: float, longest_s: int) -> Sequence[Ranked]:
        """Count renewals; returns for each its rank in its round."""
        keys, ttl_ms = self._names.claims(claim_slot(now_s, longest_s)), 2000 * claim_slot_s(longest_s)
        return await scripts.claim(self._run, keys, claims, ttl_ms)

    # --- workers' reports

    async def report_load(self, load: WorkerLoad) -> None:
        """Store a worker's report, even if the server's memory is full."""
        await self._change(self._names.load, put=(load.worker, records.load_text(load)), keep_ms=REPORT_KEEP_MS)

    async def loads(self, now_s: float) -> list[WorkerLoad]:
        """The reports that are fresh. Others, whose workers have died, and malformed ones are dropped."""
        return await self._reports(self._names.load, records.parse_load, now_s)

    async def drop_load(self, worker: str) -> None:
        """Drop the report of a worker that stops."""
        await self.redis.command("HDEL", self._names.load, worker)

    async def report_top(self, report: TopReport) -> None:
        """Store a worker's report of its busiest clients, even if the server's memory is full."""
        await self._change(self._names.top, put=(report.worker, records.top_text(report)), keep_ms=REPORT_KEEP_MS)

    async def tops(self, now_s: float) -> list[TopReport]:
        """The reports that are fresh. Others, whose workers have died, and malformed ones are dropped."""
        return await self._reports(self._names.top, records.parse_top, now_s)

    async def drop_top(self, worker: str) -> None:
        """Drop the report of a worker that stops."""
        await self.redis.command("HDEL", self._names.top, worker)

    async def _reports(self, table: str, parse: Callable[[bytes, bytes], R | None], now_s: float) -> list[R]:
        _, page = await self.redis.command("HSCAN", table, 0, "COUNT", MOST_REPORTS)
        reports, dropped = [], []
        for name, value in records.pairs(page).items():
            report = parse(name, value)
            if report is not None and report.is_fresh(now_s):
                reports.append(report)
            else:
                dropped.append(name)
        if dropped:
            await self.redis.command("HDEL", table, *dropped)
        return reports

    async def decided(self, worker: str, counted: Sequence[int], confirmed: Sequence[int]) -> Sequence[int]:
        """Report what a worker has counted since its start; returns the fleet's sums."""
        return await scripts.decided(self._run, self._names.decided(worker), counted, confirmed, DECIDED_KEEP_MS)

    # --- notices

    async def is_first(self, notice: str, owner: str) -> bool:
        """Whether this owner was the first to ask for this notice within eight days."""
        key = self._names.notice(notice)
        if await self.redis.command("SET", key, owner, "NX", "PX", NOTICE_KEEP_MS) is not None:
            return True
        first: bytes | None = await self.redis.command("GET", key)
        return first == owner.encode()

    # --- the server itself

    async def server_info(self) -> Mapping[str, Mapping[str, str]]:
        """The INFO of each server that is written to, by its address, for ``shieldmw check``."""
        return {place: _values(info) for place, info in (await self.redis.infos()).items()}

    async def aclose(self) -> None:
        """Close all connections; a later call opens new ones."""
        await self.redis.aclose()


def _values(info: bytes) -> Mapping[str, str]:
    lines = info.decode("utf-8", "replace").splitlines()
    return {name: value for name, mark, value in (line.partition(":") for line in lines) if mark}
