"""The Lua scripts as typed functions: what goes in, and what their replies must look like."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files

from shieldmw.core.bucket import Charge, Outcome
from shieldmw.core.seats import LEASE_S, Audience, Capacity, Grant, Report
from shieldmw.core.waiting import Queue
from shieldmw.errors import StoreError

NAMES = ("take", "mode", "seats", "queue", "deny")

Run = Callable[[str, Sequence[str], Sequence[str | int]], Awaitable[object]]


def source(name: str) -> str:
    """The text of ``lua/<name>.lua``."""
    return files("shieldmw.store").joinpath("lua", f"{name}.lua").read_text("ascii")


async def take(run: Run, keys: Sequence[str], charges: Sequence[Charge]) -> Outcome:
    """Run ``take.lua`` on the buckets of the charges."""
    arguments = [number for charge in charges for number in (charge.limit.unit_us, charge.limit.tau_us, charge.cost)]
    allowed, now_us, *tats_us = whole_numbers("take", await run("take", keys, arguments), 2 + len(keys))
    return Outcome(allowed == 1, now_us, tuple(tats_us))


async def seats(run: Run, key: str, report: Report, capacity: Capacity, channel: str) -> Grant:
    """Run ``seats.lua`` for one worker."""
    here, want = report.present, report.demand
    arguments = (
        *(report.worker, capacity.seats, capacity.guest_seats, int(LEASE_S * 1000)),
        *(want.hosts, want.members, want.guests, here.hosts, here.members, here.guests),
        *(report.seats, report.guest_seats, channel),
    )
    granted, guests, member_level, guest_level, workers, *sums = whole_numbers(
        "seats", await run("seats", [key], arguments), 11
    )
    return Grant(granted, guests, member_level, guest_level, workers, Audience(*sums[:3]), Audience(*sums[3:]))


async def queue(run: Run, key: str, give: int, free: int, known: Queue, ttl_ms: int) -> Queue:
    """Run ``queue.lua``."""
    arguments = (give, free, ttl_ms, known.given, known.called)
    return Queue(*whole_numbers("queue", await run("queue", [key], arguments), 3))


def whole_numbers(script: str, reply: object, count: int) -> list[int]:
    """The reply as so many whole numbers.

    Raises:
        StoreError: the reply is none of that script's.
    """
    if not isinstance(reply, list) or len(reply) != count or any(type(number) is not int for number in reply):
        raise StoreError(f"{script}.lua returned {reply!r:.200}: expected {count} whole numbers")
    return reply
