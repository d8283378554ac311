"""Figures from samples. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from benchmarks.overload.crowd import Sample

IN_TIME_S: Final = 1.0
_SHED: Final = 503


@dataclass(frozen=True, slots=True)
class Served:
    """The outcome of requests: how many there were, were served within a second, or were shed; and how long they took.

    An unserved request counts as infinitely slow.
    """

    asked: int
    in_time: int
    shed: int
    p50_ms: float
    p99_ms: float
    most_ms: float

    @property
    def part(self) -> float:
        """The part that was served within a second."""
        return self.in_time / self.asked if self.asked else 0.0


def served(samples: Iterable[Sample]) -> Served:
    """The figures of these requests."""
    seen = list(samples)
    took_s = sorted(sample.took_s if sample.status == 200 else inf for sample in seen)

    def quantile_ms(part: float) -> float:
        return took_s[min(len(took_s) - 1, int(len(took_s) * part))] * 1000 if took_s else inf

    return Served(
        len(seen),
        bisect_left(took_s, IN_TIME_S),
        sum(sample.status == _SHED for sample in seen),
        quantile_ms(0.5),
        quantile_ms(0.99),
        quantile_ms(1),
    )


def sent_within(samples: Iterable[Sample], stream: str, from_s: float, until_s: float) -> list[Sample]:
    """The requests of a stream that were sent between two moments."""
    return [sample for sample in samples if sample.stream == stream and from_s <= sample.sent_s < until_s]


class Meter:
    """Readings of a count over time."""

    def __init__(self, readings: Sequence[tuple[float, int]]) -> None:
        self._readings = readings

    def rate(self, from_s: float, until_s: float) -> float:
        """The mean rate between two moments, per second."""
        (began_s, before), (ended_s, after) = self._at(from_s), self._at(until_s)
        return (after - before) / (ended_s - began_s)

    def by_second(self, from_s: float, until_s: float) -> list[float]:
        """The same for each whole second between two moments."""
        return [self.rate(from_s + second, from_s + second + 1) for second in range(int(until_s - from_s))]

    def _at(self, moment_s: float) -> tuple[float, int]:
        return self._readings[min(len(self._readings) - 1, bisect_left(self._readings, (moment_s, 0)))]
