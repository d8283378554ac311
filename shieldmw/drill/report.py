"""A drill's figures as rows and lines of plain text.

Pure; it must not know terminals, colours or the shield.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shieldmw.drill.load import Refusal
from shieldmw.drill.tally import Counts, GroupTally

LIVE_COLUMNS: Final = ("group", "asked", "got", "refused", "failed", "asked/s", "got/s", "p50 ms", "p99 ms")
FINAL_COLUMNS: Final = (
    "group",
    "asked",
    "got",
    "refused",
    "app errors",
    "lost",
    "let through",
    "limits allow",
    "p50 ms",
    "p99 ms",
)
_SHOWN_HEADERS: Final = ("content-type", "retry-after", "ratelimit-policy", "ratelimit", "cache-control")


@dataclass(slots=True)
class Speeds:
    """How fast each group asks and gets, from one look to the next. ``at_s`` is seconds since the start."""

    _seen: dict[str, tuple[float, Counts]] = field(default_factory=dict)

    def since_last(self, group: GroupTally, at_s: float) -> tuple[float, float]:
        """Requests asked and served each second since this was last called for the group."""
        now = group.counts()
        before_s, before = self._seen.get(group.name, (0.0, Counts()))
        self._seen[group.name] = (at_s, now)
        passed = max(at_s - before_s, 0.001)
        return (now.asked - before.asked) / passed, (now.served - before.served) / passed


def live_row(group: GroupTally, speeds: Speeds, at_s: float) -> tuple[str, ...]:
    """One row under LIVE_COLUMNS."""
    counts = group.counts()
    asking, getting = speeds.since_last(group, at_s)
    figures = (counts.asked, counts.served, counts.refused, counts.app_error + counts.lost)
    return (group.name, *(f"{n:,}" for n in figures), f"{asking:.0f}", f"{getting:.0f}", *_times(group))


def progress_line(phase: str, at_s: float, groups: Mapping[str, GroupTally], speeds: Speeds) -> str:
    """The same figures on one line, for a log."""
    parts = []
    for group in groups.values():
        _, asked, got, refused, failed, asking, _, p50, p99 = live_row(group, speeds, at_s)
        part = f"{group.name} asked {asked} ({asking}/s) got {got} refused {refused} failed {failed}"
        parts.append(f"{part} p50/p99 {p50}/{p99} ms")
    return f"{at_s:4.0f} s {phase}: " + " | ".join(parts)


def final_row(group: GroupTally) -> tuple[str, ...]:
    """One row under FINAL_COLUMNS."""
    counts = group.counts()
    figures = (
        counts.asked,
        counts.served,
        counts.refused,
        counts.app_error,
        counts.lost,
        counts.let_through,
        group.allowed(),
    )
    return (group.name, *(f"{n:,}" for n in figures), *_times(group))


def refusal_lines(refusal: Refusal) -> Sequence[str]:
    """One refused answer as `curl -i` would show it, without the headers that say nothing of the refusal."""
    shown = [f"{name}: {value}" for name, value in refusal.headers if name.lower() in _SHOWN_HEADERS]
    return (refusal.status_line, *shown, "", *refusal.body.splitlines())


def _times(group: GroupTally) -> tuple[str, str]:
    return _ms(group.latencies.quantile_s(0.50)), _ms(group.latencies.quantile_s(0.99))


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}"
