"""The way of facts that come again is kept; it leads where working everything out anew would lead, whatever changes.

Two workers hear the same requests and the same operators, each with a store of its own: one is given the same facts
again and again, the other new ones each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from gate.doubles import (
    FlakyStore,
    Heard,
    LeasingStore,
    LoopClock,
    WorkerParts,
    facts,
    memory_store,
    pass_time,
    run,
    worker,
)
from shieldmw import Identity
from shieldmw.core.api_keys import ApiKey, derive_digest_key, digest
from shieldmw.core.client import Client, ListenerClass, Proof, address_clients
from shieldmw.core.credentials import Rejected
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.deny import DenyEntry
from shieldmw.core.facts import Facts
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.errors import StoreUnavailable

KEPT_US = 250_000
PEER, OTHER = "203.0.113.7", "203.0.113.8"
SITE = "2001:db8::7"

RULES = [
    {"name": "members", "path": "/members/*", "limits": "3/minute", "emergency": "members"},
    {"name": "closed", "path": "/closed/*", "cost": 2, "emergency": "closed"},
    {"name": "live", "path": "/live/*", "live": True, "methods": ["GET"], "limits": "5/minute"},
]
POLICY: dict[str, Any] = {
    "ip_limit": "4/minute",
    "emergency_ip_limit": "2/minute",
    "token_limit": "6/minute",
    "failed_auth_limit": "2/minute",
    "rules": json.dumps(RULES),
    "deny_ips": "198.51.100.0/24",
    "allow_ips": "192.0.2.1",
}


@dataclass
class Issuer:
    """Proves the tokens that it has given out and not taken back, each until a time of its own."""

    now_s: Callable[[], float]
    until_s: dict[str, float] = field(default_factory=dict)

    def screen(self, token: str) -> Rejected | None:
        """All need a check."""
        return None

    def verify(self, token: str) -> Proof | None:
        """Whom a token proves."""
        if self.until_s.get(token, 0.0) <= self.now_s():
            return None
        listener_class = ListenerClass.HOST if token == "host" else ListenerClass.MEMBER
        return Proof(Identity(token, listener_class), self.until_s[token])


@dataclass
class World:
    """A worker, its store, and what is done to both."""

    keeps: bool
    values: dict[str, Any] = field(default_factory=dict)
    has_issuer: bool = True
    known: dict[Facts, Facts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = LoopClock()
        self.store = FlakyStore(LeasingStore(self.clock, ahead_us=7_654_321))
        self.issuer = Issuer(self.clock.s)
        self.heard = Heard()
        tokens = self.issuer if self.has_issuer else None
        self.one: WorkerParts = worker(
            self.store, self.clock, tokens=tokens, observers=[self.heard], **{**POLICY, **self.values}
        )

    async def ask(self, of: Facts) -> Decision:
        """A request; from the second time on of facts that are kept."""
        known = self.known.get(of)
        self.known[of] = of._replace(kept=[]) if known is None else known
        return await self.one.gate.decide(known if known is not None and self.keeps else of)

    async def mode(self, mode: Mode, for_s: int | None) -> None:
        """An operator's word."""
        assert await self.one.mode_watch.set(ModeChange(mode, "ops", for_s=for_s), None)

    async def deny(self, network: str, for_s: float) -> None:
        """An operator denies."""
        until_s = self.one.mode_watch.store_now_s() + for_s
        await self.store.inner.deny(DenyEntry(ip_network(network), until_s, "ops", ""))
        await self.one.deny_list.refresh()

    async def undeny(self, network: str) -> None:
        """An operator denies no longer."""
        await self.store.inner.undeny(network, "ops")
        await self.one.deny_list.refresh()

    async def issue_key(self, key: str) -> None:
        """Issue an API key."""
        await self.store.add_api_key(ApiKey(digest(key, derive_digest_key(b"fleet")), Identity(key), 0))
        await self.keys_polled()

    async def revoke_key(self, key: str) -> None:
        """Revoke an API key."""
        await self.store.revoke_api_keys([digest(key, derive_digest_key(b"fleet"))])
        await self.keys_polled()

    async def keys_polled(self) -> None:
        """The worker polls the table of keys, if it may."""
        with suppress(StoreUnavailable):
            await self.one.api_keys.refresh()

    async def sign_in(self, token: str, for_s: float) -> None:
        """The issuer proves a token from now on; whoever has tried it before may have to wait."""
        self.issuer.until_s[token] = self.clock.s() + for_s

    async def new_keys(self, *gone: str) -> None:
        """The issuer's keys are others: some tokens prove nothing any more."""
        for token in gone:
            self.issuer.until_s.pop(token, None)
        self.one.identifier.invalidate()

    async def reset(self, client: Client) -> None:
        """An operator makes a client's buckets full again."""
        limits = ["ip", "token", "members", "live", "failed-auth", "ip-prefix", "members-prefix", "live-prefix"]
        await self.store.inner.refill(client, limits)
        self.one.gate.invalidate()

    async def store_goes(self) -> None:
        """The store is away."""
        self.store.failing = StoreUnavailable("away")

    async def store_comes(self) -> None:
        """It is back."""
        self.store.failing = None

    async def wait(self, seconds: float) -> None:
        """Time passes; both worlds share the loop and its clock, so only one of them waits."""
        if self.keeps:
            await pass_time(seconds)


def told(decision: Decision) -> dict[str, Any]:
    """All that must be the same of two decisions to the letter."""
    same: dict[str, Any] = {
        "verdict": decision.verdict,
        "reason": decision.reason,
        "identity": decision.identity,
        "mode": decision.mode,
        "live": decision.live,
        "limits": [level.limit for level in decision.levels],
    }
    if decision.verdict is Verdict.ALLOWED:
        same["levels"] = decision.levels
        same["address"] = decision.address
    return same


def assert_alike(kept: Decision, anew: Decision) -> None:
    """The same decision; how long someone has to wait may have been said a moment ago."""
    assert told(kept) == told(anew)
    if kept.address is not None and anew.address is not None:  # whoever is known to be refused is not located
        assert kept.address == anew.address
    assert abs(kept.retry_after_us - anew.retry_after_us) <= KEPT_US


async def follow(steps: Sequence[tuple[str, Sequence[Any]]], **of: Any) -> list[Decision]:
    """Both workers go through the same; the decisions of the one that keeps ways."""
    worlds = World(True, **of), World(False, **of)
    decisions = []
    for world in worlds:
        await world.one.mode_watch.refresh()
        await world.one.deny_list.refresh()
    for name, arguments in steps:
        if name == "ask":
            kept, anew = [await world.ask(*arguments) for world in worlds]
            assert_alike(kept, anew)
            decisions.append(kept)
            continue
        for world in worlds:
            await getattr(world, name)(*arguments)
        if name.startswith("store"):
            await pass_time(KEPT_US / 1e6)  # what the store, or this worker alone, has refused is refused for a moment
    one, other = ([told(event.decision) for event in world.heard.events] for world in worlds)
    assert one == other
    return decisions


# --- whatever happens ---------------------------------------------------------------------------------

PEERS = [PEER, PEER, OTHER, SITE, "2001:db8::1:7", "192.0.2.1", "198.51.100.1", None]
PATHS = ["/hello", "/hello", "/members/a", "/closed/a", "/live/a", "/healthz"]
CREDENTIALS = [None, None, "alice", "host", "key", "nobody", "nobody-2", "nobody-3"]
NETWORKS = [f"{PEER}/32", "203.0.113.0/24", "2001:db8::/64"]
CLIENTS = [
    *(address_clients(ip_address(peer), 32, 64).one for peer in (PEER, OTHER, SITE)),
    *(Client("token", name, f"token:{name}") for name in ("alice", "key")),
]


def requests() -> st.SearchStrategy[Facts]:
    """Few different ones, so that they come again."""
    return st.builds(
        lambda peer, path, credential, method: facts(credential, peer=peer, path=path)._replace(
            methods=frozenset({method})
        ),
        st.sampled_from(PEERS),
        st.sampled_from(PATHS),
        st.sampled_from(CREDENTIALS),
        st.sampled_from(["GET", "GET", "GET", "POST"]),
    )


SECONDS = [0.0, 0.001, 0.1, 0.249999, 0.25, 1.0, 10.0, 15.0, 61.0]
ACTIONS: list[st.SearchStrategy[tuple[str, tuple[Any, ...]]]] = [
    st.tuples(st.just("wait"), st.tuples(st.sampled_from(SECONDS))),
    st.tuples(st.just("wait"), st.tuples(st.sampled_from(SECONDS))),
    st.tuples(st.just("mode"), st.tuples(st.just(Mode.EMERGENCY), st.sampled_from([None, 1, 10]))),
    st.tuples(st.just("mode"), st.tuples(st.just(Mode.NORMAL), st.none())),
    st.tuples(st.just("deny"), st.tuples(st.sampled_from(NETWORKS), st.sampled_from([1.0, 10.0]))),
    st.tuples(st.just("undeny"), st.tuples(st.sampled_from(NETWORKS))),
    st.tuples(st.just("issue_key"), st.just(("key",))),
    st.tuples(st.just("revoke_key"), st.just(("key",))),
    st.tuples(st.just("sign_in"), st.tuples(st.sampled_from(["alice", "host"]), st.sampled_from([1.0, 10.0, 1e6]))),
    st.tuples(st.just("new_keys"), st.sampled_from([(), ("alice",), ("alice", "host")])),
    st.tuples(st.just("reset"), st.tuples(st.sampled_from(CLIENTS))),
    st.tuples(st.just("store_goes"), st.just(())),
    st.tuples(st.just("store_comes"), st.just(())),
]


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[str, tuple[Any, ...]]]:
    """A few requests that come again and again, and what happens between them."""
    some = draw(st.lists(requests(), min_size=1, max_size=4))
    steps: list[tuple[str, tuple[Any, ...]]] = []
    for _ in range(draw(st.integers(1, 12))):
        steps += draw(st.lists(st.one_of(ACTIONS), max_size=2))
        steps += [("ask", (draw(st.sampled_from(some)),)) for _ in range(draw(st.integers(1, 4)))]
    return steps


VALUES: list[dict[str, Any]] = [
    {},
    {"leases": False},
    {"dry_run": True},
    {"on_redis_failure": "open"},
    {"on_redis_failure": "closed"},
    {"address_limit": "5/minute"},
    {"ip_limit": "off", "token_limit": "off", "rules": "[]"},
    {"failed_auth_limit": "off"},
    {"ipv6_prefix": 56, "ipv4_prefix": 24},
]


@settings(deadline=None, max_examples=300)
@given(stories(), st.sampled_from(VALUES), st.booleans())
def test_a_kept_way_leads_where_a_new_one_would(
    steps: list[tuple[str, tuple[Any, ...]]], values: dict[str, Any], has_issuer: bool
) -> None:
    """Modes, deny lists, keys, tokens, resets, outages and time, in any order between requests that come again."""
    note(f"{steps}")
    run(follow(steps, values=values, has_issuer=has_issuer))


# --- each circumstance --------------------------------------------------------------------------------

GUEST = facts()
ALICE = facts("alice")
HAS_KEY = facts("key")
OK, QUOTA, DENIED = Reason.WITHIN_LIMITS, Reason.QUOTA, Reason.DENY_LIST
EMERGENCY = ("mode", (Mode.EMERGENCY, None))
DENY = ("deny", (f"{PEER}/32", 10.0))
SIGN_IN = ("sign_in", ("alice", 30.0))
TRIES = [("ask", (facts(f"nobody-{number}"),)) for number in range(2)]


def subject_of(decision: Decision) -> str | None:
    return None if decision.identity is None else decision.identity.subject


def times(count: int, of: Facts) -> list[tuple[str, Sequence[Any]]]:
    return [("ask", (of,))] * count


STORIES: list[tuple[str, list[tuple[str, Sequence[Any]]], list[Reason], list[str | None]]] = [
    ("mode", [*times(3, GUEST), EMERGENCY, *times(1, GUEST)], [OK] * 3 + [QUOTA], [None] * 4),
    (
        "an emergency that ends by itself",
        [*times(3, GUEST), ("mode", (Mode.EMERGENCY, 1)), *times(1, GUEST), ("wait", (1.0,)), *times(1, GUEST)],
        [OK] * 3 + [QUOTA, OK],
        [None] * 5,
    ),
    (
        "a closed path",
        [*times(2, facts("alice", path="/closed/a")), EMERGENCY, *times(2, facts("alice", path="/closed/a"))],
        [OK, OK, Reason.EMERGENCY, Reason.EMERGENCY],
        [None] * 4,
    ),
    ("denied", [*times(3, GUEST), DENY, *times(2, GUEST)], [OK] * 3 + [DENIED] * 2, [None] * 5),
    (
        "denied no longer",
        [*times(2, GUEST), DENY, *times(2, GUEST), ("undeny", (f"{PEER}/32",)), *times(2, GUEST)],
        [OK] * 2 + [DENIED] * 2 + [OK] * 2,
        [None] * 6,
    ),
    (
        "denied in another's place",
        [("deny", (f"{OTHER}/32", 10.0)), *times(3, GUEST), ("undeny", (f"{OTHER}/32",)), DENY, *times(1, GUEST)],
        [OK] * 3 + [DENIED],
        [None] * 4,
    ),
    (
        "never limited",
        [*times(6, facts(peer="192.0.2.1")), EMERGENCY, *times(3, facts(peer="192.0.2.1"))],
        [Reason.ALLOW_LIST] * 9,
        [None] * 9,
    ),
    (
        "an exempt path, of whoever is not denied",
        [*times(6, facts(path="/healthz")), DENY, *times(2, facts(path="/healthz"))],
        [Reason.EXEMPT] * 6 + [DENIED] * 2,
        [None] * 8,
    ),
    (
        "denied until a time",
        [DENY, *times(3, GUEST), ("wait", (10.0,)), *times(2, GUEST)],
        [DENIED] * 3 + [OK] * 2,
        [None] * 5,
    ),
    (
        "a refused guest, denied",
        [*times(7, GUEST), DENY, *times(1, GUEST)],
        [OK] * 4 + [QUOTA] * 3 + [DENIED],
        [None] * 8,
    ),
    (
        "a key that comes when there was none, and goes",
        [*times(3, HAS_KEY), ("issue_key", ("key",)), *times(3, HAS_KEY), ("revoke_key", ("key",)), *times(2, HAS_KEY)],
        [OK] * 7 + [QUOTA],
        [None] * 3 + ["key"] * 3 + [None] * 2,
    ),
    (
        "a token until its time",
        [SIGN_IN, *times(3, ALICE), ("wait", (29.999,)), *times(1, ALICE), ("wait", (0.001,)), *times(2, ALICE)],
        [OK] * 6,
        ["alice"] * 4 + [None] * 2,
    ),
    (
        "other keys of an issuer",
        [SIGN_IN, *times(3, ALICE), ("new_keys", ("alice",)), *times(2, ALICE)],
        [OK] * 5,
        ["alice"] * 3 + [None] * 2,
    ),
    (
        "a credential that failed is tried again after a while",
        [*times(3, ALICE), SIGN_IN, *times(1, ALICE), ("wait", (10.0,)), *times(2, ALICE)],
        [OK] * 6,
        [None] * 4 + ["alice"] * 2,
    ),
    (
        "a member where others have failed too often",
        [*TRIES, SIGN_IN, ("wait", (0.0,)), *times(2, ALICE), ("wait", (31.0,)), SIGN_IN, *times(2, ALICE)],
        [OK] * 6,
        [None] * 2 + ["alice"] * 4,
    ),
    (
        "a client made whole again",
        [*times(6, GUEST), ("reset", (CLIENTS[0],)), *times(2, GUEST)],
        [OK] * 4 + [QUOTA] * 2 + [OK] * 2,
        [None] * 8,
    ),
]


@pytest.mark.parametrize(("what", "steps", "reasons", "who"), STORIES, ids=[what for what, *_ in STORIES])
def test_a_way_ends_where_something_changes(
    what: str, steps: list[tuple[str, Sequence[Any]]], reasons: list[Reason], who: list[str | None]
) -> None:
    """Each once, with what must be told."""
    decisions = run(follow(steps, has_issuer="key" not in what or "issuer" in what))
    assert [decision.reason for decision in decisions] == reasons
    assert [subject_of(decision) for decision in decisions] == who


@pytest.mark.parametrize("what", ["key", "token"])
def test_a_way_is_of_one_gate(what: str) -> None:
    """Another gate of the same app, on another loop or after a restart, may know other keys: as old as it seems."""
    clock = LoopClock()
    store = memory_store(clock)
    of = facts(what)._replace(kept=[])

    async def subjects(issuer: Issuer) -> list[str | None]:
        one = worker(store, clock, tokens=issuer, **POLICY)
        await one.api_keys.refresh()
        await one.deny_list.refresh()
        return [subject_of(await one.gate.decide(of)) for _ in range(3)]

    key = ApiKey(digest("key", derive_digest_key(b"fleet")), Identity("key"), 0)
    run(store.add_api_key(key))
    assert run(subjects(Issuer(clock.s, {"token": 1e9}))) == [what] * 3
    run(store.revoke_api_keys([key.digest]))
    assert run(subjects(Issuer(clock.s))) == [None] * 3
