"""Operators' changes: each applies on every worker, and is in the audit log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from gate.doubles import packed
from shieldmw import Settings
from shieldmw.core.address import network_of
from shieldmw.core.client import Identity, Prefixes, token_client
from shieldmw.core.deny import DenyEntry, DenyList
from shieldmw.core.facts import Facts
from shieldmw.core.mode import LONGEST_S, Mode, ModeChange
from shieldmw.errors import StoreError, StoreUnavailable
from shieldmw.gate.operator import deny_editor
from shieldmw.gate.operator.control import Control, clients_of, limit_names
from shieldmw.gate.operator.deny_editor import DenyRefusal
from shieldmw.gate.operator.direct import DirectControl
from shieldmw.gate.operator.status import shown_settings
from shieldmw.gate.worker import Worker
from shieldmw.store.memory import MemoryStore
from shieldmw.wiring import build_desk, build_worker

LIMIT_S = 30

ASKED = frozenset(
    {"take", "refill", "document", "set_document", "note", "deny", "undeny", "deny_list", "audit", "seats"}
)


class Away(MemoryStore):
    """A store that can be away; what it held stays."""

    is_away = False
    without = ASKED

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__
        if own(self, "is_away") and name in own(self, "without"):
            raise StoreUnavailable("away")
        return own(self, name)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await work()

    asyncio.run(limited())


def worker(store: MemoryStore, **values: Any) -> tuple[Worker, Control]:
    """A one_worker that is not started, so that nothing happens in its background; each is one worker."""
    one_worker = build_worker(Settings(**values), store)
    return one_worker, one_worker.control


def request(peer: str, path: str = "/") -> Facts:
    return Facts(peer, path, path, frozenset({"GET"}))


def test_a_change_of_mode_is_seen_at_once_by_a_worker_that_is_asked() -> None:
    """The status shows the mode as it is in the store, not as this worker remembers it."""

    async def work() -> None:
        store = MemoryStore(b"secret")
        (_, one), (_, other) = worker(store), worker(store)
        change = ModeChange(Mode.EMERGENCY, "kim", "flood", for_s=60, capacity=10, guest_share=0.5)
        assert await one.set_mode(change, None)
        status = await other.status()
        assert (status.mode.mode, status.mode.version, status.mode.actor) == (Mode.EMERGENCY, 1, "kim")
        assert status.mode.until_s is not None
        assert 0 < status.mode.until_s - status.now_s <= 60
        assert status.seats.capacity is not None
        assert (status.seats.capacity.seats, status.seats.capacity.guest_seats) == (10, 5)

    run(work)


def test_an_emergency_without_an_end_gets_one() -> None:
    """An emergency that nobody ends is a mistake, so it ends after the longest that one word may hold."""

    async def work() -> None:
        _, control = worker(MemoryStore(b"secret"))
        await control.set_mode(ModeChange(Mode.EMERGENCY, "kim"), None)
        status = await control.status()
        mode = status.mode
        assert mode.until_s is not None
        assert mode.until_s - status.now_s == pytest.approx(LONGEST_S, abs=LIMIT_S)

    run(work)


def test_of_many_operators_at_once_one_changes_the_mode_and_the_audit_has_each_change_once() -> None:
    """With the version they all saw exactly one wins; without one nothing of anybody is lost."""

    async def work() -> None:
        store = MemoryStore(b"secret")
        workers = [worker(store)[1] for _ in range(8)]

        def change(number: int) -> ModeChange:
            return ModeChange(Mode.EMERGENCY, f"operator {number}", for_s=60)

        raced = await asyncio.gather(*(each.set_mode(change(n), 0) for n, each in enumerate(workers)))
        assert sorted(raced) == [False] * 7 + [True]
        assert len(await workers[0].audit()) == 1
        assert all(await asyncio.gather(*(each.set_mode(change(n), None) for n, each in enumerate(workers))))
        entries = await workers[0].audit()
        assert sorted(entry.who for entry in entries[:8]) == [f"operator {n}" for n in range(8)]
        assert len(entries) == 9

    run(work)


def test_a_store_that_is_away_is_told_of_and_nothing_changes() -> None:
    """The status still answers with what is known; every change raises and leaves all as it was."""

    async def work() -> None:
        store = Away(b"secret")
        _, control = worker(store)
        await control.set_mode(ModeChange(Mode.EMERGENCY, "kim", for_s=60), None)
        store.is_away = True
        status = await control.status()
        assert (status.mode.mode, status.store_is_up) == (Mode.EMERGENCY, False)
        network = network_of("203.0.113.0/24")
        for change in (
            control.set_mode(ModeChange(Mode.NORMAL, "kim"), None),
            control.denials.deny(network, 60, actor="kim", reason="", own=None, force=False),
            control.denials.undeny(network, "kim"),
            control.reset("ip:203.0.113.7", "kim"),
        ):
            with pytest.raises(StoreUnavailable):
                await change
        store.is_away = False
        assert (await control.status()).mode.version == 1
        assert (await control.status()).store_is_up
        assert len(await control.audit()) == 1
        assert await control.denials.denied() == []

    run(work)


def test_seats_are_the_fleets_once_they_were_granted() -> None:
    """Before any grant the worker counts its own listeners and says so; then it knows how many workers there are."""

    async def work() -> None:
        store = MemoryStore(b"secret")
        (one_worker, control), (other_worker, _) = worker(store, capacity=100), worker(store, capacity=100)
        before = (await control.status()).seats
        assert (before.fleet_wide, before.workers, before.demand) == (False, None, None)
        await other_worker.entrance.admission.seats.refresh()
        await one_worker.entrance.admission.seats.refresh()
        after = (await control.status()).seats
        assert (after.fleet_wide, after.workers) == (True, 2)
        assert after.granted is not None
        assert after.granted.seats <= 100
        await control.set_mode(ModeChange(Mode.EMERGENCY, "kim", for_s=60, capacity=10), None)
        cut = (await control.status()).seats
        assert cut.granted is not None
        assert cut.granted.seats <= 10, "what a worker may hold never exceeds the mode in force"

    run(work)


def test_the_load_of_all_workers_is_told_by_each() -> None:
    """And only its own while the store is away, which is said."""

    async def work() -> None:
        store = Away(b"secret")
        (one_worker, control), (other_worker, _) = worker(store), worker(store)
        assert await _load(control) == ("on", True, set()), "nobody has reported yet"
        for each in (one_worker, other_worker):
            await each.start()
        mine, others = one_worker.entrance.admission.seats.worker, other_worker.entrance.admission.seats.worker
        assert await _load(control) == ("on", True, {mine, others})
        store.is_away = True
        assert await _load(control) == ("on", False, {mine})
        store.is_away = False
        await other_worker.stop()
        assert await _load(control) == ("on", True, {mine})
        await one_worker.stop()

    run(work)


def test_processes_that_are_no_workers_tell_of_the_load_of_all() -> None:
    """The listener for operators, and the switch through the store; neither is among the workers."""

    async def work() -> None:
        store, settings = Away(b"secret"), Settings(overload="shadow")
        one_worker, _ = worker(store)
        await one_worker.start()
        desk, direct = build_desk(settings, store), DirectControl(store, settings)
        await desk.start()
        for control in (desk.control, direct):
            assert await _load(control) == ("shadow", True, {one_worker.entrance.admission.seats.worker})
        store.without, store.is_away = frozenset({"loads"}), True
        for control in (desk.control, direct):
            assert await _load(control) == ("shadow", False, set())
        await desk.stop()
        await one_worker.stop()

    run(work)


def test_load_that_cannot_be_read_leaves_the_rest_of_the_status() -> None:
    """Where something else has the place of the reports, say."""

    async def work() -> None:
        store = Away(b"secret")
        store.without = frozenset({"loads"})
        one_worker, control = worker(store)
        await one_worker.start()
        store.is_away = True
        status = await control.status()
        assert status.store_is_up
        assert await _load(control) == ("on", False, {one_worker.entrance.admission.seats.worker})
        await one_worker.stop()

    run(work)


@pytest.mark.parametrize(
    ("values", "setting", "workers"),
    [
        ({"overload": "off"}, "off", 0),
        ({"overload": "off", "dry_run": True}, "off", 0),
        ({"overload": "shadow"}, "shadow", 1),
        ({"dry_run": True}, "shadow", 1),
    ],
)
def test_the_setting_is_told_as_it_is_in_force(values: dict[str, Any], setting: str, workers: int) -> None:
    """Without a lane there is nothing to report; a dry run delays nobody."""

    async def work() -> None:
        one_worker, control = worker(MemoryStore(b"secret"), **values)
        await one_worker.start()
        told, _, ids = await _load(control)
        assert (told, len(ids)) == (setting, workers)
        await one_worker.stop()

    run(work)


async def _load(control: Control | DirectControl) -> tuple[str, bool, set[str]]:
    """The setting, whether it is the fleet's, and which workers are told of."""
    overload = (await control.status()).overload
    assert overload is not None
    return overload.setting, overload.fleet_wide, {load.worker for load in overload.workers}


def test_a_denied_network_is_refused_until_it_is_taken_off() -> None:
    """At once on the worker that was asked, and both changes are in the audit."""

    async def work() -> None:
        store = MemoryStore(b"secret")
        one_worker, control = worker(store)
        network = network_of("203.0.113.0/24")
        entry = await control.denials.deny(network, 60, actor="kim", reason="flood", own=None, force=False)
        assert isinstance(entry, DenyEntry)
        assert (await one_worker.gate.decide(request("203.0.113.7"))).refused
        assert not (await one_worker.gate.decide(request("203.0.114.7"))).refused
        assert await control.denials.denied_network(network) == entry
        assert await control.denials.undeny(network, "jo")
        assert not await control.denials.undeny(network, "jo"), "it is off already"
        assert not (await one_worker.gate.decide(request("203.0.113.7"))).refused
        assert [(each.who, each.what) for each in await control.audit()] == [
            ("jo", "deny 203.0.113.0/24"),
            ("kim", "deny 203.0.113.0/24"),
        ]

    run(work)


class ForeignList(MemoryStore):
    """A store in which something else has the place of the deny list, until somebody is denied."""

    is_foreign = True

    async def deny_list(self, known_version: int | None) -> DenyList | None:
        """The list, once there is one."""
        if self.is_foreign:
            raise StoreError("ResponseError WRONGTYPE")
        return await super().deny_list(known_version)

    async def deny(self, entry: DenyEntry) -> None:
        """Put the list in its place again."""
        self.is_foreign = False
        await super().deny(entry)


def test_a_network_is_denied_though_something_else_has_the_place_of_the_list() -> None:
    """The operator's word replaces it: nothing has to be mended by hand first."""

    async def work() -> None:
        one_worker, control = worker(ForeignList(b"secret"))
        assert await control.denials.denied() == []
        network = network_of("203.0.113.0/24")
        denied = await control.denials.deny(network, 60, actor="admin", reason="", own=None, force=False)
        assert isinstance(denied, DenyEntry)
        assert [entry.network for entry in await control.denials.denied()] == [network]
        assert (await one_worker.gate.decide(request("203.0.113.7"))).refused

    run(work)


def test_operators_do_not_deny_themselves_by_mistake() -> None:
    """A network with the operator's own address in it needs force."""

    async def work() -> None:
        _, control = worker(MemoryStore(b"secret"))
        network, own = network_of("2001:db8::/32"), packed("2001:db8::7")
        refused = await control.denials.deny(network, 60, actor="kim", reason="", own=own, force=False)
        assert refused is DenyRefusal.OWN_ADDRESS
        assert await control.audit() == []
        assert isinstance(
            await control.denials.deny(network, 60, actor="kim", reason="", own=own, force=True), DenyEntry
        )

    run(work)


def test_a_full_deny_list_takes_no_more_but_what_is_over_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list has an end; entries whose time has passed do not count against it, known ones can be renewed."""
    monkeypatch.setattr(deny_editor, "MOST_ENTRIES", 3)

    async def work() -> None:
        store = MemoryStore(b"secret")
        _, control = worker(store)

        async def deny(text: str) -> DenyEntry | DenyRefusal:
            return await control.denials.deny(network_of(text), 60, actor="kim", reason="", own=None, force=False)

        for number in range(3):
            assert isinstance(await deny(f"192.0.2.{number}"), DenyEntry)
        assert await deny("192.0.2.3") is DenyRefusal.FULL
        assert isinstance(await deny("192.0.2.2"), DenyEntry), "it has its place already"
        over = replace((await control.denials.denied())[0], until_s=control.now_s() - 1)
        await store.deny(over)
        assert isinstance(await deny("192.0.2.3"), DenyEntry)
        kept = await store.deny_list(None)
        assert isinstance(kept, DenyList)
        assert over.network not in [entry.network for entry in kept.entries]

    run(work)


@pytest.mark.parametrize(
    ("client", "peer", "neighbour"),
    [
        ("ip:203.0.113.7", "203.0.113.7", "203.0.113.8"),
        ("ip:2001:db8::1", "2001:db8::2", "2001:db8:1::1"),
        ("ip:::ffff:203.0.113.7", "203.0.113.7", "203.0.113.8"),
    ],
)
def test_a_reset_address_may_ask_again_and_others_may_not(client: str, peer: str, neighbour: str) -> None:
    """All its buckets are full again, the rules' and the site's too; nobody else's are."""
    rules = '[{"name": "search", "path": "/search", "limits": "1/day"}]'

    async def work() -> None:
        one_worker, control = worker(MemoryStore(b"secret"), ip_limit="1/day", address_limit="1/day", rules=rules)
        for who in (peer, neighbour):
            assert not (await one_worker.gate.decide(request(who, "/search"))).refused
            assert (await one_worker.gate.decide(request(who, "/search"))).refused
        await control.reset(client, "kim", "our own office")
        assert not (await one_worker.gate.decide(request(peer, "/search"))).refused
        assert (await one_worker.gate.decide(request(neighbour, "/search"))).refused
        (entry,) = await control.audit()
        assert (entry.who, entry.why) == ("kim", "our own office")

    run(work)


def test_a_reset_site_has_its_whole_prefix_back() -> None:
    """The /56 around an IPv6 address has a bucket of its own; a reset of one address fills it."""

    async def work() -> None:
        one_worker, control = worker(MemoryStore(b"secret"), ip_limit="1/day")
        for number in range(4):
            assert not (await one_worker.gate.decide(request(f"2001:db8:0:{number}::1"))).refused
        assert (await one_worker.gate.decide(request("2001:db8:0:9::1"))).refused
        await control.reset("ip:2001:db8:0:1::1", "kim")
        assert not (await one_worker.gate.decide(request("2001:db8:0:9::1"))).refused

    run(work)


def test_a_reset_forgets_what_the_worker_would_decide_by_alone() -> None:
    """Buckets kept for an outage are full again too, else the client would be refused while the store is away."""

    async def work() -> None:
        store = Away(b"secret")
        one_worker, control = worker(store, ip_limit="1/day")
        await one_worker.gate.decide(request("203.0.113.7"))
        await control.reset("ip:203.0.113.7", "kim")
        store.is_away = True
        assert not (await one_worker.gate.decide(request("203.0.113.7"))).refused

    run(work)


PREFIXES = Prefixes(32, 64)

CLIENTS = [
    ("token:alice", (token_client(Identity("alice")),)),
    ("token:a:b", (token_client(Identity("a:b")),)),
    ("ip:203.0.113.7", (PREFIXES.clients(packed("203.0.113.7")).network,)),
    ("ip:unknown", (PREFIXES.clients(None).network,)),
]


@pytest.mark.parametrize(("text", "clients"), CLIENTS)
def test_a_text_names_the_client_that_is_charged(text: str, clients: tuple[object, ...]) -> None:
    """It is the client that requests are charged to, so the same buckets are refilled."""
    assert clients_of(text, PREFIXES) == clients


NOBODY = [
    "",
    "ip:",
    "token:",
    "ip:nobody",
    "ip:203.0.113.7:80",
    "ip:[::1]",
    "host:alice",
    "alice",
    f"token:{'a' * 1025}",
]


@pytest.mark.parametrize("text", NOBODY)
def test_a_text_that_names_nobody_is_an_error(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match=r"."):
        clients_of(text, PREFIXES)


def test_every_name_under_which_a_bucket_is_kept_is_known() -> None:
    """Those of an emergency with more limits than usual too."""
    rules = json.dumps([{"name": "r", "path": "/r", "limits": "1/second; 5/minute"}])
    settings = Settings(ip_limit="5/minute", emergency_ip_limit="1/second; 5/minute", token_limit="off", rules=rules)
    names = limit_names(settings.policy)
    known = {"ip", "ip-prefix", "ip-2", "ip-2-prefix", "failed-auth", "preflight", "preflight-prefix"}
    assert known <= set(names)
    of_rules = {"r", "r-2", "r-preflight", "r-2-preflight"}
    assert of_rules | {f"{name}-prefix" for name in of_rules} <= set(names)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("203.0.113.7", "203.0.113.7/32"),
        ("::ffff:203.0.113.0/120", "203.0.113.0/24"),
        ("2001:DB8::/32", "2001:db8::/32"),
    ],
)
def test_a_network_has_one_spelling(text: str, network: str) -> None:
    """The one under which addresses are looked up."""
    assert str(network_of(text)) == network


@pytest.mark.parametrize("text", ["", "203.0.113.7/24", "203.0.113.0/33", "::1, ::2", "fe80::%1/64", "1" * 60])
def test_what_is_no_network_is_an_error(text: str) -> None:
    """Bits beyond the prefix are a mistake that could deny many more than was meant."""
    with pytest.raises(ValueError, match=r"."):
        network_of(text)


def test_settings_are_shown_without_their_secrets() -> None:
    """Neither as they are, nor inside a URL."""
    hidden = ["hidden-admin-token", "hidden-view-token", "hidden-secret" * 3, "hidden-jwt" * 4, "p@hidden", "hidden-2"]
    settings = Settings(
        admin_token=hidden[0],
        view_token=hidden[1],
        secret=hidden[2],
        jwt_secret=hidden[3],
        redis_url=f"redis://user:{hidden[4]}@redis.test:6380/1?password={hidden[5]}",
        live_paths="/live,/chat/*",
        trusted_proxies="10.0.0.0/8, unix",
    )
    shown = shown_settings(settings)
    assert "hidden" not in repr(shown)
    assert shown["SHIELD_REDIS_URL"] == "redis://user:***@redis.test:6380/1?***"
    assert shown["SHIELD_LIVE_PATHS"] == "/live,/chat/*"
    assert shown["SHIELD_TRUSTED_PROXIES"] == "10.0.0.0/8,unix"
    assert shown["SHIELD_ADMIN_TOKEN"] == "********"
    assert shown["SHIELD_RECORDING_URL"] is None
    assert shown["SHIELD_DRY_RUN"] == "false"


def test_a_network_is_denied_until_the_end_that_is_told() -> None:
    """The store keeps whole seconds: an end between two of them would come earlier than the operator was told."""

    async def work() -> None:
        _, control = worker(MemoryStore(b"secret"))
        before_s = control.now_s()
        entry = await control.denials.deny(
            network_of("203.0.113.0/24"), 60, actor="kim", reason="", own=None, force=False
        )
        assert isinstance(entry, DenyEntry)
        assert entry.until_s == int(entry.until_s) >= before_s + 60

    run(work)
