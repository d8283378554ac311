"""The lines of `shieldmw mode` about the load: one for the fleet, and one for each of the most overloaded workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from shieldmw.admin.load import OverloadAnswer, WorkerLoadItem
from shieldmw.core.text import counted

# Maximum number of overloaded workers with a line of their own.
MOST_SHOWN = 3

Line = tuple[str, str]


def load_lines(status: Mapping[str, Any]) -> Iterator[Line]:
    """The lines for an answer of `/status`, from which older servers omit the load."""
    try:
        overload = OverloadAnswer.model_validate(status.get("overload"))
    except ValidationError:
        yield "load", "unknown: the server does not tell"
        return
    if overload.workers:
        yield from _fleet_lines(overload, _silent(overload, status.get("workers")))
    elif overload.setting == "off":
        yield "load", "unknown: SHIELD_OVERLOAD is off"
    else:
        yield "load", "unknown: no worker has told of it lately"


def _silent(overload: OverloadAnswer, workers: object) -> int:
    """The number of workers whose load report is missing."""
    if overload.counted != "fleet" or overload.setting == "off" or not isinstance(workers, int):
        return 0
    return max(0, workers - len(overload.workers))


def _fleet_lines(overload: OverloadAnswer, silent: int) -> Iterator[Line]:
    workers, shadow = overload.workers, overload.setting == "shadow"
    overloaded = sorted((each for each in workers if _shed_per_s(each)), key=_shed_per_s, reverse=True)
    waiting = sum(_waiting(each) for each in workers)
    turns = f"turns {_up_to(max(each.turn_ms for each in workers))}"
    is_alone = overload.counted == "worker"
    where = "the worker that answered" if is_alone else counted(len(workers), "worker")
    in_flight = f"{counted(sum(each.in_flight for each in workers), 'request')} in flight on {where}"
    if overloaded:
        many = f"{where} is" if is_alone else f"{len(overloaded)} of {where}"
        text = f"{many} overloaded: {turns}, {waiting:,} waiting, {_shed(overloaded, shadow)}"
    elif waiting:
        text = f"busy: {turns}, {waiting:,} waiting, {in_flight}"
    else:
        text = f"calm: {turns}, {in_flight}"
    yield "load", text + (f"; {counted(silent, 'worker')} silent" if silent else "")
    if overloaded and len(workers) > 1:
        for number, each in enumerate(overloaded[:MOST_SHOWN]):
            yield "" if number else "worst", _worker(each)


def _worker(each: WorkerLoadItem) -> str:
    in_flight = f"{each.in_flight:,} of {each.in_flight_limit:,} in flight"
    guests, others = _rates([each])
    shed = f"{_rate(guests)} guests" + (f" and {_rate(others)} members" if others else "")
    waiting = f"{_waiting(each):,} waiting"
    return f"{each.host}, process {each.pid}: turns {_up_to(each.turn_ms)}, {in_flight}, {waiting}, {shed} a second"


def _shed(workers: Sequence[WorkerLoadItem], shadow: bool) -> str:
    """Requests shed a second: of guests, and of members and hosts together."""
    guests, others = _rates(workers)
    verdict = "would be told to come later (shadow: nobody is)" if shadow else "told to come later"
    return f"{_rate(guests)} guests a second {verdict}; members: {_rate(others)}"


def _rates(workers: Sequence[WorkerLoadItem]) -> tuple[float, float]:
    """Shed requests a second: guests, and members with hosts."""
    rates = [each.shed_per_second for each in workers]
    return sum(each.guest for each in rates), sum(each.member + each.host for each in rates)


def _shed_per_s(each: WorkerLoadItem) -> float:
    return sum(_rates([each]))


def _waiting(each: WorkerLoadItem) -> int:
    return each.waiting.host + each.waiting.member + each.waiting.guest


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 10 or not per_s else f"{per_s:.1f}"


def _up_to(milliseconds: float) -> str:
    return f"up to {milliseconds:,.0f} ms" if milliseconds >= 1 else "under 1 ms"
