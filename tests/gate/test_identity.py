"""Who is asking: what a credential was worth is remembered, and the host app's own word comes first."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection

import pytest

from gate.doubles import (
    FAR_AHEAD_S,
    START_S,
    CountingVerifier,
    FakeClock,
    Worker,
    at_once,
    facts,
    memory_store,
    run,
    worker,
)
from shieldmw import Identity, ListenerClass
from shieldmw.core.client import Proof
from shieldmw.core.decision import Verdict

MOST_CHECKS = 10


class Host:
    """The host app's `authenticate`: gives one answer and counts how often it is asked."""

    def __init__(self, answer: Identity | Exception | None) -> None:
        self._answer = answer
        self.calls = 0

    async def __call__(self) -> Identity | None:
        """The answer."""
        self.calls += 1
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


async def who(
    one: Worker, credential: str | None, authenticate: Callable[[], Awaitable[Identity | None]] | None = None
) -> Identity | None:
    """The identity of one request."""
    return (await one.gate.decide(facts(credential, authenticate=authenticate))).identity


def make(valid: Collection[str] = (), until_s: float = FAR_AHEAD_S) -> tuple[Worker, CountingVerifier, FakeClock]:
    """A worker that verifies tokens with a verifier that counts."""
    clock = FakeClock()
    tokens = CountingVerifier(valid, until_s)
    return worker(memory_store(clock), clock, tokens=tokens), tokens, clock


# --- what was proven is remembered ------------------------------------------------------------------


def test_a_proof_holds_until_it_expires_and_is_checked_once() -> None:
    """A valid token costs one signature check, and counts for nothing from the second it expires."""
    one, tokens, clock = make(valid={"good"}, until_s=START_S + 60)

    async def story() -> None:
        for _ in range(100):
            assert await who(one, "good") == Identity("good")
        clock.now_s = START_S + 59.999
        assert await who(one, "good") == Identity("good")
        assert tokens.calls == 1
        clock.now_s = START_S + 60
        tokens.valid = ()
        assert await who(one, "good") is None
        assert tokens.calls == 2

    run(story())


def test_a_proof_is_forgotten_when_the_keys_change() -> None:
    """Whoever turned up with a key that is no longer held has to prove himself again."""
    one, tokens, _ = make(valid={"good"})

    async def story() -> None:
        assert await who(one, "good") == Identity("good")
        tokens.valid = ()
        assert await who(one, "good") == Identity("good")
        one.identifier.forget()
        assert await who(one, "good") is None

    run(story())


def test_a_failure_is_forgotten_when_the_keys_change() -> None:
    """A token signed with a key that arrives now is good now, not ten seconds later."""
    one, tokens, _ = make()

    async def story() -> None:
        assert await who(one, "early") is None
        tokens.valid = {"early"}
        one.identifier.forget()
        assert await who(one, "early") == Identity("early")

    run(story())


def test_200_concurrent_requests_of_one_token_are_all_members() -> None:
    """One listener's many requests at once are that listener's."""
    one, tokens, _ = make(valid={"good"})

    async def story() -> list[Identity | None]:
        return await at_once(lambda _: who(one, "good"), 200)

    assert run(story()) == [Identity("good")] * 200
    assert tokens.calls <= 200


def test_one_subject_is_one_client_whatever_token_it_shows() -> None:
    """A subject with many valid tokens does not multiply its limit."""
    clock = FakeClock()

    class OneSubject:
        def verify(self, token: str) -> Proof | None:
            return Proof(Identity("alice"), FAR_AHEAD_S)

    store = memory_store(clock)
    one = worker(store, clock, tokens=OneSubject(), token_limit="5/minute")

    async def story() -> list[Verdict]:
        return [(await one.gate.decide(facts(f"token-{n}", peer=f"203.0.113.{n}"))).verdict for n in range(8)]

    assert run(story()) == [Verdict.ALLOWED] * 5 + [Verdict.REFUSED] * 3
    assert len(store) == 1


# --- the host app's authenticate --------------------------------------------------------------------


def test_the_host_is_asked_first() -> None:
    """Where the host app knows who it is, neither keys nor JWTs are looked at."""
    one, tokens, _ = make(valid={"good"})
    host = Host(Identity("of the host", ListenerClass.HOST))
    assert run(who(one, "good", host)) == Identity("of the host", ListenerClass.HOST)
    assert tokens.calls == 0


def test_the_host_is_asked_each_time_so_that_it_can_change_its_mind() -> None:
    """What the host app said is not remembered: a session that ended there has ended here."""
    one, _, _ = make()

    async def story() -> None:
        assert await who(one, "session", Host(Identity("alice"))) == Identity("alice")
        assert await who(one, "session", Host(Identity("bob"))) == Identity("bob")
        assert await who(one, "session", Host(None)) is None

    run(story())


def test_a_host_may_know_somebody_who_shows_no_credential() -> None:
    """The host app may look at anything, such as its own session."""
    one, tokens, _ = make()
    assert run(who(one, None, Host(Identity("alice")))) == Identity("alice")
    assert tokens.calls == 0


def test_a_host_that_knows_nobody_leaves_it_to_keys_and_tokens() -> None:
    """None goes on to API keys and JWTs."""
    one, tokens, _ = make(valid={"good"})
    host = Host(None)
    assert run(who(one, "good", host)) == Identity("good")
    assert (host.calls, tokens.calls) == (1, 1)


@pytest.mark.parametrize("answer", [None, RuntimeError("database away")], ids=["None", "raises"])
def test_credentials_that_the_host_does_not_know_are_charged(answer: Exception | None) -> None:
    """A credential that nobody knows counts as failed, and soon the host is not even asked."""
    clock = FakeClock()
    store = memory_store(clock)
    one = worker(store, clock)
    host = Host(answer)

    async def story() -> None:
        for number in range(100):
            assert await who(one, f"random-{number}", host) is None

    run(story())
    assert host.calls == MOST_CHECKS
    assert len(store) == 2


def test_a_host_that_knows_nobody_costs_a_request_without_credential_nothing() -> None:
    """Guests who claim nothing never fail, however often they come."""
    clock = FakeClock()
    store = memory_store(clock)
    one = worker(store, clock)
    host = Host(None)

    async def story() -> None:
        for _ in range(100):
            assert await who(one, None, host) is None

    run(story())
    assert host.calls == 100
    assert len(store) == 1, "the bucket of guests, none of failures"


def test_whom_the_host_proved_is_asked_for_again_while_his_address_has_no_failure_left() -> None:
    """An attacker on the same address does not lock out somebody whom the host app knows already."""
    clock = FakeClock()
    one = worker(memory_store(clock), clock)

    async def story() -> None:
        alice, nobody = Host(Identity("alice")), Host(None)
        assert await who(one, "alice", alice) == Identity("alice")
        for number in range(50):
            await who(one, f"random-{number}", nobody)
        assert await who(one, "alice", alice) == Identity("alice")
        assert await who(one, "bob", Host(Identity("bob"))) is None

    run(story())


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("database away"),
        KeyError("sub"),
        ValueError("cannot read credential the-secret-credential"),
        RecursionError("the-secret-credential"),
    ],
    ids=["plain", "key", "message holds the credential", "not an everyday error"],
)
def test_a_host_that_raises_is_logged_without_the_credential(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """The request is a guest's, the log says that authenticate failed, and never what was shown to it."""
    one, _, _ = make()
    with caplog.at_level(logging.DEBUG):
        assert run(who(one, "the-secret-credential", Host(error))) is None
    assert "authenticate" in caplog.text
    assert type(error).__name__ in caplog.text
    assert "the-secret-credential" not in caplog.text


def test_no_credential_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Good, wrong or far too long: the log never holds it, on any level."""
    one, _, _ = make(valid={"good-credential"})

    async def story() -> None:
        for credential in ("good-credential", "wrong-credential", "long-credential" * 1000):
            for _ in range(20):
                await who(one, credential, Host(None))

    with caplog.at_level(logging.DEBUG):
        run(story())
    assert "credential" not in caplog.text
