"""The results of members and bots while a botnet overloads the app, and the promises about them.

Pure. It knows only the counts from before and after the flip of the switch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shieldmw.rehearsal.load.tally import Counts, GroupTally
from shieldmw.rehearsal.load.verdict import Promise

# Promised part of the members' requests. The load is made on the machine that serves it, beside whatever else runs
# there: on a quiet machine it is all of them, without protection next to none.
PROMPT_SHARE: Final = 0.95
# Minimum of the bots' requests, as a multiple of the app's capacity; less would prove nothing.
LEAST_TIMES: Final = 1.5


@dataclass(frozen=True, slots=True)
class Spell:
    """A part of the flood: ``when`` in words, how long it was, and what members and bots requested in it."""

    when: str
    seconds: float
    members: GroupTally
    bots: GroupTally


@dataclass(frozen=True, slots=True)
class Flood:
    """The whole flood; the app can serve ``app_can_do_per_s``."""

    spells: tuple[Spell, ...]
    app_can_do_per_s: float

    def times(self, spell: Spell) -> float:
        """The bots' requests, as a multiple of the app's capacity."""
        return spell.bots.counts().asked / (spell.seconds * self.app_can_do_per_s)


def promises(flood: Flood) -> Iterable[Promise]:
    """The promises for members in a flood under every limit, and for the answers to bots."""
    for spell in flood.spells:
        yield _members(spell, flood.times(spell))
    yield _bots(sum((spell.bots.counts() for spell in flood.spells), Counts()))


def _members(spell: Spell, times: float) -> Promise:
    asked, prompt = spell.members.counts().asked, spell.members.prompt()
    percent = 100 * prompt / asked if asked else 0.0
    p99_s = spell.members.latencies.quantile_s(0.99)
    words = f"while a botnet under every limit asked for {times:.1f} times what the app can do, {spell.when}, "
    # 98.996 must not be shown as 99.00: truncate, do not round.
    words += f"{int(percent * 100) / 100:.2f} % of the members' requests were answered within a second "
    words += f"({prompt:,} of {asked:,}" + ("" if p99_s is None else f", p99 {p99_s * 1000:.0f} ms")
    words += f"; promised: at least {100 * PROMPT_SHARE:g} %)"
    return Promise(times >= LEAST_TIMES and asked > 0 and prompt >= PROMPT_SHARE * asked, words)


def _bots(bots: Counts) -> Promise:
    words = f"the botnet: {bots.served:,} requests took what members left, {bots.turned_away:,} were told 503 "
    words += f"temporary-reduced-capacity, {bots.refused:,} reached a limit, {bots.lost:,} got no answer"
    kept = bots.turned_away > 0 and bots.refused == 0 and bots.lost <= bots.asked // 100
    return Promise(kept, f"{words} (promised: no limit sees it, and each is answered)")
