"""Lease seats of three servers on one Redis: viewers poll any of them, join, are cut, and lose a server to a kill."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Any

from e2e.clients import TIMEOUT_S, bearer, fresh_address
from e2e.test_seats import CAPACITY, Fleet, Record, fleet, run, until
from servers import HOST, HttpServer

LEASE_S = 8
POLL_S = 1.0
CUT_S = 12.0
STAYS_S = 2 * LEASE_S
PLAYLIST = "/hello"

# A ticket: class, id, client, its end, the end of its lease, first admitted, renewal; and the MAC. A number is shorter.
FIELDS = Struct(">BQ12sQQQI")
LENGTH = FIELDS.size + 17
RULES = json.dumps([{"name": "hls", "path": PLAYLIST, "polled": True, "lease_seconds": LEASE_S}])


@dataclass
class Viewer:
    """A player with an address of its own; a member where it has a subject."""

    subject: str | None = None
    ticket: str | None = None
    address: str = field(default_factory=fresh_address)
    plays: bool = False
    missed: int = 0
    refusals: list[dict[str, Any]] = field(default_factory=list)
    played_s: float = 0.0

    async def poll(self, server: HttpServer) -> None:
        """Ask once, on a connection of its own."""
        reader, writer = await asyncio.open_connection(HOST, server.port, local_addr=(self.address, 0))
        try:
            lines = [f"GET {PLAYLIST} HTTP/1.1", "Host: test", "Connection: close"]
            lines += [f"{name}: {value}" for name, value in (bearer(self.subject) if self.subject else {}).items()]
            lines += [f"Cookie: shield_ticket={self.ticket}"] if self.ticket else []
            writer.write("\r\n".join([*lines, "\r\n"]).encode())
            head, _, body = (await asyncio.wait_for(reader.read(), TIMEOUT_S)).decode("latin-1").partition("\r\n\r\n")
        finally:
            writer.close()
        if given := re.search(r"shield_ticket=([^;]+)", head):
            self.ticket = given[1]
        status = int(head.split()[1])
        self.plays = status == 200
        if self.plays:
            self.played_s = time.monotonic()
            return
        assert status == 503, head
        assert re.search(r"^retry-after: \d+\r?$", head, re.MULTILINE | re.IGNORECASE), head
        self.missed += 1
        self.refusals.append(json.loads(body))

    @property
    def lease(self) -> tuple[str, int] | None:
        """The id of its ticket, and the end of the lease in it."""
        data = base64.urlsafe_b64decode(self.ticket or "")
        if len(data) != LENGTH:
            return None
        _, number, _, _, until_s, *_ = FIELDS.unpack_from(data)
        return f"{number:x}", until_s


@dataclass
class Audience:
    """Viewers that poll servers by chance, and all leases that they were ever given."""

    viewers: Sequence[Viewer]
    servers: list[HttpServer]
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    leases: dict[str, int] = field(default_factory=dict)
    most: int = 0

    async def watch(self, over: asyncio.Event) -> None:
        """All of them poll each second, each in its own phase."""
        await asyncio.gather(*(self._plays(viewer, over) for viewer in self.viewers))

    async def _plays(self, viewer: Viewer, over: asyncio.Event) -> None:
        await asyncio.sleep(self.dice.random() * POLL_S)
        while not over.is_set():
            try:
                await viewer.poll(self.dice.choice(self.servers))
            except OSError:
                continue  # the server was killed: players ask another one
            if lease := viewer.lease:
                self.leases[lease[0]] = max(self.leases.get(lease[0], 0), lease[1])
            self.most = max(self.most, self.leased)
            await asyncio.sleep(POLL_S)

    @property
    def leased(self) -> int:
        """How many leases run."""
        now_s = time.time()  # that of Redis, too: one machine
        return sum(until_s > now_s for until_s in self.leases.values())

    def playing(self, name: Callable[[Viewer], bool] = lambda viewer: True) -> int:
        """How many of them play."""
        return sum(viewer.plays for viewer in self.viewers if name(viewer))


def is_member(viewer: Viewer) -> bool:
    """Whether a viewer is signed in."""
    return viewer.subject is not None


def polled(tmp_path: Path, servers: int = 3) -> Any:
    """Servers whose playlist is polled."""
    return fleet(tmp_path, servers, SHIELD_RULES=RULES, SHIELD_LIVE_PATHS="/live/*")


def test_viewers_that_poll_hold_seats(tmp_path: Path, record_property: Record) -> None:
    """More want in than there are seats: nobody who plays is refused, also after a kill, and no lease is too many."""
    with polled(tmp_path) as shield:
        run(_full_house(shield, record_property))


async def _full_house(shield: Fleet, record_property: Record) -> None:
    audience, over = Audience([Viewer() for _ in range(CAPACITY * 3 // 2)], list(shield.servers)), asyncio.Event()
    watching = asyncio.create_task(audience.watch(over))
    took_s = await until(lambda: audience.playing() >= CAPACITY * 9 // 10, 3 * LEASE_S, "a full house")
    await asyncio.sleep(LEASE_S)
    seated = [viewer for viewer in audience.viewers if viewer.plays]
    missed = [viewer.missed for viewer in seated]
    await asyncio.sleep(STAYS_S)
    assert [viewer.missed for viewer in seated] == missed, [viewer.refusals for viewer in seated if viewer.refusals]
    counted = [sum(map(int, line.split()[9:12])) for line in _entries(shield)]
    record_property("leases_counted_by_redis", sum(counted))
    assert CAPACITY * 9 // 10 <= sum(counted) <= CAPACITY
    victim = audience.servers.pop()
    victim.kill()
    await asyncio.sleep(STAYS_S)
    assert [viewer.missed for viewer in seated] == missed, "the kill cost somebody a seat"
    over.set()
    await watching
    record_property("full_house_after_s", round(took_s, 1))
    record_property("most_leases", audience.most)
    record_property("playing_at_the_end", audience.playing())
    assert audience.most <= CAPACITY
    assert audience.playing() >= CAPACITY * 9 // 10


def _entries(shield: Fleet) -> list[str]:
    """What the workers have reported."""
    entries = shield.redis.hgetall("shield:seats")
    return [str(text, "ascii") for worker, text in entries.items() if not worker.startswith(b"#")]  # type: ignore[arg-type]


def test_a_cut_lets_the_leases_of_guests_end(tmp_path: Path, record_property: Record) -> None:
    """To 60 % with half members: they miss no poll; guests are gone within 12 s and a lease, and come back later."""
    with polled(tmp_path) as shield:
        run(_cut(shield, record_property))


async def _cut(shield: Fleet, record_property: Record) -> None:
    members = [Viewer(f"member-{number}") for number in range(CAPACITY // 2)]
    audience, over = Audience([*members, *(Viewer() for _ in range(CAPACITY // 2))], shield.servers), asyncio.Event()
    watching = asyncio.create_task(audience.watch(over))
    await until(lambda: audience.playing() >= CAPACITY * 9 // 10, 3 * LEASE_S, "a full house")
    await until(lambda: audience.playing(is_member) == len(members), LEASE_S, "all members")
    missed = [viewer.missed for viewer in members]
    guests = [viewer for viewer in audience.viewers if viewer.plays and not is_member(viewer)]
    for viewer in guests:
        viewer.refusals.clear()
    told_s = await asyncio.to_thread(
        shield.put_mode, "emergency", capacity=CAPACITY * 6 // 10, guest_share=0, for_seconds=600
    )
    await asyncio.sleep(CUT_S + LEASE_S)
    assert [viewer.missed for viewer in members] == missed, "a member missed a poll"
    gone_s = max(viewer.played_s for viewer in guests) - told_s
    record_property("last_guest_played_after_s", round(gone_s, 1))
    assert gone_s <= CUT_S + LEASE_S
    titles = {viewer.refusals[-1]["title"] for viewer in guests}
    assert titles == {"Fewer listeners for now"}
    await asyncio.to_thread(shield.put_mode, "normal")
    await until(lambda: audience.playing() >= CAPACITY * 9 // 10, 2 * LEASE_S, "the guests to be back")
    over.set()
    await watching
    assert audience.most <= CAPACITY
