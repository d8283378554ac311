"""How many different listeners several workers have seen together, from a short report of each. Pure.

Each report has the number of a worker's listeners and the ``KEPT`` smallest of their hashes. A listener that several
workers have seen has one hash, so up to ``KEPT`` of each worker are counted exactly. Beyond that, the largest of the
smallest hashes tells how dense the hashes lie: the k-minimum-values estimate of Bar-Yossef et al., "Counting Distinct
Elements in a Data Stream" (2002). Its standard error is 1/√(KEPT - 2), which is 13 %.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

# Hashes in a report, and how many of a hash's 64 bits are reported.
KEPT = 64
REPORTED_BITS = 32


@dataclass(frozen=True, slots=True)
class Distinct:
    """A worker's listeners: their number, and the first bits of their ``KEPT`` smallest hashes, ascending."""

    count: int = 0
    smallest: tuple[int, ...] = ()

    @classmethod
    def of(cls, *hashes: Collection[int]) -> Distinct:
        """The report of disjoint collections of 64-bit hashes."""
        count = sum(map(len, hashes))
        # About four times as many as are needed lie below this: sorting all of them would take ten times as long.
        bound = (4 * KEPT << 64) // max(count, 4 * KEPT)
        low = sorted(value for some in hashes for value in some if value < bound)
        if len(low) < min(count, KEPT):
            low = sorted(value for some in hashes for value in some)
        return cls(count, tuple(value >> (64 - REPORTED_BITS) for value in low[:KEPT]))


def together(reports: Sequence[Distinct]) -> int:
    """The number of distinct listeners in all reports; exact if no worker saw more than ``KEPT``, or one saw all."""
    union = sorted({value for report in reports for value in report.smallest})
    counts = [report.count for report in reports]
    if max(counts, default=0) <= KEPT:
        return len(union)
    kept = union[:KEPT]  # fewer, if some had the same bits
    estimate = ((len(kept) - 1) << REPORTED_BITS) // max(1, kept[-1])
    return min(max(estimate, *counts), sum(counts))
