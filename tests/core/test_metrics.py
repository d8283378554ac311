"""The table of metrics: names that others rely on, and a place for each value."""

from __future__ import annotations

import re

import pytest

from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Reason, Verdict
from shieldmw.core.metrics import (
    COUNT,
    DECISIONS,
    FLEET_METRICS,
    METRICS,
    PASSING,
    PID,
    REFUSING,
    Kind,
    cell,
)

EVERY = (*METRICS, *FLEET_METRICS)

# Scrapers, rules and dashboards of users rely on these: name, type, labels.
PROMISED = {
    "shield_decisions_total": ("counter", {"outcome", "reason", "class"}),
    "shield_decision_seconds": ("histogram", {"path"}),
    "shield_store_calls_total": ("counter", {"script", "result"}),
    "shield_store_batch_size": ("histogram", set()),
    "shield_store_up": ("gauge", set()),
    "shield_mode": ("gauge", {"mode"}),
    "shield_seats": ("gauge", {"class"}),
    "shield_demand": ("gauge", {"class"}),
    "shield_capacity": ("gauge", set()),
    "shield_evictions_total": ("counter", {"class"}),
    "shield_table_entries": ("gauge", {"table"}),
}


def test_the_promised_names_are_there() -> None:
    """With their types and labels."""
    found = {metric.name: (metric.kind.value, set(metric.labels)) for metric in METRICS}
    assert {name: found.get(name) for name in PROMISED} == PROMISED


def test_names_follow_the_conventions() -> None:
    """Each is there once; only counters end in `_total`; each has a help text that is a sentence."""
    names = [metric.name for metric in EVERY]
    assert len(set(names)) == len(names)
    for metric in EVERY:
        assert re.fullmatch(r"shield_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert metric.help.endswith(".")
        assert bool(metric.bounds) == (metric.kind is Kind.HISTOGRAM)
        assert len(metric.bounds) + 1 <= 10
        assert list(metric.bounds) == sorted(set(metric.bounds))
        assert all(len(values) == len(metric.labels) for values in metric.series)


def test_every_value_has_cells_of_its_own() -> None:
    """None overlap, none is that of the process id, and none is left over."""
    used = [PID]
    for metric in METRICS:
        for values in metric.series:
            first = cell(metric, *values)
            used += range(first, first + metric.width)
    assert sorted(used) == list(range(COUNT))


def test_a_series_that_is_not_in_the_table_has_no_cell() -> None:
    """A mistake is an error at once, not a value in the wrong place."""
    with pytest.raises(KeyError):
        cell(DECISIONS, "allowed", "quota", "guest")


def test_every_reason_either_passes_or_refuses() -> None:
    """So every decision has a series, whatever its class."""
    assert {*PASSING, *REFUSING} == set(Reason)
    assert not {*PASSING} & {*REFUSING}
    for name in ListenerClass:
        for reason in Reason:
            for verdict in (Verdict.ALLOWED,) if reason in PASSING else (Verdict.REFUSED, Verdict.DRY_RUN):
                assert cell(DECISIONS, verdict, reason, name)
