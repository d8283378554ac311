"""Operators' changes apply from the next request on, and caches in a worker change no decision.

At random, a worker is compared with one that keeps nothing: it works each path out anew, and asks buckets at hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_network
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
    clock_of,
    facts,
    memory_store,
    packed,
    pass_time,
    run,
    worker,
)
from shieldmw import Identity
from shieldmw.core.api_keys import ApiKey, derive_digest_key, digest
from shieldmw.core.client import Client, ListenerClass, Prefixes, Proof
from shieldmw.core.credentials import Rejected
from shieldmw.core.decision import Decision, Reason
from shieldmw.core.deny import DenyEntry
from shieldmw.core.facts import Facts
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.limiter.limiter import LocalLimiter
from shieldmw.gate.limiter.lookups import Lookups
from shieldmw.store.memory import MemoryBuckets

Step = tuple[str, Sequence[Any]]


PEER, OTHER = "203.0.113.7", "203.0.113.8"
SITE = "2001:db8::7"

RULES: list[dict[str, Any]] = [
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
    """A worker, its store, and what is done to both.

    ``forgets``: it keeps nothing of any path; ``local``: its buckets are at hand. The clock is that of the loop, which
    several worlds share.
    """

    values: dict[str, Any] = field(default_factory=dict)
    has_issuer: bool = True
    forgets: bool = False
    local: bool = False

    def __post_init__(self) -> None:
        self.clock = LoopClock()
        self.store = FlakyStore(LeasingStore(self.clock, ahead_us=7_654_321))
        self.issuer = Issuer(self.clock.s)
        self.heard = Heard()
        tokens = self.issuer if self.has_issuer else None
        self.one: WorkerParts = worker(
            self.store, self.clock, tokens=tokens, observers=[self.heard], **{**POLICY, **self.values}
        )
        self.buckets = MemoryBuckets(now_us=self.clock.us)
        if self.local:
            self.one.gate._limiter = LocalLimiter(self.buckets, clock_of(self.clock.s))

    async def start(self) -> None:
        """Know what operators have said."""
        await self.one.mode_watch.refresh()
        await self.one.deny_list.refresh()

    async def ask(self, of: Facts) -> Decision:
        """A request."""
        gate = self.one.gate
        if self.forgets:
            gate._lookups = Lookups(gate._lookups._policy, gate._lookups._addressing)
        return await gate.decide(of)

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
        """The issuer proves a token from now on; a client that has tried it before may have to wait."""
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
        self.buckets.refill_now(client, limits)
        self.one.gate._limiter.invalidate()

    async def store_goes(self) -> None:
        """The store is away."""
        self.store.failing = StoreUnavailable("away")

    async def store_comes(self) -> None:
        """It is back."""
        self.store.failing = None


def outline(decision: Decision) -> tuple[object, ...]:
    """All of a decision that depends on nothing but what was said and done."""
    limits = [level.limit for level in decision.statuses]
    return (*decision[:4], decision.mode, decision.live, limits)


def assert_same(one: Decision, other: Decision) -> None:
    """To the unit and the microsecond."""
    assert (outline(one), one.retry_after_us, one.statuses) == (outline(other), other.retry_after_us, other.statuses)


def assert_same_but_waits(one: Decision, naive: Decision) -> None:
    """To the unit; but a refusal that is known may be of a time when the wait seemed shorter."""
    if one.reason is Reason.QUOTA:
        assert outline(one) == outline(naive)
        assert 0 < one.retry_after_us <= naive.retry_after_us
        assert set(one.violated) <= set(naive.violated)
    else:
        assert_same(one, naive)


def assert_same_outline(one: Decision, other: Decision) -> None:
    """Whatever is left of the limits."""
    assert outline(one) == outline(other)


async def follow(
    steps: Sequence[Step], *worlds: World, check: Callable[[Decision, Decision], None] = assert_same
) -> list[Decision]:
    """All workers go through the same, and decide the same; the decisions of the first."""
    decisions = []
    for world in worlds:
        await world.start()
    for name, arguments in steps:
        if name == "wait":
            await pass_time(*arguments)
        elif name == "ask":
            decision, *others = [await world.ask(*arguments) for world in worlds]
            for other in others:
                check(decision, other)
            decisions.append(decision)
        else:
            for world in worlds:
                await getattr(world, name)(*arguments)
    heard, *others_heard = ([outline(event.decision) for event in world.heard.events] for world in worlds)
    assert all(other == heard for other in others_heard)
    return decisions


# --- whatever happens ---------------------------------------------------------------------------------

PEERS = [PEER, PEER, OTHER, SITE, "2001:db8::1:7", "192.0.2.1", "198.51.100.1", None]
PATHS = ["/hello", "/hello", "/members/a", "/closed/a", "/live/a", "/healthz"]
CREDENTIALS = [None, None, "alice", "host", "key", "nobody", "nobody-2", "nobody-3"]
NETWORKS = [f"{PEER}/32", "203.0.113.0/24", "2001:db8::/64"]
CLIENTS = [
    *(Prefixes(32, 64).clients(packed(peer)).network for peer in (PEER, OTHER, SITE)),
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
ACTIONS: list[st.SearchStrategy[Step]] = [
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
]
OUTAGES: list[st.SearchStrategy[Step]] = [
    st.tuples(st.just(name), st.just(())) for name in ("store_goes", "store_comes")
]


@st.composite
def stories(draw: st.DrawFn, actions: list[st.SearchStrategy[Step]]) -> list[Step]:
    """A few requests that come again and again, and what happens between them."""
    some = draw(st.lists(requests(), min_size=1, max_size=4))
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, 12))):
        steps += draw(st.lists(st.one_of(actions), max_size=2))
        steps += [("ask", (draw(st.sampled_from(some)),)) for _ in range(draw(st.integers(1, 4)))]
    return steps


VALUES: list[dict[str, Any]] = [
    {},
    {"dry_run": True},
    {"address_limit": "5/minute"},
    {"ip_limit": "off", "token_limit": "off", "rules": "[]"},
    {"failed_auth_limit": "off"},
    {"ipv6_prefix": 56, "ipv4_prefix": 24},
]


@settings(deadline=None, max_examples=200)
@given(stories(ACTIONS), st.sampled_from(VALUES), st.booleans())
def test_what_is_kept_changes_no_decision(steps: list[Step], values: dict[str, Any], has_issuer: bool) -> None:
    """Modes, deny lists, keys, tokens, resets and time, in any order between requests that come again."""
    note(f"{steps}")
    values = {"leases": False, **values}
    run(
        follow(
            steps,
            World(values, has_issuer),
            World(values, has_issuer, forgets=True, local=True),
            check=assert_same_but_waits,
        )
    )


@settings(deadline=None, max_examples=100)
@given(stories(ACTIONS + 2 * OUTAGES), st.sampled_from(VALUES), st.sampled_from(["local", "open", "closed"]))
def test_what_is_kept_of_paths_changes_no_decision_in_an_outage(
    steps: list[Step], values: dict[str, Any], on_failure: str
) -> None:
    """The same where the store goes and comes."""
    note(f"{steps}")
    values = {"leases": False, "on_redis_failure": on_failure, **values}
    run(follow(steps, World(values), World(values, forgets=True)))


@pytest.mark.thorough
@settings(deadline=None, max_examples=200)
@given(stories(ACTIONS), st.sampled_from(VALUES), st.booleans())
def test_leases_change_no_reason_but_that_of_limits(
    steps: list[Step], values: dict[str, Any], has_issuer: bool
) -> None:
    """Where nothing is refused for a limit, there are no leases to be seen: all else is decided before."""
    note(f"{steps}")
    wide = dict.fromkeys(("ip_limit", "token_limit", "emergency_ip_limit"), "100000/minute")
    values = {**values, **wide, "rules": json.dumps([{**rule, "limits": "100000/minute"} for rule in RULES])}
    without = World({**values, "leases": False}, has_issuer, forgets=True, local=True)
    run(follow(steps, World(values, has_issuer), without, check=assert_same_outline))


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


def times(count: int, of: Facts) -> list[Step]:
    return [("ask", (of,))] * count


STORIES: list[tuple[str, list[Step], list[Reason], list[str | None]]] = [
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
def test_a_change_holds_from_the_next_request_on(
    what: str, steps: list[Step], reasons: list[Reason], who: list[str | None]
) -> None:
    """Each once, with what must be told."""
    decisions = run(follow(steps, World(has_issuer="key" not in what or "issuer" in what)))
    assert [decision.reason for decision in decisions] == reasons
    assert [subject_of(decision) for decision in decisions] == who


@pytest.mark.parametrize("what", ["key", "token"])
def test_another_gate_of_the_app_has_keys_of_its_own(what: str) -> None:
    """On another loop or after a restart: what the one before has proved is nothing to it."""
    clock = LoopClock()
    store = memory_store(clock)
    of = facts(what)

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
