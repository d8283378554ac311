"""take.lua and core/bucket.py are twins: on random traces over a real server, equal to the last digit."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servers import RedisServer
from shieldmw.core import bucket
from shieldmw.core.bucket import EPOCH_S, Charge, Outcome
from shieldmw.core.limits import US_PER_S, Limit
from shieldmw.store import scripts
from store.stores import all_keys, now_us, someone

PERIODS_S = [1, 60, 3600, 86_400]
KEPT_MS = 3_600_000

# A hundred years to fill, the most that an operator may write.
LONGEST_TAU_US = 100 * 366 * 86_400 * US_PER_S

# The last start at which every TAT of every limit is exact in a double: in the year 2110.
LATEST_US = 2**53 - 2 * LONGEST_TAU_US

# A key with less time left than this may be gone before it is looked at, on a busy machine.
FLEETING_MS = 1000

# What the script treats as a bucket nobody has charged.
NO_NUMBERS = [b"", b"abc", b"\x00", b"1 2", b"--1", b"1,5", b"{}", b"\xff\xfe", b"9" * 30 + b"x"]

TAKEN_FROM_REDIS = "redis.call('TIME')"
TAKEN_FROM_ARGUMENTS = "{ARGV[#ARGV - 1], ARGV[#ARGV]}"

TRACE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def limits(draw: st.DrawFn, name: str = "ip") -> Limit:
    """Any limit, the slowest and the fastest often."""
    period_s = draw(st.sampled_from(PERIODS_S))
    most = period_s * US_PER_S
    amount = draw(st.sampled_from([1, 2, 3, 7, most - 1, most]) | st.integers(1, 1000) | st.integers(1, most))
    longest = LONGEST_TAU_US // -(-period_s * US_PER_S // amount)
    burst = draw(st.sampled_from([1, 2, amount, longest]) | st.integers(1, 100) | st.integers(1, longest))
    return Limit(name, amount, period_s, min(burst, longest))


def costs(limit: Limit) -> st.SearchStrategy[int]:
    """Any cost, those at the edge of the burst often."""
    burst = limit.burst
    return st.sampled_from([0, 1, burst - 1, burst, burst + 1]) | st.integers(0, 2 * burst)


def offsets(limit: Limit) -> st.SearchStrategy[int]:
    """Where a stored TAT may lie from now: long ago, at every edge, too far ahead."""
    edges = [edge + digit for edge in (0, limit.unit_us, limit.tau_us) for digit in (-1, 0, 1)]
    back = [limit.tau_us - limit.unit_us + digit for digit in (-1, 0, 1)]
    return (
        st.sampled_from([*edges, *back, -(10**13), LONGEST_TAU_US])
        | st.integers(-limit.tau_us, 2 * limit.tau_us)
        | st.integers(-10, 10)
    )


@dataclass(frozen=True)
class Step:
    """One take of a trace: whom to charge what, after some time, with some keys overwritten."""

    charges: list[Charge]
    later_us: int
    stored: dict[str, int | bytes | None] = field(default_factory=dict)


@st.composite
def steps(draw: st.DrawFn, known: list[Limit]) -> Step:
    """A step over some of the buckets, in any order."""
    chosen = draw(st.lists(st.sampled_from(known), min_size=1, unique=True))
    charges = [Charge(someone(), limit, draw(costs(limit))) for limit in chosen]
    stored = {
        limit.name: draw(st.none() | st.sampled_from(NO_NUMBERS) | offsets(limit))
        for limit in chosen
        if draw(st.booleans())
    }
    longest = max(limit.tau_us for limit in chosen)
    later_us = draw(st.sampled_from([0, 1, chosen[0].unit_us]) | st.integers(0, longest))
    return Step(charges, later_us, stored)


@st.composite
def traces(draw: st.DrawFn) -> list[Step]:
    """A few takes from a few buckets."""
    known = [draw(limits(f"limit-{number}")) for number in range(draw(st.integers(1, 4)))]
    return draw(st.lists(steps(known), min_size=1, max_size=8))


def arguments(charges: list[Charge]) -> list[int]:
    """ARGV of take.lua."""
    return [number for charge in charges for number in (charge.limit.unit_us, charge.limit.tau_us, charge.cost)]


def outcome(reply: list[int]) -> Outcome:
    """The script's reply in the reference's words."""
    assert all(type(number) is int for number in reply)
    return Outcome(reply[0] == 1, reply[1], tuple(reply[2:]))


def number(text: bytes | str | None) -> int | None:
    """What lies under a key, as the reference takes it."""
    return int(text) if isinstance(text, bytes) and re.fullmatch(rb"-?\d+", text) else None


def written(charges: list[Charge], before: list[bytes | None], now: Outcome) -> list[bytes | None]:
    """What the keys must hold after a take: the digits of the new TATs, or what was there."""
    return [
        str(tat_us).encode() if now.allowed and charge.cost else old
        for charge, old, tat_us in zip(charges, before, now.tats_us, strict=True)
    ]


def compare(charges: list[Charge], before: list[bytes | None], taken: Outcome, after: list[bytes | None]) -> None:
    """The reference decides alike, and the server holds what it should."""
    assert taken == bucket.take([number(text) for text in before], charges, taken.now_us)
    for expected, found, tat_us in zip(written(charges, before, taken), after, taken.tats_us, strict=True):
        fleeting = tat_us - taken.now_us < FLEETING_MS * 1000
        assert found == expected or (found is None and fleeting)


def put(client: redis.Redis, stored: dict[str, int | bytes | None], origin_us: int) -> None:
    """Overwrite keys: a number is an offset from the origin, None removes the key."""
    for key, value in stored.items():
        if value is None:
            client.delete(key)
        else:
            client.set(key, str(origin_us + value) if isinstance(value, int) else value, px=KEPT_MS)


@TRACE
@given(trace=traces())
def test_the_script_decides_as_the_reference(shared_server: RedisServer, trace: list[Step]) -> None:
    """By the clock of Redis, with what the script itself has written: same verdicts, same TATs, same digits."""
    client = shared_server.client()
    client.flushall()
    take = client.register_script(scripts.source("take"))
    for step in trace:
        for key in all_keys(client):
            if (tat_us := number(client.get(key))) is not None:
                client.set(key, tat_us - step.later_us, px=KEPT_MS)
        put(client, step.stored, now_us(client))
        keys = [charge.limit.name for charge in step.charges]
        with client.pipeline(transaction=True) as pipeline:
            pipeline.mget(keys)
            take(keys=keys, args=arguments(step.charges), client=pipeline)
            pipeline.mget(keys)
            before, reply, after = pipeline.execute()
        compare(step.charges, before, outcome(reply), after)
    client.close()


@TRACE
@given(trace=traces(), start_us=st.integers(0, LATEST_US))
def test_the_script_decides_as_the_reference_at_any_time(
    shared_server: RedisServer, trace: list[Step], start_us: int
) -> None:
    """With the time given, so that every edge is hit to the microsecond, from 2025 to the year 2110."""
    source = scripts.source("take")
    assert source.count(TAKEN_FROM_REDIS) == 1
    client = shared_server.client()
    client.flushall()
    take = client.register_script(source.replace(TAKEN_FROM_REDIS, TAKEN_FROM_ARGUMENTS))
    state: dict[str, bytes | None] = {}
    at_us = start_us
    for step in trace:
        at_us += step.later_us
        at_us = min(at_us, LATEST_US)
        keys = [charge.limit.name for charge in step.charges]
        put(client, {key: state.get(key) for key in keys}, 0)
        put(client, step.stored, at_us)
        time = [EPOCH_S + at_us // US_PER_S, at_us % US_PER_S]
        with client.pipeline(transaction=True) as pipeline:
            pipeline.mget(keys)
            take(keys=keys, args=[*arguments(step.charges), *time], client=pipeline)
            pipeline.mget(keys)
            before, reply, after = pipeline.execute()
        taken = outcome(reply)
        assert taken.now_us == at_us
        compare(step.charges, before, taken, after)
        state |= zip(keys, written(step.charges, before, taken), strict=True)
    client.close()


@pytest.mark.parametrize(
    ("stored", "left"),
    [
        *((text, 3) for text in NO_NUMBERS),  # garbage is no TAT: the bucket is full
        (b"nan", 3),  # neither is "not a number", though Lua reads it as one
        (b"-nan", 3),
        (b"inf", 0),  # further ahead than any TAT: empty, never fuller than that
        (b"1e400", 0),
        (b"9" * 30, 0),
        (b"-inf", 3),  # long ago
        (b"-1", 3),
        (b"0", 3),
        (b"0x10", 3),
        (b" 12 ", 3),
        (b"5.5", 3),
    ],
)
def test_strange_text_in_a_bucket_is_full_or_empty(server: RedisServer, stored: bytes, left: int) -> None:
    """Whatever was written there, a take neither fails nor gives more than the burst, and heals it."""
    client = server.client()
    limit = Limit("ip", 1, 86_400, 3)
    take = client.register_script(scripts.source("take"))
    client.set("key", stored, px=KEPT_MS)
    replies = [take(keys=["key"], args=[limit.unit_us, limit.tau_us, 1]) for _ in range(4)]
    assert [reply[0] for reply in replies] == [1] * left + [0] * (4 - left)
    now, tat_us = replies[0][1:]
    assert tat_us == now + (limit.unit_us if left else limit.tau_us)
    if left:
        assert client.get("key") == str(replies[2][2]).encode()


def test_the_last_digit_of_a_tat_is_kept(server: RedisServer) -> None:
    """A TAT of 16 digits is written and read without rounding: 14, as Lua writes by itself, would lose 100 us."""
    client = server.client()
    take = client.register_script(scripts.source("take"))
    limit = Limit("ip", 1, 86_400, 36_000)
    stored = now_us(client) + limit.tau_us - 86_400_000_001
    assert len(str(stored)) == 16
    for last in range(10):
        client.set("key", stored // 10 * 10 - 10 + last, px=KEPT_MS)
        allowed, _, tat_us = take(keys=["key"], args=[limit.unit_us, limit.tau_us, 1])
        assert allowed == 1
        assert client.get("key") == str(tat_us).encode()
        assert tat_us % 10 == last
