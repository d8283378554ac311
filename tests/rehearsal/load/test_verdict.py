"""The verdict: which promises are kept or broken for given tallies."""

from __future__ import annotations

import pytest

from shieldmw.rehearsal.load.tally import Allowance, ClientTally, GroupTally, Outcome
from shieldmw.rehearsal.load.verdict import Promise, Verdict, verdict


def client(seconds: float, *, served: int = 0, app_error: int = 0, refused: int = 0, lost: int = 0) -> ClientTally:
    tally = ClientTally()
    ended = (
        (Outcome.SERVED, served),
        (Outcome.APP_ERROR, app_error),
        (Outcome.REFUSED, refused),
        (Outcome.LOST, lost),
    )
    for outcome, count in ended:
        for _ in range(count):
            tally.sending(0.0)
            tally.ended(outcome, seconds)
    return tally


def group(name: str, *clients: ClientTally, promised_share: float | None = None) -> GroupTally:
    made = GroupTally(name, Allowance(rate_per_s=10, burst=20), promised_share)
    made.clients.update({f"{name}-{n}": tally for n, tally in enumerate(clients)})
    return made


@pytest.mark.parametrize(
    ("tally", "kept", "reason"),
    [
        (client(10, served=120), True, "exactly burst + rate * time"),
        (client(10, served=121), False, "one more"),
        (client(10, served=100, app_error=21), False, "an answer of 404 was let through too"),
        (
            client(10, served=120, refused=5000, lost=50),
            True,
            "refusals and lost requests are nothing let through",
        ),
        (client(0, refused=1), True, "an answer, though only a refusal"),
        (client(0, lost=100), False, "no answer at all shows nothing"),
        (ClientTally(), False, "neither does silence"),
    ],
)
def test_no_client_may_get_more_than_its_limit(tally: ClientTally, kept: bool, reason: str) -> None:
    """One client over burst + rate * time breaks the promise, and so does a group that shows nothing."""
    assert verdict([group("guests", tally)]).kept is kept, reason


def test_one_greedy_client_is_not_hidden_by_modest_ones() -> None:
    """The group's sum is inside the limits, yet one of its clients is not: that is broken, and it is named."""
    judged = verdict([group("attacker", client(10, served=150), client(10, served=1), client(10, served=1))])
    assert not judged.kept
    (broken,) = (promise for promise in judged.promises if not promise.kept)
    assert "attacker-0: 150 in 10.0 s, allowed 120" in broken.words


@pytest.mark.parametrize(
    ("tally", "kept", "reason"),
    [
        (client(100, served=1000), True, "all of it"),
        (client(100, served=990, refused=10), True, "exactly 99 %"),
        (client(100, served=989, refused=11), False, "one less"),
        (client(100, served=980, lost=20), False, "a request without an answer was not got"),
        (client(100, served=980, app_error=20), False, "nor was one that the app turned down"),
    ],
)
def test_members_are_promised_their_share(tally: ClientTally, kept: bool, reason: str) -> None:
    """A group with a promised share must get that part of what it asked for, whatever the cause of a loss."""
    assert verdict([group("members", tally, promised_share=0.99)]).kept is kept, reason


def test_the_share_is_cut_and_not_rounded_up() -> None:
    """98.999 % is not shown as the 99 % that were promised."""
    judged = verdict([group("members", client(10_000, served=98_999, refused=1_001), promised_share=0.99)])
    assert not judged.kept
    assert "98.99 %" in judged.promises[0].words


@pytest.mark.parametrize(
    ("groups", "remark"),
    [
        ([group("guests", client(10, served=5))], "nobody was refused"),
        (
            [group("guests", client(10, served=5, refused=1))],
            "guests: 1 refusals of clients who asked no more",
        ),
        ([group("guests", client(10, served=5, refused=1, lost=1))], "guests: 1 of 7 requests got no answer"),
    ],
)
def test_what_is_odd_but_broke_no_promise_is_remarked(groups: list[GroupTally], remark: str) -> None:
    """A verdict that rests on little, or beside which something looks wrong, says so."""
    judged = verdict(groups)
    assert judged.kept
    assert any(words.startswith(remark) for words in judged.remarks), judged.remarks


def test_an_attacker_that_is_refused_is_not_odd() -> None:
    """Where a stricter limit holds in the emergency, one that asks less than the usual one is refused as well."""
    attacker = group("attacker", client(10, served=5, refused=1))
    attacker.polite = False
    assert not verdict([attacker]).remarks


def test_a_verdict_without_promises_is_not_kept() -> None:
    """No evidence is no success; and one broken promise added later breaks the whole."""
    assert not verdict([]).kept
    kept = Verdict((Promise(True, "one"),))
    assert kept.with_promises(Promise(True, "two")).kept
    assert not kept.with_promises(Promise(False, "two")).kept
