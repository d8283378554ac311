"""The lines about the workers' load: one for the fleet, and the most overloaded workers if requests are shed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from shieldmw.cli.load_lines import load_lines


def worker(number: int = 1, turn_ms: float = 2.0, waiting: int = 0, guests: float = 0, members: float = 0) -> Any:
    """One worker of an answer, with four requests in flight."""
    return {
        **{"worker": f"{number:016x}", "host": "web-1", "pid": 4000 + number, "turn_ms": turn_ms},
        **{"in_flight": 4, "in_flight_limit": 128},
        "waiting": {"host": 0, "member": 0, "guest": waiting},
        "shed": {"host": 0, "member": 7, "guest": 70_000},
        "shed_per_second": {"host": 0, "member": members, "guest": guests},
    }


def status(*workers: Any, of: int | None = None, **values: str) -> Mapping[str, Any]:
    """An answer of a fleet of so many workers."""
    overload = {"setting": "on", "counted": "fleet", "workers": list(workers), **values}
    return {"workers": len(workers) if of is None else of, "overload": overload}


def lines(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is shown."""
    return list(load_lines(told))


FLOOD = [worker(1, 34, 100, 640), worker(2, 12.4, 80, 400), worker(3, 11, 30, 200), worker(4)]


@pytest.mark.parametrize(
    ("told", "line"),
    [
        pytest.param(
            status(*map(worker, range(4))), "calm: turns up to 2 ms, 16 requests in flight on 4 workers", id="calm"
        ),
        pytest.param(
            status(worker(turn_ms=0.3)), "calm: turns under 1 ms, 4 requests in flight on 1 worker", id="one worker"
        ),
        pytest.param(
            status(worker(1, 14, 12), worker(2)),
            "busy: turns up to 14 ms, 12 waiting, 8 requests in flight on 2 workers",
            id="some wait and nobody is shed",
        ),
        pytest.param(
            status(*FLOOD),
            "3 of 4 workers overloaded: turns up to 34 ms, 210 waiting, "
            "1,240 guests a second told to come later; members: 0",
            id="a flood",
        ),
        pytest.param(
            status(worker(1, 34, 0, 0.5, 1.5)),
            "1 of 1 worker overloaded: turns up to 34 ms, 0 waiting, "
            "0.5 guests a second told to come later; members: 1.5",
            id="less than one a second is not none",
        ),
        pytest.param(
            status(worker(1, 34, 3, 50), setting="shadow"),
            "1 of 1 worker overloaded: turns up to 34 ms, 3 waiting, "
            "50 guests a second would be told to come later (shadow: nobody is); members: 0",
            id="in the shadow",
        ),
        pytest.param(
            status(worker(1, 34, 3, 50), of=4, counted="worker"),
            "the worker that answered is overloaded: turns up to 34 ms, 3 waiting, "
            "50 guests a second told to come later; members: 0",
            id="the store is away",
        ),
        pytest.param(
            status(worker(), of=4, counted="worker"),
            "calm: turns up to 2 ms, 4 requests in flight on the worker that answered",
            id="calm and the store is away",
        ),
        pytest.param(
            status(worker(), worker(), of=3),
            "calm: turns up to 2 ms, 8 requests in flight on 2 workers; 1 worker silent",
            id="one has not reported",
        ),
        pytest.param(
            status(worker(), setting="off", of=3),
            "calm: turns up to 2 ms, 4 requests in flight on 1 worker",
            id="off where it is asked, on elsewhere",
        ),
        pytest.param(status(setting="off", of=3), "unknown: SHIELD_OVERLOAD is off", id="off"),
        pytest.param(status(of=3), "unknown: no worker has told of it lately", id="nobody has reported"),
        pytest.param({"workers": 3}, "unknown: the server does not tell", id="an older server"),
        pytest.param({"overload": None}, "unknown: the server does not tell", id="none"),
        pytest.param({"overload": {"workers": "many"}}, "unknown: the server does not tell", id="another form"),
        pytest.param(
            {"workers": "3", **{"overload": status(worker())["overload"]}},
            "calm: turns up to 2 ms, 4 requests in flight on 1 worker",
            id="a number of workers that is none",
        ),
    ],
)
def test_the_line_of_the_fleet(told: Mapping[str, Any], line: str) -> None:
    """For someone who has no time to read."""
    assert lines(told)[0] == ("load", line)


FIFTH = "4 of 128 in flight, 0 waiting, 300 guests and 2.5 members a second"


def test_the_worst_three_are_named() -> None:
    """By where they run, the worst first; who sheds nobody is not among them."""
    told = status(*reversed(FLOOD), worker(5, 20, 0, 300, 2.5))
    assert lines(told)[1:] == [
        ("worst", "web-1, process 4001: turns up to 34 ms, 4 of 128 in flight, 100 waiting, 640 guests a second"),
        ("", "web-1, process 4002: turns up to 12 ms, 4 of 128 in flight, 80 waiting, 400 guests a second"),
        ("", f"web-1, process 4005: turns up to 20 ms, {FIFTH}"),
    ]


@pytest.mark.parametrize("told", [status(worker(1, 34, 3, 50)), status(worker(1, 40, 90), worker(2)), status()])
def test_no_worker_is_named_where_that_says_nothing(told: Mapping[str, Any]) -> None:
    """There is only one, or none that sheds."""
    assert len(lines(told)) == 1
