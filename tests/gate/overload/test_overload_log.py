"""The log lines of an overload: at its beginning, during it, and at its end."""

from __future__ import annotations

import logging

import pytest

from gate.doubles import FakeClock, clock_of
from shieldmw.core.lane import Rank
from shieldmw.gate.log_throttle import EVERY_S
from shieldmw.gate.overload.overload_log import OVER_S, OverloadLog

LOOK_S = 2.0


class Story:
    """A worker whose requests are shed, and its log, at which it looks every two seconds."""

    def __init__(self, caplog: pytest.LogCaptureFixture, *, shadow: bool = False) -> None:
        self.clock = FakeClock()
        self._log = OverloadLog(lambda: "3 of 4 requests in flight", shadow=shadow, clock=clock_of(self.clock.s))
        self._caplog = caplog

    def shed(self, *ranks: Rank) -> None:
        for rank in ranks:
            self._log.shed(rank)

    def pass_s(self, seconds: float) -> None:
        for _ in range(int(seconds / LOOK_S)):
            self.clock.now_s += LOOK_S
            self._log.look()

    def lines(self) -> list[str]:
        """What was written since the last time, all of it warnings."""
        assert {record.levelno for record in self._caplog.records} <= {logging.WARNING}
        lines = [record.message for record in self._caplog.records]
        self._caplog.clear()
        return lines


def test_a_beginning_is_told_at_once_and_an_end_once_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    """The end says how much was shed in all, what no line told before among it, and how long it took."""
    story = Story(caplog)
    story.shed(Rank.GUEST)
    assert story.lines() == [
        "the app is asked for more than it can do: shed guest: 1; 3 of 4 requests in flight",
    ]
    story.pass_s(4)
    story.shed(Rank.GUEST, Rank.RETURNING_GUEST, Rank.MEMBER, Rank.GUEST)
    assert story.lines() == []
    story.pass_s(OVER_S)
    assert story.lines() == []
    story.pass_s(4)
    assert story.lines() == ["no longer overloaded: shed guest: 3, member: 1, returning guest: 1 in all, in 6 s"]


def test_an_overload_that_goes_on_is_told_of_each_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    """And what comes in waves is one: it ends once."""
    story = Story(caplog)
    for _ in range(30):
        story.shed(Rank.GUEST, Rank.GUEST)
        story.pass_s(OVER_S - 2)
    lines = story.lines()
    took_s = 30 * (OVER_S - 2)
    assert took_s / EVERY_S / 2 <= len(lines) <= took_s / EVERY_S + 1
    assert all("asked for more than it can do" in line for line in lines)
    story.pass_s(3 * OVER_S)
    (line,) = story.lines()
    assert line.startswith("no longer overloaded: shed guest: 60 in all")


def test_the_next_overload_is_counted_anew(caplog: pytest.LogCaptureFixture) -> None:
    """Its first line says nothing of the one before."""
    story = Story(caplog)
    story.shed(Rank.GUEST, Rank.GUEST, Rank.GUEST)
    story.pass_s(2 * OVER_S)
    story.lines()
    story.shed(Rank.MEMBER)
    assert ["shed member: 1; " in line for line in story.lines()] == [True]


def test_in_the_shadow_nothing_was_shed(caplog: pytest.LogCaptureFixture) -> None:
    """Neither line says that anybody was."""
    story = Story(caplog, shadow=True)
    story.shed(Rank.GUEST)
    story.pass_s(2 * OVER_S)
    assert all("would have shed guest: 1" in line for line in story.lines())


def test_while_nothing_is_shed_nothing_is_written(caplog: pytest.LogCaptureFixture) -> None:
    """Nor is the clock read."""
    story = Story(caplog)
    story.clock.now_s = float("nan")
    story.pass_s(100)
    assert story.lines() == []
