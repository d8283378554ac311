"""The figures and promises about listeners who poll, for hand-made records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shieldmw.demo.cut import Guests, Members, Moments, Return
from shieldmw.demo.polled import GONE_WITHIN_S, Count, Polled, polled_in, promises
from shieldmw.demo.report import POLLED_COLUMNS, polled_rows
from shieldmw.rehearsal.load.audience import Audience, Listener, Refused, Stay

MEMBERS, GUESTS = GROUPS = ("polling members", "polling guests")
CAPACITY = 4
WHEN = Moments(asked_s=100.0, answered_s=100.1, ends_s=121.0, over_s=127.0)
COUNTS = (Count(99.9, 9, 5), Count(117.9, 8, 3), Count(118.1, 3, 2), Count(119.0, 4, 2), Count(126.0, 8, 4))


def listener(group: str, *stays: Stay, refusals: tuple[Refused, ...] = ()) -> Listener:
    return Listener("somebody", group, 90.0, list(stays), list(refusals))


def evening() -> list[Listener]:
    """Two members served throughout; two guests who lose their seat, are told why, and get one again."""
    return [
        listener(MEMBERS, Stay(90.0)),
        listener(MEMBERS, Stay(91.0)),
        listener(GUESTS, Stay(91.0, 102.5, told_why=True), Stay(122.0)),
        listener(GUESTS, Stay(91.0, 106.0, told_why=True), Stay(123.0)),
    ]


def polled(listeners: list[Listener]) -> Polled:
    return polled_in(Audience(listeners), GROUPS, WHEN, COUNTS, CAPACITY, ended=True)


def broken(seen: Polled) -> list[str]:
    return [promise.words for promise in promises(seen) if not promise.kept]


def test_an_evening_as_promised() -> None:
    """All figures of it; what was counted while the cut went on is not held against it."""
    seen = polled(evening())
    assert seen.members == Members(before=2, kept=2, lines_missed=0)
    assert seen.guests == Guests(streams=2, gone=2, told_why=2, first_gone_s=2.5, last_gone_s=6.0)
    assert seen.back == Return(ended=True, guests_back=2, first_back_s=1.0)
    assert seen.most_after_the_cut == Count(119.0, 4, 2)
    assert broken(seen) == []
    assert len(list(promises(seen))) == 4


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (listener(MEMBERS, Stay(90.0, 105.0), Stay(106.5)), "2 of 3 members were served"),
        (listener(MEMBERS, refusals=(Refused(105.0, 503, True),)), "and 1 of their polls was refused"),
        (listener(GUESTS, Stay(91.0, 104.0)), "and 2 were told why"),
        (listener(GUESTS, Stay(91.0)), "2 of 3 guests lost their seat"),
        (listener(GUESTS, Stay(91.0, 100.5 + GONE_WITHIN_S, told_why=True)), "to 18.5 s after the flip"),
    ],
)
def test_one_listener_breaks_a_promise(wrong: Listener, words: str) -> None:
    """One more to whom the one thing happened; nothing else is found wrong."""
    (found,) = broken(polled([*evening(), wrong]))
    assert words in found


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"members": Members(0, 0, 0)}, "0 of 0 members"),
        ({"guests": Guests(0, 0, 0, None, None)}, "no guest lost a seat, of 0"),
        ({"back": Return(ended=True, guests_back=0, first_back_s=None)}, "no guest got a seat again"),
        ({"capacity": 3}, "at most 4 seats, 2 of them leases"),
        ({"counts": COUNTS[:2]}, "nobody saw how many seats"),
        ({"counts": (Count(119.0, 2, 0),)}, "at most 2 seats, 0 of them leases"),
    ],
)
def test_what_shows_nothing_keeps_no_promise(wrong: dict[str, object], words: str) -> None:
    """A figure past its bound, or one that nobody was there to make."""
    (found,) = broken(replace(polled(evening()), **wrong))  # type: ignore[arg-type]  # one row is one field
    assert words in found


def test_the_table_names_every_figure() -> None:
    """Rows under the two columns; a count that nobody took is a dash."""
    seen = polled(evening())
    rows = dict(polled_rows(seen))
    assert all(len(row) == len(POLLED_COLUMNS) for row in polled_rows(seen))
    assert rows["members served at every poll"] == "2 of 2 (100 %)"
    assert rows["guests told why (503)"] == "2 of 2 (100 %)"
    counted = "seats: at the flip -> most after the cut -> now"
    assert rows[counted] == "9 (5 leases) -> 4 (2 leases) -> 8 (4 leases)"
    assert "-> - ->" in dict(polled_rows(replace(seen, counts=COUNTS[:1])))[counted]
