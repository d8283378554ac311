"""Fixtures of the watches' tests."""

from __future__ import annotations

import pytest

from gate.fleet.watched import Clock, FailingStore


@pytest.fixture
def clock() -> Clock:
    """The clock of the test."""
    return Clock()


@pytest.fixture
def store(clock: Clock) -> FailingStore:
    """The store of the test."""
    return FailingStore(b"a secret of at least 32 characters", now_us=clock.store_us)
