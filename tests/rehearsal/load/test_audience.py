"""The records of listeners: who was present at which time, and missed lines."""

from __future__ import annotations

import pytest

from shieldmw.rehearsal.load.audience import Audience, Listener, Refused, Stay


def heard(audience: Audience, stay: Stay, *ids: int, worker: str = "a") -> Stay:
    for line_id in ids:
        audience.heard(stay, worker, line_id)
    return stay


@pytest.mark.parametrize(
    ("ids", "ended_s", "missed", "reason"),
    [
        (range(1, 11), None, 0, "every line"),
        (range(4, 9), 8.0, 0, "whoever came late and left early missed nothing while there"),
        ((1, 2, 4, 5, 6, 7, 8, 9, 10), None, 1, "one in the middle"),
        (range(1, 9), None, 0, "the last two may be on their way"),
        (range(1, 7), None, 2, "a stream that fell silent has missed what came after"),
        ((1, 2, 2, 3), 3.0, 0, "the same line twice counts once"),
    ],
)
def test_a_line_that_others_were_sent_is_missed(
    ids: range | tuple[int, ...], ended_s: float | None, missed: int, reason: str
) -> None:
    """Judged beside a listener of the same worker who heard all ten."""
    audience = Audience()
    heard(audience, Stay(0.0), *range(1, 11))
    assert audience.missed(heard(audience, Stay(0.0, ended_s), *ids)) == missed, reason


def test_a_second_that_the_clock_skipped_is_no_gap() -> None:
    """Nobody of this worker heard line 3; that another worker sent it is no matter."""
    audience = Audience()
    heard(audience, Stay(0.0), 1, 2, 3, 4, worker="b")
    stays = [heard(audience, Stay(0.0, 9.0), 1, 2, 4) for _ in range(2)]
    assert [audience.missed(stay) for stay in stays] == [0, 0]


def test_a_stay_knows_when_it_was() -> None:
    """From its first moment up to, and without, its last."""
    stay, lasting = Stay(2.0, 5.0), Stay(2.0)
    assert [stay.at(at_s) for at_s in (1.9, 2.0, 4.9, 5.0)] == [False, True, True, False]
    assert stay.lasted(2.0, 5.0)
    assert not stay.lasted(2.0, 5.1)
    assert not stay.lasted(1.9, 5.0)
    assert lasting.lasted(2.0, 99.0)
    assert [stay.overlaps(*span) for span in ((0, 2), (0, 2.1), (4.9, 9), (5, 9))] == [False, True, True, False]


def test_the_audience_counts_who_is_in_and_who_is_at_the_door() -> None:
    """A listener that has not come yet is neither; one that was refused and is in again is in."""
    absent = Listener("one", "guests")
    inside = Listener("two", "guests", 0.0, [Stay(0.0, 1.0), Stay(3.0)], [Refused(2.0, 503, True)])
    outside = Listener("three", "guests", 0.0, [Stay(0.0, 1.0)])
    audience = Audience([absent, inside, outside, Listener("four", "members", 0.0, [Stay(0.0)])])
    assert audience.groups() == ("guests", "members")
    assert (audience.seated("guests"), audience.waiting("guests"), audience.seated("members")) == (1, 1, 1)
    assert [audience.present("guests", at_s) for at_s in (0.5, 2.0, 3.5)] == [2, 0, 1]
