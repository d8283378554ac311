"""Runs the second act: the crowd's requests, the listeners' streams and the operator's actions, on one clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shieldmw.admin.client import AdminClient, AdminError
from shieldmw.demo import cut as figures
from shieldmw.demo import polled as leases
from shieldmw.demo.botnet import BOTNET, app_can_do_per_s
from shieldmw.demo.cut import Cut, Moments, Roles
from shieldmw.demo.emergency import (
    ADMIN_PATH,
    EMERGENCY_CAPACITY,
    LEARNT_AFTER_S,
    NEW_MEMBERS,
    POLLING_GUESTS,
    POLLING_MEMBERS,
    PROBE_SOURCES,
    REASON,
    Plan,
)
from shieldmw.demo.flood import Flood, Spell
from shieldmw.demo.live_event import ATTACKER, GUESTS, MEMBERS, WORKERS, tally_of
from shieldmw.demo.polled import Count, Polled
from shieldmw.rehearsal.load.audience import Audience
from shieldmw.rehearsal.load.drill import Drill, Span
from shieldmw.rehearsal.load.listeners import Listeners
from shieldmw.rehearsal.load.propagation import Probes, Propagation
from shieldmw.rehearsal.load.tally import GroupTally

ROLES: Final = Roles(MEMBERS, NEW_MEMBERS, GUESTS)
_PROBES_READY_S: Final = 2.0  # before the flip they need this long to find the workers
_OPERATOR_WAITS_S: Final = 5.0
_LOOKS_EACH_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Flip:
    """An emergency that was started. Seconds of the local monotonic clock."""

    asked_s: float
    answered_s: float
    ends_s: float


class SecondAct:
    """One run of the plan against a server on ``host:port``. ``cut`` and ``polled`` are there once it is over."""

    def __init__(self, plan: Plan, host: str, port: int, admin_token: str, tallies: Mapping[str, GroupTally]) -> None:
        url = f"http://{host}:{port}"
        self.drill = Drill(plan.story, url, tallies, spans_of(plan))
        self.cut: Cut | None = None
        self.polled: Polled | None = None
        self.why_not: str | None = None
        """Why the switch could not be flipped."""
        self._plan = plan
        self._place = (host, port)
        self._admin = (url + ADMIN_PATH, admin_token)
        self._listeners = Listeners(plan.arrivals, url, lambda: self.drill.elapsed_s)

    @property
    def audience(self) -> Audience:
        """The listeners, also while it runs."""
        return self._listeners.audience

    @property
    def flood(self) -> Flood:
        """The requests of members and bots during the botnet's flood, and their results."""
        words = (f"from {LEARNT_AFTER_S:g} s after it came until the flip", "after the flip")
        spells = (
            Spell(when, span.ends_s - span.begins_s, span.tallies[MEMBERS], span.tallies[BOTNET])
            for when, span in zip(words, self.drill.spans, strict=True)
        )
        return Flood(tuple(spells), app_can_do_per_s(WORKERS))

    async def run(self) -> None:
        """Run to the end of the story, or until the switch cannot be flipped."""
        try:
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(self._listeners.run())
                load = tasks.create_task(self.drill.run())
                operating = tasks.create_task(self._operate())
                await asyncio.wait({load, operating}, return_when=asyncio.FIRST_EXCEPTION)
                listening.cancel()
        except* AdminError as failed:
            self.why_not = "; ".join(str(error) for error in failed.exceptions)

    async def _operate(self) -> None:
        plan = self._plan
        with AdminClient(*self._admin, "demo", patience_s=_OPERATOR_WAITS_S) as operator:
            async with Probes(*self._place, PROBE_SOURCES, WORKERS) as probes:
                await self._until(plan.attack_at_s)
                before = self._let_through()
                await self._until(plan.flip_at_s - _PROBES_READY_S)
                await probes.prepare()
                await self._until(plan.flip_at_s)
                at_flip = self._let_through()
                counts = [await asyncio.to_thread(count_seats, operator)]
                flip, propagation = await self._flip(operator, probes)
                while (left_s := flip.ends_s - time.monotonic()) > 0:
                    counts.append(await asyncio.to_thread(count_seats, operator))
                    await asyncio.sleep(min(left_s, _LOOKS_EACH_S))
                at_end = self._let_through()
                await self._until(plan.story.seconds)
                counts.append(await asyncio.to_thread(count_seats, operator))
                status = await asyncio.to_thread(operator.status)
            when = Moments(flip.asked_s, flip.answered_s, flip.ends_s, time.monotonic())
            shares = figures.share(ATTACKER, before, at_flip), figures.share(ATTACKER, at_flip, at_end)
            ended = status["mode"] == "normal"
            self.cut = measured(self.audience, when, propagation, ended, shares)
            groups = POLLING_MEMBERS, POLLING_GUESTS
            self.polled = leases.polled_in(self.audience, groups, when, counts, EMERGENCY_CAPACITY, ended=ended)

    async def _flip(self, operator: AdminClient, probes: Probes) -> tuple[Flip, Propagation]:
        """Flip the switch. Probes start knocking when the flip is requested, not only once it is confirmed."""
        knocking = asyncio.create_task(probes.obeyed())
        try:
            flip = await asyncio.to_thread(emergency, operator, self._plan.emergency_s)
            return flip, await knocking
        finally:
            knocking.cancel()

    async def _until(self, at_s: float) -> None:
        await self.drill.begun.wait()
        await asyncio.sleep(max(0.0, at_s - self.drill.elapsed_s))

    def _let_through(self) -> dict[str, int]:
        return {name: tally.counts().let_through for name, tally in self.drill.tallies.items()}


def emergency(operator: AdminClient, for_s: int) -> Flip:
    """Start an emergency that ends by itself.

    Raises:
        AdminError: anything but the new status came back.
    """
    asked_s = time.monotonic()
    status = operator.set_mode({"mode": "emergency", "for_seconds": for_s, "reason": REASON})
    answered_s = time.monotonic()
    return Flip(asked_s, answered_s, answered_s + float(status["until"]) - float(status["now"]))


def count_seats(operator: AdminClient) -> Count:
    """The seats that the fleet counts now.

    Raises:
        AdminError: anything but a status came back.
    """
    status = operator.status()
    return Count(time.monotonic(), sum(status["seats"].values()), sum(status["leased"].values()))


def spans_of(plan: Plan) -> tuple[Span, Span]:
    """Pure: the attack before the flip, once the workers have learnt of it, and the emergency."""
    ends_s = plan.flip_at_s + plan.emergency_s
    spans = ((plan.attack_at_s + LEARNT_AFTER_S, plan.flip_at_s), (plan.flip_at_s, ends_s))
    before, after = (Span(*span, {name: tally_of(name) for name in (MEMBERS, BOTNET)}) for span in spans)
    return before, after


def measured(
    audience: Audience,
    when: Moments,
    propagation: Propagation,
    ended: bool,
    shares: tuple[float | None, float | None],
    roles: Roles = ROLES,
) -> Cut:
    """Pure: all figures of the cut."""
    return Cut(
        flip_took_s=when.answered_s - when.asked_s,
        obeyed_after_s=propagation.after_s(when.answered_s),
        workers=len(propagation.refused_s),
        members=figures.members_in(audience, roles.members, when),
        newcomers=figures.newcomers_in(audience, roles.new_members, when),
        guests=figures.guests_in(audience, roles.guests, when),
        door=figures.door_in(audience, roles.guests, when),
        back=figures.return_of(audience, roles.guests, when, ended=ended),
        present=figures.present_in(audience, when),
        shares=shares,
    )
