"""Counts who sends the most requests and who is refused the most, on one worker, in constant memory.

Requests are counted in batches: half a microsecond a request in all. The counts are those of the current minute and of
the one before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from shieldmw.core.client import Address, Identity, Prefixes, address_text
from shieldmw.core.decision import ALLOWED, Decision
from shieldmw.core.facts import Facts
from shieldmw.core.heavy_hitters import HeavyHitters, merged
from shieldmw.core.top import Kind, Ranking, Tally

from .clock import SYSTEM_CLOCK, Clock

# Any key with more than one in this many requests of a worker is found.
MOST_KEYS = 1000

# Requests counted at once.
BATCH = 512

# One request in this many, at random, is asked for its user agent: finding it costs as much as all the rest.
SAMPLE = 16

# Length of a window, in seconds. The counts of the current window and of the one before are kept.
WINDOW_S = 60.0

# Characters of a path or user agent that are compared; longer ones with the same start count as one.
LONGEST_TEXT = 200

# A request with its decision and its headers.
Decided = tuple[Facts, Decision, Iterable[tuple[bytes, bytes]]]

_Key = bytes | str
_Request = tuple[Address | None, Identity | None, str]


class _Minutes:
    """The counts of the current minute and of the one before."""

    def __init__(self, now_s: float) -> None:
        self._now, self._before = _empty(), _empty()
        self._began_s = self._before_s = now_s

    def add(self, keys: Mapping[Kind, Sequence[_Key]], now_s: float) -> None:
        """Count a batch, which may be empty."""
        if (age_s := now_s - self._began_s) >= WINDOW_S:
            is_next = age_s < 2 * WINDOW_S
            self._before, self._now = self._now if is_next else _empty(), _empty()
            self._before_s, self._began_s = self._began_s if is_next else now_s, now_s
        for kind, of_kind in keys.items():
            self._now[kind].add(of_kind)

    def seconds(self, now_s: float) -> float:
        """The length of both windows together, in seconds."""
        return now_s - self._before_s

    def tally(self, count: int, name: Callable[[Kind, _Key], str]) -> Tally:
        """The ``count`` most frequent keys of both windows, by kind; ``name`` turns a key into text."""
        both = {kind: merged((self._before[kind], self._now[kind]), MOST_KEYS) for kind in Kind}
        return Tally(both[Kind.PATH].total, {kind: _ranking(kind, both[kind], count, name) for kind in Kind})


def _empty() -> dict[Kind, HeavyHitters[_Key]]:
    return {kind: HeavyHitters(MOST_KEYS) for kind in Kind}


def _ranking(kind: Kind, hitters: HeavyHitters[_Key], count: int, name: Callable[[Kind, _Key], str]) -> Ranking:
    times = SAMPLE if kind is Kind.USER_AGENT else 1
    found = hitters.top(count)
    unlisted = hitters.error + (found[-1].least if len(found) < len(hitters) else 0)
    counts: Counter[str] = Counter()
    for key, least, _ in found:
        counts[name(kind, key)] += least * times  # keys may have the same name, if they are no text
    return Ranking(counts, hitters.error * times, unlisted * times)


class Talkers:
    """Counts the requests of one worker, and the refusals among them."""

    def __init__(self, prefixes: Prefixes, clock: Clock = SYSTEM_CLOCK) -> None:
        self._prefixes = prefixes
        self._whole_bytes = 4 if prefixes.ipv4 == 32 else 0  # the length of addresses that are networks themselves
        self._now_s = clock.now_s
        self._random = clock.random
        self._requests, self._refusals = _Minutes(clock.now_s()), _Minutes(clock.now_s())
        self._admitted: list[_Request] = []
        self._refused: list[_Request] = []
        self._agents: list[str] = []
        self._sampled_at = self._gap()

    def decided(self, requests: Sequence[Decided]) -> None:
        """Count requests, and the refusals among them, or what would be refusals if not for the dry run."""
        admitted, refused = self._admitted, self._refused
        for facts, decision, _ in requests:
            kept = admitted if decision.verdict is ALLOWED else refused
            kept.append((decision.address, decision.identity, facts.path[:LONGEST_TEXT]))
        while self._sampled_at < len(requests):
            self._sample(requests[self._sampled_at][2])
            self._sampled_at += self._gap()
        self._sampled_at -= len(requests)
        if len(admitted) + len(refused) >= BATCH:
            self._count()

    def tallies(self, count: int) -> tuple[float, Tally, Tally]:
        """The seconds that were counted, all requests, and refused ones: of each kind the ``count`` most frequent."""
        self._count()
        return (
            self._requests.seconds(self._now_s()),
            self._requests.tally(count, self._name),
            self._refusals.tally(count, self._name),
        )

    def _name(self, kind: Kind, key: _Key) -> str:
        if isinstance(key, str):
            return key.encode(errors="replace").decode()  # lone surrogates, which no answer can carry
        if kind is Kind.ADDRESS:
            return self._prefixes.client(key, None).text
        whole, prefix = (4, 24) if len(key) == 3 else (16, 48)
        return f"{address_text(key.ljust(whole, bytes(1)))}/{prefix}"

    def _sample(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Note the user agent of a request."""
        agent = next((value for name, value in headers if name == b"user-agent"), b"")
        self._agents.append(agent[:LONGEST_TEXT].decode("latin-1"))

    def _gap(self) -> int:
        """How far the next sampled request is: ``SAMPLE`` requests on average, at random."""
        return 1 + self._random.randrange(2 * SAMPLE - 1)

    def _count(self) -> None:
        now_s = self._now_s()
        admitted, self._admitted = self._admitted, []
        refused, self._refused = self._refused, []
        agents, self._agents = self._agents, []
        self._requests.add({**self._keys(admitted + refused), Kind.USER_AGENT: agents}, now_s)
        self._refusals.add(self._keys(refused), now_s)

    def _keys(self, requests: Sequence[_Request]) -> dict[Kind, Sequence[_Key]]:
        if not requests:
            return {}
        addresses, identities, paths = zip(*requests, strict=True)
        known = [address for address in addresses if address is not None]
        whole, cut = self._whole_bytes, self._prefixes.cut
        return {
            Kind.ADDRESS: [address if len(address) == whole else cut(address)[0] for address in known],
            Kind.NETWORK: [address[:3] if len(address) == 4 else address[:6] for address in known],
            Kind.SUBJECT: [identity.subject[:LONGEST_TEXT] for identity in identities if identity is not None],
            Kind.PATH: paths,
        }
