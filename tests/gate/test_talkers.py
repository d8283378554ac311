"""Who is busiest on a worker: each request is counted once, by whom it came from, in constant memory."""

from __future__ import annotations

import tracemalloc
from random import Random

import pytest

from core.addresses import packed
from gate.doubles import FakeClock
from shieldmw import Identity
from shieldmw.core.client import Prefixes
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.facts import Facts
from shieldmw.core.top import Kind, Tally
from shieldmw.gate.clock import Clock
from shieldmw.gate.talkers import BATCH, LONGEST_TEXT, MOST_KEYS, WINDOW_S, Decided, Talkers

GUEST = "203.0.113.7"


def asked(number: int) -> Decided:
    """One of many requests, each third of which is refused."""
    address, path = packed(f"203.0.113.{number % 100}"), f"/{number % 7}"
    verdict, reason = (Verdict.ALLOWED, Reason.WITHIN_LIMITS) if number % 3 else (Verdict.REFUSED, Reason.QUOTA)
    facts = Facts(None, path, path, frozenset({"GET"}))
    return facts, Decision(verdict, reason, address), [(b"user-agent", b"bot/%d" % (number % 5))]


class Counting:
    """A worker's counts, on a clock of the test's."""

    def __init__(self, ipv4: int = 32, ipv6: int = 64) -> None:
        self.clock = FakeClock()
        clock = Clock(self.clock.us, self.clock.s, self.clock.s, Random(7))
        self.talkers = Talkers(Prefixes(ipv4, ipv6), clock)

    def ask(
        self,
        address: str | None = GUEST,
        path: str = "/",
        *,
        subject: str | None = None,
        agent: bytes | None = b"curl/8",
        refused: bool = False,
        times: int = 1,
    ) -> None:
        """Send requests."""
        identity = None if subject is None else Identity(subject)
        verdict, reason = (Verdict.REFUSED, Reason.QUOTA) if refused else (Verdict.ALLOWED, Reason.WITHIN_LIMITS)
        decision = Decision(verdict, reason, None if address is None else packed(address), identity)
        facts = Facts(address, path, path, frozenset({"GET"}))
        headers = [(b"host", b"x")] + ([] if agent is None else [(b"user-agent", agent)])
        for _ in range(times):
            self.talkers.decided([(facts, decision, headers)])

    def found(self, count: int = 50) -> tuple[Tally, Tally]:
        """All requests, and refused ones."""
        _, requests, refusals = self.talkers.tallies(count)
        return requests, refusals

    def counts(self, kind: Kind, count: int = 50) -> dict[str, int]:
        """The names of a kind with their requests."""
        return dict(self.found(count)[0].of[kind].counts)


@pytest.mark.parametrize("times", [1, BATCH - 1, BATCH, 3 * BATCH + 5])
def test_each_request_is_counted_once(times: int) -> None:
    """Whether or not a batch is full."""
    counting = Counting()
    counting.ask(path="/feed", times=times)
    counting.ask("198.51.100.9", "/login", refused=True, times=times)
    requests, refusals = counting.found()
    assert (requests.total, refusals.total) == (2 * times, times)
    assert requests.of[Kind.PATH].counts == {"/feed": times, "/login": times}
    assert refusals.of[Kind.PATH].counts == {"/login": times}
    assert refusals.of[Kind.ADDRESS].counts == {"198.51.100.9/32": times}
    assert counting.found() == (requests, refusals)


def test_requests_are_counted_together_as_one_by_one() -> None:
    """A turn's requests come together, allowed and refused; user agents are sampled among all of them."""
    together, one_by_one = Counting(), Counting()
    turn = [asked(number) for number in range(1000)]
    for at in range(0, len(turn), 37):
        together.talkers.decided(turn[at : at + 37])
    for request in turn:
        one_by_one.talkers.decided([request])
    assert together.found() == one_by_one.found()
    assert sum(together.counts(Kind.USER_AGENT).values()) == pytest.approx(1000, rel=0.3)


def test_an_address_is_counted_as_the_client_that_is_charged() -> None:
    """In the spelling that /deny and /reset take, and its network beside it."""
    counting = Counting()
    counting.ask("203.0.113.7", times=2)
    counting.ask("203.0.113.250")
    counting.ask("2001:db8:1:2:3::4")
    counting.ask("2001:db8:1:2:5::6")
    counting.ask(None)
    assert counting.counts(Kind.ADDRESS) == {"203.0.113.7/32": 2, "203.0.113.250/32": 1, "2001:db8:1:2::/64": 2}
    assert counting.counts(Kind.NETWORK) == {"203.0.113.0/24": 3, "2001:db8:1::/48": 2}


def test_with_a_shorter_prefix_neighbours_are_one_client() -> None:
    """As their limits are."""
    counting = Counting(ipv4=28)
    counting.ask("203.0.113.1")
    counting.ask("203.0.113.14")
    counting.ask("203.0.113.16")
    assert counting.counts(Kind.ADDRESS) == {"203.0.113.0/28": 2, "203.0.113.16/28": 1}


def test_members_are_counted_by_subject() -> None:
    """Guests have none."""
    counting = Counting()
    counting.ask(subject="ada", times=3)
    counting.ask()
    assert counting.counts(Kind.SUBJECT) == {"ada": 3}


def test_user_agents_are_estimated() -> None:
    """From a sample, so that each is about right in a crowd; none is one, too."""
    counting = Counting()
    for _ in range(6000):
        counting.ask(agent=b"bot/1")
        counting.ask(agent=None)
        counting.ask(agent=b"bot/1")
    found = counting.counts(Kind.USER_AGENT)
    assert set(found) == {"bot/1", ""}
    assert found["bot/1"] == pytest.approx(12_000, rel=0.15)
    assert found[""] == pytest.approx(6000, rel=0.15)


def test_long_texts_are_cut() -> None:
    """Of paths, subjects and user agents: a client chooses their length."""
    counting = Counting()
    counting.ask(path="/" * 9000, subject="s" * 1000, agent=b"a" * 9000, times=100)
    requests, _ = counting.found()
    for kind in (Kind.PATH, Kind.SUBJECT, Kind.USER_AGENT):
        assert [len(name) for name in requests.of[kind].counts] == [LONGEST_TEXT]


def test_a_path_that_is_no_text_can_still_be_shown() -> None:
    """Servers decode a path's bytes in ways that JSON cannot carry."""
    counting = Counting()
    counting.ask(path="/\udcff")
    counting.ask(path="/\udcfe", times=2)
    assert counting.counts(Kind.PATH) == {"/?": 3}


def test_counts_are_of_the_last_one_to_two_minutes() -> None:
    """What is older is forgotten."""
    counting = Counting()
    counting.ask(path="/old")
    assert counting.counts(Kind.PATH) == {"/old": 1}
    counting.clock.now_s += WINDOW_S
    counting.ask(path="/now")
    assert counting.counts(Kind.PATH) == {"/old": 1, "/now": 1}
    counting.clock.now_s += WINDOW_S / 2
    assert counting.talkers.tallies(5)[0] == pytest.approx(1.5 * WINDOW_S)
    counting.clock.now_s += WINDOW_S / 2
    counting.ask(path="/now")
    assert counting.counts(Kind.PATH) == {"/now": 2}


def test_after_a_silence_nothing_is_shown() -> None:
    """Old counts do not wait for the next request."""
    counting = Counting()
    counting.ask(path="/old")
    counting.found()
    counting.clock.now_s += 3 * WINDOW_S
    assert counting.counts(Kind.PATH) == {}


def test_nobody_with_a_thousandth_of_the_requests_is_missed_in_a_flood() -> None:
    """Of a hundred thousand addresses that ask once or twice, in four megabytes."""
    counting, dice = Counting(), Random(3)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(60_000):
        counting.ask(f"198.{dice.randrange(256)}.{dice.randrange(256)}.{dice.randrange(256)}", refused=True)
        if number % 400 == 0:
            counting.ask(GUEST)
    requests, _ = counting.found(MOST_KEYS)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert f"{GUEST}/32" in requests.of[Kind.ADDRESS].counts
    assert requests.of[Kind.ADDRESS].error <= requests.total / MOST_KEYS
    assert after - before < 4_000_000


def test_names_beyond_the_first_are_bounded() -> None:
    """A name that is not reported occurred no more often than the last that is."""
    counting = Counting()
    for number in range(5):
        counting.ask(path=f"/{number}", times=10 - number)
    ranking = counting.found(3)[0].of[Kind.PATH]
    assert ranking.counts == {"/0": 10, "/1": 9, "/2": 8}
    assert (ranking.error, ranking.unlisted) == (0, 8)
