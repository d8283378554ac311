"""Ten million distinct clients through one worker: the memory that it and Redis keep of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.alone import drive
from benchmarks.drive import Job
from benchmarks.progress import say
from benchmarks.report import table, verdict
from benchmarks.store import Store

# A full bucket is forgotten: this limit keeps all of them live until the end.
_SETTINGS: Final = {"SHIELD_IP_LIMIT": "10/day"}
_TARGET_BYTES: Final = 64 * 1024 * 1024
_TARGET_A_BUCKET: Final = 160
_MB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Grown:
    """The worker's memory by number of clients, and Redis's per live bucket."""

    clients: int
    seconds: float
    worker: Sequence[tuple[int, int]]
    buckets: int
    bytes_a_bucket: float

    @property
    def most(self) -> int:
        """The worker's growth from its first sample to its largest."""
        return max(size for _, size in self.worker) - self.worker[0][1]

    @property
    def late(self) -> int:
        """The growth over the second half: a leak would show here."""
        half = self.worker[len(self.worker) // 2 :]
        return max(size for _, size in half) - half[0][1]


async def measure(store: Store, clients: int) -> Grown:
    """One pass of all clients."""
    say(f"memory: {clients:,} distinct clients through one worker")
    store.client.flushall()
    empty = store.used_memory()
    report = await drive(Job(clients, clients + 1000), _SETTINGS, store)
    buckets = store.client.dbsize()
    used = store.used_memory() - empty
    store.client.flushall()
    return Grown(clients, report.seconds, report.memory, buckets, used / buckets)


def of(grown: Grown) -> str:
    """The figures as a Markdown table."""
    rows = [
        ["the worker grows by", f"{grown.most / _MB:.1f} MB", f"{_TARGET_BYTES / _MB:.0f} MB"],
        ["of that in the second half", f"{grown.late / _MB:.1f} MB", "about 0"],
        [f"Redis, each of {grown.buckets:,} live buckets", f"{grown.bytes_a_bucket:.0f} B", f"{_TARGET_A_BUCKET} B"],
        ["time", f"{grown.seconds:,.0f} s", ""],
    ]
    reached = grown.most <= _TARGET_BYTES and grown.bytes_a_bucket <= _TARGET_A_BUCKET
    return table([f"{grown.clients:,} distinct clients", "figure", "target"], rows) + f"\n\nTarget: {verdict(reached)}."
