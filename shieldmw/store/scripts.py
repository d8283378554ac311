"""The Lua scripts as typed functions, which encode arguments and check replies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from importlib.resources import files
from struct import Struct, pack

from shieldmw.core.bucket import Charge, Outcome, TakeRequest
from shieldmw.core.claims import ASKS_IN, MOST_RENEWALS, MOST_TICKETS, Claim, Ranked
from shieldmw.core.debts import Debt, deepest_us
from shieldmw.core.lease import Unspent
from shieldmw.core.made import made
from shieldmw.core.metrics import FLEET_DECISIONS
from shieldmw.core.portion import Portion, PortionRequest
from shieldmw.core.seats import LEASE_S, Audience, Capacity, Grant, Report
from shieldmw.core.waiting import QueueCounters
from shieldmw.errors import StoreError

# Scripts that can be run for one key at a time, if the keys are on different nodes.
PER_BUCKET_SCRIPTS = frozenset({"take", "give_back", "settle", "refund"})

# One claim, as claim.lua reads it.
_CLAIM = Struct("<8sdddd")

Run = Callable[[str, Sequence[str], Sequence[str | int | bytes]], Awaitable[object]]
KeyOf = Callable[[Charge], str]


@cache
def source(name: str) -> str:
    """The text of ``lua/<name>.lua``."""
    return files("shieldmw.store").joinpath("lua", f"{name}.lua").read_text("ascii")


async def take(run: Run, requests: Sequence[TakeRequest], key_of: KeyOf) -> list[Outcome]:
    """Run ``take.lua`` for several requests, one after the other."""
    buckets: dict[str, int] = {}
    numbers: list[int] = []
    for charges, prefetch in requests:
        numbers += (len(charges), prefetch)
        for charge in charges:
            _, limit, cost = charge
            bucket = buckets.setdefault(key_of(charge), len(buckets) + 1)
            numbers += (bucket, limit.unit_us, limit.tau_us, cost)
    count = 1 + len(requests) + sum([len(charges) for charges, _ in requests])
    reply = whole_numbers("take", await run("take", list(buckets), (packed(numbers),)), count)
    now_us, at = reply[0], 1
    outcomes = []
    for charges, _ in requests:
        leased, after = reply[at], at + 1 + len(charges)
        tats_us = tuple(reply[at + 1 : after])
        outcomes.append(made(Outcome, (leased >= 0, now_us, tats_us, leased if leased > 0 else 0, 0)))
        at = after
    return outcomes


def packed(numbers: Sequence[int]) -> bytes:
    """Whole numbers as one argument of a script; each must be exact in a double."""
    return pack(f"<{len(numbers)}d", *numbers)


async def portion(run: Run, request: PortionRequest, key_of: KeyOf) -> Portion:
    """Run ``portion.lua``."""
    limit = request.charge.limit
    arguments = (limit.unit_us, limit.tau_us, request.want, request.least)
    return Portion(*whole_numbers("portion", await run("portion", [key_of(request.charge)], arguments), 3))


async def give_back(run: Run, unspent: Sequence[Unspent], key_of: KeyOf) -> int:
    """Run ``give_back.lua``; returns the number of buckets that were credited."""
    keys = [key_of(given.charge) for given in unspent]
    arguments = [number for given in unspent for number in (given.ceiling_us, given.give_us)]
    reply = await run("give_back", keys, arguments)
    return whole_numbers("give_back", [reply], 1)[0]


async def settle(run: Run, debts: Sequence[Debt], now_us: int, worker: str, key_of: KeyOf) -> None:
    """Run ``settle.lua`` for debts of a worker whose clock says ``now_us``."""
    keys: list[str] = []
    arguments = [now_us]
    for debt in debts:
        charge, workers, admitted_us, tat_us, number = debt
        bucket = key_of(charge)
        keys += (bucket, settled_key(bucket, worker))
        ttl_ms = max(1, -(-(tat_us - now_us) // 1000))
        arguments += (number, admitted_us, tat_us, workers, deepest_us(charge.limit), ttl_ms)
    whole_numbers("settle", [await run("settle", keys, arguments)], 1)


def settled_key(bucket: str, worker: str) -> str:
    """The key that records a worker's last settled debt on a bucket."""
    return f"{bucket}:settled:{worker}"


async def refund(run: Run, charge: Charge, ceiling_us: int, charged_us: int, key_of: KeyOf) -> int:
    """Run ``refund.lua`` for a charge and its outcome; returns the microseconds by which the TAT was moved back."""
    reply = await run("refund", [key_of(charge)], (ceiling_us, charge.step_us, charged_us))
    return whole_numbers("refund", [reply], 1)[0]


async def seats(run: Run, key: str, report: Report, capacity: Capacity, channel: str) -> Grant:
    """Run ``seats.lua`` for one worker."""
    here, want = report.present, report.demand
    arguments = (
        *(report.worker, capacity.seats, capacity.guest_seats, int(LEASE_S * 1000)),
        *(want.hosts, want.members, want.guests, here.hosts, here.members, here.guests),
        *(report.seats, report.guest_seats, channel),
        *(
            report.leased.hosts,
            report.leased.members,
            report.leased.guests,
            round(report.leased_for_s * 1000),
            report.coming,
            report.left,
        ),
    )
    granted, guests, member_level, guest_level, workers, *sums = whole_numbers(
        "seats", await run("seats", [key], arguments), 14
    )
    present, demand, leased = Audience(*sums[:3]), Audience(*sums[3:6]), Audience(*sums[6:])
    return Grant(granted, guests, member_level, guest_level, workers, present, demand, leased)


async def queue(run: Run, key: str, give: int, free: int, known: QueueCounters, ttl_ms: int) -> QueueCounters:
    """Run ``queue.lua``."""
    arguments = (give, free, ttl_ms, known.given, known.called)
    return QueueCounters(*whole_numbers("queue", await run("queue", [key], arguments), 3))


async def claim(run: Run, keys: tuple[str, str], claims: Sequence[Claim], ttl_ms: int) -> list[Ranked]:
    """Run ``claim.lua`` for the keys of this slot of time, and of the one before."""
    renewed = b"".join([_CLAIM.pack(*each) for each in claims])
    reply = await run("claim", keys, (renewed, ttl_ms, MOST_TICKETS, MOST_RENEWALS, ASKS_IN))
    numbers = whole_numbers("claim", reply, 2 * len(claims))
    return [Ranked(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]


async def decided(
    run: Run, keys: tuple[str, str], counted: Sequence[int], confirmed: Sequence[int], ttl_ms: int
) -> list[int]:
    """Run ``decided.lua`` for one worker."""
    names = [" ".join(labels) for labels in FLEET_DECISIONS.series]
    numbers = [part for of_one in zip(names, counted, confirmed, strict=True) for part in of_one]
    return whole_numbers("decided", await run("decided", keys, (ttl_ms, *numbers)), len(names))


def whole_numbers(script: str, reply: object, count: int) -> list[int]:
    """The reply as a list of ``count`` integers.

    Raises:
        StoreError: it is not that.
    """
    if not isinstance(reply, list) or len(reply) != count or set(map(type, reply)) - {int}:
        raise StoreError(f"{script}.lua returned {reply!r:.200}: expected {count} whole numbers")
    return reply
