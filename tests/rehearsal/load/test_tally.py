"""The counts, what the limits allow, and latencies. No clock: times are arguments."""

from __future__ import annotations

import pytest

from shieldmw.rehearsal.load.tally import Allowance, ClientTally, Counts, GroupTally, Latencies, Outcome

SERVED, APP_ERROR, REFUSED, LOST = Outcome.SERVED, Outcome.APP_ERROR, Outcome.REFUSED, Outcome.LOST
TURNED_AWAY = Outcome.TURNED_AWAY


@pytest.mark.parametrize(
    ("rate_per_s", "burst", "active_s", "most", "reason"),
    [
        (5, 20, 0.0, 20, "no time has passed: only the burst"),
        (5, 20, 0.199, 20, "the next unit is not there yet"),
        (5, 20, 0.2, 21, "one unit has come back"),
        (5, 20, 25.0, 145, "burst + rate * time"),
        (0.5, 1, 3.9, 2, "never rounded up"),
    ],
)
def test_an_allowance_is_burst_plus_rate_times_time(
    rate_per_s: float, burst: int, active_s: float, most: int, reason: str
) -> None:
    """The most that may be let through is burst + rate * time, rounded down."""
    assert Allowance(rate_per_s, burst).most(active_s) == most, reason


def test_a_client_is_active_from_before_its_first_request_to_after_its_last_answer() -> None:
    """The span is the widest in which the limit can have seen the client; a time-out does not widen it."""
    tally = ClientTally()
    assert tally.active_s == 0.0
    tally.sending(10.0)
    tally.sending(11.0)
    assert tally.active_s == 0.0
    tally.ended(SERVED, 12.0)
    tally.ended(REFUSED, 11.5)
    tally.sending(13.0)
    tally.ended(LOST, 18.0)
    assert tally.active_s == 2.0
    assert tally.counts == Counts(asked=3, served=1, refused=1, lost=1)


def test_prompt_is_what_was_served_within_a_second() -> None:
    """A refusal is no service however fast it comes, and what comes later is no longer prompt."""
    group = GroupTally("members", Allowance(rate_per_s=2, burst=3))
    for outcome, took_s in ((SERVED, 1.0), (SERVED, 1.001), (TURNED_AWAY, 0.1), (REFUSED, 0.1), (APP_ERROR, 0.1)):
        group.of("ada").sending(0.0)
        group.of("ada").ended(outcome, took_s, took_s)
    group.of("bob").sending(0.0)
    group.of("bob").ended(SERVED, 0.1, 0.1)
    assert group.prompt() == 2
    assert group.counts() == Counts(asked=6, served=3, app_error=1, refused=1, turned_away=1)
    assert group.counts().answered == 6


def test_what_the_app_itself_turns_down_was_let_through() -> None:
    """A 404 used up a unit of the limit like any other answer, so it counts against the allowance."""
    tally = ClientTally()
    for outcome in (SERVED, APP_ERROR, APP_ERROR, REFUSED, LOST):
        tally.sending(0.0)
        tally.ended(outcome, 1.0)
    assert tally.counts.let_through == 3


def test_what_was_never_sent_was_asked_and_lost() -> None:
    """A client whose turn never came did not get what it asked for, though no request left."""
    tally = ClientTally()
    tally.never_sent()
    assert tally.counts == Counts(asked=1, lost=1)
    assert tally.active_s == 0.0


def test_a_group_may_have_what_its_clients_may_have() -> None:
    """A group's allowance is the sum over those of its clients that asked at all, each for its own time."""
    group = GroupTally("guests", Allowance(rate_per_s=2, burst=3))
    for name, until in (("short", 1.0), ("long", 10.0)):
        group.clients[name] = ClientTally()
        group.clients[name].sending(0.0)
        group.clients[name].ended(SERVED, until)
    group.clients["silent"] = ClientTally()
    assert group.allowed() == (3 + 2) + (3 + 20)
    assert group.counts() == Counts(asked=2, served=2)


@pytest.mark.parametrize(
    ("seconds", "share", "least", "most", "reason"),
    [
        ([0.010] * 100, 0.5, 0.010, 0.0105, "a step is 5 %, and never flatters"),
        ([0.001] * 99 + [1.0], 0.99, 0.001, 0.00105, "the slowest of a hundred is beyond p99"),
        ([0.001] * 98 + [1.0] * 2, 0.99, 1.0, 1.05, "two of a hundred are not"),
        ([0.0], 0.5, 0.0, 0.0001, "the shortest bucket takes all that is shorter"),
        ([1e6], 0.5, 60.0, 1e6, "the longest takes all that is longer"),
    ],
)
def test_quantiles_are_rounded_up_to_the_next_step(
    seconds: list[float], share: float, least: float, most: float, reason: str
) -> None:
    """A quantile is at most one step above the true one, and not below it inside the histogram's range."""
    quantile = Latencies(seconds).quantile_s(share)
    assert quantile is not None
    assert least <= quantile <= most, reason


def test_no_answers_have_no_quantile() -> None:
    """Without an answer there is no figure, rather than a zero."""
    assert Latencies().quantile_s(0.99) is None
