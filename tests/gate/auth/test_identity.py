"""Identification: results are cached by credential, and the host app's own check comes first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import pytest

from gate.doubles import (
    FAR_AHEAD_S,
    START_S,
    CountingVerifier,
    FakeClock,
    WorkerParts,
    at_once,
    facts,
    loop_time,
    memory_store,
    pass_time,
    run,
    worker,
)
from shieldmw import Identity, ListenerClass
from shieldmw.core.client import Proof
from shieldmw.core.credentials import Rejected
from shieldmw.core.decision import Verdict


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
    one: WorkerParts, credential: str | None, authenticate: Callable[[], Awaitable[Identity | None]] | None = None
) -> Identity | None:
    """The identity of one request."""
    return (await one.gate.decide(facts(credential, authenticate=authenticate))).identity


def make(valid: Collection[str] = (), until_s: float = FAR_AHEAD_S) -> tuple[WorkerParts, CountingVerifier, FakeClock]:
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
    """A client whose key is no longer held must prove its identity again."""
    one, tokens, _ = make(valid={"good"})

    async def story() -> None:
        assert await who(one, "good") == Identity("good")
        tokens.valid = ()
        assert await who(one, "good") == Identity("good")
        one.identifier.invalidate()
        assert await who(one, "good") is None

    run(story())


def test_a_failure_is_forgotten_when_the_keys_change() -> None:
    """A token signed with a key that arrives now is good now, not ten seconds later."""
    one, tokens, _ = make()

    async def story() -> None:
        assert await who(one, "early") is None
        tokens.valid = {"early"}
        one.identifier.invalidate()
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
        def screen(self, token: str) -> Rejected | None:
            return None

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
def test_the_host_is_asked_whatever_failed_at_the_address(answer: Exception | None) -> None:
    """What the host app does not know is a guest's, and is charged to nobody: it says who pays for its own checks."""
    clock = FakeClock()
    store = memory_store(clock)
    one = worker(store, clock)
    host = Host(answer)

    async def story() -> None:
        for number in range(100):
            assert await who(one, f"random-{number}", host) is None
        assert await who(one, "alice", Host(Identity("alice"))) == Identity("alice")

    run(story())
    assert host.calls == 100
    assert len(store) == 2, "the buckets of guests and of Alice, none of failures"


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


def test_the_host_is_asked_once_for_a_request() -> None:
    """One request, one question, also where the host knew the credential before and no longer does."""
    one, tokens, _ = make()

    async def story() -> int:
        await who(one, "session", Host(Identity("alice")))
        host = Host(None)
        assert await who(one, "session", host) is None
        return host.calls

    assert run(story()) == 1
    assert tokens.calls == 1


# --- a host that fails: no refusal ------------------------------------------------------------------


def test_a_host_that_failed_once_is_asked_again_at_once() -> None:
    """A database that was away for a moment makes nobody a guest for longer than that."""
    one, _, _ = make()

    async def story() -> None:
        assert await who(one, "session", Host(RuntimeError("database away"))) is None
        assert await who(one, "session", Host(Identity("alice"))) == Identity("alice")

    run(story())


def test_a_host_that_fails_charges_nobody_and_counts_nothing_as_a_bad_credential() -> None:
    """A thousand requests while the host fails leave no bucket of failures and no count of bad credentials."""
    clock, tokens = FakeClock(), CountingVerifier()
    store = memory_store(clock)
    one = worker(store, clock, tokens=tokens)

    async def story() -> None:
        for number in range(1000):
            await who(one, f"session-{number}", Host(RuntimeError("database away")))

    run(story())
    assert len(store) == 1, "the bucket of guests"
    assert one.identifier.failures == {("host_error",): 1000}


def test_a_host_that_fails_leaves_it_to_keys_and_tokens_for_this_request() -> None:
    """A token proves its subject, but is not kept: once the host works again its word comes first."""
    one, _, _ = make(valid={"token"})
    host = Identity("of the host", ListenerClass.HOST)

    async def story() -> None:
        assert await who(one, "token", Host(RuntimeError("database away"))) == Identity("token")
        assert await who(one, "token", Host(host)) == host

    run(story())


@pytest.mark.parametrize("answer", [{"sub": "alice"}, False, "alice", 0, ()], ids=repr)
@pytest.mark.parametrize("credential", [None, "session"])
def test_a_host_that_returns_something_else_has_failed(
    answer: object, credential: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """No error for the client: the request is judged without the host, and the log names the type."""
    one, _, _ = make()

    async def authenticate() -> Any:
        return answer

    with caplog.at_level(logging.DEBUG, logger="shieldmw"):
        for _ in range(100):
            assert run(who(one, credential, authenticate)) is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"returned a {type(answer).__name__}" in line
    assert one.identifier.failures == {("host_type",): 100}


def test_a_host_that_hangs_holds_a_request_for_a_second() -> None:
    """What it waits for is cancelled, and the request goes on without it."""
    one, _, _ = make()
    cancelled = []

    async def authenticate() -> Identity | None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(loop_time())
            raise
        return None

    async def story() -> float:
        begun_s = loop_time()
        assert await who(one, "session", authenticate) is None
        return loop_time() - begun_s

    assert run(story()) == pytest.approx(1.0)
    assert len(cancelled) == 1
    assert one.identifier.failures == {("host_timeout",): 1}


def test_a_request_that_is_cancelled_while_the_host_is_asked_is_cancelled() -> None:
    """A request that is cancelled is cancelled: that is neither a failure of the host nor an answer."""
    one, _, _ = make()

    async def authenticate() -> Identity | None:
        await asyncio.sleep(3600)
        return None

    async def story() -> None:
        request = asyncio.create_task(who(one, "session", authenticate))
        await pass_time(0.5)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    run(story())
    assert one.identifier.failures == {}


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
    one, _, _ = make(valid={"good-secret"})

    async def story() -> None:
        for credential in ("good-secret", "wrong-secret", "long-secret" * 1000):
            for _ in range(20):
                await who(one, credential, Host(None))

    with caplog.at_level(logging.DEBUG):
        run(story())
    assert "secret" not in caplog.text


# --- keys that change -------------------------------------------------------------------------------


def test_a_change_of_keys_makes_no_token_be_proven_again() -> None:
    """An API key is issued, a JWKS gets one more key: members who were proven pay nothing for it."""
    one, tokens, _ = make(valid={"good"})

    async def story() -> None:
        assert await who(one, "good") == Identity("good")
        one.identifier.keys_changed()
        assert await who(one, "good") == Identity("good")

    run(story())
    assert tokens.calls == 1
