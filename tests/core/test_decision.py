"""From the outcome of charges to the decision, with the values that its answer needs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.addresses import packed
from shieldmw.core.bucket import Charge, Outcome, TakeRequest, take
from shieldmw.core.client import Client, Identity, ListenerClass
from shieldmw.core.decision import Decision, OnStoreFailure, Reason, Verdict, combine, nearest
from shieldmw.core.limits import Limit
from shieldmw.core.mode import Mode

ALICE = Identity("alice")
HOST = Identity("host", ListenerClass.HOST)
ADDRESS = packed("203.0.113.7")
CLIENT = Client("token", "alice", "token:alice")

FAST = Limit("fast", 10, 1, 10)
SLOW = Limit("slow", 1, 1, 2)

S = 1_000_000
NOW_US = 1000 * S


def decide(*costs_and_debts: tuple[Limit, int, int]) -> Decision:
    """The decision on charges (limit, cost, debt of the bucket in microseconds)."""
    charges = tuple(Charge(CLIENT, limit, cost) for limit, cost, _ in costs_and_debts)
    stored = [NOW_US + debt_us for _, _, debt_us in costs_and_debts]
    return combine(charges, take(stored, TakeRequest(charges), NOW_US), ADDRESS, ALICE)


@pytest.mark.parametrize(
    ("charges", "verdict", "reason", "retry_after_us", "violated", "nearest_name"),
    [
        pytest.param(
            [(FAST, 1, 0), (SLOW, 1, 0)], Verdict.ALLOWED, Reason.WITHIN_LIMITS, 0, (), "slow", id="both-have-room"
        ),
        pytest.param(
            [(FAST, 1, 900_000), (SLOW, 1, 0)],
            Verdict.ALLOWED,
            Reason.WITHIN_LIMITS,
            0,
            (),
            "fast",
            id="the-nearest-to-its-end-is-by-share-not-by-number",
        ),
        pytest.param([(FAST, 1, S)], Verdict.REFUSED, Reason.QUOTA, 100_000, ("fast",), "fast", id="one-refuses"),
        pytest.param(
            [(FAST, 1, S), (SLOW, 1, 0)],
            Verdict.REFUSED,
            Reason.QUOTA,
            100_000,
            ("fast",),
            "fast",
            id="only-the-one-that-refuses-is-violated",
        ),
        pytest.param(
            [(FAST, 1, S), (SLOW, 1, 2 * S)],
            Verdict.REFUSED,
            Reason.QUOTA,
            S,
            ("fast", "slow"),
            "fast",
            id="the-longest-wait-of-all-that-refuse",
        ),
        pytest.param([], Verdict.ALLOWED, Reason.WITHIN_LIMITS, 0, (), None, id="nothing-charged"),
    ],
)
def test_combining(
    charges: list[tuple[Limit, int, int]],
    verdict: Verdict,
    reason: Reason,
    retry_after_us: int,
    violated: tuple[str, ...],
    nearest_name: str | None,
) -> None:
    """All charges that fit are allowed; else the limits that refused are named, with the longest of their waits."""
    decision = decide(*charges)
    assert (decision.verdict, decision.reason) == (verdict, reason)
    assert decision.retry_after_us == retry_after_us
    assert decision.violated == violated
    assert decision.outcome is not None
    at = nearest(decision.charges, decision.outcome)
    assert (decision.statuses[at].limit.name if decision.statuses else None) == nearest_name
    assert (decision.address, decision.identity) == (ADDRESS, ALICE)
    assert decision.refused is (verdict is Verdict.REFUSED)


limits = st.builds(
    Limit, st.just("x"), amount=st.integers(1, 1000), period_s=st.sampled_from([1, 60]), burst=st.integers(1, 20)
)


@st.composite
def refusable(draw: st.DrawFn) -> tuple[Limit, int, int]:
    limit = draw(limits)
    return limit, draw(st.integers(0, limit.burst)), draw(st.integers(0, limit.tau_us))


@settings(deadline=None)
@given(st.lists(refusable(), min_size=1, max_size=4))
def test_the_wait_of_several_buckets_is_exact(charged: list[tuple[Limit, int, int]]) -> None:
    """After the wait of a decision all its charges pass, and a microsecond before not."""
    decision = decide(*charged)
    charges = tuple(Charge(CLIENT, limit, cost) for limit, cost, _ in charged)
    stored = [NOW_US + debt_us for _, _, debt_us in charged]
    if decision.refused:
        assert decision.retry_after_us > 0
        assert not take(stored, TakeRequest(charges), NOW_US + decision.retry_after_us - 1).allowed
    assert take(stored, TakeRequest(charges), NOW_US + decision.retry_after_us).allowed


@pytest.mark.parametrize(
    ("identity", "listener_class"),
    [
        pytest.param(None, ListenerClass.GUEST, id="nobody-is-a-guest"),
        pytest.param(ALICE, ListenerClass.MEMBER, id="a-verified-subject-is-a-member"),
        pytest.param(HOST, ListenerClass.HOST, id="a-host-is-a-host"),
        pytest.param(
            Identity("x", ListenerClass.GUEST), ListenerClass.GUEST, id="a-verified-subject-may-be-a-guest-too"
        ),
    ],
)
def test_the_class_of_who_is_asking(identity: Identity | None, listener_class: ListenerClass) -> None:
    """The class is that of the verified subject, and a guest's without one."""
    assert Decision(Verdict.ALLOWED, Reason.UNLIMITED, None, identity).listener_class is listener_class


def test_what_a_dry_run_would_have_refused_passes() -> None:
    """Only a refusal keeps a request from the app."""
    refused = {verdict: Decision(verdict, Reason.QUOTA, None).refused for verdict in Verdict}
    assert refused == {Verdict.ALLOWED: False, Verdict.REFUSED: True, Verdict.DRY_RUN: False}


def test_of_two_buckets_as_near_the_first_is_told() -> None:
    """The narrowest client's bucket comes first and wins a tie."""
    charges = (Charge(CLIENT, FAST), Charge(CLIENT, SLOW))
    assert nearest(charges, Outcome(True, NOW_US, (NOW_US, NOW_US))) == 0


def test_the_words_that_reach_metrics_and_settings() -> None:
    """The words of verdicts, modes and failures are public, so they stay."""
    assert [str(verdict) for verdict in Verdict] == ["allowed", "refused", "dry_run"]
    assert [str(mode) for mode in Mode] == ["normal", "emergency"]
    assert [str(choice) for choice in OnStoreFailure] == ["local", "open", "closed"]
    assert {"within_limits", "exempt", "deny_list", "quota"} <= {str(reason) for reason in Reason}


def test_a_client_that_may_not_stay_is_refused_without_its_charges() -> None:
    """What its request was charged does not explain the refusal, nor does an answer that was rendered for another."""
    admitted = decide((FAST, 1, 0))._replace(rendered=[])
    refused = admitted.refused_for(Reason.DENY_LIST, 5_000_000)
    assert (refused.refused, refused.reason, refused.retry_after_us) == (True, Reason.DENY_LIST, 5_000_000)
    assert (refused.charges, refused.outcome, refused.rendered, refused.violated) == ((), None, None, ())
    assert refused.address == admitted.address
    assert refused.refused_for(Reason.NO_SEAT).retry_after_us == 0
