"""Seats of a fleet of three servers on one Redis, with listeners that come, stay, are cut, killed and come back.

How many listeners are there is known from the app's own journal, to the moment and on every server by the same
clock; what is granted is read in one command from Redis, every 100 ms. A listener whose seat is given to another
needs a moment to go, so whoever has been there for less than ``GRACE_S`` is not counted yet.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import redis
from websockets.asyncio.client import connect

from e2e.clients import JWT_SECRET, TIMEOUT_S, bearer, client, fresh_address
from servers import HOST, HttpServer, NotReady, RedisServer, asgi_server, redis_server

SERVERS = 3
CAPACITY = 60
ADMIN_TOKEN = "the token of the operator"

LEASE_S = 15.0
RENEW_S = 5.0
CUT_S = 12.0
OBEDIENCE_S = 1.0
ASK_AGAIN_S = 1.0

SAMPLE_S = 0.1
GRACE_S = 0.1
FULL_HOUSE_S = 2.0
PAUSE_S = 0.02

Record = Callable[[str, object], None]
T = TypeVar("T")


async def until(condition: Callable[[], object], patience_s: float, what: str) -> float:
    """Wait for a condition without stopping the listeners; how long it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > patience_s:
            raise NotReady(f"after {patience_s:g} s still waiting for {what}")
        await asyncio.sleep(PAUSE_S)
    return time.monotonic() - began


_writers: list[asyncio.StreamWriter] = []


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Play a scenario, and close what its listeners have opened, however it ends."""

    async def play() -> T:
        try:
            return await scenario
        finally:
            for writer in _writers:
                writer.transport.abort()
            await asyncio.gather(*(writer.wait_closed() for writer in _writers), return_exceptions=True)
            _writers.clear()

    return asyncio.run(play())


# --- the fleet ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """What Redis says at one moment: granted seats by worker, and those that are granted or in use."""

    when_s: float
    granted: Mapping[bytes, int]
    in_use: int

    @property
    def total(self) -> int:
        """All that is granted."""
        return sum(self.granted.values())


@dataclass
class Fleet:
    """Servers of one worker each, their Redis, and the app's journal."""

    servers: list[HttpServer]
    redis: redis.Redis
    journal: Path

    def put_mode(self, mode: str, **fields: object) -> float:
        """Flip the switch; when that was answered."""
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        with client(fresh_address(), headers) as operator:
            url = f"{self.servers[0].base_url}/-/shield/mode"
            answer = operator.put(url, json={"mode": mode, **fields})
        assert answer.status_code == 200, answer.text
        return time.monotonic()

    def held(self) -> Held:
        """What is granted now: one command, so that it is the truth of one moment."""
        with self.redis.pipeline(transaction=True) as pipeline:
            pipeline.time()
            pipeline.hgetall("shield:seats")
            (seconds, micros), entries = pipeline.execute()
        granted, in_use = {}, 0
        for worker, text in entries.items():
            if not worker.startswith(b"#"):  # those are the fleet's own
                until_ms, *_, hosts, members, guests, seats, _guest_seats = map(int, text.split())
                if until_ms > seconds * 1000 + micros // 1000:
                    granted[worker] = seats
                    in_use += max(seats, hosts + members + guests)
        return Held(time.monotonic(), granted, in_use)

    def present(self, ended_s: Mapping[int, float] | None = None) -> list[tuple[float, int]]:
        """How many streams there were, from each moment on, by the app's own count.

        ``ended_s`` says when processes were killed: their streams ended then, and nobody wrote it down.
        """
        began: dict[str, float] = {}
        changes: list[tuple[float, int]] = []
        for line in self.journal.read_text("ascii").splitlines():
            when, sign, name = line.split()
            if sign == "+":
                began[name] = float(when)
            else:
                changes += _counted(began.pop(name), float(when))
        for name, when_s in began.items():
            changes += _counted(when_s, (ended_s or {}).get(int(name.partition(".")[0]), float("inf")))
        counts = itertools.accumulate(change for _, change in sorted(changes))
        return list(zip((when_s for when_s, _ in sorted(changes)), counts, strict=True))

    def here(self) -> int:
        """How many streams there are."""
        signs = [line.split()[1] for line in self.journal.read_text("ascii").splitlines()]
        return signs.count("+") - signs.count("-")


def _counted(began_s: float, ended_s: float) -> list[tuple[float, int]]:
    """A stream as changes of the count, unless it was too short to count."""
    return [(began_s + GRACE_S, 1), (ended_s, -1)] if ended_s > began_s + GRACE_S else []


def most(counts: Sequence[tuple[float, int]], since_s: float, until_s: float) -> int:
    """The highest count in a span."""
    before = [count for when_s, count in counts if when_s <= since_s][-1:]
    return max([*before, *(count for when_s, count in counts if since_s < when_s <= until_s)], default=0)


@contextmanager
def fleet(tmp_path: Path, servers: int = SERVERS, **more: str) -> Iterator[Fleet]:
    """Servers with one worker each, on a Redis of their own."""
    journal = tmp_path / "journal"
    journal.touch()
    with ExitStack() as stack:
        store: RedisServer = stack.enter_context(redis_server("valkey"))
        env = {
            "SHIELD_REDIS_URL": store.url,
            "SHIELD_REDIS_TIMEOUT_MS": "1000",
            "SHIELD_ADMIN_TOKEN": ADMIN_TOKEN,
            "SHIELD_JWT_SECRET": JWT_SECRET,
            "SHIELD_EXEMPT_PATHS": "/healthz,/pid",
            "SHIELD_LIVE_PATHS": "/live/*",
            "SHIELD_CAPACITY": str(CAPACITY),
            "SHIELD_IP_LIMIT": "off",
            "SHIELD_TOKEN_LIMIT": "off",
            "SHIELD_EMERGENCY_IP_LIMIT": "off",
            "LIVE_JOURNAL": str(journal),
            **more,
        }
        running = [
            stack.enter_context(asgi_server("shieldmw", "live_app:app", env=env, cwd=tmp_path)) for _ in range(servers)
        ]
        yield Fleet(running, store.client(), journal)


# --- listeners ------------------------------------------------------------------------------------


@dataclass
class Listener:
    """One listener of an SSE stream, from an address of its own; a member where it has a subject."""

    subject: str | None = None
    signed_ticket: str | None = None
    address: str = field(default_factory=fresh_address)
    status: int = 0
    refusal: dict[str, Any] = field(default_factory=dict)
    heard: str = ""
    left_s: float | None = None
    _writer: asyncio.StreamWriter | None = None
    _reading: asyncio.Task[None] | None = None

    async def ask(self, server: HttpServer) -> bool:
        """Ask for a seat; whether there was one."""
        reader, self._writer = await asyncio.open_connection(HOST, server.port, local_addr=(self.address, 0))
        _writers.append(self._writer)
        lines = ["GET /live/sse HTTP/1.1", "Host: test"]
        lines += [f"{name}: {value}" for name, value in (bearer(self.subject) if self.subject else {}).items()]
        lines += [f"Cookie: shield_ticket={self.signed_ticket}"] if self.signed_ticket else []
        self._writer.write("\r\n".join([*lines, "\r\n"]).encode())
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT_S)).decode("latin-1")
        self.status = int(head.split()[1])
        if signed_ticket := re.search(r"shield_ticket=([^;]+)", head):
            self.signed_ticket = signed_ticket[1]
        if self.status == 200:
            self.heard, self.left_s = "", None
            self._reading = asyncio.create_task(self._read(reader))
            return True
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        assert length is not None, head
        self.refusal = json.loads(await reader.readexactly(int(length[1])))
        self._writer.close()
        return False

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Keep what comes until the stream ends."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while size := int(await reader.readline() or b"0", 16):
                self.heard += (await reader.readexactly(size + 2))[:-2].decode()
        self.left_s = time.monotonic()

    def leave(self) -> None:
        """Go."""
        if self._reading is not None:
            self._reading.cancel()
        if self._writer is not None:
            self._writer.close()

    @property
    def ids(self) -> list[int]:
        """The ids of the events that came."""
        return [int(number) for number in re.findall(r"^id: (\d+)$", self.heard, re.MULTILINE)]

    def lost_nothing(self) -> bool:
        """Whether every event came, in order, and the stream goes on."""
        return self.left_s is None and self.ids == list(range(len(self.ids))) and len(self.ids) > 0


async def seated(listener: Listener, server: HttpServer, patience_s: float = 2 * RENEW_S) -> Listener:
    """A listener who keeps asking until there is a seat."""
    deadline = time.monotonic() + patience_s
    while not await listener.ask(server):
        assert time.monotonic() < deadline, f"no seat in {patience_s:g} s"
        await asyncio.sleep(SAMPLE_S)
    return listener


@asynccontextmanager
async def sampled(shield: Fleet) -> AsyncIterator[list[Held]]:
    """What is granted, every 100 ms."""
    samples: list[Held] = []

    async def sample() -> None:
        while True:
            samples.append(shield.held())
            await asyncio.sleep(SAMPLE_S)

    task = asyncio.create_task(sample())
    try:
        yield samples
        assert not task.done(), task
    finally:
        task.cancel()


# --- capacity -------------------------------------------------------------------------------------


def test_seats_never_exceed_the_capacity(tmp_path: Path, record_property: Record) -> None:
    """Through joins, leaves, a kill -9 and two cuts neither grants nor streams exceed the capacity or grow in a cut."""
    with fleet(tmp_path) as shield:
        run(_churn(shield, record_property))


async def _churn(shield: Fleet, record_property: Record) -> None:
    alive = list(shield.servers)
    over = asyncio.Event()
    ran: list[Awaitable[None]] = [
        asyncio.create_task(_come_and_go(number, alive, over)) for number in range(CAPACITY + CAPACITY // 2)
    ]
    async with sampled(shield) as samples:
        await until(lambda: shield.here() >= CAPACITY * 9 // 10, 3 * RENEW_S, "a full house")
        await asyncio.sleep(FULL_HOUSE_S)
        victim = alive.pop()
        doomed = {int(pid) for pid in re.findall(r"PID: (\d+)", victim.log())}
        before = set(samples[-1].granted)
        victim.kill()
        killed_s = time.monotonic()
        cuts = []
        for seats, share, lasts_s in ((30, 0.5, CUT_S), (20, 0.0, 2.0)):
            told_s = await asyncio.to_thread(
                shield.put_mode, "emergency", capacity=seats, guest_share=share, for_seconds=600
            )
            await asyncio.sleep(lasts_s)
            ended_s = time.monotonic()
            cuts.append((seats, told_s, ended_s))
            await asyncio.to_thread(shield.put_mode, "normal")
        await until(
            lambda: len(samples[-1].granted) == SERVERS - 1 and samples[-1].total == CAPACITY,
            killed_s + LEASE_S + RENEW_S + 2 * SAMPLE_S - time.monotonic(),
            "the seats of the killed worker",
        )
        over.set()
        ended_s = time.monotonic()
    await asyncio.gather(*ran)
    counts = shield.present(dict.fromkeys(doomed, killed_s))
    lost = next(iter(before - set(samples[-1].granted)))
    gone_s = next(sample.when_s for sample in samples if sample.when_s > killed_s and lost not in sample.granted)
    full_s = next(s.when_s for s in samples if s.when_s >= gone_s and s.total == _capacity_at(s.when_s, cuts))
    record_property("samples", len(samples))
    record_property("most_granted", max(sample.total for sample in samples))
    record_property("most_present", most(counts, 0, ended_s))
    record_property("killed_seats_expired_after_s", round(gone_s - killed_s, 2))
    record_property("killed_seats_back_after_s", round(full_s - killed_s, 2))
    assert max(sample.in_use for sample in samples) <= CAPACITY
    assert most(counts, 0, ended_s) <= CAPACITY
    assert most(counts, 0, killed_s) >= CAPACITY * 3 // 4, "the house was never full"
    assert gone_s - killed_s <= LEASE_S + SAMPLE_S
    assert full_s - killed_s <= LEASE_S + RENEW_S + SAMPLE_S
    for seats, told_s, until_s in cuts:
        record_property(f"present_at_the_end_of_the_cut_to_{seats}", most(counts, until_s - 0.01, until_s))
        in_cut = [sample for sample in samples if told_s + OBEDIENCE_S < sample.when_s < until_s]
        for earlier, later in itertools.pairwise(in_cut):
            assert later.in_use <= max(seats, earlier.in_use), "seats grew in a cut"
        assert most(counts, told_s + OBEDIENCE_S, until_s) <= max(seats, in_cut[0].in_use)
    seats, _, until_s = cuts[0]
    assert most(counts, until_s - 0.01, until_s) <= seats, "the cut is not over"


def _capacity_at(when_s: float, cuts: Sequence[tuple[int, float, float]]) -> int:
    """The capacity in force."""
    return next((seats for seats, told_s, ended_s in cuts if told_s <= when_s <= ended_s), CAPACITY)


async def _come_and_go(number: int, alive: Sequence[HttpServer], over: asyncio.Event) -> None:
    """A listener who comes, stays for a while, leaves, and comes again elsewhere."""
    dice = random.Random(number)
    listener = Listener(f"member-{number}" if number % 3 == 0 else None)
    while not over.is_set():
        with suppress(OSError, asyncio.IncompleteReadError):  # the server was killed
            stay_s = dice.uniform(0.5, 4) if await listener.ask(dice.choice(alive)) else dice.uniform(0.2, 1)
            if dice.random() < 0.5:
                listener.signed_ticket = None
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), stay_s)
        listener.leave()


def test_a_stopped_worker_gives_its_seats_back_at_once(tmp_path: Path, record_property: Record) -> None:
    """After SIGTERM an idle worker's seats are back within a second, not when its lease ends."""
    with fleet(tmp_path, 2) as shield:
        even = [CAPACITY // 2] * 2
        run(until(lambda: list(shield.held().granted.values()) == even, 2 * RENEW_S, "seats on both workers"))
        began_s = time.monotonic()
        shield.servers[0].process.terminate()
        run(until(lambda: len(shield.held().granted) == 1, LEASE_S, "the worker's seats"))
        took = time.monotonic() - began_s
        record_property("seats_back_after_sigterm_s", round(took, 3))
        assert took < 1.0


# --- cuts and fairness ----------------------------------------------------------------------------


def test_a_cut_evicts_every_guest_and_no_member(tmp_path: Path, record_property: Record) -> None:
    """With no seats for guests all of them are gone within 12 s and told why; members who fit hear every event."""
    with fleet(tmp_path) as shield:
        run(_cut(shield, record_property))


async def _cut(shield: Fleet, record_property: Record) -> None:
    members, guests = [], []
    for number in range(8):
        for server in shield.servers:
            members.append(await seated(Listener(f"member-{number}-{server.port}"), server))
            guests.append(await seated(Listener(), server))
    sockets = [await connect(f"{server.ws_url}/live/ws", local_addr=(fresh_address(), 0)) for server in shield.servers]
    told_s = await asyncio.to_thread(shield.put_mode, "emergency", capacity=30, guest_share=0, for_seconds=600)
    await until(lambda: all(guest.left_s for guest in guests), 2 * CUT_S, "every guest to leave")
    took = [guest.left_s - told_s for guest in guests if guest.left_s is not None]
    record_property("first_guest_gone_s", round(min(took), 2))
    record_property("last_guest_gone_s", round(max(took), 2))
    assert max(took) <= CUT_S
    assert max(took) >= 3, "all at once is not politely"
    for guest in guests:
        assert re.search(r"\n\nevent: shed\nretry: \d+\ndata: \{[^\n]*\}\n\n$", guest.heard), guest.heard[-200:]
        assert guest.ids == list(range(len(guest.ids)))
    for socket in sockets:
        await asyncio.wait_for(socket.wait_closed(), max(0.1, told_s + CUT_S - time.monotonic()))
        assert (socket.close_code, socket.close_reason) == (1013, "reduced capacity")
    heard = [len(member.ids) for member in members]
    await until(lambda: all(len(m.ids) > h + 5 for m, h in zip(members, heard, strict=True)), 5, "the event to go on")
    record_property("members_kept", sum(member.lost_nothing() for member in members))
    assert all(member.lost_nothing() for member in members)
    refused = Listener()
    assert not await refused.ask(shield.servers[0])
    assert refused.status == 503
    assert "position" not in refused.refusal
    for listener in (*members, *guests):
        listener.leave()


def test_members_get_the_seats_that_guests_hold_elsewhere(tmp_path: Path, record_property: Record) -> None:
    """Guests have filled two workers: members who ask a third have their seats within two renewals."""
    with fleet(tmp_path) as shield:
        run(_fair(shield, record_property))


async def _fair(shield: Fleet, record_property: Record) -> None:
    *full, third = shield.servers
    arriving = [seated(Listener(), server, 3 * RENEW_S) for server in full for _ in range(CAPACITY // len(full))]
    guests = await asyncio.gather(*arriving)
    assert shield.here() == CAPACITY
    members = [Listener(f"member-{number}") for number in range(9)]
    began_s = time.monotonic()
    await asyncio.gather(*(seated(member, third, 3 * RENEW_S) for member in members))
    took = time.monotonic() - began_s
    record_property("members_seated_after_s", round(took, 2))
    # One renewal to say that seats must go, one to say that they went; then a member has to ask again.
    assert took <= 2 * RENEW_S + ASK_AGAIN_S
    counts = shield.present()
    assert most(counts, 0, time.monotonic()) <= CAPACITY
    left = [guest for guest in guests if guest.left_s]
    assert len(left) <= 2 * len(members), "more guests had to leave than members came"
    assert all("event: shed" in guest.heard for guest in left)
    for listener in (*members, *guests):
        listener.leave()


# --- tickets and the waiting room -----------------------------------------------------------------


def test_a_ticket_comes_back_before_new_members(tmp_path: Path) -> None:
    """When others wait, a free seat is not for a new member but for the one who has just lost the connection."""
    with fleet(tmp_path, 1, SHIELD_CAPACITY="4") as shield:
        run(_come_back(shield))


async def _come_back(shield: Fleet) -> None:
    [server] = shield.servers
    live = [await seated(Listener(f"live-{number}"), server) for number in range(4)]
    waiting = [await _numbered(Listener(f"waiting-{number}"), server) for number in range(4)]
    blinked = live[0]
    blinked.leave()
    await until(lambda: shield.here() == 3, 5, "the stream to end")
    assert not await Listener("new").ask(server)
    assert not await Listener("thief", blinked.signed_ticket).ask(server), "a ticket is good for its own client only"
    assert await blinked.ask(server)
    assert not await waiting[0].ask(server), "there was one seat"
    for listener in live:
        listener.leave()


async def _numbered(listener: Listener, server: HttpServer) -> Listener:
    """A member who found no seat and has a number by now."""
    deadline = time.monotonic() + TIMEOUT_S
    while "ticket" not in listener.refusal:
        assert time.monotonic() < deadline, "no number"
        assert not await listener.ask(server)
        await asyncio.sleep(PAUSE_S)
    return listener


def test_the_waiting_room_calls_members_in_order(tmp_path: Path, record_property: Record) -> None:
    """Members without a seat get a position and a ticket, show it again, and are let in one by one, as they came."""
    with fleet(tmp_path, 1, SHIELD_CAPACITY="3") as shield:
        run(_wait_in_line(shield, record_property))


async def _wait_in_line(shield: Fleet, record_property: Record) -> None:
    [server] = shield.servers
    live = [await seated(Listener(f"live-{number}"), server) for number in range(3)]
    guest = Listener()
    assert not await guest.ask(server)
    assert "ticket" not in guest.refusal
    waiting = [await _numbered(Listener(f"waiting-{number}"), server) for number in range(3)]
    assert [member.refusal["position"] for member in waiting] == [1, 2, 3]
    for member in waiting:
        assert member.refusal["ticket"] == member.signed_ticket
        assert member.refusal["retry_after_ms"] >= 5000
        assert not await member.ask(server)
    assert [member.refusal["position"] for member in waiting] == [1, 2, 3], "who asks again keeps the place"
    came: list[Listener] = []
    took: list[float] = []
    for number, leaving in enumerate(live):
        leaving.leave()
        began_s = time.monotonic()
        while len(came) == number:
            assert time.monotonic() - began_s < 2 * RENEW_S, "nobody was called"
            for member in reversed(waiting):  # the last in line asks first
                if member not in came and await member.ask(server):
                    came.append(member)
            await asyncio.sleep(PAUSE_S)
        took.append(time.monotonic() - began_s)
    record_property("called_after_max_s", round(max(took), 2))
    assert [member.subject for member in came] == [member.subject for member in waiting]
    for member in came:
        member.leave()


# --- what it costs --------------------------------------------------------------------------------


def test_admissions_cost_no_call_each(tmp_path: Path, record_property: Record) -> None:
    """300 admissions of guests whom nothing else limits cost what polling does: 60 commands and 30 a second at most."""
    with fleet(tmp_path, 1, SHIELD_CAPACITY="1000") as shield:
        calls, took = run(_admit(shield))
    record_property("calls_for_300_admissions", calls)
    record_property("admissions_took_s", round(took, 2))
    assert calls <= 60 + 30 * took


async def _admit(shield: Fleet) -> tuple[int, float]:
    [server] = shield.servers
    listeners = [Listener() for _ in range(300)]
    before, began_s = _calls(shield), time.monotonic()
    for listener in listeners:
        assert await listener.ask(server)
    took = time.monotonic() - began_s
    calls = _calls(shield) - before
    assert shield.here() == len(listeners)
    for listener in listeners:
        listener.leave()
    return calls, took


def _calls(shield: Fleet) -> int:
    """How many commands Redis has carried out, but for those of the test itself."""
    stats = shield.redis.info("commandstats")
    return sum(int(entry["calls"]) for name, entry in stats.items() if name != "cmdstat_info")


# --- a client's own streams, and those who may no longer be here ------------------------------------


def test_a_member_who_opens_many_streams_keeps_the_newest_three(tmp_path: Path) -> None:
    """150 streams over three workers without a ticket: three stay, and twenty other members get their seats at once."""
    with fleet(tmp_path) as shield:
        run(_hog(shield))


async def _hog(shield: Fleet) -> None:
    guests = [await seated(Listener(), server) for server in shield.servers for _ in range(10)]
    hogs = [Listener("mallory") for _ in range(150)]
    for number, hog in enumerate(hogs):
        hog.signed_ticket = None
        assert await hog.ask(shield.servers[number % SERVERS])
    await until(lambda: sum(hog.left_s is None for hog in hogs) == 3, 2 * RENEW_S, "all but three to leave")
    gone = [hog for hog in hogs if hog.left_s is not None]
    await until(lambda: all("event: shed" in hog.heard for hog in gone), 5, "all to be told why")
    assert all('"violated-policies": ["streams"]' in hog.heard for hog in gone)
    assert all(hog.left_s is None for hog in hogs[-3:]), "the newest stay"
    members = [Listener(f"member-{number}") for number in range(20)]
    for number, member in enumerate(members):
        assert await member.ask(shield.servers[number % SERVERS])
    assert sum(guest.left_s is None for guest in guests) == len(guests), "guests lost seats to a hog"
    for listener in (*members, *guests, *hogs):
        listener.leave()


def test_a_network_that_is_denied_loses_its_streams(tmp_path: Path) -> None:
    """Within two seconds of the operator's word its listeners are gone on every worker, told why; others go on."""
    with fleet(tmp_path, 2) as shield:
        run(_denied(shield))


async def _denied(shield: Fleet) -> None:
    bad = [await seated(Listener(), server) for server in shield.servers for _ in range(5)]
    good = [await seated(Listener(f"member-{server.port}"), server) for server in shield.servers]
    sockets = [await connect(f"{server.ws_url}/live/ws", local_addr=(bad[0].address, 0)) for server in shield.servers]
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    with client(fresh_address(), headers) as operator:
        for address in {listener.address for listener in bad}:
            url = f"{shield.servers[0].base_url}/-/shield/deny/{address}/32"
            assert (await asyncio.to_thread(operator.put, url, json={"for_seconds": 60})).status_code == 200
    took = await until(lambda: all(listener.left_s for listener in bad), 5, "them to leave")
    assert took <= 2
    assert all("abnormal-usage-detected" in listener.heard for listener in bad)
    for socket in sockets:
        await asyncio.wait_for(socket.wait_closed(), 2)
        assert (socket.close_code, socket.close_reason) == (1008, "denied")
    assert all(member.lost_nothing() for member in good)
    for listener in (*good, *bad):
        listener.leave()


def test_a_crowd_right_after_the_start_finds_its_seats(tmp_path: Path) -> None:
    """Listeners who all come to one of three new workers get the seats that the others do not need: none is refused."""
    with fleet(tmp_path) as shield:
        run(_early(shield))


async def _early(shield: Fleet) -> None:
    crowd = [Listener() for _ in range(CAPACITY - 5)]
    came = await asyncio.gather(*(listener.ask(shield.servers[0]) for listener in crowd))
    assert came.count(False) == 0
    for listener in crowd:
        listener.leave()


def test_a_member_who_asks_every_worker_is_told_of_once(tmp_path: Path) -> None:
    """Operators would see more members without a seat than there are, and call for help."""
    with fleet(tmp_path, SHIELD_CAPACITY="5") as shield:
        run(_asking(shield))


async def _asking(shield: Fleet) -> None:
    members = [Listener(f"member-{number}") for number in range(20)]
    inside = [await seated(member, shield.servers[0]) for member in members[:5]]
    outside = members[5:]
    over = asyncio.Event()

    async def asks(member: Listener) -> None:
        while not over.is_set():
            for server in shield.servers:
                await member.ask(server)
            await asyncio.sleep(ASK_AGAIN_S)

    asking = [asyncio.create_task(asks(member)) for member in outside]
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    with client(fresh_address(), headers) as operator:

        def demand() -> int:
            told = operator.get(f"{shield.servers[0].base_url}/-/shield/status").json()["demand"]
            return 0 if told is None else int(told["member"])

        most, began = 0, time.monotonic()
        while most < len(members) or time.monotonic() - began < RENEW_S:
            assert time.monotonic() - began < TIMEOUT_S, f"{most} of {len(members)} were told of"
            most = max(most, await asyncio.to_thread(demand))
            await asyncio.sleep(SAMPLE_S)
    over.set()
    await asyncio.gather(*asking)
    assert most == len(members)
    for member in inside:
        member.leave()
