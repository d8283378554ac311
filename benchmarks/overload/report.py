"""The tables of results: medians of the rounds, with the worst in brackets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isinf
from statistics import median
from typing import Final, TypeVar

from benchmarks.overload.cases import Attack, Calm, Halves
from benchmarks.overload.figures import Served
from benchmarks.overload.worker import Setup
from benchmarks.report import table

T = TypeVar("T")
Rounds = Mapping[Setup, Sequence[T]]

_NEVER: Final = "never"


def of_attacks(attacks: Rounds[Attack]) -> str:
    """Tables of what members get, how much of the app's capacity is used, and how soon the operator is answered."""
    return f"{_of_members(attacks)}\n\n{_of_app(attacks)}"


def _of_members(attacks: Rounds[Attack]) -> str:
    header = ["members in an attack", "calm p99 ms", "within 1 s", "p50 ms", "p99", "most"]
    header += ["after the flip: within 1 s", "p50", "p99", "most"]
    rows = [
        [
            setup.title,
            _worst(each.calm.p99_ms for each in rounds),
            *_members([each.before for each in rounds]),
            *_members([each.flipped for each in rounds]),
        ]
        for setup, rounds in attacks.items()
    ]
    return table(header, rows)


def _of_app(attacks: Rounds[Attack]) -> str:
    header = ["the app in an attack", "capacity a second", "used", "after the flip", "its single seconds"]
    header += ["CPU a request ms: alone", "in the attack"]
    header += ["PUT /mode s", "--admin s", "--direct s", "shed after the end"]
    rows = [
        [
            setup.title,
            f"{median(each.capacity.per_s for each in rounds):,.0f}",
            _worst((each.used_before * 100 for each in rounds), min, " %"),
            _worst((each.used_flipped * 100 for each in rounds), min, " %"),
            f"{min(min(each.seconds) for each in rounds):.2f}–{max(max(each.seconds) for each in rounds):.2f}",
            _worst((each.capacity.cpu_us / 1000 for each in rounds), digits=2),
            _worst((each.cpu_us / 1000 for each in rounds), digits=2),
            _worst((flip_s for each in rounds for flip_s in each.flips_s), digits=2),
            _worst((each.apart_s for each in rounds if each.apart_s is not None), digits=2),
            _worst((each.directly_s for each in rounds), digits=2),
            f"{sum(each.after_end.shed for each in rounds)} of {sum(each.after_end.asked for each in rounds):,}",
        ]
        for setup, rounds in attacks.items()
    ]
    return table(header, rows)


def of_halves(halves: Rounds[Halves]) -> str:
    """What members and guests get if both together send more than the app can serve."""
    header = ["members half, guests thrice", "members within 1 s", "p50 ms", "p99", "most", "guests' part of the rest"]
    return table(
        header,
        [
            [
                setup.title,
                *_members([each.members for each in rounds]),
                _worst((each.guests_part * 100 for each in rounds), min, " %"),
            ]
            for setup, rounds in halves.items()
        ],
    )


def of_calm(calms: Rounds[Calm]) -> str:
    """The table of requests that were shed although the app could have served all of them."""
    header = ["shed though all could be served (p99 ms)", "bursts", "slow ones", "a pause", "cold start"]
    parts: list[Callable[[Calm], Served]] = [
        *(lambda each: each.bursts, lambda each: each.slow),
        *(lambda each: each.pause, lambda each: each.cold),
    ]
    return table(
        header,
        [[setup.title, *(_shed([part(each) for each in rounds]) for part in parts)] for setup, rounds in calms.items()],
    )


def _shed(rounds: Sequence[Served]) -> str:
    shed, asked = sum(each.shed for each in rounds), sum(each.asked for each in rounds)
    return f"{shed} of {asked:,} ({_worst(each.p99_ms for each in rounds)})"


def _members(rounds: Sequence[Served]) -> list[str]:
    return [
        _worst((each.part * 100 for each in rounds), min, " %", digits=2),
        _worst(each.p50_ms for each in rounds),
        _worst(each.p99_ms for each in rounds),
        _worst(each.most_ms for each in rounds),
    ]


def _worst(
    values: Iterable[float], worst: Callable[[Sequence[float]], float] = max, unit: str = "", digits: int = 0
) -> str:
    seen = list(values)
    if not seen:
        return ""
    typical, extreme = median(seen), worst(seen)
    texts = [_NEVER if isinf(value) else f"{value:.{digits}f}{unit}" for value in (typical, extreme)]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} ({texts[1]})"
