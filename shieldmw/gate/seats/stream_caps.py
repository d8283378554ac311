"""How many live streams a client may have in the whole fleet. Of a member the newest stay, of an address the oldest.

Here the cap holds at once, with no call. Between workers it holds soon: each tells the others of clients who come,
in batches on the channel of changes, and those who have streams of the same client answer. All then see the same
streams, and each ends those of its own that are beyond the cap. Nothing is kept in the store: what a worker told holds
while it is heard of, and a worker that has missed a message tells everything again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Reason
from shieldmw.core.seats import LEASE_S
from shieldmw.core.table import BoundedCache
from shieldmw.gate.fleet.refresher import Refresher
from shieldmw.store.port import ModeRegister

from .ledger import Seat
from .seats import Seats
from .takeover import Takeovers

STREAMS = "streams "

# Every worker hears every message, so the fleet as a whole tells of so many clients a second at most: to take one in
# costs a microsecond. The messages are as few as those of the seats, and none much longer than 16 kB.
CLIENTS_PER_S = 20_000
MOST_AT_ONCE, LEAST_AT_ONCE = 400, 16

# Each worker is heard of so often, though it has nothing to tell, and is forgotten when its seats return.
HEARTBEAT_S = 5.0
LEAST_S = 0.25

# Clients whose streams on other workers are remembered; a few for each stream here, and those seen most lately.
CLIENTS_KEPT = 131_072

# A number that no message has: a worker that stops says so with it.
GOODBYE = 0


@dataclass(frozen=True, slots=True)
class StreamCaps:
    """Live streams that one member and one address may have; 0 for no limit."""

    per_member: int = 0
    per_address: int = 0

    def __bool__(self) -> bool:
        """Whether anybody has a cap."""
        return bool(self.per_member or self.per_address)

    def of(self, name: ListenerClass) -> int:
        """The cap of a client of this class."""
        return self.per_address if name is ListenerClass.GUEST else self.per_member


NO_CAPS = StreamCaps()


class Told(NamedTuple):
    """What a worker tells of one client: when its streams there began; ``asks`` others to tell of theirs."""

    client: int
    asks: bool
    began_ms: tuple[int, ...]


@dataclass(slots=True)
class _Peer:
    """Another worker: the number of its last message, and until when it counts as alive (monotonic)."""

    number: int
    until_s: float


class ClientStreams:
    """Knows the streams of this worker's clients in the fleet, and holds them to their caps."""

    def __init__(
        self,
        register: ModeRegister,
        seats: Seats,
        caps: StreamCaps,
        takeovers: Takeovers,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._takeovers = takeovers
        self._register = register
        self._seats = seats
        self._caps = caps
        self._now_s = now_s
        self._number = GOODBYE
        self._peers: dict[str, _Peer] = {}
        self._elsewhere: BoundedCache[int, dict[str, tuple[int, ...]]] = BoundedCache(CLIENTS_KEPT)
        self._to_tell: dict[int, bool] = {}
        self._to_tell_again: list[int] = []
        self._refresher = Refresher("streams", self.refresh, interval_s=HEARTBEAT_S, least_s=LEAST_S)
        seats.ledger.on_release = self._gone

    # --- who comes and goes here

    def making_room(self, seat: Seat, *, live: bool) -> Sequence[Seat] | None:
        """The streams here that end for a new one of their client; None where the new one is too many.

        ``live``: it shows a ticket. So it replaces a stream, here or elsewhere, which does not count.
        """
        cap = self._caps.of(seat.listener_class)
        if not cap or not seat.client:
            return ()
        mine = self._seats.ledger.streams_of(seat.client)
        if live:
            mine = tuple([one for one in mine if (one.ticket_id, one.path) != (seat.ticket_id, seat.path)])
        elsewhere = self._streams_elsewhere(seat.client)
        if seat.listener_class is ListenerClass.GUEST:
            others = len(elsewhere) - (1 if live and elsewhere else 0)
            return () if len(mine) + others < cap else None
        return _oldest_first(mine)[: self._mine_among(mine, elsewhere, len(mine) + len(elsewhere) + 1 - cap)]

    def came(self, seat: Seat) -> None:
        """A listener has a seat here now."""
        if seat.client and self._caps.of(seat.listener_class):
            self._to_tell[seat.client] = True
            self._refresher.soon()

    def _gone(self, seat: Seat) -> None:
        """A stream has ended here: those who know of it hear so."""
        if not seat.client or not self._caps.of(seat.listener_class):
            return
        if self._elsewhere.get(seat.client) or self._seats.ledger.streams_of(seat.client):
            self._to_tell.setdefault(seat.client, False)
            self._refresher.soon()

    def _streams_elsewhere(self, client: int) -> list[tuple[int, str]]:
        """When streams of the client began on other workers, and on which."""
        known, now_s = self._elsewhere.get(client), self._now_s()
        return [
            (began_ms, worker)
            for worker, streams in (known or {}).items()
            if worker in self._peers and self._peers[worker].until_s > now_s
            for began_ms in streams
        ]

    def _mine_among(
        self, mine: Sequence[Seat], elsewhere: Sequence[tuple[int, str]], count: int, *, newest: bool = False
    ) -> int:
        """How many of the streams here are among the ``count`` oldest of a client, or the newest."""
        if count <= 0:
            return 0
        here = self._seats.worker
        order = sorted([*((seat.began_ms, here) for seat in mine), *elsewhere], reverse=newest)
        return sum([worker == here for _, worker in order[:count]])

    # --- what the others tell

    def heard(self, change: str) -> None:
        """Some worker has told of its streams: those here that are beyond a cap end."""
        head, _, items = change.removeprefix(STREAMS).partition(" ")
        worker, _, text = head.partition(":")
        if not self._caps or worker == self._seats.worker or not text.isdecimal():
            return
        if not self._follows(worker, int(text)):
            return
        for told in _parsed(items):
            self._learn(worker, told)
            mine = self._seats.ledger.streams_of(told.client)
            if not mine:
                continue
            if told.began_ms:
                self._hold_to_cap(told.client, mine)
            if told.asks:
                self._to_tell.setdefault(told.client, False)
                self._refresher.soon()

    def _follows(self, worker: str, number: int) -> bool:
        """Note that a worker is alive, and begin anew with all of them where a message was missed."""
        if number == GOODBYE:
            self._peers.pop(worker, None)
            return False
        known = self._peers.get(worker)
        if known is not None and number not in (known.number, known.number + 1):
            self._ask_all()
        self._peers[worker] = _Peer(number, self._now_s() + LEASE_S)
        return True

    def _learn(self, worker: str, told: Told) -> None:
        """Remember a worker's streams of a client who is here too, or has several."""
        known = self._elsewhere.get(told.client)
        if not told.began_ms:
            if known is not None and known.pop(worker, ()) and not known:
                self._elsewhere.drop(told.client)
        elif known is not None:
            known[worker] = told.began_ms
        elif len(told.began_ms) > 1 or self._seats.ledger.streams_of(told.client):
            self._elsewhere.put(told.client, {worker: told.began_ms})

    def _hold_to_cap(self, client: int, mine: Sequence[Seat]) -> None:
        cap, elsewhere = self._caps.of(mine[0].listener_class), self._streams_elsewhere(client)
        mine, beyond = _oldest_first(mine), len(mine) + len(elsewhere) - cap if cap else 0
        if mine[0].listener_class is ListenerClass.GUEST:
            count = self._mine_among(mine, elsewhere, beyond, newest=True)
            self._seats.evict(mine[len(mine) - count :], Reason.TOO_MANY_STREAMS)
        else:
            count = self._mine_among(mine, elsewhere, beyond)
            self._seats.evict(mine[:count], Reason.REPLACED)

    # --- what is told

    async def refresh(self) -> None:
        """Tell of those who came, and that this worker is alive."""
        # Whoever came back with a ticket has left its older stream when this is heard: it counts once.
        await self._takeovers.refresh()
        least_s = self._refresher.least_s = self._seats.pace_s(LEAST_S)
        most = int(CLIENTS_PER_S * least_s / self._seats.workers)
        batch = self._batch(min(MOST_AT_ONCE, max(LEAST_AT_ONCE, most)))
        streams_of = self._seats.ledger.streams_of
        told = [Told(one, asks, tuple([seat.began_ms for seat in streams_of(one)])) for one, asks in batch.items()]
        # The number counts messages that were told: one that failed has the number of the next.
        text = f"{STREAMS}{self._seats.worker}:{self._number + 1} {','.join(map(_text, told))}"
        try:
            await self._register.tell(text)
        except Exception:
            self._to_tell = batch | self._to_tell
            raise
        self._number += 1
        now_s = self._now_s()
        self._peers = {worker: peer for worker, peer in self._peers.items() if peer.until_s > now_s}
        if self._to_tell or self._to_tell_again:
            self._refresher.soon()

    def _batch(self, most: int) -> dict[int, bool]:
        """Clients to tell of, who come before those who are told again."""
        batch: dict[int, bool] = {}
        while self._to_tell and len(batch) < most:
            client = next(iter(self._to_tell))
            batch[client] = self._to_tell.pop(client)
        while self._to_tell_again and len(batch) < most:
            batch.setdefault(self._to_tell_again.pop(), True)
        return batch

    def listening(self) -> None:
        """This worker hears the others from now on, and may have missed something before."""
        if self._caps:
            self._peers.clear()
            self._ask_all()

    def _ask_all(self) -> None:
        """Forget what is known, and ask of everybody who is here."""
        self._elsewhere.clear()
        self._to_tell_again = self._seats.ledger.clients()
        self._refresher.soon()

    async def start(self) -> None:
        """Begin to tell, where there is a cap."""
        if self._caps:
            await self._refresher.start(first_s=1.0)

    async def stop(self) -> None:
        """Tell no more; the others hear that no stream is here."""
        if not self._caps:
            return
        await self._refresher.stop()
        with suppress(Exception):  # it is forgotten anyhow when its lease ends
            await self._register.tell(f"{STREAMS}{self._seats.worker}:{GOODBYE} ")


def _oldest_first(streams: Sequence[Seat]) -> Sequence[Seat]:
    """By when they began, which need not be the order in which they were admitted."""
    return sorted(streams, key=lambda seat: seat.began_ms)


def _text(told: Told) -> str:
    return f"{told.client:x}{'?' if told.asks else ':'}{'.'.join(map(str, told.began_ms))}"


def _parsed(items: str) -> Iterator[Told]:
    """What is told of each client; what is no such message holds none."""
    with suppress(ValueError):
        for item in items.split(",") if items else ():
            name, asks, began = item.partition("?")
            if not asks:
                name, _, began = item.partition(":")
            yield Told(int(name, 16), bool(asks), tuple(map(int, began.split("."))) if began else ())
