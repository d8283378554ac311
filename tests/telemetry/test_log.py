"""Refusals in the log: one line for many, and no request can inject one."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest

from core.addresses import packed
from shieldmw import Identity, ListenerClass
from shieldmw.core.bucket import Charge, Outcome
from shieldmw.core.client import Client
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.facts import Facts
from shieldmw.core.limits import Limit
from shieldmw.core.mode import Mode
from shieldmw.gate.events import Evicted
from shieldmw.telemetry.log import RefusalLog

ADDRESS = packed("203.0.113.7")
LIMIT = Limit("ip", 300, 60, 300)
CLIENT = Client("ip", "203.0.113.7/32", "ip:203.0.113.7/32")


@dataclass
class Clock:
    """Seconds, moved by hand."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        """Now."""
        return self.now_s


def event(
    verdict: Verdict = Verdict.REFUSED,
    reason: Reason = Reason.QUOTA,
    *,
    path: str = "/live",
    identity: Identity | None = None,
    credential: str | None = None,
) -> tuple[Facts, Decision]:
    """One decision."""
    charges = (Charge(CLIENT, LIMIT),) if reason is Reason.QUOTA else ()
    outcome = Outcome(False, 0, (LIMIT.tau_us,)) if charges else None
    facts = Facts("203.0.113.7", path, path, frozenset({"GET"}), credential=credential)
    return facts, Decision(verdict, reason, ADDRESS, identity, charges, outcome)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log of refusals."""
    caplog.set_level(logging.INFO, logger="shieldmw.refusals")
    return caplog


def messages(lines: pytest.LogCaptureFixture) -> list[str]:
    """What was logged."""
    return [record.getMessage() for record in lines.records]


def test_the_first_refusal_is_logged_at_once(lines: pytest.LogCaptureFixture) -> None:
    """An operator sees the beginning of an attack when it begins: who, where, and by which limit."""
    RefusalLog(Clock()).decided(*event())
    assert messages(lines) == ["refused quota: 1; the last one: guest 203.0.113.7 at '/live' by ip"]
    assert lines.records[0].name == "shieldmw.refusals"


@pytest.mark.parametrize(("after_s", "logged"), [(0.0, 1), (9.999, 1), (10.0, 2), (1000.0, 2)])
def test_at_most_one_line_in_ten_seconds(after_s: float, logged: int, lines: pytest.LogCaptureFixture) -> None:
    """The next line comes with the first refusal ten seconds after the last line."""
    clock = Clock()
    log = RefusalLog(clock)
    log.decided(*event())
    clock.now_s += after_s
    log.decided(*event())
    assert len(lines.records) == logged


@pytest.mark.parametrize(
    ("verdict", "mode", "level"),
    [
        (Verdict.REFUSED, Mode.NORMAL, logging.INFO),
        (Verdict.DRY_RUN, Mode.NORMAL, logging.WARNING),
        (Verdict.REFUSED, Mode.EMERGENCY, logging.WARNING),
    ],
)
def test_a_dry_run_and_an_emergency_are_seen_without_setting_up_a_log(
    verdict: Verdict, mode: Mode, level: int, lines: pytest.LogCaptureFixture
) -> None:
    """Most servers leave the root logger at WARNING; the line of a dry run is all there is to see of it."""
    facts, decision = event(verdict)
    RefusalLog(Clock()).decided(facts, decision._replace(mode=mode))
    assert [record.levelno for record in lines.records] == [level]


def test_many_refusals_in_a_minute_are_seven_lines_that_add_up(lines: pytest.LogCaptureFixture) -> None:
    """Nothing is lost: the lines' counts add up to all refusals."""
    clock = Clock()
    log = RefusalLog(clock)
    for number in range(60_001):
        clock.now_s = 1000.0 + number / 1000
        log.decided(*event())
    counts = [int(message.partition("refused quota: ")[2].partition(";")[0]) for message in messages(lines)]
    assert counts == [1] + [10_000] * 6


def test_counts_are_by_verdict_and_reason(lines: pytest.LogCaptureFixture) -> None:
    """The line tells what was refused and why, and what a dry run would have refused."""
    clock = Clock()
    log = RefusalLog(clock)
    log.decided(*event())
    for _ in range(3):
        log.decided(*event(reason=Reason.DENY_LIST))
    for _ in range(2):
        log.decided(*event(Verdict.DRY_RUN))
    clock.now_s += 10
    log.decided(*event(reason=Reason.STORE_CLOSED, identity=Identity("alice", ListenerClass.HOST)))
    assert messages(lines)[1] == (
        "dry_run quota: 2, refused deny_list: 3, refused store_closed: 1; "
        "the last one: host 203.0.113.7 at '/live' by store_closed"
    )


def test_counts_begin_again_with_each_line(lines: pytest.LogCaptureFixture) -> None:
    """What was told is not told again."""
    clock = Clock()
    log = RefusalLog(clock)
    for _ in range(3):
        log.decided(*event())
        clock.now_s += 10
    assert [message.partition(";")[0] for message in messages(lines)] == ["refused quota: 1"] * 3


def test_allowed_requests_are_not_told() -> None:
    """The gate need not make an event of what passes: the log hears refusals only."""


HOSTILE = [
    ("CR LF", "/a\r\nWARNING root all is well"),
    ("LF", "/a\nb"),
    ("NUL", "/a\x00b"),
    ("escape sequence of a terminal", "/a\x1b[2J\x1b]0;title\x07"),
    ("line separators of Unicode", "/a\u2028b\u2029c\x85d\x0be\x0cf"),
    ("written from the right", "/a\u202eb\u2066c"),
    ("lone surrogate", "/a\ud800b"),
    ("quotes", "/a'b\"c\\"),
    ("formatting", "/%s%n%(x)s{0}{x}"),
    ("1 MB", "/" + "a\n" * 500_000),
]


@pytest.mark.parametrize("path", [path for _, path in HOSTILE], ids=[reason for reason, _ in HOSTILE])
def test_a_hostile_path_cannot_break_the_line(path: str, lines: pytest.LogCaptureFixture) -> None:
    """Whatever the path holds, the log has one line of printable text, and not a long one."""
    RefusalLog(Clock()).decided(*event(path=path))
    (message,) = messages(lines)
    assert message.isprintable()
    assert message.encode("utf-8")
    assert len(message) < 1500
    assert len(lines.text.rstrip("\n").splitlines()) == 1


def test_neither_subject_nor_credential_is_logged(lines: pytest.LogCaptureFixture) -> None:
    """The line names an address and a class, never the subject or what was shown."""
    RefusalLog(Clock()).decided(*event(identity=Identity("alice@example.org"), credential="the-credential"))
    assert "member 203.0.113.7" in lines.text
    assert "alice" not in lines.text
    assert "the-credential" not in lines.text


def test_a_step_of_a_cut_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """An operator sees in the log how many had to leave, not who."""
    caplog.set_level(logging.INFO)
    RefusalLog().evicted(Evicted(ListenerClass.GUEST, 120))
    RefusalLog().evicted(Evicted(ListenerClass.MEMBER, 1))
    told = [record.getMessage() for record in caplog.records]
    assert told == ["120 live guests had to leave", "1 live member had to leave"]


def test_in_a_dry_run_nobody_had_to_leave(caplog: pytest.LogCaptureFixture) -> None:
    """They stay, so the line says what would have been."""
    caplog.set_level(logging.INFO)
    RefusalLog(dry_run=True).evicted(Evicted(ListenerClass.GUEST, 1))
    assert [record.getMessage() for record in caplog.records] == ["1 live guest would have had to leave"]
