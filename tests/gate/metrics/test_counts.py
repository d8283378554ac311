"""What a worker counts as it happens."""

from __future__ import annotations

import pytest

from shieldmw.core.client import Identity, ListenerClass
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.metrics import (
    COUNT,
    DECISION_SECONDS,
    DECISIONS,
    PID,
    STORE_BATCH_SIZE,
    STORE_CALLS,
    CallResult,
    DecisionPath,
    Metric,
    Script,
    cell,
)
from shieldmw.gate.metrics.counts import Counts, doubles

GUESTS_WITHIN_LIMITS = cell(DECISIONS, "allowed", "within_limits", "guest")


def changed(counts: Counts) -> dict[int, float]:
    """The cells that are not 0."""
    return {at: value for at, value in enumerate(counts.cells.tolist()) if value}


def decision(verdict: str, reason: str, name: str) -> Decision:
    """A decision on somebody of a class."""
    identity = None if name == "guest" else Identity("alice", ListenerClass(name))
    return Decision(Verdict(verdict), Reason(reason), None, identity)


@pytest.mark.parametrize("series", DECISIONS.series, ids="-".join)
def test_a_decision_is_counted_where_it_belongs(series: tuple[str, str, str]) -> None:
    """By outcome, reason and class, and nowhere else."""
    counts = Counts()
    for _ in range(3):
        counts.decided([decision(*series)])
    assert changed(counts) == {cell(DECISIONS, *series): 3}


def test_decisions_are_counted_together() -> None:
    """Those of a turn of the event loop, whatever they were."""
    counts = Counts()
    turn = [decision("refused", "no_seat", "member"), decision("allowed", "within_limits", "guest")]
    for turns in (1, 2):
        counts.decided(turn * 2)
        assert changed(counts) == {
            GUESTS_WITHIN_LIMITS: 2 * turns,
            cell(DECISIONS, "refused", "no_seat", "member"): 2 * turns,
        }
    counts.decided([])
    counts.decided([Decision(Verdict.ALLOWED, Reason.QUOTA, None)])  # there is no such series
    assert sum(changed(counts).values()) == 8


def test_an_identity_that_is_a_guests_counts_as_one() -> None:
    """The host app's own check may say so."""
    counts = Counts()
    counts.decided([Decision(Verdict.ALLOWED, Reason.WITHIN_LIMITS, None, Identity("alice", ListenerClass.GUEST))])
    assert changed(counts) == {GUESTS_WITHIN_LIMITS: 1}


def histogram(counts: Counts, metric: Metric, *labels: str) -> tuple[list[float], float]:
    """Its buckets, and its sum."""
    first = cell(metric, *labels)
    *buckets, total = counts.cells.tolist()[first : first + metric.width]
    return buckets, total


def test_a_bucket_of_a_batch_includes_its_bound() -> None:
    """As `le` means less than or equal; beyond the last there is one without a bound."""
    counts = Counts()
    for size in (1, 2, 3, 4, 256, 257, 2000):
        counts.batch(size)
    buckets, total = histogram(counts, STORE_BATCH_SIZE)
    assert dict(zip((*STORE_BATCH_SIZE.bounds, "more"), buckets, strict=True)) == {
        1: 1,
        2: 1,
        4: 2,
        8: 0,
        16: 0,
        32: 0,
        64: 0,
        128: 0,
        256: 1,
        "more": 2,
    }
    assert total == 1 + 2 + 3 + 4 + 256 + 257 + 2000


def test_times_are_counted_in_seconds() -> None:
    """By where it was decided; a microsecond more than a bound belongs to the next bucket."""
    counts = Counts()
    counts.decided_locally(10)
    counts.decided_locally(11)
    counts.decided_by_store(1_000_000)
    local, local_s = histogram(counts, DECISION_SECONDS, DecisionPath.LOCAL)
    store, store_s = histogram(counts, DECISION_SECONDS, DecisionPath.STORE)
    assert local[:3] == [1, 1, 0]
    assert local_s == pytest.approx(0.000021)
    assert store == [0] * len(DECISION_SECONDS.bounds) + [1]
    assert store_s == 1


@pytest.mark.parametrize("script", Script)
@pytest.mark.parametrize("result", CallResult)
def test_a_call_is_counted_by_its_script_and_result(script: Script, result: CallResult) -> None:
    """Which the store names as its file is named."""
    counts = Counts()
    counts.called(script.value, result)
    assert changed(counts) == {cell(STORE_CALLS, script, result): 1}


def test_counting_goes_on_from_what_is_there() -> None:
    """As a restarted worker does in its slot; and whole numbers stay exact."""
    memory = bytearray(8 * COUNT)
    first = Counts("0", doubles(memory))
    first.cells[GUESTS_WITHIN_LIMITS] = 2.0**53 - 2
    second = Counts("0", doubles(memory))
    second.decided([decision("allowed", "within_limits", "guest")])
    assert first.cells[GUESTS_WITHIN_LIMITS] == 2**53 - 1
    assert changed(second) == {GUESTS_WITHIN_LIMITS: 2**53 - 1}
    assert second.cells[PID] == 0
