"""A listener is seated by what is known when it enters, not by what was known when its request was decided."""

from __future__ import annotations

from ipaddress import ip_network

from gate.doubles import FakeClock, facts, memory_store, run, worker
from shieldmw.core.api_keys import ApiKey, digest
from shieldmw.core.client import Identity
from shieldmw.core.decision import Reason, Verdict
from shieldmw.core.deny import DenyEntry
from shieldmw.core.mode import Mode, ModeChange

KEY = "shk_the-key"


def leave() -> None:
    """Nobody must leave in these tests."""


def test_a_client_that_is_denied_after_the_decision_gets_no_seat() -> None:
    """An app's own check may take a second; by then the streams of denied clients have been ended."""

    async def story() -> None:
        clock = FakeClock()
        store = memory_store(clock)
        one = worker(store, clock, live_paths="/live")
        asked = facts(path="/live")
        decision = await one.gate.decide(asked)
        assert not decision.refused
        await store.deny(DenyEntry(ip_network("203.0.113.0/24"), one.mode_watch.store_now_s() + 600, "operator", ""))
        await one.deny_list.refresh()
        for entered in (one.entrance.enter(asked, decision, leave), one.entrance.enter_now(asked, decision, leave)):
            assert entered is not None
            refused, entry = entered
            assert entry is None
            assert (refused.verdict, refused.reason) == (Verdict.REFUSED, Reason.DENY_LIST)
            assert 0 < refused.retry_after_us <= 600_000_000

    run(story())


def test_a_guest_is_asked_back_when_the_emergency_ends() -> None:
    """The wait is what is left of it, but for its last seconds; in normal mode and without an end none is known."""

    async def story() -> None:
        clock = FakeClock()
        store = memory_store(clock)
        one = worker(store, clock, live_paths="/live", capacity=10)
        asked = facts(path="/live")
        decision = await one.gate.decide(asked)
        assert one.seats.retry_after_us == 0
        await one.mode_watch.set(ModeChange(Mode.EMERGENCY, "ops", for_s=60), None)
        began_s = clock.now_s
        for after_s, wait_s in ((0, 60), (18, 42), (58, 5)):
            clock.now_s = began_s + after_s
            refused, entry = one.entrance.enter(asked, decision, leave)
            assert entry is None
            assert (refused.reason, refused.retry_after_us) == (Reason.NO_SEAT, wait_s * 1_000_000)
        clock.now_s = began_s + 60
        assert one.mode_watch.mode is Mode.NORMAL
        assert one.seats.retry_after_us == 0

    run(story())


def test_a_member_whose_key_is_revoked_after_the_decision_gets_no_seat() -> None:
    """Without what proved it, nothing would end the stream later."""

    async def story() -> None:
        clock = FakeClock()
        store = memory_store(clock)
        one = worker(store, clock, live_paths="/live")
        table = await store.api_keys(None)
        assert table is not None
        key = ApiKey(digest(KEY, table.digest_key), Identity("alice"), 1)
        await store.add_api_key(key)
        await one.api_keys.refresh()
        asked = facts(KEY, path="/live")
        decision = await one.gate.decide(asked)
        assert decision.identity == Identity("alice")
        _, entry = one.entrance.enter(asked, decision, leave)
        assert entry is not None
        assert entry.seat.api_key == key.digest
        await store.revoke_api_keys([key.digest])
        await one.api_keys.refresh()
        refused, entry = one.entrance.enter(asked, decision, leave)
        assert entry is None
        assert (refused.verdict, refused.reason) == (Verdict.REFUSED, Reason.CREDENTIAL_ENDED)

    run(story())
