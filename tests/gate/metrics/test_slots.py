"""The slots that the workers of one `shieldmw serve` share, between real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import shieldmw
from shieldmw.core.metrics import DECISIONS, PID, UPDATED, cell
from shieldmw.gate.metrics.slots import SLOTS_PER_WORKER, Slots, opened_slots, shared_slots

# Claims a slot, adds to it, says which it is, and holds it until it is killed.
WORKER = """
import os, sys
from shieldmw.core.metrics import DECISIONS, PID, UPDATED, cell
from shieldmw.gate.metrics.slots import Slots
counts = Slots(sys.argv[1]).claim()
if counts is None:
    print("none", flush=True)
    sys.exit()
counts.cells[cell(DECISIONS, "allowed", "within_limits", "guest")] += 5
counts.cells[cell(UPDATED)] = 1
counts.cells[PID] = os.getpid()
print(counts.worker, flush=True)
sys.stdin.read()
"""

COUNTED = cell(DECISIONS, "allowed", "within_limits", "guest")


@contextmanager
def worker(path: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that holds a slot, and the number that it got; killed at the end."""
    root = Path(shieldmw.__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, path],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def path_for(workers: int) -> str:
    """Where so many workers share."""
    path = shared_slots(workers)
    assert path is not None
    return path


def test_each_process_has_a_slot_and_a_killed_one_leaves_its_own_to_the_next() -> None:
    """Which goes on from the values there; meanwhile its counters are still told, and its gauges are not."""
    path = path_for(2)
    here = Slots(path)
    with worker(path) as (_, first), worker(path) as (killed, second):
        assert (first, second) == ("0", "1")
        killed.kill()
        killed.wait()
        told = here.values()
        assert [(each.worker, each.is_running) for each in told] == [("0", True), ("1", False)]
        assert [each.cells[COUNTED] for each in told] == [5, 5]
        with worker(path) as (_, third):
            assert third == "1"
            assert [(each.worker, each.is_running) for each in here.values()] == [("0", True), ("1", True)]
            assert [each.cells[COUNTED] for each in here.values()] == [5, 10]


def test_slots_without_a_worker_are_not_told() -> None:
    """There are more than workers, for those that run side by side while granian reloads."""
    path = path_for(3)
    here = Slots(path)
    assert here.values() == []
    counts = here.claim()
    assert counts is not None
    assert here.values() == []
    counts.cells[cell(UPDATED)] = 1
    counts.cells[PID] = os.getpid()
    assert [(each.worker, each.is_running) for each in here.values()] == [("0", True)]
    counts.cells[PID] = 0
    assert [each.is_running for each in here.values()] == [False]


def test_a_process_that_claims_again_gets_the_same_slot() -> None:
    """For its next event loop; other processes find it taken, and none is left for one too many."""
    path = path_for(1)
    here = Slots(path)
    first, again = here.claim(), here.claim()
    assert first is not None
    assert again is not None
    assert first.worker == again.worker == "0"
    again.cells[COUNTED] += 1
    assert first.cells[COUNTED] == 1
    assert SLOTS_PER_WORKER == 2
    with worker(path) as (_, second), worker(path) as (_, third):
        assert (second, third) == ("1", "none")


def test_slots_that_cannot_be_opened_are_done_without(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """A worker serves all the same, and says why each tells only of itself."""
    assert opened_slots(None) is None
    assert opened_slots(str(tmp_path / "absent")) is None
    (line,) = caplog.messages
    assert "each worker tells only of itself" in line
    assert "absent" in line
