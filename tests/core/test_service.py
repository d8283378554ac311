"""Are members being served? One word, one number, and why."""

from __future__ import annotations

import pytest

from shieldmw.core.seats import Audience
from shieldmw.core.service import Served, service


@pytest.mark.parametrize(
    ("seated", "demand", "let_in", "refused", "served", "percent"),
    [
        pytest.param((0, 0, 500), (0, 0, 900), 0, 0, Served.IDLE, None, id="only guests ask"),
        pytest.param((1, 99, 0), (1, 99, 50), 0, 0, Served.YES, 100.0, id="all have seats"),
        pytest.param((0, 99, 0), (0, 100, 0), 0, 0, Served.YES, 99.0, id="one in a hundred waits"),
        pytest.param((0, 197, 0), (0, 200, 0), 0, 0, Served.NO, 98.5, id="three of 200 wait"),
        pytest.param((0, 0, 0), (0, 7, 0), 0, 0, Served.NO, 0.0, id="none has a seat"),
        pytest.param((0, 5, 0), (0, 4, 0), 0, 0, Served.YES, 100.0, id="the demand is older"),
        pytest.param((0, 0, 0), (0, 0, 0), 999.5, 0.5, Served.YES, 99.9, id="few requests are refused"),
        pytest.param((0, 10, 0), (0, 10, 0), 1.0, 3.0, Served.NO, 25.0, id="seats, but requests are refused"),
        pytest.param((0, 1, 0), (0, 2, 0), 10.0, 0.0, Served.NO, 50.0, id="requests, but no seats"),
    ],
)
def test_the_smaller_part_counts(
    seated: tuple[int, int, int],
    demand: tuple[int, int, int],
    let_in: float,
    refused: float,
    served: Served,
    percent: float | None,
) -> None:
    """A hundred percent is told only if it is true: parts are rounded down."""
    told = service(Audience(*seated), Audience(*demand), let_in, refused)
    assert (told.served, told.percent) == (served, percent)


def test_it_says_why() -> None:
    """In words, with numbers."""
    told = service(Audience(0, 1, 0), Audience(0, 3, 0), 10.0, 2.5)
    assert told.why == "2 members without a seat; 2.5 requests of members a second are refused"
    told = service(Audience(0, 1, 0), Audience(0, 1, 0), 10.0, 2.5)
    assert told.why == "2.5 requests of members a second are refused; every member has a seat", "what is wrong first"
    assert service(Audience(0, 1, 0), Audience(0, 1, 0), 10.0, 0).why == "every member has a seat; no member is refused"
