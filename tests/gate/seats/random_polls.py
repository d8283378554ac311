"""A random model of a fleet in virtual time: players that poll and listeners on streams share one capacity.

They come, stay for some minutes and leave without a word; workers are killed and replaced, the operator cuts and raises
the capacity, the store's clock steps, and the store is away or loses the table of seats. ``python -m
gate.seats.random_polls 40`` (from ``tests``) prints what came of each kind of story, in so many runs of it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Any

from gate.doubles import LoopClock, clock_of, pass_time, run
from gate.seats.fleet import FleetStore
from gate.seats.test_polled import LEASE_S, POLL_S, G, M, Stream, Viewer
from shieldmw import Settings
from shieldmw.core.client import ListenerClass
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.core.seats import SeatTable
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.worker import Worker
from shieldmw.wiring import build_worker

STEP_S = 0.25
SECRET = b"a secret of at least 32 characters"

# What the store does for workers' seats and mode; all of it fails while it is away.
ASKED = ("seats", "release_seats", "document", "set_document", "queue", "secret", "tell", "deny_list", "fleet")


class StoreThatGoes(FleetStore):
    """A store that can be away, and whose clock can be set."""

    is_away = False
    ahead_s = 0.0

    def __getattribute__(self, name: str) -> Any:
        if name in ASKED and super().__getattribute__("is_away"):
            return _unavailable
        return super().__getattribute__(name)


async def _unavailable(*_: object, **__: object) -> Any:
    raise StoreUnavailable("away")


@dataclass
class Model:
    """The fleet, those who want to watch, and what was seen of them.

    ``streams`` is the part of them that wants a stream, by chance if it is None. ``most_over``: how many seats were
    taken at any moment beyond the capacity and beyond those taken before: after a cut, and after the store was away,
    there may be more than the capacity for a while, but nobody may come. ``most_over_while_away``: beyond the capacity
    while the store is away.
    """

    seed: int
    capacity: int = 100
    workers: int = 3
    stay_s: float = 150.0
    crowd: float = 5.0
    streams: float | None = None
    members: float = 0.4
    lease_s: int = LEASE_S
    dice: Random = field(init=False)
    store: StoreThatGoes = field(init=False)
    seats: int = field(init=False)
    part: float = field(init=False)
    nodes: list[Worker] = field(default_factory=list)
    players: list[Viewer] = field(default_factory=list)
    listeners: list[Stream] = field(default_factory=list)
    ends: dict[tuple[int, str], int] = field(default_factory=dict)
    born: int = 0
    step: int = 0
    before: int = 0
    most_over: int = 0
    most_over_while_away: int = 0
    watched: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dice = Random(self.seed)
        self.seats = self.capacity
        self.part = self.dice.choice([0.0, 0.4, 0.8, 1.0]) if self.streams is None else self.streams

    async def starts(self, stack: AsyncExitStack, workers: int) -> None:
        """Workers come up, each told to a place of its own."""
        for _ in range(workers):
            values: dict[str, Any] = {"polled_paths": "/hls/*", "live_paths": "/live", "capacity": self.capacity}
            settings = Settings(redis_url="memory://", **values)
            node = build_worker(settings, self.store, clock=clock_of(LoopClock().s))
            node.entrance.seats._share.worker = f"{self.dice.getrandbits(64):016x}"
            await pass_time(self.dice.random())  # so that they do not report in step
            await node.start()
            stack.push_async_callback(node.stop)
            self.nodes.append(node)

    def kill(self) -> None:
        """A worker is gone: so are its streams, and it gives nothing back."""
        worker = self.nodes.pop(self.dice.randrange(len(self.nodes)))
        seats = worker.entrance.seats
        for task in asyncio.all_tasks():
            if task in (seats._stepper, seats._refresher._task):
                task.cancel()
        for listener in self.listeners:
            if listener.seat is not None and listener.seat in seats.ledger:
                seats.ledger.release(listener.seat)
                listener.seat = None

    def someone(self) -> ListenerClass:
        """A class by chance."""
        return M if self.dice.random() < self.members else G

    def comes(self) -> None:
        """Another one wants to watch."""
        self.born += 1
        if self.dice.random() < self.part:
            self.listeners.append(Stream(self.someone(), self.born))
        else:
            self.players.append(Viewer(self.someone(), self.born, lease_s=self.lease_s))

    def polls(self, player: Viewer) -> None:
        """A poll reaches one of the workers."""
        worker = self.dice.choice(self.nodes)
        player.polls_at(worker)
        shown = player.ticket and worker.entrance.admission._signer.read_ticket(player.ticket, 0.0)
        if shown:
            key = (player.number, shown.id)
            self.ends[key] = max(self.ends.get(key, 0), shown.leased_until_s)

    def moves(self) -> None:
        """A quarter of a second: some leave and others come, one in sixteen polls or asks for a stream."""
        part = STEP_S / self.stay_s
        self.step = (self.step + 1) % round(POLL_S / STEP_S)
        for player in self.players[:]:
            if player.plays and self.dice.random() < part:
                self.players.remove(player)
            elif player.number % round(POLL_S / STEP_S) == self.step:
                self.polls(player)
        for listener in self.listeners[:]:
            if listener.seat is not None and self.dice.random() < part:
                self.leaves(listener)
            elif listener.seat is None and self.dice.random() < STEP_S / POLL_S:
                listener.comes_to(self.dice.choice(self.nodes))
        while len(self.players) + len(self.listeners) < self.crowd * self.capacity:
            self.comes()

    @property
    def taken(self) -> int:
        """How many seats are taken: by leases that run, wherever they were signed, and by streams."""
        now_s = self.store._now_s()
        self.ends = {key: end_s for key, end_s in self.ends.items() if end_s > now_s}
        return len(self.ends) + sum(one.seat is not None for one in self.listeners)

    def leave(self, part: float, worker: Worker | None = None) -> None:
        """Some of those who watch leave, all at the same moment; at one worker all of them have streams."""
        for player in [one for one in self.players if one.plays and self.dice.random() < part]:
            if worker is None:
                self.players.remove(player)
        for listener in [one for one in self.listeners if one.seat is not None and self.dice.random() < part]:
            if worker is None or listener.seat in list(worker.entrance.seats.ledger):
                self.leaves(listener)

    def leaves(self, listener: Stream) -> None:
        """A listener's stream ends."""
        for node in self.nodes:
            if listener.seat is not None and listener.seat in node.entrance.seats.ledger:
                node.entrance.seats.release(listener.seat)
        self.listeners.remove(listener)

    def looks(self, *, watch: bool) -> None:
        """Count the seats that are taken, and those who watch."""
        taken = self.taken
        over = taken - max(self.seats, self.before)
        if self.store.is_away:
            self.most_over_while_away = max(self.most_over_while_away, taken - self.seats)
            self.before = max(self.before, taken)
        else:
            self.most_over = max(self.most_over, over)
            self.before = min(self.before, taken)
        if taken <= self.seats:
            self.before = 0
        if watch:
            playing = [one for one in self.players if one.plays]
            streams = [one for one in self.listeners if one.seat is not None]
            self.watched.append((len(playing) + len(streams)) / self.seats)

    async def passes(self, for_s: float, *, watch: bool = False) -> None:
        """Time passes."""
        for _ in range(round(for_s / STEP_S)):
            await pass_time(STEP_S)
            self.moves()
            self.looks(watch=watch)

    async def cuts(self, seats: int, guest_share: float) -> None:
        """The operator changes the capacity."""
        change = ModeChange(Mode.EMERGENCY, "ops", capacity=seats, guest_share=guest_share)
        await self.nodes[0].control._mode_watch.set(change, None)
        self.before, self.seats = self.taken, seats

    async def plays(self, story: Story) -> Model:
        """A story, from a house that has been full for a while."""
        clock = LoopClock()
        self.store = StoreThatGoes(SECRET, now_us=lambda: clock.us() + int(self.store.ahead_s * 1e6))
        async with AsyncExitStack() as stack:
            await self.starts(stack, self.workers)
            await pass_time(6.0)
            await self.passes(60)
            await story(self, stack)
            self.store.is_away = False
        return self


Story = Callable[[Model, AsyncExitStack], Coroutine[Any, Any, None]]


async def comings_and_goings(model: Model, _: AsyncExitStack) -> None:
    """Nothing but viewers."""
    await model.passes(240, watch=True)


async def a_kill(model: Model, stack: AsyncExitStack) -> None:
    """A worker is killed and comes back after some seconds."""
    await model.passes(20, watch=True)
    model.kill()
    await model.passes(model.dice.choice([1, 5, 20]), watch=True)
    await model.starts(stack, 1)
    await model.passes(200, watch=True)


async def a_cut(model: Model, stack: AsyncExitStack) -> None:
    """A cut, and a raise a while later."""
    await model.cuts(round(model.capacity * model.dice.choice([0.3, 0.6, 0.8])), model.dice.choice([0.0, 0.3, 1.0]))
    await model.passes(90)
    await model.cuts(model.capacity, 1.0)
    await model.passes(60)


async def clock_steps(model: Model, stack: AsyncExitStack) -> None:
    """The store's clock is set, by up to five seconds."""
    for _ in range(3):
        model.store.ahead_s += model.dice.uniform(-5, 5)
        await model.passes(40)


async def an_outage(model: Model, stack: AsyncExitStack) -> None:
    """The store is away for a while, and many leave meanwhile."""
    model.store.is_away = True
    await model.passes(model.dice.uniform(5, 40))
    model.leave(model.dice.choice([0, 0.5, 0.9]))
    await model.passes(model.dice.choice([0, 5, 30]))
    model.leave(model.dice.choice([0, 0.5, 1.0]), model.dice.choice(model.nodes))
    if model.dice.random() < 0.5:
        model.store._seats = SeatTable()
    model.store.is_away = False
    await model.passes(90)


async def an_empty_table(model: Model, stack: AsyncExitStack) -> None:
    """The store loses the table at any moment."""
    model.leave(model.dice.choice([0, 0.5, 0.9]))
    model.store._seats = SeatTable()
    await model.passes(60)


async def a_newcomer_first(model: Model, stack: AsyncExitStack) -> None:
    """The table is lost, and a worker that has just started reports first."""
    model.leave(model.dice.choice([0, 0.5]))
    model.store._seats = SeatTable()
    await model.starts(stack, 1)
    await model.passes(60)


async def all_are_replaced(model: Model, stack: AsyncExitStack) -> None:
    """While the store is away, workers are killed, and new ones start."""
    model.store.is_away = True
    await model.passes(10)
    for _ in range(model.workers):
        await model.starts(stack, 1)
        model.kill()
        await model.passes(5)
    await model.passes(5)
    if model.dice.random() < 0.5:
        model.store._seats = SeatTable()
    model.store.is_away = False
    await model.passes(90)


STORIES = (
    comings_and_goings,
    a_kill,
    a_cut,
    clock_steps,
    an_outage,
    an_empty_table,
    a_newcomer_first,
    all_are_replaced,
)


# Seats, length of a lease and mean stay of a viewer in seconds, of which it is told how many seats are watched.
WATCHED = ((300, 30, 600), (300, 12, 600), (300, 30, 150), (300, 12, 150), (100, 30, 150), (100, 12, 150))


def tell_of(story: Story, runs: int) -> None:
    """How many seats were ever taken beyond the capacity, in the worst runs."""
    models = [run(Model(seed).plays(story)) for seed in range(runs)]
    over = sorted(model.most_over for model in models)[-4:]
    away = sorted(model.most_over_while_away for model in models)[-4:]
    print(f"{story.__name__}: of {models[0].capacity} seats taken twice {over}, while the store is away {away}")  # noqa: T201


def tell_watched(runs: int) -> None:
    """How many seats are watched by those who poll, on average."""
    for seats, lease_s, stay_s in WATCHED:
        for story in (comings_and_goings, a_kill):
            sizes = {"capacity": seats, "lease_s": lease_s, "stay_s": stay_s, "crowd": 1.8, "streams": 0.0}
            models = [run(Model(seed, **sizes).plays(story)) for seed in range(runs)]  # type: ignore[arg-type]
            shares = [sum(model.watched) / len(model.watched) for model in models]
            share, over = sum(shares) / len(shares), max(model.most_over for model in models)
            print(f"{seats} seats, {lease_s} s, {stay_s} s, {story.__name__}: {share:.1%} watched, {over} twice")  # noqa: T201


def main(runs: int, names: list[str]) -> None:
    """Tell of the stories that are named, or of all, and of how many seats are watched."""
    for story in STORIES:
        if not names or story.__name__ in names:
            tell_of(story, runs)
    if not names or "watched" in names:
        tell_watched(runs)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
