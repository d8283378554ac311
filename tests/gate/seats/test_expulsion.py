"""Streams of clients that have lost their access end with a reason; all others continue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_network

import pytest

from gate.doubles import Heard, clock_of, packed
from shieldmw.core.api_keys import ApiKey, derive_digest_key, digest
from shieldmw.core.client import Identity, ListenerClass
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.deny import DenyEntry
from shieldmw.core.facts import Facts
from shieldmw.gate.auth.api_keys import ApiKeys
from shieldmw.gate.auth.failed_auth import FailedAuth
from shieldmw.gate.auth.identity import Identifier
from shieldmw.gate.fleet.deny_watch import DenyWatch
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.seats.admission import Entry
from shieldmw.gate.seats.capacity import SeatPlan
from shieldmw.gate.seats.expulsion import SEATS_AT_ONCE, Expulsion
from shieldmw.gate.seats.seat import Seat
from shieldmw.gate.seats.seats import Seats
from shieldmw.settings import Settings
from shieldmw.store.memory import MemoryBuckets, MemoryStore
from shieldmw.wiring import build_worker

SECRET = b"a secret of at least 32 characters"
NOW_S = 1_800_000_000.0
MEMBER, GUEST = ListenerClass.MEMBER, ListenerClass.GUEST


@dataclass
class Hall:
    """One worker's seats, what it knows of keys and denied networks, and who had to leave, why."""

    store: MemoryStore = field(default_factory=lambda: MemoryStore(SECRET))
    now_s: float = NOW_S
    left: dict[str, Reason] = field(default_factory=dict)
    heard: Heard = field(default_factory=Heard)

    def __post_init__(self) -> None:
        """Build it as the wiring does."""
        clock = clock_of(self.clock)
        self.seats = Seats(
            self.store,
            ModeWatch(self.store),
            SeatPlan(0, 0, 0),
            observers=(self.heard,),
            clock=clock,
        )
        self.deny_list = DenyWatch(self.store, self.clock)
        self.api_keys = ApiKeys(self.store, {})
        failed_auth = FailedAuth(Settings().policy, None, MemoryBuckets(most_buckets=10))  # type: ignore[arg-type]
        self.identifier = Identifier(self.api_keys, None, failed_auth, clock)
        self.expulsion = Expulsion(self.seats, self.deny_list, self.identifier, self.api_keys, clock=clock)

    def clock(self) -> float:
        """Unix time."""
        return self.now_s

    def sits(
        self, who: str, address: str = "203.0.113.7", *, api_key: str | None = None, until_s: float = float("inf")
    ) -> Seat:
        """Somebody has a seat."""
        name = GUEST if who.startswith("guest") else MEMBER
        seat = Seat(
            name,
            0,
            who,
            lambda: self.left.update({who: seat.why}),
            address=packed(address),
            api_key=api_key,
            until_s=until_s,
        )
        assert self.seats.ledger.admit(seat, live=False)
        return seat

    async def looks(self) -> dict[str, Reason]:
        """What the background does; who has left by now."""
        await self.deny_list.refresh()
        await self.api_keys.refresh()
        await self.expulsion.refresh()
        return self.left


def denied(network: str, until_s: float = NOW_S + 3600) -> DenyEntry:
    """An entry of the deny list."""
    return DenyEntry(ip_network(network), until_s, "ops", "flood")


def test_a_network_that_is_denied_leaves() -> None:
    """Guests and members of a denied network leave, everybody else stays; an entry that is over denies nobody."""
    hall = Hall()
    hall.sits("guest-1", "198.51.100.1")
    hall.sits("alice", "198.51.100.2")
    hall.sits("guest-2", "198.51.101.1")
    hall.sits("bob", "2001:db8::1")

    async def story() -> None:
        assert await hall.looks() == {}
        await hall.store.deny(denied("198.51.101.0/24", NOW_S - 1))
        assert await hall.looks() == {}
        await hall.store.deny(denied("198.51.100.0/24"))
        assert await hall.looks() == {"guest-1": Reason.DENY_LIST, "alice": Reason.DENY_LIST}
        await hall.store.deny(denied("2001:db8::/32"))
        assert (await hall.looks())["bob"] is Reason.DENY_LIST

    asyncio.run(story())
    assert hall.seats.ledger.present().total == 1
    assert sorted((event.listener_class, event.count) for event in hall.heard.evictions) == [
        (GUEST, 1),
        (MEMBER, 1),
        (MEMBER, 1),
    ]


def test_a_revoked_key_ends_its_streams() -> None:
    """The streams that a key opened end with it; those of other keys go on, however long ago they were opened."""
    hall = Hall()
    keys = [digest(name, derive_digest_key(SECRET)) for name in ("one", "two")]
    hall.sits("alice", api_key=keys[0])
    hall.sits("bob", api_key=keys[1])

    async def story() -> None:
        for key in keys:
            await hall.store.add_api_key(ApiKey(key, Identity("x"), 0))
        hall.now_s += 1_000_000
        assert await hall.looks() == {}
        await hall.store.revoke_api_keys([keys[0]])
        assert await hall.looks() == {"alice": Reason.CREDENTIAL_ENDED}

    asyncio.run(story())


def test_a_look_that_failed_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changed is not done with before every seat was looked at."""
    hall = Hall()
    hall.sits("guest", "198.51.100.1")

    async def story() -> None:
        await hall.store.deny(denied("198.51.100.0/24"))
        with monkeypatch.context() as broken:
            broken.setattr(hall.deny_list, "left_us", lambda address: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await hall.looks()
        assert await hall.looks() == {"guest": Reason.DENY_LIST}

    asyncio.run(story())


def test_a_credential_that_ends_takes_its_stream_with_it() -> None:
    """A stream ends within the second in which its credential does, and not before."""
    hall = Hall()
    hall.sits("alice", until_s=NOW_S + 2.5)
    gone = hall.sits("carol", until_s=NOW_S + 2.5)
    hall.sits("bob", until_s=NOW_S + 4)
    hall.sits("guest")
    hall.seats.release(gone)

    async def story() -> None:
        for now_s, left in ((2.4, []), (3.0, ["alice"]), (3.9, ["alice"]), (4.0, ["alice", "bob"])):
            hall.now_s = NOW_S + now_s
            assert list(await hall.looks()) == left
        assert set(hall.left.values()) == {Reason.CREDENTIAL_ENDED}

    asyncio.run(story())
    assert hall.seats.ledger._ends == {}


def test_others_have_their_turn_while_many_seats_are_looked_at() -> None:
    """A change of the deny list looks at every seat in small parts; who leaves meanwhile is no trouble."""
    hall = Hall()
    for number in range(3 * SEATS_AT_ONCE):
        hall.sits(f"guest-{number}", "198.51.100.1")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            if turns == 2:
                hall.seats.release(next(iter(hall.seats.ledger)))  # one that was not looked at yet
            await asyncio.sleep(0)

    async def story() -> None:
        await hall.store.deny(denied("198.51.100.0/24"))
        counting = asyncio.create_task(count())
        await hall.looks()
        counting.cancel()

    asyncio.run(story())
    assert turns >= 3
    assert len(hall.left) == 3 * SEATS_AT_ONCE - 1
    assert hall.seats.ledger.present().total == 0


def entered(**settings: str) -> Callable[[str], Seat]:
    """What seat a member has who shows an API key."""
    store = MemoryStore(SECRET)
    worker = build_worker(Settings(redis_url="memory://", live_paths="/live", **settings), store)

    async def enter(credential: str) -> Seat:
        key = digest(credential, derive_digest_key(SECRET))
        await store.add_api_key(ApiKey(key, Identity("alice"), 0))
        await worker.start()
        facts = Facts("203.0.113.7", "/live", "/live", frozenset({"GET"}), credential=credential)
        decision = await worker.gate.decide(facts)
        _, entry = worker.entrance.enter(facts, decision, lambda: None)
        await worker.stop()
        assert isinstance(entry, Entry)
        return entry.seat

    return lambda credential: asyncio.run(enter(credential))


def test_a_seat_knows_what_it_depends_on() -> None:
    """The gate notes the address and the key with the seat; a key has no end, though it is looked up again."""
    seat = entered()("a key")
    assert (seat.address, seat.until_s) == (packed("203.0.113.7"), float("inf"))
    assert seat.api_key == digest("a key", derive_digest_key(SECRET))


def test_what_the_host_app_proves_has_no_end() -> None:
    """A member whom nothing here proved stays for as long as it listens."""
    worker = build_worker(Settings(redis_url="memory://"), MemoryStore(SECRET))
    decision = Decision(Verdict.ALLOWED, Reason.WITHIN_LIMITS, packed("203.0.113.7"), Identity("alice"), live=True)
    entry = worker.entrance.admission.admit(
        Facts("203.0.113.7", "/live", "/live", frozenset({"GET"})), decision, lambda: None
    )
    assert isinstance(entry, Entry)
    assert (entry.seat.until_s, entry.seat.api_key) == (float("inf"), None)
