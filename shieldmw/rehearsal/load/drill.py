"""Real requests over real sockets: runs a story's clients against a server and fills the tallies.

It knows nothing of the server and judges nothing: requests come from the story, and the verdict is made elsewhere.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from random import Random
from typing import Final

import aiohttp
from yarl import URL

from shieldmw.rehearsal.load.crowd import Ask, Client, Group, Story, due_times
from shieldmw.rehearsal.load.listeners import members_of
from shieldmw.rehearsal.load.tally import ClientTally, GroupTally, Latencies, Outcome

_TIMEOUT: Final = aiohttp.ClientTimeout(total=5)
_DROP_AFTER_S: Final = 0.05  # an impatient client's request that is this late is not sent at all
_GIVE_UP_AFTER_S: Final = 5.0  # after the end of the story; what is still due then counts as lost
_SAMPLE_BYTES: Final = 2000


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused answer, as it came."""

    status_line: str
    headers: tuple[tuple[str, str], ...]
    body: str


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a story, in seconds of it: requests of the groups in ``tallies`` are counted there as well."""

    begins_s: float
    ends_s: float
    tallies: Mapping[str, GroupTally]


@dataclass(frozen=True, slots=True)
class _Ledgers:
    """The tallies that count the requests of one client."""

    tallies: Sequence[ClientTally]
    latencies: Sequence[Latencies]

    def sending(self, at_s: float) -> None:
        for tally in self.tallies:
            tally.sending(at_s)

    def ended(self, outcome: Outcome, at_s: float, took_s: float) -> None:
        for tally in self.tallies:
            tally.ended(outcome, at_s, took_s)
        if outcome is not Outcome.LOST:
            for latencies in self.latencies:
                latencies.add(took_s)

    def never_sent(self) -> None:
        for tally in self.tallies:
            tally.never_sent()


class Drill:
    """One run of a story. ``tallies`` and ``refusals`` (the first of each status and title) can be read during it."""

    def __init__(self, story: Story, url: str, tallies: Mapping[str, GroupTally], spans: Sequence[Span] = ()) -> None:
        self.story = story
        self.tallies = tallies
        self.spans = spans
        self.refusals: dict[tuple[int, str], Refusal] = {}
        self.begun = asyncio.Event()
        self._url = url
        self._started_s: float | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first request was due; 0 before the run."""
        return 0.0 if self._started_s is None else time.monotonic() - self._started_s

    async def run(self) -> None:
        """Run until every lane has sent all its requests and has the answers."""
        async with AsyncExitStack() as stack:
            sessions = await self._sessions(stack)
            self._started_s = time.monotonic()
            self.begun.set()
            async with asyncio.TaskGroup() as lanes:
                for group in self.story.groups:
                    for client in group.clients:
                        self.tallies[group.name].of(client.name)
                        for lane in range(self.story.lanes(group)):
                            lanes.create_task(self._lane(group, client, lane, sessions[client.source]))

    async def _sessions(self, stack: AsyncExitStack) -> dict[str, aiohttp.ClientSession]:
        """One session for each source address; its connections are kept alive and bound to that address."""
        sources = {client.source for group in self.story.groups for client in group.clients}
        sessions = {}
        for source in sources:
            # No limit here: the lanes are the limit, and a queue in the client would look like a slow server.
            connector = aiohttp.TCPConnector(limit=0, local_addr=(source, 0))
            jar = aiohttp.DummyCookieJar()
            session = aiohttp.ClientSession(connector=connector, cookie_jar=jar, timeout=_TIMEOUT)
            sessions[source] = await stack.enter_async_context(session)
        return sessions

    async def _lane(self, group: Group, client: Client, lane: int, session: aiohttp.ClientSession) -> None:
        rng = Random(f"{group.name} {client.name} {lane}")  # the same load each time
        for due in due_times(self.story.phases, group.name, lane, rng):
            late = self.elapsed_s - due
            if late < 0:
                await asyncio.sleep(-late)
            elif group.impatient and late > _DROP_AFTER_S:
                continue
            elif self.elapsed_s > self.story.seconds + _GIVE_UP_AFTER_S:
                self._ledgers(group, client, due).never_sent()
                continue
            # A client that waits for an earlier answer waits for this one too: counting from when it was sent would
            # hide every stall of the server behind the one request that met it (coordinated omission).
            behind = max(0.0, late) if not group.impatient else 0.0
            await self._ask(session, client.next_ask(rng), self._ledgers(group, client, due), behind)

    def _ledgers(self, group: Group, client: Client, due_s: float) -> _Ledgers:
        spans = (span.tallies for span in self.spans if span.begins_s <= due_s < span.ends_s)
        groups = [tallies[group.name] for tallies in (self.tallies, *spans) if group.name in tallies]
        return _Ledgers([tally.of(client.name) for tally in groups], [tally.latencies for tally in groups])

    async def _ask(self, session: aiohttp.ClientSession, ask: Ask, ledgers: _Ledgers, behind: float) -> None:
        url = URL(self._url + ask.path, encoded=True)
        sent = time.monotonic()
        ledgers.sending(sent)
        try:
            async with session.request(ask.method, url, headers=ask.headers, allow_redirects=False) as answer:
                outcome = await self._read(answer)
        except (aiohttp.ClientError, OSError, TimeoutError):
            outcome = Outcome.LOST
        done = time.monotonic()
        ledgers.ended(outcome, done, behind + done - sent)

    async def _read(self, answer: aiohttp.ClientResponse) -> Outcome:
        if answer.content_type == "text/event-stream":
            answer.close()  # it never ends; that it began is the answer
            return outcome_of(answer.status, answer.content_type)
        body = await answer.read()
        outcome = outcome_of(answer.status, answer.content_type)
        if outcome in (Outcome.REFUSED, Outcome.TURNED_AWAY):
            key = answer.status, str(members_of(body).get("title", ""))
            if key not in self.refusals:
                self.refusals[key] = _refusal(answer, body)
        return outcome


def outcome_of(status: int, content_type: str) -> Outcome:
    """Pure. 429 is the shield's, and so is a 503 with a reason in problem+json; any other error is a failure."""
    if status == 429:
        return Outcome.REFUSED
    if status == 503 and content_type == "application/problem+json":
        return Outcome.TURNED_AWAY
    return Outcome.SERVED if status < 400 else Outcome.APP_ERROR


def _refusal(answer: aiohttp.ClientResponse, body: bytes) -> Refusal:
    version = f"HTTP/{answer.version.major}.{answer.version.minor}" if answer.version else "HTTP"
    return Refusal(
        f"{version} {answer.status} {answer.reason or ''}".rstrip(),
        tuple((name, value) for name, value in answer.headers.items()),
        body[:_SAMPLE_BYTES].decode("utf-8", "replace"),
    )


def missing_sources(sources: Iterable[str]) -> list[str]:
    """The addresses that this machine cannot send from."""
    missing = []
    for source in sources:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((source, 0))
            except OSError:
                missing.append(source)
    return missing
