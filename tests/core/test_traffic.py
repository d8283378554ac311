"""Requests in the groups that an operator thinks in."""

from __future__ import annotations

from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Reason, Verdict
from shieldmw.core.metrics import COUNT, DECISIONS, cell
from shieldmw.core.seats import Audience
from shieldmw.core.traffic import Outcome, Rates, rates, totals


def cells(**counts: int) -> list[float]:
    """A worker's values: how many members were refused for each reason."""
    values = [0.0] * COUNT
    for reason, count in counts.items():
        values[cell(DECISIONS, Verdict.REFUSED, Reason[reason], ListenerClass.MEMBER)] = count
    return values


def test_every_decision_is_in_one_group() -> None:
    """None is left out, and none is told twice."""
    values = [0.0] * COUNT
    for labels in DECISIONS.series:
        values[cell(DECISIONS, *labels)] = 1
    counted = totals([values])
    assert sum((of.total for of in counted.values()), 0) == len(DECISIONS.series)
    assert all(of.hosts == of.members == of.guests > 0 for of in counted.values())


def test_reasons_are_told_apart() -> None:
    """Over all workers; what is refused only in a dry run gets in."""
    one = cells(QUOTA=1, TOO_MANY_STREAMS=20, OVERLOAD=300, DENY_LIST=4000)
    two = cells(QUOTA=5, EMERGENCY=1, NO_SEAT=20, RESTARTING=300)
    two[cell(DECISIONS, Verdict.DRY_RUN, Reason.QUOTA, ListenerClass.GUEST)] = 7
    assert totals([one, two]) == {
        Outcome.LET_IN: Audience(0, 0, 7),
        Outcome.OVER_LIMIT: Audience(0, 26, 0),
        Outcome.SENT_AWAY: Audience(0, 321, 0),
        Outcome.OVERLOAD: Audience(0, 300, 0),
        Outcome.DENIED: Audience(0, 4000, 0),
    }
    assert totals([])[Outcome.LET_IN] == Audience()


def test_rates_are_those_between_two_moments() -> None:
    """No rate is below 0, whatever was lost between them; and none is told where no time has passed."""
    before, now = totals([cells(QUOTA=10, OVERLOAD=5)]), totals([cells(QUOTA=30, OVERLOAD=1)])
    told = rates(before, now, 5.0)
    assert told[Outcome.OVER_LIMIT] == Rates(members=4.0)
    assert told[Outcome.OVER_LIMIT].favoured == 4.0
    assert told[Outcome.OVERLOAD] == Rates()
    assert rates(before, now, 0.0) == dict.fromkeys(Outcome, Rates())
