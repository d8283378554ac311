"""Whether the shield kept its promises. Pure: tallies in, promises and remarks in words out.

Independent of how the load was made and of the groups' roles: what a group is promised is in its tally.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shieldmw.rehearsal.load.tally import GroupTally


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise, whether it was kept, and a sentence with the figures that show it."""

    kept: bool
    words: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """All promises, kept and broken."""

    promises: tuple[Promise, ...]
    remarks: tuple[str, ...] = ()
    """Things worth knowing that break no promise."""

    @property
    def kept(self) -> bool:
        """Whether all were kept; without any promise it is False."""
        return bool(self.promises) and all(promise.kept for promise in self.promises)

    def with_promises(self, *more: Promise) -> Verdict:
        """The same with more promises, about things that the tallies do not show."""
        return Verdict((*self.promises, *more), self.remarks)

    def __add__(self, other: Verdict) -> Verdict:
        """Both, in this order."""
        return Verdict((*self.promises, *other.promises), (*self.remarks, *other.remarks))


def verdict(groups: Sequence[GroupTally]) -> Verdict:
    """Every group must have been answered and have its promised share, and no client more than its limit."""
    promises = [promise for group in groups for promise in _promises(group)]
    return Verdict(tuple(promises), tuple(_remarks(groups)))


def _promises(group: GroupTally) -> Iterable[Promise]:
    if not group.counts().answered:
        yield Promise(False, f"{group.name}: not one answer, so this drill shows nothing about them")
        return
    if group.promised_share is not None:
        yield _share(group, group.promised_share)
    yield _limit(group)


def _share(group: GroupTally, promised: float) -> Promise:
    counts = group.counts()
    kept = counts.served >= promised * counts.asked
    percent = 100 * counts.served / counts.asked
    # 98.96 must not be shown as "99.0 of 99 promised": truncate, do not round.
    words = f"{group.name} got {int(percent * 100) / 100:.2f} % of what they asked for"
    words += f" ({counts.served:,} of {counts.asked:,}; promised: at least {100 * promised:g} %)"
    return Promise(kept, words)


def _limit(group: GroupTally) -> Promise:
    excess = {name: client.counts.let_through - group.allowed_to(client) for name, client in group.clients.items()}
    over = [name for name, units in excess.items() if units > 0]
    if not over:
        words = f"{group.name}: none of {len(group.clients)} clients got more than burst + rate * time"
        return Promise(True, f"{words} ({group.counts().let_through:,} of at most {group.allowed():,})")
    worst = max(over, key=lambda name: excess[name])
    client = group.clients[worst]
    had, allowed = client.counts.let_through, group.allowed_to(client)
    words = f"{group.name}: {len(over)} of {len(group.clients)} clients got more than burst + rate * time; "
    return Promise(False, words + f"worst {worst}: {had:,} in {client.active_s:.1f} s, allowed {allowed:,}")


def _remarks(groups: Sequence[GroupTally]) -> Iterable[str]:
    if not any(group.counts().refused for group in groups):
        yield "nobody was refused: no limit was reached, so this drill says little about the limits"
    for group in groups:
        modest = sum(
            client.counts.refused
            for client in group.clients.values()
            if client.counts.asked <= group.allowed_to(client)
        )
        if modest and group.polite:
            yield f"{group.name}: {modest:,} refusals of clients who asked no more than burst + rate * time"
        counts = group.counts()
        if counts.lost > counts.asked // 100:
            yield f"{group.name}: {counts.lost:,} of {counts.asked:,} requests got no answer"
