"""The webhook: each change is told once, signed, again if it fails, and never at a request's expense."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from random import Random
from typing import Any

import pytest

from admin.app import Operator, shielded
from shieldmw import Mode, ModeState, Settings, SettingsError
from shieldmw.core.alarms import Alarm
from shieldmw.core.deny import DenyEntry
from shieldmw.core.overrides import Overrides, OverridesState
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.clock import Clock
from shieldmw.store.memory import MemoryStore
from shieldmw.telemetry import webhook
from shieldmw.telemetry.webhook import ATTEMPTS, MOST_CLAIMED, MOST_WAITING, NAMED, SLOT_S, Webhook

SECRET = "the secret of the receiver"
FLOOD = ModeState(3, 1_700_000_000.0, 1_700_001_800.0, "admin (kim)", "flood", Mode.EMERGENCY, 50_000, 0.1)
OVER = ModeState(4, 1_700_000_900.0, None, "admin (kim)", "over")
NOW_S = 1_700_000_000.0
LIMIT_S = 30


@dataclass
class Receiver:
    """An HTTP server that keeps what it is sent, and answers with these statuses in turn, the last one for ever."""

    statuses: Sequence[int] = (204,)
    hangs: bool = False
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    connections: set[asyncio.Task[None] | None] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Where it is, with a secret in its path."""
        return f"http://127.0.0.1:{self.port}/hooks/T0P-S3CRET"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request on a connection."""
        self.connections.add(asyncio.current_task())
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        body = await reader.readexactly(int(headers["content-length"]))
        status = self.statuses[min(len(self.requests), len(self.statuses) - 1)]
        self.requests.append((headers, body))
        self.came.set()
        if self.hangs:
            await reader.read()  # until the client has gone
        with suppress(ConnectionError):
            writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\nlocation: /elsewhere\r\n\r\n".encode())
            await writer.drain()
        writer.close()

    async def after(self, count: int) -> None:
        """Wait until so many requests have come."""
        while len(self.requests) < count:
            self.came.clear()
            await self.came.wait()

    def bodies(self) -> list[dict[str, Any]]:
        """What was sent."""
        return [json.loads(body) for _, body in self.requests]


@asynccontextmanager
async def receiving(receiver: Receiver) -> AsyncIterator[Receiver]:
    """The receiver on a port of loopback."""
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        await asyncio.gather(*filter(None, receiver.connections))


async def always(*_: str) -> bool:
    """The only worker there is."""
    return True


def run(work: Any) -> None:
    """Run a test's coroutine, within a limit."""

    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await work

    asyncio.run(limited())


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(webhook, "FIRST_WAIT_S", 0.001)


def test_a_change_is_told_with_all_its_terms_and_signed() -> None:
    """As Standard Webhooks says; ``text`` is what a chat shows."""

    async def story() -> None:
        async with receiving(Receiver()) as receiver:
            clock = Clock(unix_s=lambda: 1_700_000_001.5, random=Random(1))
            hook = Webhook(receiver.url, SECRET, always, clock)
            await hook.start()
            hook.mode_changed(FLOOD)
            await receiver.after(1)
            await hook.stop()
            ((headers, body),) = receiver.requests
            told = json.loads(body)
            assert (told["type"], told["timestamp"]) == ("mode.changed", "2023-11-14T22:13:20Z")
            assert told["text"] == "shieldmw: emergency until 2023-11-14T22:43:20Z by admin (kim): flood"
            assert told["data"] == {
                **{"mode": "emergency", "version": 3, "actor": "admin (kim)", "reason": "flood"},
                **{"until": "2023-11-14T22:43:20Z", "capacity": 50_000, "guest_share": 0.1},
            }
            assert headers["content-type"] == "application/json"
            assert headers["webhook-timestamp"] == "1700000001"
            signed = headers["webhook-id"].encode() + b".1700000001." + body
            digest = base64.b64encode(hmac.digest(SECRET.encode(), signed, "sha256")).decode()
            assert headers["webhook-signature"] == f"v1,{digest}"
            assert headers["webhook-id"].startswith("shieldmw-3-emergency-")

    run(story())


@pytest.mark.parametrize("status", [204, 404])
def test_the_url_is_in_no_log(status: int, caplog: pytest.LogCaptureFixture) -> None:
    """Nor in those of the libraries that send it, at any level: a chat's URL is all that it takes to write there."""

    async def story() -> None:
        async with receiving(Receiver([status])) as receiver:
            hook = Webhook(receiver.url, SECRET, always)
            await hook.start()
            hook.mode_changed(FLOOD)
            await receiver.after(1)
            await hook.stop()

    with caplog.at_level(logging.DEBUG):
        run(story())
    assert "S3CRET" not in caplog.text
    assert not [record for record in caplog.records if "S3CRET" in repr(record.args)]


def test_without_a_secret_nothing_is_signed() -> None:
    """Chat services want no signature; the id and the time are for everybody who drops repeated messages."""

    async def story() -> None:
        async with receiving(Receiver()) as receiver:
            hook = Webhook(receiver.url, None, always)
            await hook.start()
            hook.mode_changed(FLOOD)
            await receiver.after(1)
            await hook.stop()
            found = {name for name in receiver.requests[0][0] if name.startswith("webhook-")}
            assert found == {"webhook-id", "webhook-timestamp"}

    run(story())


def test_two_fleets_never_use_the_same_id() -> None:
    """A receiver would take the second one's message for a repeated one, and drop it."""

    async def story() -> None:
        async with receiving(Receiver()) as receiver:
            for _ in range(2):
                hook = Webhook(receiver.url, SECRET, always)
                await hook.start()
                hook.mode_changed(FLOOD)
                await hook.stop()
            assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 2

    run(story())


def test_of_several_workers_one_tells_each_change() -> None:
    """Also of an end that some see by their own clock and others as a version of its own."""

    async def story() -> None:
        store = MemoryStore(b"a secret of the fleet, long enough")
        async with receiving(Receiver()) as receiver:
            hooks = [Webhook(receiver.url, SECRET, store.is_first) for _ in range(3)]
            for hook in hooks:
                await hook.start()
                hook.mode_changed(FLOOD)
            for hook, end in zip(hooks, (replace(FLOOD, mode=Mode.NORMAL), OVER, OVER), strict=True):
                hook.mode_changed(end)
            await receiver.after(2)
            for hook in hooks:
                await hook.stop()
            assert [told["data"]["mode"] for told in receiver.bodies()] == ["emergency", "normal"]

    run(story())


def entry(number: int) -> DenyEntry:
    """A denied network."""
    return DenyEntry(ip_network(f"203.0.113.{number}/32"), NOW_S + 900, "admin (kim)", "flood")


def test_changed_limits_and_denials_are_told_with_their_terms() -> None:
    """If many networks are denied at once, the rest is one message."""

    async def story() -> None:
        async with receiving(Receiver()) as receiver:
            hook = Webhook(receiver.url, None, always)
            await hook.start()
            changed = Overrides({"SHIELD_IP_LIMIT": "5/minute"})
            hook.limits_changed(OverridesState(9, NOW_S, NOW_S + 900, "admin (kim)", "flood", changed))
            hook.denied([entry(number) for number in range(NAMED + 20)], NOW_S)
            await receiver.after(1 + NAMED + 1)
            await hook.stop()
            limits, first, *_, more = receiver.bodies()
            end = "2023-11-14T22:28:20Z"
            assert limits["type"] == "limits.changed"
            assert limits["text"] == f"shieldmw: limits: SHIELD_IP_LIMIT=5/minute until {end} by admin (kim): flood"
            assert first["type"] == "deny.added"
            assert first["text"] == f"shieldmw: denied 203.0.113.0/32 until {end} by admin (kim): flood"
            assert (more["text"], more["data"]) == ("shieldmw: denied 20 more networks", {"count": 20})

    run(story())


def test_hosts_that_see_other_parts_of_a_batch_name_and_count_each_network_once() -> None:
    """Each looks at the list at a time of its own."""

    async def story() -> None:
        store = MemoryStore(b"a secret of the fleet, long enough")
        async with receiving(Receiver()) as receiver:
            for first, last in ((0, 7), (0, 15)):
                hook = Webhook(receiver.url, SECRET, store.is_first)
                await hook.start()
                hook.denied([entry(number) for number in range(first, last)], NOW_S)
                await hook.stop()
            data = [body["data"] for body in receiver.bodies()]
            named = [f"203.0.113.{number}/32" for number in (*range(NAMED), *range(7, 7 + NAMED))]
            assert [told["network"] for told in data if "network" in told] == named
            assert [told["count"] for told in data if "count" in told] == [2, 3]

    run(story())


def test_a_long_list_is_one_message_and_few_calls_to_the_store() -> None:
    """Somebody has denied a whole country."""
    asked: list[str] = []

    async def story() -> None:
        store = MemoryStore(b"a secret of the fleet, long enough")

        async def claim(notice: str, owner: str) -> bool:
            asked.append(notice)
            return await store.is_first(notice, owner)

        entries = [replace(entry(1), network=ip_network(f"10.0.{number}.0/24")) for number in range(256)]
        async with receiving(Receiver()) as receiver:
            for _ in range(2):
                hook = Webhook(receiver.url, SECRET, claim)
                await hook.start()
                hook.denied(entries, NOW_S)
                await hook.stop()
            (told,) = receiver.bodies()
            assert told["text"] == f"shieldmw: denied more than {MOST_CLAIMED} networks"
            assert told["data"] == {"more_than": MOST_CLAIMED}

    run(story())
    assert len(asked) == 2 * MOST_CLAIMED


def test_denials_are_told_once_the_store_is_back_and_the_rest_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """A network that this worker has claimed is told by no other one."""
    failures = [StoreUnavailable("no answer")] * (ATTEMPTS + 1)

    async def claim(notice: str, _: str) -> bool:
        if len(failures) > ATTEMPTS or (len(claimed) == 2 and failures):
            raise failures.pop()
        claimed.add(notice)
        return True

    claimed: set[str] = set()

    async def story() -> None:
        async with receiving(Receiver()) as receiver:
            hook = Webhook(receiver.url, SECRET, claim)
            await hook.start()
            hook.denied([entry(number) for number in range(4)], NOW_S)
            await receiver.after(2)
            await hook.stop()
            assert [body["data"]["network"] for body in receiver.bodies()] == ["203.0.113.0/32", "203.0.113.1/32"]

    run(story())
    assert f"(the store does not answer: no answer) after {ATTEMPTS} attempts: denied networks" in caplog.text


def test_each_piece_of_news_is_told_once_by_the_fleet() -> None:
    """Although all workers see it, at slightly different times, and on both sides of the end of a slot."""

    async def story() -> None:
        store = MemoryStore(b"a secret of the fleet, long enough")
        boundary_s = SLOT_S * (NOW_S // SLOT_S)
        async with receiving(Receiver()) as receiver:
            hooks = [Webhook(receiver.url, SECRET, store.is_first) for _ in range(3)]
            for late_s, hook in enumerate(hooks):
                await hook.start()
                now_s = boundary_s - 1 + late_s
                hook.limits_changed(OverridesState(9, since_s=NOW_S, actor="kim"))
                hook.denied([entry(1)], now_s)
                hook.alarm_begun(Alarm.ATTACK_SUSPECTED, "a flood", FLOOD, now_s)
                hook.alarm_begun(Alarm.EMERGENCY_ENDS, "it ends", FLOOD, now_s)
                hook.alarm_ended(Alarm.ATTACK_SUSPECTED, now_s + 300)
                hook.alarm_ended(Alarm.EMERGENCY_ENDS, now_s + 300)
            for hook in hooks:
                await hook.stop()
            told = sorted(body["type"] for body in receiver.bodies())
            assert told == ["alarm.begun", "alarm.begun", "alarm.ended", "deny.added", "limits.changed"]

    run(story())


def test_an_alarm_that_comes_back_is_told_again_after_two_slots() -> None:
    """One that is not told holds back nothing itself. An end is told only after a beginning."""

    async def story() -> None:
        store = MemoryStore(b"a secret of the fleet, long enough")
        async with receiving(Receiver()) as receiver:
            hook = Webhook(receiver.url, SECRET, store.is_first)
            await hook.start()
            for slot in range(5):
                hook.alarm_begun(Alarm.MEMBERS_REFUSED, f"in slot {slot}", FLOOD, NOW_S + slot * SLOT_S)
                hook.alarm_ended(Alarm.MEMBERS_REFUSED, NOW_S + slot * SLOT_S + 300)
            await receiver.after(6)
            await hook.stop()
            texts = [body["text"] for body in receiver.bodies()]
            over = "shieldmw: over: members refused"
            assert texts == [line for slot in (0, 2, 4) for line in (f"shieldmw: ALARM: in slot {slot}", over)]

    run(story())


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["the earlier first", "the later first"])
def test_workers_on_both_sides_of_the_end_of_a_slot_tell_an_alarm_once(order: tuple[int, int]) -> None:
    """Whichever comes first, and when it comes back two slots later, it is told again."""

    async def story() -> None:
        store = MemoryStore(b"a secret of the fleet, long enough")
        boundary_s = SLOT_S * (NOW_S // SLOT_S)
        async with receiving(Receiver()) as receiver:
            for late_s in (*order, 3 * SLOT_S):
                hook = Webhook(receiver.url, SECRET, store.is_first)
                await hook.start()
                hook.alarm_begun(Alarm.ATTACK_SUSPECTED, f"after {late_s}", FLOOD, boundary_s - 0.5 + late_s)
                await hook.stop()
            texts = [body["text"] for body in receiver.bodies()]
            assert texts == [f"shieldmw: ALARM: after {late_s}" for late_s in (order[0], 3 * SLOT_S)]

    run(story())


def test_that_the_store_is_away_is_told_without_it() -> None:
    """Each process for itself, since nobody knows what the others have told."""

    async def away(*_: str) -> bool:
        raise StoreUnavailable("no answer")

    async def story() -> None:
        async with receiving(Receiver()) as receiver:
            hook = Webhook(receiver.url, SECRET, away)
            await hook.start()
            hook.alarm_begun(Alarm.STORE_AWAY, "no store", FLOOD, NOW_S)
            await receiver.after(1)
            await hook.stop()
            assert receiver.bodies()[0]["data"] == {"alarm": "store_away"}

    run(story())


@pytest.mark.parametrize("status", [429, 500, 503])
def test_it_is_tried_again_until_it_is_taken(status: int) -> None:
    """With the same name, so that a receiver knows it again."""

    async def story() -> None:
        async with receiving(Receiver([status, status, 200])) as receiver:
            hook = Webhook(receiver.url, SECRET, always)
            await hook.start()
            hook.mode_changed(FLOOD)
            hook.mode_changed(OVER)
            await receiver.after(4)
            await hook.stop()
            ids = [headers["webhook-id"] for headers, _ in receiver.requests]
            assert [id_.rpartition("-")[0] for id_ in ids] == ["shieldmw-3-emergency"] * 3 + ["shieldmw-3-normal"]
            assert len(set(ids)) == 2

    run(story())


def test_it_is_given_up_after_some_attempts_without_naming_the_url(caplog: pytest.LogCaptureFixture) -> None:
    """The URL of a chat's webhook is a secret."""

    async def story() -> None:
        async with receiving(Receiver([500])) as receiver:
            hook = Webhook(receiver.url, SECRET, always)
            await hook.start()
            hook.mode_changed(FLOOD)
            await receiver.after(ATTEMPTS)
            await hook.stop()
            assert len(receiver.requests) == ATTEMPTS

    run(story())
    (record,) = [record for record in caplog.records if record.name == "shieldmw.webhook"]
    assert record.getMessage() == (f"the webhook was not delivered (status 500) after {ATTEMPTS} attempts: 3-emergency")
    assert "S3CRET" not in caplog.text


@pytest.mark.parametrize("status", [302, 400, 404, 410])
def test_what_will_not_change_is_not_tried_again(status: int, caplog: pytest.LogCaptureFixture) -> None:
    """And no redirect is followed: the secret in the signature's key is for this receiver alone."""

    async def story() -> None:
        async with receiving(Receiver([status])) as receiver:
            hook = Webhook(receiver.url, SECRET, always)
            await hook.start()
            hook.mode_changed(FLOOD)
            await receiver.after(1)
            await hook.stop()
            assert len(receiver.requests) == 1

    run(story())
    assert f"(status {status}) after 1 attempt: 3-emergency" in caplog.text


def test_a_receiver_that_is_gone_or_hangs_holds_up_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that ends does not wait for it."""
    monkeypatch.setattr(webhook, "LAST_S", 0.05)

    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with receiving(Receiver(hangs=True)) as receiver:
            for url in (receiver.url, "http://127.0.0.1:1/"):
                hook = Webhook(url, SECRET, always)
                await hook.start()
                hook.mode_changed(FLOOD)
                await asyncio.sleep(0)
                began_s = loop.time()
                await hook.stop()
                assert loop.time() - began_s < 5

    run(story())


def test_more_changes_than_can_wait_are_dropped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Memory is bounded."""
    hook = Webhook("http://127.0.0.1:1/", SECRET, always)
    for version in range(MOST_WAITING + 2):
        hook.mode_changed(replace(FLOOD, version=version))
    lines = [record.getMessage() for record in caplog.records if record.name == "shieldmw.webhook"]
    assert lines == [f"the webhook does not keep up: {MOST_WAITING + more}-emergency is not told" for more in (0, 1)]


def test_denials_make_room_for_all_else(caplog: pytest.LogCaptureFixture) -> None:
    """The oldest first; and no denial displaces anything else."""

    async def story() -> None:
        async with receiving(Receiver()) as receiver:
            hook = Webhook(receiver.url, SECRET, always)
            for number in range(MOST_WAITING):
                hook.denied([entry(number)], NOW_S)
            hook.mode_changed(FLOOD)
            hook.denied([entry(200)], NOW_S)
            for version in range(MOST_WAITING - 1):
                hook.limits_changed(OverridesState(version, since_s=NOW_S, actor="kim"))
            hook.denied([entry(201)], NOW_S)
            await hook.start()
            await receiver.after(MOST_WAITING)
            await hook.stop()
            assert [body["type"] for body in receiver.bodies()] == [
                "mode.changed",
                *["limits.changed"] * (MOST_WAITING - 1),
            ]

    run(story())
    dropped = [record.getMessage() for record in caplog.records if record.name == "shieldmw.webhook"]
    assert dropped == ["the webhook does not keep up: denied networks are not told"] * (MOST_WAITING + 2)


@pytest.mark.parametrize("failure", [StoreUnavailable("no answer"), RuntimeError("a bug")], ids=["away", "a bug"])
def test_a_change_is_told_once_the_store_is_back(failure: Exception) -> None:
    """An emergency may end while the store is away. What fails otherwise does not end the sending of later changes."""
    failures = [failure, failure]

    async def away_at_first(*_: str) -> bool:
        if failures:
            raise failures.pop()
        return True

    async def story() -> None:
        async with receiving(Receiver()) as receiver:
            hook = Webhook(receiver.url, SECRET, away_at_first)
            await hook.start()
            for _ in range(3):
                hook.mode_changed(FLOOD)
            await receiver.after(1)
            await hook.stop()

    run(story())
    assert failures == []


def test_a_claim_that_the_store_has_taken_without_an_answer_is_this_workers_own() -> None:
    """The budget of the call may be over before the reply comes."""

    async def story() -> None:
        store = MemoryStore(b"a secret of the fleet, long enough")
        late = [StoreUnavailable("no answer in 50 ms")]

        async def claim(notice: str, owner: str) -> bool:
            is_first = await store.is_first(notice, owner)
            if late:
                raise late.pop()
            return is_first

        async with receiving(Receiver()) as receiver:
            for _ in range(2):  # the second one is another notice of the same name
                hook = Webhook(receiver.url, SECRET, claim)
                await hook.start()
                hook.mode_changed(FLOOD)
                await receiver.after(1)
                await hook.stop()
            assert len(receiver.requests) == 1

    run(story())


def test_if_the_store_stays_away_it_says_that_nothing_was_told(caplog: pytest.LogCaptureFixture) -> None:
    """No worker knows whether another has told it."""
    asked: list[str] = []
    often = asyncio.Event()

    async def away(notice: str, _: str) -> bool:
        asked.append(notice)
        if len(asked) == ATTEMPTS:
            often.set()
        raise StoreUnavailable("no answer")

    async def story() -> None:
        hook = Webhook("http://127.0.0.1:1/", SECRET, away)
        await hook.start()
        hook.mode_changed(FLOOD)
        await often.wait()
        await hook.stop()

    with caplog.at_level(logging.WARNING, logger="shieldmw.webhook"):
        run(story())
    assert f"(the store does not answer: no answer) after {ATTEMPTS} attempts: 3-emergency" in caplog.text


def test_a_switch_by_an_operator_is_told() -> None:
    """Through the whole shield, with nothing but settings; the URL is shown nowhere."""

    async def story() -> None:
        async with receiving(Receiver()) as receiver:
            operator = Operator(shielded(webhook_url=receiver.url, webhook_secret="a-secret-of-some-length"))
            assert (await operator.put("/mode", {"mode": "emergency", "reason": "flood"})).status_code == 200
            await receiver.after(1)
            assert receiver.bodies()[0]["data"]["reason"] == "flood"
            status = await operator.get("/status")
            assert "SHIELD_WEBHOOK_URL" in status.text
            assert "S3CRET" not in status.text

    run(story())


@pytest.mark.parametrize("url", ["ftp://corp/T0P", "corp/T0P", "https:///T0P", "https://corp/T0P 1"])
def test_a_wrong_url_is_told_without_showing_it(url: str) -> None:
    """It may be a secret with a typing error."""
    with pytest.raises(SettingsError) as raised:
        Settings(webhook_url=url)
    (line,) = raised.value.problems
    assert "SHIELD_WEBHOOK_URL" in line
    assert "https://hooks.example.org/..." in line
    assert "T0P" not in line
