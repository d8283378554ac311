"""A drill's figures as rows and lines of plain text.

Pure: no terminals, no colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shieldmw.demo.cut import Cut
from shieldmw.demo.polled import Count, Polled
from shieldmw.rehearsal.load.audience import Audience
from shieldmw.rehearsal.load.drill import Refusal
from shieldmw.rehearsal.load.tally import Counts, GroupTally

LIVE_COLUMNS: Final = ("group", "asked", "got", "refused", "failed", "asked/s", "got/s", "p50 ms", "p99 ms")
FINAL_COLUMNS: Final = (
    "group",
    "asked",
    "got",
    "refused",
    "turned away",
    "app errors",
    "lost",
    "let through",
    "limits allow",
    "p50 ms",
    "p99 ms",
)
CUT_COLUMNS: Final = ("the cut", "")
POLLED_COLUMNS: Final = ("those who poll", "")
_SHOWN_HEADERS: Final = ("content-type", "retry-after", "ratelimit-policy", "ratelimit", "cache-control")


@dataclass(slots=True)
class Speeds:
    """Requests per second of each group, sent and served, between two samples. ``at_s`` is seconds since the start."""

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
    figures = (counts.asked, counts.served, counts.refused + counts.turned_away, counts.app_error + counts.lost)
    return (group.name, *(f"{n:,}" for n in figures), f"{asking:.0f}", f"{getting:.0f}", *_times(group))


def progress_line(phase: str, at_s: float, groups: Mapping[str, GroupTally], speeds: Speeds) -> str:
    """The same figures on one line, for a log."""
    parts = []
    for group in groups.values():
        _, asked, got, refused, failed, asking, _, p50, p99 = live_row(group, speeds, at_s)
        part = f"{group.name} asked {asked} ({asking}/s) got {got} refused {refused} failed {failed}"
        parts.append(f"{part} p50/p99 {p50}/{p99} ms")
    return f"{at_s:4.0f} s {phase}: " + " | ".join(parts)


def audience_line(audience: Audience) -> str:
    """The numbers of those who listen and who wait, by group."""
    parts = []
    for group in audience.groups():
        waiting = audience.waiting(group)
        parts.append(f"{audience.seated(group)} {group}" + (f" ({waiting} at the door)" if waiting else ""))
    return "listening: " + ", ".join(parts)


def cut_rows(cut: Cut) -> Sequence[tuple[str, str]]:
    """Rows under CUT_COLUMNS."""
    guests, door, back = cut.guests, cut.door, cut.back
    answers = ", ".join(f"{status}: {count}" for status, count in sorted(door.answers.items())) or "none"
    present = [f"{group} {' -> '.join(str(n) for n in counts)}" for group, counts in cut.present.items()]
    return (
        ("flip to the last worker", f"{_s(cut.obeyed_after_s)} ({cut.workers} workers)"),
        ("members kept", f"{_share(cut.members.kept, cut.members.before)}, lines missed: {cut.members.lines_missed}"),
        ("members who came meanwhile and got in", _share(cut.newcomers[1], cut.newcomers[0])),
        ("guests let go", _share(guests.gone, guests.streams)),
        ("the first and the last of them, after", f"{_s(guests.first_gone_s)}, {_s(guests.last_gone_s)}"),
        ("guests told why (event: shed)", _share(guests.told_why, guests.gone)),
        ("guests' answers at the door", f"{answers}; naming the recording: {door.named_recording}"),
        ("attacker's share of what was served", " -> ".join(_percent(part) for part in cut.shares)),
        ("audience: at the flip -> end of emergency -> now", "; ".join(present)),
        ("guests back in, the first after", f"{back.guests_back}, {_s(back.first_back_s)}"),
    )


def polled_rows(polled: Polled) -> Sequence[tuple[str, str]]:
    """Rows under POLLED_COLUMNS."""
    members, guests, back = polled.members, polled.guests, polled.back
    at_flip, most, now = polled.counts[0], polled.most_after_the_cut, polled.counts[-1]
    counted = " -> ".join(_count(count) for count in (at_flip, most, now))
    return (
        ("members served at every poll", _share(members.kept, members.before)),
        ("guests who lost their seat", _share(guests.gone, guests.streams)),
        ("the first and the last of them, after", f"{_s(guests.first_gone_s)}, {_s(guests.last_gone_s)}"),
        ("guests told why (503)", _share(guests.told_why, guests.gone)),
        ("seats: at the flip -> most after the cut -> now", counted),
        ("guests back in, the first after", f"{back.guests_back}, {_s(back.first_back_s)}"),
    )


def _count(count: Count | None) -> str:
    return "-" if count is None else f"{count.seats} ({count.leased} leases)"


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({_percent(part / whole if whole else None)})"


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{int(part * 1000) / 10:g} %"  # 99.96 is not 100


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"


def final_row(group: GroupTally) -> tuple[str, ...]:
    """One row under FINAL_COLUMNS."""
    counts = group.counts()
    figures = (
        counts.asked,
        counts.served,
        counts.refused,
        counts.turned_away,
        counts.app_error,
        counts.lost,
        counts.let_through,
        group.allowed(),
    )
    return (group.name, *(f"{n:,}" for n in figures), *_times(group))


def refusal_lines(refusal: Refusal) -> Sequence[str]:
    """One refused answer as `curl -i` would show it, without the headers unrelated to the refusal."""
    shown = [f"{name}: {value}" for name, value in refusal.headers if name.lower() in _SHOWN_HEADERS]
    return (refusal.status_line, *shown, "", *refusal.body.splitlines())


def _times(group: GroupTally) -> tuple[str, str]:
    return _ms(group.latencies.quantile_s(0.50)), _ms(group.latencies.quantile_s(0.99))


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}"
