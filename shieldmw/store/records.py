"""Serializes and parses the store's text records. A record that cannot be parsed was not written by us."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from ipaddress import ip_network
from typing import Any, TypeVar
from zlib import crc32

from shieldmw.core.api_keys import ApiKey
from shieldmw.core.client import Identity, ListenerClass
from shieldmw.core.deny import DenyEntry
from shieldmw.core.distinct import KEPT, REPORTED_BITS, Distinct
from shieldmw.core.load import WorkerLoad
from shieldmw.core.mode import Mode, ModeChange, ModeState
from shieldmw.core.overrides import Earlier, Overrides, OverridesChange, OverridesState, RuleOverride
from shieldmw.core.seats import MOST_SEATS, Audience, SeatEntry, SeatTable
from shieldmw.core.top import Kind, Ranking, Tally, TopReport
from shieldmw.errors import StoreError

from .port import AuditEntry, C, Document, S, Stored

log = logging.getLogger(__name__)

# Shortest stored secret that is accepted as ours.
SHORTEST_SECRET_BYTES = 16

N = TypeVar("N", int, float)
T = TypeVar("T")


# Largest count in a worker's report: exact in any JSON.
MOST_COUNTED = 2**53

# Longest name of a worker or host in characters, and longest report in bytes.
LONGEST_NAME = 255
LONGEST_REPORT = 4000

# Longest text of a change: its actor, reason, and what it changed, in characters. Limits are the longest.
LONGEST_TEXT = 10_000

# Longest report of a worker's busiest clients, in bytes, and most names of a kind in it.
LONGEST_TOP_REPORT = 500_000
MOST_TOP_NAMES = 100

# Latest end time, in Unix seconds.
LATEST_S = 2**33


# An entry of seats.lua, and the largest sum of its numbers; seats.lua drops one beyond that as foreign.
_SEAT_ENTRY = re.compile(rb"\d{1,16}(?: \d{1,16}){8}(?:(?: \d{1,16}){6})?")
_FOREIGN_SUM = 10**15


def pairs(flat: Sequence[Any]) -> Mapping[bytes, Any]:
    """A flat reply of names and values, as a mapping.

    Raises:
        StoreError: it is not such a reply.
    """
    try:
        return dict(zip(flat[::2], flat[1::2], strict=True))
    except (TypeError, ValueError):
        raise StoreError("a reply of the store is not a list of names and values") from None


def mark(value: Any) -> int:
    """A version or epoch as a number; 0 if there is none.

    A value that is not a number was not written by us; its checksum distinguishes it as well.
    """
    try:
        return int(value or 0)
    except ValueError:
        return crc32(value)


def parse_secret(value: Any) -> bytes:
    """Parse the secret.

    Raises:
        StoreError: it was not written by us.
    """
    try:
        secret = bytes.fromhex(value.decode("ascii"))
    except (AttributeError, ValueError):
        raise StoreError("the secret kept in the store is not hexadecimal: set SHIELD_SECRET") from None
    if len(secret) < SHORTEST_SECRET_BYTES:
        raise StoreError("the secret kept in the store is shorter than 128 bits: set SHIELD_SECRET")
    return secret


def _unix_time(value: Any) -> int:
    seconds = int(value)
    if not 0 <= seconds < 2**33:
        raise ValueError("not a time of this age")
    return seconds


def api_key_text(api_key: ApiKey) -> str:
    """The record of an API key, without its digest."""
    identity = api_key.identity
    return json.dumps({"subject": identity.subject, "class": identity.listener_class, "created": api_key.created_s})


def parse_api_key(name: bytes, value: bytes) -> ApiKey | None:
    """Parse one API key; None, with a line in the log, if that fails."""
    try:
        entry = json.loads(value)
        identity = Identity(str(entry["subject"]), ListenerClass(entry["class"]))
        return ApiKey(name.decode("ascii"), identity, _unix_time(entry["created"]))
    except Exception as error:  # a foreign value can be anything
        log.warning("an API key in the store cannot be read (%s): it is ignored", type(error).__name__)
        return None


class ApiKeyRecords(Mapping[str, ApiKey]):
    """API keys by digest, kept as text: each is parsed when it is looked up, most of them never.

    Tens of thousands of texts cost Python's garbage collector nothing; the same number of objects would cause pauses.
    """

    def __init__(self, texts: Mapping[bytes, bytes]) -> None:
        self._texts = texts

    def __getitem__(self, name: str) -> ApiKey:
        """The key with a digest; KeyError also if it cannot be parsed."""
        digest = name.encode("utf-8", "surrogatepass")
        api_key = parse_api_key(digest, self._texts[digest])
        if api_key is None:
            raise KeyError(name)
        return api_key

    def __contains__(self, name: object) -> bool:
        """Whether there is a record for a digest, parsable or not: it is not parsed."""
        return isinstance(name, str) and name.encode("utf-8", "surrogatepass") in self._texts

    def __iter__(self) -> Iterator[str]:
        """The digests of the keys that can be parsed."""
        read = (parse_api_key(*item) for item in self._texts.items())
        return (api_key.digest for api_key in read if api_key is not None)

    def __len__(self) -> int:
        """The number of keys, parsable or not."""
        return len(self._texts)


def deny_text(entry: DenyEntry) -> str:
    """The record of an entry of the deny list, without its network."""
    return json.dumps({"until": entry.until_s, "actor": entry.actor, "reason": entry.reason})


def parse_deny(name: bytes, value: bytes) -> DenyEntry | None:
    """Parse one entry of the deny list; None, with a line in the log, if that fails."""
    try:
        entry = json.loads(value)
        network = ip_network(name.decode("ascii"))
        return DenyEntry(network, _unix_time(entry["until"]), _text(entry["actor"]), _text(entry["reason"]))
    except Exception as error:  # a foreign value can be anything
        log.warning("an entry of the deny list cannot be read (%s): it is ignored", type(error).__name__)
        return None


def parse_document(kind: Document[C, S], reply: Sequence[int], data: bytes, epoch: bytes) -> Stored[S]:
    """Parse a document: ``reply`` is its version, start, end and the store's clock, in Unix microseconds.

    Raises:
        StoreError: it was not written by us.
    """
    version, since_us, until_us, now_us = reply
    state = kind.nothing
    if version:
        until_s = until_us / 1_000_000 if until_us else None
        try:
            state = replace(kind.parse(data), version=version, since_s=since_us / 1_000_000, until_s=until_s)
        except Exception as error:
            raise StoreError(f"the {kind.name} in the store cannot be read ({type(error).__name__})") from None
    return Stored(state, now_us / 1_000_000, mark(epoch) if epoch else None)


def mode_text(mode: ModeChange | ModeState) -> str:
    """The record of a mode, without its version and times."""
    return json.dumps(
        {
            "mode": mode.mode,
            "actor": mode.actor,
            "reason": mode.reason,
            "capacity": mode.capacity,
            "guest_share": mode.guest_share,
        }
    )


def parse_mode(data: bytes) -> ModeState:
    """Parse the record of a mode; any exception means that it was not written by us."""
    kept = json.loads(data)
    return ModeState(
        mode=Mode(kept["mode"]),
        actor=_text(kept["actor"]),
        reason=_text(kept["reason"]),
        capacity=_within(kept["capacity"], MOST_SEATS, int),
        guest_share=_within(kept["guest_share"], 1, float),
    )


def _within(value: Any, most: int, kind: Callable[[Any], N]) -> N | None:
    """A number from 0 to ``most``, or None."""
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= most:
        raise ValueError("not a valid number")
    return kind(value)


def limits_text(limits: OverridesChange | OverridesState) -> str:
    """The record of overrides of limits, without their version and times."""
    before = {**_overrides_values(limits.before.overrides), "until": limits.before.until_s}
    own = {"actor": limits.actor, "reason": limits.reason, "before": before}
    return json.dumps({**_overrides_values(limits.overrides), **own})


def _overrides_values(overrides: Overrides) -> dict[str, Any]:
    return {
        "values": dict(overrides.values),
        "rules": {name: [rule.limits, rule.burst, rule.dry_run] for name, rule in overrides.rules.items()},
    }


def parse_limits(data: bytes) -> OverridesState:
    """Parse the record of overrides of limits; any exception means that it was not written by us."""
    kept = json.loads(data)
    before = kept["before"]
    return OverridesState(
        overrides=_overrides(kept),
        actor=_text(kept["actor"]),
        reason=_text(kept["reason"]),
        before=Earlier(_overrides(before), _within(before["until"], LATEST_S, float)),
    )


def _overrides(kept: Mapping[str, Any]) -> Overrides:
    """Overrides as they are written; whether they fit the settings is found out when they are applied."""
    values, rules = kept["values"], kept["rules"]
    if any(type(value) not in (str, int, float) for value in values.values()):
        raise ValueError("not a valid value")
    return Overrides(
        dict(values),
        {
            name: RuleOverride(_none_or(str, limits), _none_or(int, burst), _none_or(bool, dry_run))
            for name, (limits, burst, dry_run) in rules.items()
        },
    )


def _none_or(kind: type[T], value: Any) -> T | None:
    if value is not None and type(value) is not kind:
        raise ValueError("not a valid value")
    return value


def parse_seats(reply: Any) -> SeatTable:
    """Parse the table of ``seats.lua``, without the script's own notes and without what it would drop as foreign."""
    table = SeatTable()
    for name, value in pairs(reply).items():
        if _SEAT_ENTRY.fullmatch(value):
            until_ms, *numbers = map(int, value.split())
            leased_until_ms = numbers.pop(11) if len(numbers) > 8 else 0
            if sum(numbers) <= _FOREIGN_SUM:
                want, here, leased = (Audience(*numbers[at : at + 3]) for at in (0, 3, 8))
                seats, guest_seats = numbers[6:8]
                table.entries[name.decode("utf-8", "replace")] = SeatEntry(
                    until_ms / 1000, want, here, seats, guest_seats, leased, leased_until_ms / 1000, *numbers[11:]
                )
    return table


def audit_text(entry: AuditEntry) -> str:
    """The record of a change; its time is the stream's own id."""
    return json.dumps({"who": entry.who, "what": entry.what, "was": entry.was, "now": entry.now, "why": entry.why})


def parse_audit(entries: Any) -> list[AuditEntry]:
    """Parse the entries of the stream; those that cannot be parsed are left out."""
    parsed = []
    for id_, fields in entries:
        try:
            values: Mapping[str, Any] = json.loads(pairs(fields)[b"entry"])
            when_ms = int(id_.partition(b"-")[0])
            _unix_time(when_ms // 1000)
            texts = (_text(values[name]) for name in ("who", "what", "was", "now", "why"))
            parsed.append(AuditEntry(when_ms / 1000, *texts))
        except Exception:  # a foreign value can be anything
            log.warning("an entry of the audit cannot be read: it is left out")
    return parsed


def load_text(load: WorkerLoad) -> str:
    """The record of a worker's report, without the worker's name."""
    return json.dumps(
        {
            "host": load.host,
            "pid": load.pid,
            "at_ms": int(load.at_s * 1000),
            "turn_us": load.turn_us,
            "in_flight": load.in_flight,
            "in_flight_limit": load.in_flight_limit,
            "waiting": astuple(load.waiting),
            "shed": astuple(load.shed),
            "shed_lately": astuple(load.shed_lately),
            "lately_ms": load.lately_ms,
            "mode_version": load.mode_version,
            "unseated": [(of_class.count, of_class.smallest) for of_class in load.unseated],
        }
    )


def parse_load(name: bytes, value: bytes) -> WorkerLoad | None:
    """Parse one worker's report; None if that fails."""
    try:
        if len(value) > LONGEST_REPORT:
            return None
        kept = json.loads(value)
        return WorkerLoad(
            worker=_name(name.decode("ascii")),
            host=_name(kept["host"]),
            pid=_count(kept["pid"]),
            at_s=_count(kept["at_ms"]) / 1000,
            turn_us=_count(kept["turn_us"]),
            in_flight=_count(kept["in_flight"]),
            in_flight_limit=_count(kept["in_flight_limit"]),
            waiting=_counts(kept["waiting"]),
            shed=_counts(kept["shed"]),
            shed_lately=_counts(kept["shed_lately"]),
            lately_ms=_count(kept["lately_ms"]),
            mode_version=None if kept.get("mode_version") is None else _count(kept["mode_version"]),
            unseated=_distinct(kept.get("unseated", [(0, ())] * 3)),
        )
    except Exception:  # a foreign value can be anything
        return None


def top_text(report: TopReport) -> str:
    """The record of a worker's busiest clients, without the worker's name."""
    return json.dumps(
        {
            "at_ms": int(report.at_s * 1000),
            "ms": int(report.seconds * 1000),
            "requests": _tally_values(report.requests),
            "refusals": _tally_values(report.refusals),
        },
        ensure_ascii=False,  # escapes would take up to three times as much
    )


def parse_top(name: bytes, value: bytes) -> TopReport | None:
    """Parse one worker's report of its busiest clients; None if that fails."""
    try:
        if len(value) > LONGEST_TOP_REPORT:
            return None
        kept = json.loads(value)
        return TopReport(
            worker=_name(name.decode("ascii")),
            at_s=_count(kept["at_ms"]) / 1000,
            seconds=_count(kept["ms"]) / 1000,
            requests=_tally(kept["requests"]),
            refusals=_tally(kept["refusals"]),
        )
    except Exception:  # a foreign value can be anything
        return None


def _tally_values(tally: Tally) -> Any:
    of = {kind: [ranking.error, ranking.unlisted, dict(ranking.counts)] for kind, ranking in tally.of.items()}
    return {"total": tally.total, "of": of}


def _tally(kept: Any) -> Tally:
    return Tally(_count(kept["total"]), {kind: _ranking(*kept["of"][kind]) for kind in Kind})


def _ranking(error: Any, unlisted: Any, counts: Any) -> Ranking:
    if len(counts) > MOST_TOP_NAMES:
        raise ValueError("too many names")
    return Ranking({_name(name): _count(count) for name, count in counts.items()}, _count(error), _count(unlisted))


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MOST_COUNTED:
        raise ValueError("not a valid number")
    return value


def _counts(values: Any) -> Audience:
    hosts, members, guests = values
    return Audience(_count(hosts), _count(members), _count(guests))


def _distinct(values: Any) -> tuple[Distinct, Distinct, Distinct]:
    hosts, members, guests = (_hashes(_count(count), smallest) for count, smallest in values)
    return hosts, members, guests


def _hashes(count: int, smallest: Any) -> Distinct:
    known = Distinct(count, tuple(map(_count, smallest)))
    if len(known.smallest) != min(count, KEPT) or known.smallest[-1:] >= (1 << REPORTED_BITS,):
        raise ValueError("not a valid count of listeners")
    return known


def _text(value: Any) -> str:
    """Text that answers and pages can carry, whatever somebody else wrote."""
    return str(value)[:LONGEST_TEXT].encode("utf-8", "replace").decode()


def _name(value: Any) -> str:
    if type(value) is not str or len(value) > LONGEST_NAME:
        raise ValueError("not a valid name")
    value.encode()  # raises for a lone surrogate, which JSON can spell but no answer can carry
    return value
