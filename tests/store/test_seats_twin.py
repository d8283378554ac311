"""seats.lua and core/seats.py are twins, and cheap: random traces over a real server, equal to the last digit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import astuple, replace

import pytest
import redis

from servers import RedisServer, redis_server
from shieldmw.core.seats import (
    FIRST_S,
    LEASE_S,
    LOST_GRANT,
    NO_GRANT,
    UNLIMITED,
    Audience,
    Capacity,
    Grant,
    Report,
    SeatTable,
)
from shieldmw.store import scripts

KEY = "shield:seats"
LEASE_MS = int(LEASE_S * 1000)

TIME_OF_REDIS = "redis.call('TIME')"
TIME_OF_ARGUMENTS = "{ARGV[20], ARGV[21]}"

# What one call may cost by Redis' own account, with slack for a machine that others use as well.
MOST_US, SLACK = 1000, 3


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    """A server for this module."""
    with redis_server("valkey") as server:
        yield server


@pytest.fixture
def client(valkey: RedisServer) -> redis.Redis:
    """A connection to it, empty."""
    client = valkey.client()
    client.flushall()
    return client


class LuaTable:
    """The script on a server, under a clock of the test's own."""

    def __init__(self, client: redis.Redis) -> None:
        source = scripts.source("seats")
        assert source.count(TIME_OF_REDIS) == 1
        self._script = client.register_script(source.replace(TIME_OF_REDIS, TIME_OF_ARGUMENTS))

    def refresh(self, report: Report, capacity: Capacity, now_ms: int) -> Grant:
        """One report."""
        here, want = report.present, report.demand
        reply = self._script(
            keys=[KEY],
            args=[
                *(report.worker, capacity.seats, capacity.guest_seats, LEASE_MS),
                *(want.hosts, want.members, want.guests, here.hosts, here.members, here.guests),
                *(report.seats, report.guest_seats, "told"),
                *(
                    report.leased.hosts,
                    report.leased.members,
                    report.leased.guests,
                    round(report.leased_for_s * 1000),
                    report.coming,
                    report.left,
                ),
                *(now_ms // 1000, now_ms % 1000 * 1000),
            ],
        )
        seats, guests, member_level, guest_level, workers, *sums = scripts.whole_numbers("seats", reply, 14)
        present, demand, leased = (Audience(*sums[at : at + 3]) for at in (0, 3, 6))
        return Grant(seats, guests, member_level, guest_level, workers, present, demand, leased)


def some(dice: random.Random, most: int) -> Audience:
    """Some listeners."""
    return Audience(*(dice.choice([0, 1, dice.randint(0, most)]) for _ in range(3)))


def reported(dice: random.Random, most: int, workers: int, leasing: float) -> Report:
    """Any report, also of a worker that holds more than it was granted, or that nobody knows."""
    present = some(dice, most)
    held = dice.choice([NO_GRANT, LOST_GRANT, 0, dice.randint(0, most)])
    guests = held if held <= 0 else dice.randint(0, held)
    report = Report(f"{dice.randrange(workers):x}", present, present + some(dice, most), held, guests)
    if dice.random() < leasing:
        leased = Audience(*(dice.randint(0, count) for count in (present.hosts, present.members, present.guests)))
        return replace(
            report,
            leased=leased,
            leased_for_s=dice.choice([0.0, 1.0, 30.0, 800.0, 1000.0]),
            coming=dice.choice([0, most]),
            left=dice.choice([0, 1, most]),
        )
    return report


def kept(client: redis.Redis) -> dict[str | bytes, tuple[int, ...]]:
    """What lies in the hash of the workers."""
    return {
        name: tuple(int(number) for number in value.split())
        for name, value in client.hgetall(KEY).items()
        if name not in (b"#guard", b"#told")
    }


@pytest.mark.parametrize("seed", range(60))
def test_twins(client: redis.Redis, seed: int) -> None:
    """On any trace of reports, releases, losses and steps of the clock both grant the same and keep the same."""
    dice = random.Random(seed)
    lua, table = LuaTable(client), SeatTable()
    now_ms = 1_800_000_000_000
    workers = dice.choice([1, 2, 5, 40])
    most = dice.choice([1, 10, 1000, 3_000_000])
    leasing = dice.choice([0, 0.2, 1])  # how many reports tell of lease seats
    for _ in range(60):
        now_ms += dice.choice([0, 1, 200, 599, 600, 5000, 7000, LEASE_MS - 1, LEASE_MS, LEASE_MS + 1]) // dice.choice(
            [1, 1, 4]
        )
        now_ms -= 3_600_000 if dice.random() < 0.02 else 0
        seats = dice.choice([0, 1, dice.randint(0, 2 * most * workers)])
        capacity = Capacity(seats, dice.randint(0, seats))
        report = reported(dice, most, workers, leasing)
        if dice.random() < 0.05:
            client.hdel(KEY, report.worker)
            table.release(report.worker)
        elif dice.random() < 0.02:
            client.delete(KEY)
            table = SeatTable()
        assert lua.refresh(report, capacity, now_ms) == table.refresh(report, capacity, now_ms / 1000)
        entries = {
            name.encode(): (
                round(entry.until_s * 1000),
                *astuple(entry.demand),
                *astuple(entry.present),
                *(entry.seats, entry.guest_seats),
                *(
                    (*astuple(entry.leased), round(entry.leased_until_s * 1000), entry.coming, entry.left)
                    if entry.leased_until_s
                    else ()
                ),
            )
            for name, entry in table.entries.items()
        }
        assert kept(client) == entries


def test_the_key_ends_when_nobody_reports(client: redis.Redis) -> None:
    """The hash has a TTL of two leases, renewed by each report."""
    lua = LuaTable(client)
    report = Report("a", Audience(), Audience(members=1))
    lua.refresh(report, Capacity(10, 10), 1_800_000_000_000)
    client.pexpire(KEY, 1000)
    lua.refresh(report, Capacity(10, 10), 1_800_000_005_000)
    assert LEASE_MS < int(client.pttl(KEY)) <= 2 * LEASE_MS
    assert client.keys("*") == [KEY.encode()]


def test_workers_without_a_capacity_are_counted(client: redis.Redis) -> None:
    """As many seats as there are, and who holds them."""
    lua, reports = LuaTable(client), [Report(name, Audience(), Audience(members=1)) for name in "ab"]
    grants = [lua.refresh(report, UNLIMITED, 1_800_000_000_000) for report in (*reports, *reports)]
    assert [grant.workers for grant in grants] == [1, 2, 2, 2]


def test_the_first_worker_has_others_report_at_once(client: redis.Redis) -> None:
    """If the table was lost, they hold seats that it does not tell of. Where another was heard of there is no need."""
    lua = LuaTable(client)
    told = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    told.subscribe("told")
    told.get_message(timeout=1)
    heard = []
    for number, name in enumerate("ab"):
        lua.refresh(Report(name, Audience(), Audience()), Capacity(0, 0), 1_800_000_000_000 + 1000 * number)
        client.publish("told", name)
        while (message := told.get_message(timeout=5)) is not None:
            heard.append(message["data"])
            if heard[-1] == name.encode():
                break
    told.close()
    assert heard == [b"seats", b"a", b"b"]


GARBAGE = [
    b"",
    b"abc",
    b"1 2 3",
    b"\xff\x00\xfe",
    b"0 0 0 0 0 0 0 0 0",
    b"1 2 3 4 5 6 7 8 9 10",
    b"-1",
    b"{}",
    b" " * 999,
    b"1800000010000 5 5 5 5 5 5 5000 " + b"9" * 30,
]
FROM_THE_FUTURE = b"9999999999999 5 5 5 5 5 5 5000 5000"


def test_fields_that_nobody_understands_do_no_harm(client: redis.Redis) -> None:
    """Garbage in the hash is thrown out, counts as no worker and takes no seat; a garbled guard guards nothing."""
    now_ms = 1_800_000_000_000
    for number, value in enumerate([*GARBAGE, FROM_THE_FUTURE]):
        client.hset(KEY, f"garbage-{number}", value)
    for guard in (b"soon", b"9999999999999999", b"-5", b""):
        client.hset(KEY, "#guard", guard)
        lua, report = LuaTable(client), Report("a", Audience(), Audience(members=10))
        lua.refresh(report, Capacity(10, 10), now_ms)
        grant = lua.refresh(report, Capacity(10, 10), now_ms + round(FIRST_S * 1000))
        assert (grant.seats, grant.workers, grant.demand.total) == (10, 1, 10)
        assert list(kept(client)) == [b"a"]
        client.hdel(KEY, "a")


def test_200_workers_cost_no_more_than_a_millisecond_a_call(
    client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    """With 200 workers in the hash one report takes at most 1 ms of the server's time, by its own account."""
    dice = random.Random(0)
    lua, capacity = LuaTable(client), Capacity(1_000_000, 500_000)
    reports = [
        Report(f"{dice.getrandbits(64):016x}", Audience(1, 2500, 2500), Audience(1, 2600, 9000)) for _ in range(200)
    ]
    for report in reports:
        lua.refresh(report, capacity, 1_800_000_000_000)
    assert len(kept(client)) == 200
    client.config_resetstat()
    for report in reports * 3:
        lua.refresh(report, capacity, 1_800_000_001_000)
    stats = client.info("commandstats")["cmdstat_evalsha"]
    with capsys.disabled():
        print(f"\n200 workers in the hash: {stats['usec_per_call']:.0f} us a call of seats.lua")  # noqa: T201
    assert stats["calls"] == 600
    assert stats["usec_per_call"] <= SLACK * MOST_US
