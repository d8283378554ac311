"""Foreign data under our keys: reported where it is read, and replaced by the next change."""

from __future__ import annotations

import json
from ipaddress import ip_network

import pytest
import redis

from servers import RedisServer
from shieldmw.core.deny import DenyEntry
from shieldmw.core.load import WorkerLoad
from shieldmw.core.metrics import FLEET_DECISIONS
from shieldmw.core.mode import Mode, ModeChange, ModeState
from shieldmw.core.seats import LONGEST_LEASED_S, MOST_SEATS, Audience, Capacity, Report
from shieldmw.core.top import Kind, Ranking, Tally, TopReport
from shieldmw.core.waiting import QueueCounters
from shieldmw.errors import NotApplied, StoreError
from shieldmw.store.documents import MODE
from shieldmw.store.fleet import MOST_REPORTS, RedisStore
from shieldmw.store.records import LONGEST_TEXT, load_text, top_text
from store.stores import API_KEYS_KEY, calls, opened, run

MODE_KEY, DENY_KEY, AUDIT_KEY = (f"shield:{{control}}:{name}" for name in ("mode", "deny", "audit"))
KEPT_MS = 3_600_000

TEXTS = {"mode": "emergency", "actor": "x", "reason": "", "capacity": None, "guest_share": None}
OURS = {"version": 9, "since_us": 1, "until_us": 0, "data": json.dumps(TEXTS)}
EMERGENCY = ModeChange(Mode.EMERGENCY, "operator", "flood", 60)


def data(**values: object) -> dict[str, object]:
    """A record of the mode, of which some values are none of ours."""
    return {"data": json.dumps({**TEXTS, **values})}


def spoil(client: redis.Redis, key: str, fields: dict[str, object]) -> None:
    """A hash that somebody else wrote."""
    client.hset(key, mapping={name: str(value) for name, value in fields.items()})
    client.pexpire(key, KEPT_MS)


async def flips(store: RedisStore) -> bool:
    """Whether a flip is done, is what can be read then, and is in the audit."""
    changed, stored = await store.set_document(MODE, EMERGENCY, was=ModeState(), expected_version=None)
    read = await store.document(MODE)
    (entry, *_) = await store.audit(1)
    return changed and read.state == stored.state and (read.state.mode, entry.why) == (Mode.EMERGENCY, "flood")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("version", 2**53, id="a version that Lua cannot count on from"),
        pytest.param("version", 10**30, id="a version of thirty digits"),
        pytest.param("version", -1, id="a version below 0"),
        pytest.param("version", "abc", id="a version that is text"),
        pytest.param("version", "nan", id="a version that is NaN"),
        pytest.param("version", "1.5", id="a version that is no whole number"),
        pytest.param("until_us", 10**30, id="an end beyond all time"),
        pytest.param("since_us", -5, id="a beginning before 1970"),
    ],
)
def test_a_number_that_is_none_of_ours_counts_as_none(server: RedisServer, field: str, value: object) -> None:
    """A mode without a version counts as lost: the next flip is made, and seen."""

    async def work() -> None:
        async with opened(server.url) as store:
            spoil(server.client(), MODE_KEY, {**OURS, field: value})
            state = (await store.document(MODE)).state
            assert (state.version, state.until_s) == (0 if field == "version" else 9, None)
            assert state.since_s == (1e-6 if field == "until_us" else 0)
            assert await flips(store)

    run(work())


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"data": "}{"}, id="no JSON"),
        pytest.param(data(mode="siesta"), id="an unknown mode"),
        pytest.param(data(guest_share=float("nan")), id="a share that is NaN"),
        pytest.param(data(guest_share=1.5), id="a share above 1"),
        pytest.param(data(guest_share=-0.1), id="a share below 0"),
        pytest.param(data(guest_share="0.1"), id="a share that is text"),
        pytest.param(data(capacity=float("inf")), id="endless seats"),
        pytest.param(data(capacity=-1), id="seats below 0"),
        pytest.param(data(capacity=MOST_SEATS + 1), id="more seats than an operator may set"),
        pytest.param(data(capacity=True), id="seats that are no number"),
    ],
)
def test_a_mode_that_is_none_of_ours(server: RedisServer, fields: dict[str, object]) -> None:
    """It is no mode, and the next flip is done."""

    async def work() -> None:
        async with opened(server.url) as store:
            spoil(server.client(), MODE_KEY, {**OURS, **fields})
            with pytest.raises(StoreError, match="in the store"):
                await store.document(MODE)
            assert await flips(store)

    run(work())


@pytest.mark.parametrize("key", [MODE_KEY, AUDIT_KEY])
def test_a_key_of_another_type_does_not_stop_a_flip(server: RedisServer, key: str) -> None:
    """Nor is it said that nothing was changed where it was."""

    async def work() -> None:
        server.client().set(key, "x", px=KEPT_MS)
        async with opened(server.url) as store:
            assert await flips(store)

    run(work())


def test_an_audit_that_takes_nothing_more_does_not_stop_a_flip(server: RedisServer) -> None:
    """A stream whose last id is the highest there is; its entry from the end of time is left out."""

    async def work() -> None:
        client = server.client()
        client.xadd(
            AUDIT_KEY, {"entry": json.dumps(dict.fromkeys(("who", "what", "was", "now", "why"), ""))}, f"{2**64 - 1}-1"
        )
        client.pexpire(AUDIT_KEY, KEPT_MS)
        async with opened(server.url) as store:
            changed, _ = await store.set_document(MODE, EMERGENCY, was=ModeState(), expected_version=None)
            assert changed
            assert await store.audit(10) in ([], await store.audit(1))

    run(work())


@pytest.mark.parametrize("epoch", ["zzz", "-1", "1" * 40])
def test_any_epoch_is_one(server: RedisServer, epoch: str) -> None:
    """It only tells one state of the buckets from another."""

    async def work() -> None:
        spoil(server.client(), MODE_KEY, {"epoch": epoch})
        async with opened(server.url) as store:
            assert (await store.document(MODE)).epoch == (await store.document(MODE)).epoch is not None

    run(work())


@pytest.mark.parametrize("text", [True, False], ids=["a string", "a version that is text"])
def test_a_deny_list_of_somebody_else_does_not_stop_us_from_denying(server: RedisServer, text: bool) -> None:
    """It is replaced where it is no table at all."""

    async def work() -> None:
        client = server.client()
        if text:
            client.set(DENY_KEY, "x", px=KEPT_MS)
        else:
            spoil(client, DENY_KEY, {"version": "abc"})
        async with opened(server.url) as store:
            await store.deny(DenyEntry(ip_network("198.51.100.0/24"), 2_000_000_000, "operator", "flood"))
            listed = await store.deny_list(None)
            assert listed is not None
            assert [str(entry.network) for entry in listed.entries] == ["198.51.100.0/24"]

    run(work())


def test_a_version_of_the_api_keys_that_is_text_is_one(server: RedisServer) -> None:
    """The keys are read, and known by it."""

    async def work() -> None:
        spoil(server.client(), API_KEYS_KEY, {"version": "abc"})
        async with opened(server.url) as store:
            table = await store.api_keys(None)
            assert table is not None
            assert await store.api_keys(table.version) is None

    run(work())


@pytest.mark.parametrize("value", ["nan", "inf", "-5", "1e300", "text", "1.5"])
def test_counters_of_the_waiting_room_that_are_none_of_ours_count_as_none(server: RedisServer, value: str) -> None:
    """It goes on from what its workers know."""

    async def work() -> None:
        spoil(server.client(), "shield:queue", {"given": value, "called": value})
        async with opened(server.url) as store:
            assert await store.queue(2, 1, QueueCounters(0, 7, 3)) == QueueCounters(8, 9, 4)

    run(work())


@pytest.mark.parametrize("value", ["nan", "inf", "-5", "1e300", "text", "1.5"])
def test_counted_decisions_that_are_none_of_ours_count_as_none(server: RedisServer, value: str) -> None:
    """And keys of another type are replaced."""
    names, size = [" ".join(labels) for labels in FLEET_DECISIONS.series], len(FLEET_DECISIONS.series)

    async def work() -> None:
        spoil(server.client(), "shield:{decided}", dict.fromkeys(names, value))
        server.client().set("shield:{decided}:ours", "x", px=KEPT_MS)
        async with opened(server.url) as store:
            assert await store.decided("ours", [3] * size, [0] * size) == [3] * size

    run(work())


def test_decisions_begin_anew_after_the_store_has_lost_them(server: RedisServer) -> None:
    """With those that it had not confirmed: all since the worker's start at once would look like a flood."""
    size = len(FLEET_DECISIONS.series)

    async def work() -> None:
        async with opened(server.url) as store:
            assert await store.decided("ours", [100] * size, [0] * size) == [100] * size
            server.client().flushall()
            assert await store.decided("ours", [103] * size, [100] * size) == [3] * size
            assert await store.decided("ours", [103] * size, [100] * size) == [3] * size
            assert await store.decided("ours", [104] * size, [103] * size) == [4] * size
            assert await store.decided("ours", [110] * size, [106] * size) == [10] * size, "an older state was restored"

    run(work())


@pytest.mark.parametrize("key", ["shield:seats", "shield:queue"])
def test_seats_and_the_waiting_room_replace_a_key_of_another_type(server: RedisServer, key: str) -> None:
    """It would be renewed with each report, and never go away."""
    report = Report("ours", Audience(guests=1), Audience(guests=1))

    async def work() -> None:
        server.client().set(key, "x", px=KEPT_MS)
        async with opened(server.url) as store:
            assert (await store.seats(report, Capacity(5, 5))).seats == 5
            assert await store.queue(2, 1, QueueCounters(0, 7, 3)) == QueueCounters(8, 9, 4)

    run(work())


@pytest.mark.parametrize("until_ms", [2**53, 10**31])
def test_a_lease_without_end_that_is_none_of_ours_keeps_no_key_for_ever(server: RedisServer, until_ms: int) -> None:
    """Nor does it stop the reports of workers."""
    report = Report("ours", Audience(guests=1), Audience(guests=1))

    async def work() -> None:
        seconds, _ = server.client().time()
        entry = f"{(int(seconds) + 10) * 1000} 0 0 0 0 0 1 1 1 0 0 1 {until_ms} 0 0"
        spoil(server.client(), "shield:seats", {"foreign": entry})
        async with opened(server.url) as store:
            assert (await store.seats(report, Capacity(5, 5))).workers == 2
        assert int(server.client().pttl("shield:seats")) <= LONGEST_LEASED_S * 1000

    run(work())


LOAD_KEY = "shield:load"
AT_S = 1_800_000_000.0
REPORT = WorkerLoad("ours", "web-1", 1, AT_S, 1, 2, 3, Audience(), Audience(), Audience(), 4, 5)


def reported(**values: object) -> str:
    """A report, of which some values are none of ours."""
    return json.dumps({**json.loads(load_text(REPORT)), **values})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("}{", id="no JSON"),
        pytest.param("[" * 1500, id="very deep"),
        pytest.param("[]", id="another JSON"),
        pytest.param("{}", id="nothing"),
        pytest.param(reported(turn_us=-1), id="a time below 0"),
        pytest.param(reported(turn_us=2**60), id="a number too large"),
        pytest.param(reported(in_flight=1.5), id="half a request"),
        pytest.param(reported(in_flight=True), id="a number that is none"),
        pytest.param(reported(pid="1"), id="a number as text"),
        pytest.param(reported(lately_ms=float("nan")), id="NaN"),
        pytest.param(reported(mode_version="5"), id="a version as text"),
        pytest.param(reported(shed=[1, 2]), id="a class is missing"),
        pytest.param(reported(shed=[1, 2, 3, 4]), id="a class too many"),
        pytest.param(reported(waiting=3), id="no counts"),
        pytest.param(reported(host=7), id="a host that is no name"),
        pytest.param(reported(host="x" * 300), id="a host without end"),
        pytest.param(reported(unseated=3), id="no listeners"),
        pytest.param(reported(unseated=[[0, []], [0, []]]), id="listeners of two classes"),
        pytest.param(reported(unseated=[[1, []], [0, []], [0, []]]), id="a listener without a hash"),
        pytest.param(reported(unseated=[[1, [2**32]], [0, []], [0, []]]), id="a hash too large"),
        pytest.param(reported(unseated=[[1, [-1]], [0, []], [0, []]]), id="a hash below 0"),
        pytest.param(reported(unseated=[[99, [1] * 65], [0, []], [0, []]]), id="too many hashes"),
        pytest.param(reported(more="x" * 5000), id="a report without end"),
        pytest.param(reported(at_ms=10**15), id="from the end of time"),
    ],
)
def test_a_report_that_is_none_of_ours_is_left_out_and_dropped(server: RedisServer, text: str) -> None:
    """Those of workers are told all the same."""

    async def work() -> None:
        async with opened(server.url) as store:
            spoil(server.client(), LOAD_KEY, {"foreign": text, "\ud7ff": text})
            await store.report_load(REPORT)
            assert await store.loads(AT_S) == [REPORT]
            assert server.client().hkeys(LOAD_KEY) == [b"ours"]

    run(work())


TOP_KEY = "shield:top"
NOTHING = Tally(0, dict.fromkeys(Kind, Ranking({})))
TOP = TopReport("ours", AT_S, 60.0, NOTHING, NOTHING)


def top_reported(*path: str, value: object) -> str:
    """A report of the busiest, of which one value is none of ours."""
    report = json.loads(top_text(TOP))
    *within, name = path
    part = report
    for step in within:
        part = part[step]
    part[name] = value
    return json.dumps(report)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("}{", id="no JSON"),
        pytest.param("[" * 1500, id="very deep"),
        pytest.param("{}", id="nothing"),
        pytest.param(top_reported("requests", value=7), id="no tally"),
        pytest.param(top_reported("requests", "total", value=-1), id="fewer than none"),
        pytest.param(top_reported("requests", "of", value={}), id="kinds are missing"),
        pytest.param(top_reported("requests", "of", "path", value=[0, 0]), id="no counts"),
        pytest.param(top_reported("refusals", "of", "path", value=[0, 0, ["/"]]), id="counts that are none"),
        pytest.param(top_reported("refusals", "of", "path", value=[0, 0, {"/": "1"}]), id="a count as text"),
        pytest.param(top_reported("refusals", "of", "path", value=[0, 0, {"x" * 300: 1}]), id="a name without end"),
        pytest.param(top_reported("refusals", "of", "path", value=[0, 0, {"\udcff": 1}]), id="a name that is no text"),
        pytest.param(
            top_reported("refusals", "of", "path", value=[0, 0, {f"/{n}": 1 for n in range(500)}]), id="too many names"
        ),
        pytest.param(top_reported("more", value="x" * 600_000), id="a report without end"),
        pytest.param(top_reported("at_ms", value=10**15), id="from the end of time"),
    ],
)
def test_a_report_of_the_busiest_that_is_none_of_ours_is_dropped(server: RedisServer, text: str) -> None:
    """Those of workers are told all the same, also those of a later release."""

    async def work() -> None:
        async with opened(server.url) as store:
            spoil(server.client(), TOP_KEY, {"foreign": text, "ours": top_reported("more", value=[1])})
            assert await store.tops(AT_S) == [TOP]
            assert server.client().hkeys(TOP_KEY) == [b"ours"]

    run(work())


def test_reports_of_a_later_release_are_read(server: RedisServer) -> None:
    """What it tells beside is passed over: workers of two releases run while one replaces the other."""

    async def work() -> None:
        async with opened(server.url) as store:
            spoil(server.client(), LOAD_KEY, {"ours": reported(more=[1, {"of": "it"}])})
            assert await store.loads(AT_S) == [REPORT]

    run(work())


def test_a_key_of_another_type_is_replaced_by_the_next_report(server: RedisServer) -> None:
    """Until then nothing is known."""

    async def work() -> None:
        server.client().set(LOAD_KEY, "x", px=KEPT_MS)
        async with opened(server.url) as store:
            with pytest.raises(StoreError, match="WRONGTYPE"):
                await store.loads(AT_S)
            await store.report_load(REPORT)
            assert await store.loads(AT_S) == [REPORT]

    run(work())


def test_a_table_that_somebody_has_filled_is_read_in_part(server: RedisServer) -> None:
    """One look has a bound, and each look drops what it has seen."""

    async def work() -> None:
        client = server.client()
        spoil(client, LOAD_KEY, {str(number): "x" for number in range(10 * MOST_REPORTS)})
        async with opened(server.url) as store:
            assert await store.loads(AT_S) == []
            assert 6 * MOST_REPORTS < client.hlen(LOAD_KEY) < 10 * MOST_REPORTS
            assert calls(client, "hscan", "hdel") == 2

    run(work())


def test_text_that_no_answer_can_carry_is_read_in_part(server: RedisServer) -> None:
    """JSON can spell lone surrogates: operators see the rest."""

    async def work() -> None:
        async with opened(server.url) as store:
            value = json.dumps({"until": 4_000_000_000, "actor": "a\ud800", "reason": "b" * 50_000})
            spoil(server.client(), DENY_KEY, {"version": 5, "198.51.100.0/24": value})
            denied = await store.deny_list(None)
            assert denied is not None
            (entry,) = denied.entries
            assert (entry.actor, len(entry.reason)) == ("a?", LONGEST_TEXT)

    run(work())


def test_a_version_that_none_can_follow_is_told(server: RedisServer) -> None:
    """A flip that would be lost is not answered as done, and nothing is changed."""

    async def work() -> None:
        async with opened(server.url) as store:
            spoil(server.client(), MODE_KEY, {**OURS, "version": 2**52})
            told = r"shield:\{control\}:mode has version 4503599627370496, .* delete the key"
            with pytest.raises(NotApplied, match=told):
                await store.set_document(MODE, EMERGENCY, was=ModeState(), expected_version=None)
            assert server.client().hget(MODE_KEY, "data") == str(OURS["data"]).encode()
            spoil(server.client(), MODE_KEY, {**OURS, "version": 2**52 - 1})
            changed, stored = await store.set_document(MODE, EMERGENCY, was=ModeState(), expected_version=None)
            assert (changed, stored.state.version) == (True, 2**52)

    run(work())
