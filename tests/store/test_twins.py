"""take.lua and core/bucket.py are twins: on random traces over a real server, equal to the last digit."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servers import RedisServer
from shieldmw.core import bucket
from shieldmw.core.bucket import EPOCH_S, FURTHEST_US, Charge, Outcome, TakeRequest
from shieldmw.core.limits import US_PER_S, Limit
from shieldmw.gate.limiter.batch import MOST_CHARGES, MOST_REQUESTS
from shieldmw.store import scripts
from store.stores import all_keys, answered, asked, now_us, one, someone

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
TAKEN_FROM_ARGUMENTS = "{ARGV[2], ARGV[3]}"

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
        st.sampled_from([*edges, *back, -(10**13), FURTHEST_US, FURTHEST_US + 1, LONGEST_TAU_US])
        | st.integers(0, 2 * FURTHEST_US)
        | st.integers(-limit.tau_us, 2 * limit.tau_us)
        | st.integers(-10, 10)
    )


@dataclass(frozen=True)
class Step:
    """One call of a trace: what is asked, after some time, with some keys overwritten."""

    requests: list[TakeRequest]
    later_us: int
    stored: dict[str, int | bytes | None] = field(default_factory=dict)


@st.composite
def requests(draw: st.DrawFn, known: list[list[Limit]]) -> TakeRequest:
    """A request over some of the buckets, in any order, by any of the limits that each has."""
    chosen = draw(st.lists(st.sampled_from(known), min_size=1, unique_by=lambda same: same[0].name))
    limits = [draw(st.sampled_from(same)) for same in chosen]
    charges = tuple(Charge(someone(), limit, draw(costs(limit))) for limit in limits)
    return TakeRequest(charges, draw(st.sampled_from([0, 0, 1, 8, 1000]) | st.integers(0, 1000)))


@st.composite
def steps(draw: st.DrawFn, known: list[list[Limit]]) -> Step:
    """A batch, after a time."""
    batch = draw(st.lists(requests(known), min_size=1, max_size=6))
    charged = {charge.limit.name: charge.limit for ask in batch for charge in ask.charges}
    stored = {
        name: draw(st.none() | st.sampled_from(NO_NUMBERS) | offsets(limit))
        for name, limit in charged.items()
        if draw(st.booleans())
    }
    first, longest = next(iter(charged.values())), max(limit.tau_us for limit in charged.values())
    later_us = draw(st.sampled_from([0, 1, first.unit_us]) | st.integers(0, longest))
    return Step(batch, later_us, stored)


@st.composite
def traces(draw: st.DrawFn) -> list[Step]:
    """A few batches over a few buckets, some of which are charged by two limits."""
    known = [
        [draw(limits(f"limit-{number}")) for _ in range(draw(st.sampled_from([1, 1, 2])))]
        for number in range(draw(st.integers(1, 4)))
    ]
    return draw(st.lists(steps(known), min_size=1, max_size=6))


def number(text: bytes | str | None) -> int | None:
    """What lies under a key, as the reference takes it."""
    return int(text) if isinstance(text, bytes) and re.fullmatch(rb"-?\d+", text) else None


Texts = dict[str, bytes | None]
Ends = dict[str, int]


def folded(batch: list[TakeRequest], before: Texts, now: int) -> tuple[list[Outcome], Texts]:
    """The reference, request after request: what becomes of each, and what the keys hold afterwards."""
    texts = dict(before)
    outcomes = []
    for ask in batch:
        outcome = bucket.take([number(texts[charge.limit.name]) for charge in ask.charges], ask, now)
        outcomes.append(outcome)
        for charge, tat_us in zip(ask.charges, outcome.tats_us, strict=True):
            if outcome.allowed and charge.cost:
                texts[charge.limit.name] = str(tat_us).encode()
    return outcomes, texts


def compare(batch: list[TakeRequest], before: Texts, taken: list[Outcome], after: Texts, ends_us: Ends) -> Texts:
    """The reference decides alike, and the server holds what it should, no shorter than it must; what that is.

    ``ends_us`` is when each key that was written ends, at the latest of its millisecond.
    """
    now = taken[0].now_us
    expected, texts = folded(batch, before, now)
    assert taken == expected
    for key, text in texts.items():
        tat_us = number(text)
        fleeting = text != before[key] and tat_us is not None and tat_us - now < FLEETING_MS * 1000
        assert after[key] == text or (after[key] is None and fleeting)
        if text != before[key] and tat_us is not None and after[key] is not None and key in ends_us:
            assert ends_us[key] > tat_us
    return texts


def put(client: redis.Redis, stored: Mapping[str, int | bytes | None], origin_us: int) -> None:
    """Overwrite keys: a number is an offset from the origin, None removes the key."""
    for key, value in stored.items():
        if value is None:
            client.delete(key)
        else:
            client.set(key, str(origin_us + value) if isinstance(value, int) else value, px=KEPT_MS)


def call(
    client: redis.Redis, source: str, batch: list[TakeRequest], *time: int
) -> tuple[Texts, list[Outcome], Texts, Ends]:
    """One call: what lay under its keys, what it answered, what lies there now, and when that ends."""
    keys, arguments = asked(batch)
    script = client.register_script(source)
    with client.pipeline(transaction=True) as pipeline:
        pipeline.mget(keys)
        script(keys=keys, args=[*arguments, *time], client=pipeline)
        pipeline.mget(keys)
        for key in keys:
            pipeline.pexpiretime(key)
        before, reply, after, *ends_ms = pipeline.execute()
    ends = {key: (ms + 1) * 1000 - EPOCH_S * US_PER_S for key, ms in zip(keys, ends_ms, strict=True)}
    taken = answered(batch, reply)
    return dict(zip(keys, before, strict=True)), taken, dict(zip(keys, after, strict=True)), ends


@TRACE
@given(trace=traces())
def test_the_script_decides_as_the_reference(shared_server: RedisServer, trace: list[Step]) -> None:
    """By the clock of Redis, with what the script itself has written: same verdicts, same TATs, same digits."""
    client = shared_server.client()
    client.flushall()
    for step in trace:
        for key in all_keys(client):
            if (tat_us := number(client.get(key))) is not None:
                client.set(key, tat_us - step.later_us, px=KEPT_MS)
        put(client, step.stored, now_us(client))
        compare(step.requests, *call(client, scripts.source("take"), step.requests))
    client.close()


@TRACE
@given(trace=traces(), start_us=st.integers(0, LATEST_US))
def test_the_script_decides_as_the_reference_at_any_time(
    shared_server: RedisServer, trace: list[Step], start_us: int
) -> None:
    """With the time given, so that every edge is hit to the microsecond, from 2025 to the year 2110."""
    source = scripts.source("take")
    assert source.count(TAKEN_FROM_REDIS) == 1
    source = source.replace(TAKEN_FROM_REDIS, TAKEN_FROM_ARGUMENTS)
    client = shared_server.client()
    client.flushall()
    state: Texts = {}
    at_us = start_us
    for step in trace:
        at_us = min(at_us + step.later_us, LATEST_US)
        keys = asked(step.requests)[0]
        put(client, {key: state.get(key) for key in keys}, 0)
        put(client, step.stored, at_us)
        time = (EPOCH_S + at_us // US_PER_S, at_us % US_PER_S)
        before, taken, after, _ = call(client, source, step.requests, *time)
        assert taken[0].now_us == at_us
        state |= compare(step.requests, before, taken, after, {})
    client.close()


@pytest.mark.parametrize(
    ("stored", "left"),
    [
        *((text, 3) for text in NO_NUMBERS),  # garbage is no TAT: the bucket is full
        (b"nan", 3),  # neither is "not a number", though Lua reads it as one
        (b"-nan", 3),
        (b"inf", 0),  # further ahead than any TAT: it counts as far ahead as that of any limit
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
    unit = [TakeRequest(one(limit))]
    script = client.register_script(scripts.source("take"))
    client.set("key", stored, px=KEPT_MS)
    outcomes = [answered(unit, script(keys=["key"], args=asked(unit)[1]))[0] for _ in range(4)]
    assert [outcome.allowed for outcome in outcomes] == [True] * left + [False] * (4 - left)
    assert outcomes[0].tats_us == (outcomes[0].now_us + (limit.unit_us if left else 2 * limit.tau_us),)
    if left:
        assert client.get("key") == str(outcomes[2].tats_us[0]).encode()


@pytest.mark.parametrize("stored", [b"inf", b"1e400", b"9" * 30])
def test_garbage_in_the_bucket_of_a_short_limit_refuses_for_a_day(server: RedisServer, stored: bytes) -> None:
    """And is told as such: a number, and never later."""
    client = server.client()
    client.set("key", stored, px=KEPT_MS)
    unit = [TakeRequest(one(Limit("ip", 10, 1, 10)))]
    (outcome,) = answered(unit, client.register_script(scripts.source("take"))(keys=["key"], args=asked(unit)[1]))
    assert outcome == Outcome(False, outcome.now_us, (outcome.now_us + FURTHEST_US,))
    assert client.get("key") == stored


def test_the_last_digit_of_a_tat_is_kept(server: RedisServer) -> None:
    """A TAT of 16 digits is written and read without rounding: 14, as Lua writes by itself, would lose 100 us."""
    client = server.client()
    limit = Limit("ip", 1, 86_400, 36_000)
    script, unit = client.register_script(scripts.source("take")), [TakeRequest(one(limit))]
    stored = now_us(client) + limit.tau_us - 86_400_000_001
    assert len(str(stored)) == 16
    for last in range(10):
        client.set("key", stored // 10 * 10 - 10 + last, px=KEPT_MS)
        (outcome,) = answered(unit, script(keys=["key"], args=asked(unit)[1]))
        assert outcome.allowed
        assert client.get("key") == str(outcome.tats_us[0]).encode()
        assert outcome.tats_us[0] % 10 == last


@pytest.mark.parametrize(("count", "charges"), [(MOST_REQUESTS, 5), (1, MOST_CHARGES), (MOST_CHARGES // 6, 6)])
def test_a_call_may_be_as_large_as_a_batch_makes_it(server: RedisServer, count: int, charges: int) -> None:
    """Lua can hold so many numbers and keys at once."""
    client = server.client()
    batch = [
        TakeRequest(tuple(Charge(someone(), Limit(f"limit-{place}-{at}", 1, 60, 2)) for at in range(charges)))
        for place in range(count)
    ]
    keys, arguments = asked(batch)
    outcomes = answered(batch, client.register_script(scripts.source("take"))(keys=keys, args=arguments))
    assert all(outcome.allowed for outcome in outcomes)
    assert len(keys) == count * charges == client.exists(*keys)


@pytest.mark.parametrize("stored", [None, *NO_NUMBERS, b"nan", b"inf", b"-inf", b"1e400"])
def test_garbage_in_one_bucket_harms_no_other_request(server: RedisServer, stored: bytes | None) -> None:
    """Three requests share a call: one whose bucket holds garbage, or a list, leaves the others their outcomes."""
    client = server.client()
    if stored is None:
        client.rpush("broken", "x")
        client.pexpire("broken", KEPT_MS)
    else:
        client.set("broken", stored, px=KEPT_MS)
    limits = {name: Limit(name, 1, 86_400, 100) for name in ("before", "broken", "after")}
    batch = [TakeRequest(one(limit, 2), 1) for limit in limits.values()]
    keys, arguments = asked(batch)
    taken = answered(batch, client.register_script(scripts.source("take"))(keys=keys, args=arguments))
    for outcome, name in ((taken[0], "before"), (taken[2], "after")):
        assert (outcome.allowed, outcome.leased) == (True, 1)
        assert outcome.tats_us == (outcome.now_us + 4 * limits[name].unit_us,)
        assert client.get(name) == str(outcome.tats_us[0]).encode()


def test_a_number_that_a_script_writes_keeps_all_its_digits(server: RedisServer) -> None:
    """Up to 2^53, and round ones too, which a server could write as 1e+15: no digit of a TAT or a TTL is lost."""
    client, chance = server.client(), random.Random(1)
    numbers = [2**53 - 1, 2**53, 2**52 - 1, 2**52, 2**52 + 1, *(digit * 10**15 for digit in range(1, 10))]
    numbers += [chance.randrange(2**52, 2**53) for _ in range(1000)] + [10**power for power in range(16)]
    numbers += [chance.randrange(10**power) for power in range(1, 16) for _ in range(50)]
    write = client.register_script("redis.call('SET', KEYS[1], ARGV[1] + 0, 'PX', ARGV[2] + 0)")
    for tat_us in numbers:
        ttl_ms = max(FLEETING_MS * 100, min(tat_us, LONGEST_TAU_US // 1000))
        write(keys=["key"], args=[tat_us, ttl_ms])
        assert client.get("key") == str(tat_us).encode()
        assert ttl_ms - 60_000 < client.pttl("key") <= ttl_ms
