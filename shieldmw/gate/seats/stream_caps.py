"""Caps the live streams of a client in the whole fleet: a member keeps its newest streams, an address its oldest.

On one worker the cap holds at once, without a call. Between workers it holds soon: each announces its arriving
clients, in batches on the channel of changes, and workers with streams of the same client answer. Then all of them see
the same streams, and each ends its own that are beyond the cap. Nothing is kept in the store: what a worker announced
holds while it is heard from, and a worker that has missed a message announces everything again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from shieldmw.core.cache import BoundedCache
from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Reason
from shieldmw.core.seats import LEASE_S
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.refresher import Refresher
from shieldmw.store.port import ChangeFeed

from .seat import Seat
from .seats import Seats
from .stream_messages import GOODBYE, Announced, StreamsMessage, parsed
from .takeover import Takeovers

# Most clients that the whole fleet announces in a second: every worker hears every message, and each client in it costs
# a microsecond. And most and fewest clients in one message: it is not much longer than 16 kB, and there are no more
# messages than reports of seats.
CLIENTS_PER_S = 20_000
MOST_AT_ONCE, LEAST_AT_ONCE = 400, 16

# Longest and shortest interval between two messages of a worker. One that is silent for a lease is forgotten.
HEARTBEAT_S = 5.0
LEAST_S = 0.25

# Clients whose streams on other workers are remembered: a few for each stream here, the most recent ones.
CLIENTS_KEPT = 131_072


@dataclass(frozen=True, slots=True)
class StreamCaps:
    """How many live streams one member and one address may have; 0 means no limit."""

    per_member: int = 0
    per_address: int = 0

    def __bool__(self) -> bool:
        """Whether there is any cap."""
        return bool(self.per_member or self.per_address)

    def of(self, name: ListenerClass) -> int:
        """The cap of a client of this class."""
        return self.per_address if name is ListenerClass.GUEST else self.per_member


NO_CAPS = StreamCaps()


@dataclass(slots=True)
class _Peer:
    """Another worker: the number of its last message, and until when it counts as alive (monotonic time)."""

    number: int
    until_s: float


class ClientStreams:
    """Tracks the streams that this worker's clients have in the fleet, and holds them to their caps."""

    def __init__(
        self,
        feed: ChangeFeed,
        seats: Seats,
        caps: StreamCaps,
        takeovers: Takeovers,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._takeovers = takeovers
        self._feed = feed
        self._seats = seats
        self._caps = caps
        self._now_s = clock.now_s
        self._number = GOODBYE
        self._peers: dict[str, _Peer] = {}
        self._elsewhere: BoundedCache[int, dict[str, tuple[int, ...]]] = BoundedCache(CLIENTS_KEPT)
        self._to_announce: dict[int, bool] = {}
        self._to_announce_again: list[int] = []
        self._refresher = Refresher("streams", self.refresh, interval_s=HEARTBEAT_S, least_s=LEAST_S)
        seats.ledger.on_release = self._gone

    # --- streams here

    def making_room(self, seat: Seat, *, live: bool) -> Sequence[Seat] | None:
        """The client's streams here that must end to make room for ``seat``; None if ``seat`` itself exceeds the cap.

        With ``live`` it shows a ticket, so it replaces a stream, here or elsewhere, which is not counted.
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
        """Announce a listener that has a seat here now."""
        if seat.client and self._caps.of(seat.listener_class):
            self._to_announce[seat.client] = True
            self._refresher.refresh_soon()

    def _gone(self, seat: Seat) -> None:
        """Announce that a stream has ended here, if others may know of it."""
        if not seat.client or not self._caps.of(seat.listener_class):
            return
        if self._elsewhere.get(seat.client) or self._seats.ledger.streams_of(seat.client):
            self._to_announce.setdefault(seat.client, False)
            self._refresher.refresh_soon()

    def _streams_elsewhere(self, client: int) -> list[tuple[int, str]]:
        """The start (in ms of the store's clock) and worker of each stream that the client has on other workers."""
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
        """The number of streams here among the client's ``count`` oldest in the fleet (``newest``: its newest)."""
        if count <= 0:
            return 0
        here = self._seats.worker
        order = sorted([*((seat.began_ms, here) for seat in mine), *elsewhere], reverse=newest)
        return sum([worker == here for _, worker in order[:count]])

    # --- what other workers announce

    def heard(self, change: str) -> None:
        """Apply another worker's announcement, and end the streams here that are beyond a cap."""
        message = parsed(change)
        if message is None or not self._caps or message.worker == self._seats.worker:
            return
        if not self._follows(message.worker, message.number):
            return
        for announced in message.clients:
            self._learn(message.worker, announced)
            mine = self._seats.ledger.streams_of(announced.client)
            if not mine:
                continue
            if announced.began_ms:
                self._hold_to_cap(announced.client, mine)
            if announced.asks:
                self._to_announce.setdefault(announced.client, False)
                self._refresher.refresh_soon()

    def _follows(self, worker: str, number: int) -> bool:
        """Note that a worker is alive; if a message was missed, start over with all of them."""
        if number == GOODBYE:
            self._peers.pop(worker, None)
            return False
        known = self._peers.get(worker)
        if known is not None and number not in (known.number, known.number + 1):
            self._ask_all()
        self._peers[worker] = _Peer(number, self._now_s() + LEASE_S)
        return True

    def _learn(self, worker: str, announced: Announced) -> None:
        """Remember a worker's streams of a client that also has one here, or has several."""
        known = self._elsewhere.get(announced.client)
        if not announced.began_ms:
            if known is not None and known.pop(worker, ()) and not known:
                self._elsewhere.drop(announced.client)
        elif known is not None:
            known[worker] = announced.began_ms
        elif len(announced.began_ms) > 1 or self._seats.ledger.streams_of(announced.client):
            self._elsewhere.put(announced.client, {worker: announced.began_ms})

    def _hold_to_cap(self, client: int, mine: Sequence[Seat]) -> None:
        cap, elsewhere = self._caps.of(mine[0].listener_class), self._streams_elsewhere(client)
        mine, beyond = _oldest_first(mine), len(mine) + len(elsewhere) - cap if cap else 0
        if mine[0].listener_class is ListenerClass.GUEST:
            count = self._mine_among(mine, elsewhere, beyond, newest=True)
            self._seats.evict(mine[len(mine) - count :], Reason.TOO_MANY_STREAMS)
        else:
            count = self._mine_among(mine, elsewhere, beyond)
            self._seats.evict(mine[:count], Reason.REPLACED)

    # --- what this worker announces

    async def refresh(self) -> None:
        """Announce the clients that came, and that this worker is alive."""
        # Takeovers go first: then a listener that came back with a ticket has lost its older stream, and counts once.
        await self._takeovers.refresh()
        least_s = self._refresher.least_s = self._seats.pace_s(LEAST_S)
        most = int(CLIENTS_PER_S * least_s / self._seats.workers)
        batch = self._batch(min(MOST_AT_ONCE, max(LEAST_AT_ONCE, most)))
        streams_of = self._seats.ledger.streams_of
        announced = [
            Announced(one, asks, tuple([seat.began_ms for seat in streams_of(one)])) for one, asks in batch.items()
        ]
        # Only messages that were sent are counted: after a failure the next one has the same number.
        message = StreamsMessage(self._seats.worker, self._number + 1, announced)
        try:
            await self._feed.tell(str(message))
        except Exception:
            self._to_announce = batch | self._to_announce
            raise
        self._number += 1
        now_s = self._now_s()
        self._peers = {worker: peer for worker, peer in self._peers.items() if peer.until_s > now_s}
        if self._to_announce or self._to_announce_again:
            self._refresher.refresh_soon()

    def _batch(self, most: int) -> dict[int, bool]:
        """Clients to announce: new ones before those announced again."""
        batch: dict[int, bool] = {}
        while self._to_announce and len(batch) < most:
            client = next(iter(self._to_announce))
            batch[client] = self._to_announce.pop(client)
        while self._to_announce_again and len(batch) < most:
            batch.setdefault(self._to_announce_again.pop(), True)
        return batch

    def listening(self) -> None:
        """Start over: this worker hears the others from now on, and may have missed messages before."""
        if self._caps:
            self._peers.clear()
            self._ask_all()

    def _ask_all(self) -> None:
        """Forget what is known, and ask the others about every client that is here."""
        self._elsewhere.clear()
        self._to_announce_again = self._seats.ledger.clients()
        self._refresher.refresh_soon()

    async def start(self) -> None:
        """Start announcing, if there is a cap."""
        if self._caps:
            await self._refresher.start()

    async def stop(self) -> None:
        """Stop announcing; the others hear that no stream is left here."""
        if not self._caps:
            return
        await self._refresher.stop()
        with suppress(Exception):  # the others forget this worker anyway when its lease ends
            await self._feed.tell(str(StreamsMessage(self._seats.worker, GOODBYE, ())))


def _oldest_first(streams: Sequence[Seat]) -> Sequence[Seat]:
    """The streams sorted by their start, which need not be the order in which they were admitted."""
    return sorted(streams, key=lambda seat: seat.began_ms)
