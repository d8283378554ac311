"""The seats of one class by cohort: those of the highest cohort leave first, on every worker alike."""

from __future__ import annotations

from collections.abc import Iterator

from shieldmw.core.seats import COHORTS

from .seat import Seat


class Cohorts:
    """Seats by cohort; finding one of the highest cohort does not depend on how many there are."""

    __slots__ = ("_highest", "_rows", "count")

    def __init__(self) -> None:
        self._rows: tuple[set[Seat], ...] = tuple(set() for _ in range(COHORTS))
        self._highest = 0
        self.count = 0

    def __iter__(self) -> Iterator[Seat]:
        return (seat for row in self._rows for seat in row)

    def __contains__(self, seat: Seat) -> bool:
        return seat in self._rows[seat.cohort]

    def add(self, seat: Seat) -> None:
        """Add a seat that is not here yet."""
        self._rows[seat.cohort].add(seat)
        self._highest = max(self._highest, seat.cohort)
        self.count += 1

    def remove(self, seat: Seat) -> None:
        """Remove a seat that is here."""
        self._rows[seat.cohort].remove(seat)
        self.count -= 1

    def highest(self) -> Seat | None:
        """A seat of the highest cohort that has any: the first to leave."""
        while self._highest and not self._rows[self._highest]:
            self._highest -= 1
        return next(iter(self._rows[self._highest]), None)
