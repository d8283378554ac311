"""The cases: who sends requests to a worker and when, and what is read from it afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from benchmarks.load import Seen
from benchmarks.overload.app import PAUSE_PATH
from benchmarks.overload.crowd import Crowd, Sample, Stream, come
from benchmarks.overload.figures import Meter, Served, sent_within, served
from benchmarks.overload.worker import Capacity, Setup, Worker, running, starting
from benchmarks.store import Store

MEMBERS: Final = 40
CALM_S: Final = 4
# Figures are taken from this long after a change.
SETTLED_S: Final = 2.0
# Time that the crowd's process needs to start.
_CROWD_STARTS_S: Final = 1.5
_AFTERWARDS_S: Final = 5
# At the attack's end the operator tries the other ways to flip, and flips back.
_OPERATORS_S: Final = 3
_READ_EVERY_S: Final = 0.05
_CALM_LOAD: Final = 0.7
_BURST: Final = 4.0
_SLOW: Final = 0.05
_GUESTS: Final = 2000


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: members before it, in it, and after the flip; and what was used, as parts of capacity.

    ``apart_s`` is the flip through the operators' own listener. ``cpu_us`` is the worker's processor time per served
    request: other work on the machine changes it less than rates. ``seconds`` are the rates of single seconds as parts
    of their mean; ``after_end`` are the requests of guests from two seconds after the end on. ``bots`` are the results
    of the botnet.
    """

    capacity: Capacity
    calm: Served
    before: Served
    flipped: Served
    used_before: float
    used_flipped: float
    cpu_us: float
    flips_s: tuple[float, float]
    apart_s: float | None
    directly_s: float
    seconds: tuple[float, ...]
    after_end: Served
    bots: Seen


@dataclass(frozen=True, slots=True)
class Halves:
    """Members send half of capacity, guests three times it. ``guests_part`` is of what members leave."""

    members: Served
    guests_part: float


@dataclass(frozen=True, slots=True)
class Calm:
    """Loads below overload."""

    bursts: Served
    slow: Served
    pause: Served
    cold: Served


async def attack(setup: Setup, store: Store, seconds: int) -> Attack:
    """Calm, an attack, the flip during it, its end, and calm again."""
    async with running(setup, store) as worker:
        capacity = await worker.capacity()
        start_s = time.monotonic() + _CROWD_STARTS_S
        begins_s = start_s + CALM_S
        ends_s = begins_s + 2 * seconds + _OPERATORS_S
        crowd = [
            Stream("members", True, MEMBERS, MEMBERS, start_s, ends_s),
            Stream("afterwards", False, _GUESTS, capacity.per_s / 2, ends_s, ends_s + _AFTERWARDS_S, burst=1),
        ]
        async with _metered(worker) as readings, asyncio.TaskGroup() as tasks:
            coming = tasks.create_task(_come(worker, crowd))
            await _until(begins_s)
            botnet = tasks.create_task(worker.drown(2 * seconds + _OPERATORS_S))
            await _until(begins_s + SETTLED_S)
            count, cpu_s = worker.served(), worker.cpu_s()
            await _until(begins_s + seconds)
            flip_s = await worker.flip("emergency")
            flipped_s = time.monotonic()
            await _until(ends_s - _OPERATORS_S)
            cpu_us = (worker.cpu_s() - cpu_s) / (worker.served() - count) * 1e6
            apart_s = await worker.flip_apart("emergency")
            directly_s = await worker.flip_directly("emergency")
            back_s = await worker.flip("normal")
        samples, meter = coming.result(), Meter(readings)
        capacity = capacity.mean(await worker.capacity())
        before, flipped = (begins_s + SETTLED_S, begins_s + seconds), (flipped_s + SETTLED_S, ends_s - _OPERATORS_S)
        by_second = meter.by_second(begins_s + SETTLED_S, ends_s - _OPERATORS_S)
        mean = sum(by_second) / len(by_second)
        return Attack(
            capacity,
            served(sent_within(samples, "members", start_s + 1, begins_s)),
            served(sent_within(samples, "members", *before)),
            served(sent_within(samples, "members", *flipped)),
            meter.rate(*before) / capacity.per_s,
            meter.rate(*flipped) / capacity.per_s,
            cpu_us,
            (flip_s, back_s),
            apart_s,
            directly_s,
            tuple(rate / mean for rate in by_second),
            served(sent_within(samples, "afterwards", ends_s + SETTLED_S, ends_s + _AFTERWARDS_S)),
            botnet.result(),
        )


async def halves(setup: Setup, store: Store, seconds: int) -> Halves:
    """Members send half of what the app can serve, guests three times as much as it can."""
    async with running(setup, store) as worker:
        capacity = await worker.capacity()
        from_s, until_s = _span(SETTLED_S + seconds)
        samples = await _come(
            worker,
            [
                Stream("members", True, 200, capacity.per_s / 2, from_s, until_s, burst=1),
                Stream("guests", False, _GUESTS, capacity.per_s * 3, from_s, until_s, burst=1),
            ],
        )
        capacity = capacity.mean(await worker.capacity())
        from_s += SETTLED_S
        members = sent_within(samples, "members", from_s, until_s)
        guests = sent_within(samples, "guests", from_s, until_s)
        rest = capacity.per_s * (until_s - from_s) - sum(sample.status == 200 for sample in members)
        return Halves(served(members), sum(sample.status == 200 for sample in guests) / rest)


async def calm(setup: Setup, store: Store, seconds: int) -> Calm:
    """70 % of what the app can serve: in bursts, with slow requests, with a pause, and from the start."""
    async with running(setup, store) as worker:
        rate = (await worker.capacity()).per_s * _CALM_LOAD
        bursts = await _calm(worker, seconds, rate, _BURST)
        slow = await _calm(worker, seconds, rate, 1, slow=_SLOW)
        pause = await _calm(worker, seconds, rate, 1, meanwhile=lambda: worker.ask(PAUSE_PATH))
    async with starting(setup, store) as (worker, ready):
        asking = asyncio.create_task(_calm(worker, seconds, rate, 1))
        try:
            await ready
            cold = await asking
        finally:
            asking.cancel()
    return Calm(bursts, slow, pause, cold)


async def _calm(
    worker: Worker,
    seconds: float,
    rate: float,
    burst: float,
    slow: float = 0.0,
    meanwhile: Callable[[], Awaitable[None]] | None = None,
) -> Served:
    """The outcome for guests at this rate, without requests that found no server."""
    from_s, until_s = _span(seconds)
    guests = Stream("guests", False, _GUESTS, rate, from_s, until_s, burst=burst, slow=slow)
    coming = asyncio.create_task(_come(worker, [guests]))
    try:
        if meanwhile is not None:
            await _until((from_s + until_s) / 2)
            await meanwhile()
        samples = await coming
    finally:
        coming.cancel()
    return served(sample for sample in samples if sample.stream == "guests" and sample.status)


async def _come(worker: Worker, streams: Sequence[Stream]) -> list[Sample]:
    return await come(Crowd(worker.port, worker.secret, tuple(streams)))


def _span(seconds: float) -> tuple[float, float]:
    from_s = time.monotonic() + _CROWD_STARTS_S
    return from_s, from_s + seconds


async def _until(moment_s: float) -> None:
    await asyncio.sleep(moment_s - time.monotonic())


@asynccontextmanager
async def _metered(worker: Worker) -> AsyncIterator[list[tuple[float, int]]]:
    """Readings of what the worker has served over time."""
    readings: list[tuple[float, int]] = []

    async def read() -> None:
        while True:
            readings.append((time.monotonic(), worker.served()))
            await asyncio.sleep(_READ_EVERY_S)

    reading = asyncio.create_task(read())
    try:
        yield readings
    finally:
        reading.cancel()
