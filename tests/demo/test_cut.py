"""The cut's figures and promises, for hand-made records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from shieldmw.demo.cut import Cut, Door, Guests, Members, Moments, Return, promises, share
from shieldmw.demo.report import CUT_COLUMNS, cut_rows
from shieldmw.demo.second_act import ROLES, measured
from shieldmw.rehearsal.load.audience import Audience, Listener, Refused, Stay
from shieldmw.rehearsal.load.propagation import Propagation

WHEN = Moments(asked_s=99.9, answered_s=100.0, ends_s=114.0, over_s=120.0)


def told(began_s: float, ended_s: float) -> Stay:
    return Stay(began_s, ended_s, told_why=True)


def guest(name: str, *stays: Stay, refusals: tuple[Refused, ...] = ()) -> Listener:
    return Listener(name, ROLES.guests, 90.0, list(stays), list(refusals))


def member(name: str, *stays: Stay, group: str = ROLES.members, came_s: float = 90.0) -> Listener:
    return Listener(name, group, came_s, list(stays))


def evening() -> list[Listener]:
    """Two members who stay, one who comes, two guests who go and come back: everything as promised."""
    door = (Refused(104.0, 503, True), Refused(108.0, 503, True))
    return [
        member("ada", Stay(90.0)),
        member("bob", Stay(90.0)),
        member("eve", Stay(105.0), group=ROLES.new_members, came_s=105.0),
        guest("one", told(91.0, 100.5), Stay(115.0), refusals=door),
        guest("two", told(91.0, 108.9), Stay(114.2)),
    ]


def cut_of(listeners: list[Listener], *, ended: bool = True) -> Cut:
    propagation = Propagation({"a": 100.1, "b": 100.3})
    return measured(Audience(listeners), WHEN, propagation, ended, (0.8, 0.2))


def broken(cut: Cut) -> list[str]:
    return [promise.words for promise in promises(cut) if not promise.kept]


def test_an_evening_as_promised() -> None:
    """All figures of it, and no promise is broken."""
    cut = cut_of(evening())
    assert cut.flip_took_s == pytest.approx(0.1)
    assert cut.obeyed_after_s == pytest.approx(0.3)
    assert cut.members == Members(before=2, kept=2, lines_missed=0)
    assert cut.newcomers == (1, 1)
    assert (cut.guests.streams, cut.guests.gone, cut.guests.told_why) == (2, 2, 2)
    assert cut.guests.first_gone_s == pytest.approx(0.6)
    assert cut.guests.last_gone_s == pytest.approx(9.0)
    assert cut.door == Door({503: 2}, 2)
    assert cut.back.guests_back == 2
    assert cut.back.first_back_s == pytest.approx(0.2)
    assert cut.present == {ROLES.members: (2, 2, 2), ROLES.new_members: (0, 1, 1), ROLES.guests: (2, 0, 2)}
    assert broken(cut) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (member("ada", Stay(90.0, 105.0), Stay(106.0)), "2 of 3 members kept"),
        (member("late", group=ROLES.new_members, came_s=106.0), "1 of 2 members who came"),
        (guest("untold", Stay(91.0, 101.0)), "and 2 told why"),
        (guest("slow", told(91.0, 112.5)), "to 12.6 s after the flip"),
        (guest("forgotten", Stay(91.0)), "2 of 3 guests were let go"),
        (guest("slipped in", Stay(101.0, 102.0)), "and 2 told why"),
        (guest("misled", refusals=(Refused(105.0, 503, False),)), "2 with the recording's address"),
        (guest("limited", refusals=(Refused(105.0, 429, True),)), "2 of 3 knocks"),
    ],
)
def test_each_promise_can_be_broken(wrong: Listener, words: str) -> None:
    """One more listener to whom the one thing happened; nothing else is found wrong."""
    (found,) = broken(cut_of([*evening(), wrong]))
    assert words in found


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda cut: replace(cut, flip_took_s=1.01), "PUT /mode was answered after 1.01 s"),
        (lambda cut: replace(cut, obeyed_after_s=1.01), "obeyed 1.01 s after"),
        (lambda cut: replace(cut, obeyed_after_s=None), "not every one of 2 workers"),
        (lambda cut: replace(cut, members=Members(2, 2, 1)), "missed 1 of its lines"),
        (lambda cut: replace(cut, members=Members(0, 0, 0)), "0 of 0 members"),
        (lambda cut: replace(cut, newcomers=(0, 0)), "0 of 0 members who came"),
        (lambda cut: replace(cut, guests=Guests(0, 0, 0, None, None)), "no guest left"),
        (lambda cut: replace(cut, door=Door({}, 0)), "0 of 0 knocks"),
        (lambda cut: replace(cut, back=Return(True, 0, None)), "no guest got back in"),
        (lambda cut: replace(cut, back=Return(False, 2, 0.1)), "had not ended"),
    ],
)
def test_what_shows_nothing_keeps_no_promise(wrong: Callable[[Cut], Cut], words: str) -> None:
    """A figure past its bound, or one that nobody was there to make."""
    (found,) = broken(wrong(cut_of(evening())))
    assert words in found


def test_what_happens_before_the_flip_or_after_the_end_is_not_held_against_it() -> None:
    """Guests who left by themselves earlier, and members who come when it is over, are no part of the cut."""
    more = [
        guest("early", Stay(91.0, 95.0), refusals=(Refused(92.0, 429, False), Refused(116.0, 429, False))),
        member("after", group=ROLES.new_members, came_s=115.0),
    ]
    assert broken(cut_of([*evening(), *more])) == []


def test_the_share_is_of_what_came_in_between() -> None:
    """What was let through before the first look does not count; nothing at all is no share."""
    before, after = {"attacker": 100, "members": 50}, {"attacker": 120, "members": 110}
    assert share("attacker", before, after) == 0.25
    assert share("attacker", after, after) is None


def test_the_table_names_every_figure() -> None:
    """Rows under the two columns; what is nearly all is not shown as all."""
    cut = replace(cut_of(evening()), members=Members(10_000, 9_999, 3), shares=(0.817, None))
    rows = dict(cut_rows(cut))
    assert all(len(row) == len(CUT_COLUMNS) for row in cut_rows(cut))
    assert rows["flip to the last worker"] == "0.30 s (2 workers)"
    assert rows["members kept"] == "9999 of 10000 (99.9 %), lines missed: 3"
    assert rows["guests told why (event: shed)"] == "2 of 2 (100 %)"
    assert rows["guests' answers at the door"] == "503: 2; naming the recording: 2"
    assert rows["attacker's share of what was served"] == "81.7 % -> -"
