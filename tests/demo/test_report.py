"""A drill's figures as text."""

from __future__ import annotations

from shieldmw.demo.report import (
    FINAL_COLUMNS,
    LIVE_COLUMNS,
    Speeds,
    final_row,
    live_row,
    progress_line,
    refusal_lines,
)
from shieldmw.rehearsal.load.drill import Refusal
from shieldmw.rehearsal.load.tally import Allowance, ClientTally, GroupTally, Outcome


def attacker() -> GroupTally:
    group = GroupTally("attacker", Allowance(rate_per_s=5, burst=20))
    tally = group.clients["a"] = ClientTally()
    outcomes = [Outcome.SERVED] * 1000 + [Outcome.APP_ERROR] * 2 + [Outcome.REFUSED] * 3
    outcomes += [Outcome.TURNED_AWAY] * 4 + [Outcome.LOST]
    for outcome in outcomes:
        tally.sending(0.0)
        tally.ended(outcome, 10.0)
        group.latencies.add(0.002)
    return group


def test_the_final_row_puts_what_was_let_through_beside_what_the_limits_allow() -> None:
    """Every figure is under its own heading."""
    row = dict(zip(FINAL_COLUMNS, final_row(attacker()), strict=True))
    assert row == {
        "group": "attacker",
        "asked": "1,010",
        "got": "1,000",
        "refused": "3",
        "turned away": "4",
        "app errors": "2",
        "lost": "1",
        "let through": "1,002",
        "limits allow": "70",
        "p50 ms": row["p50 ms"],
        "p99 ms": row["p99 ms"],
    }
    assert 2.0 <= float(row["p50 ms"]) <= 2.1


def test_speeds_are_those_since_the_last_look() -> None:
    """Requests each second are counted from one look to the next, not from the beginning."""
    group, speeds = attacker(), Speeds()
    first = dict(zip(LIVE_COLUMNS, live_row(group, speeds, at_s=2.0), strict=True))
    assert (first["asked/s"], first["got/s"], first["failed"]) == ("505", "500", "3")
    group.clients["a"].sending(2.5)
    then = dict(zip(LIVE_COLUMNS, live_row(group, speeds, at_s=2.5), strict=True))
    assert (then["asked"], then["asked/s"], then["got/s"]) == ("1,011", "2", "0")


def test_a_line_of_progress_names_the_phase_and_each_group() -> None:
    """Without a terminal one line says the same as the live table; a group that has not begun has no times."""
    groups = {"attacker": attacker(), "guests": GroupTally("guests", Allowance(5, 20))}
    line = progress_line("storm", 5.0, groups, Speeds())
    assert line.startswith("   5 s storm: attacker asked 1,010 (202/s) got 1,000 refused 7 failed 3 p50/p99 2.")
    assert "guests asked 0 (0/s) got 0 refused 0 failed 0 p50/p99 -/- ms" in line


def test_a_refused_answer_is_shown_as_it_came() -> None:
    """The status line, the headers that speak of the refusal, and the body; the rest is left out."""
    headers = (
        ("Retry-After", "3"),
        ("RateLimit", '"ip";r=0;t=3'),
        ("server", "x"),
        ("RateLimit-Policy", '"ip";q=5'),
    )
    lines = refusal_lines(Refusal("HTTP/1.1 429 Too Many Requests", headers, '{"status":429}'))
    assert lines == (
        "HTTP/1.1 429 Too Many Requests",
        "Retry-After: 3",
        'RateLimit: "ip";r=0;t=3',
        'RateLimit-Policy: "ip";q=5',
        "",
        '{"status":429}',
    )
