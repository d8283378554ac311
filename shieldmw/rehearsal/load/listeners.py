"""Listeners over real sockets: each opens the live stream, or polls a playlist, and comes back as instructed.

A listener behaves as a browser does: it keeps the cookies that it receives, and obeys the waits in answers. This
module knows nothing of the shield and judges nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from yarl import URL

from shieldmw.rehearsal.load.audience import Audience, Listener, Refused, Stay
from shieldmw.rehearsal.load.sse import EventReader

# The event sends a line each second; a listener that receives nothing for the read timeout has lost it.
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=10)
_POLL_TIMEOUT: Final = aiohttp.ClientTimeout(total=10)
_COME_BACK_AFTER_S: Final = 3.0  # if the answer does not say; about as long as browsers wait


@dataclass(frozen=True, slots=True)
class Arrival:
    """A listener who arrives at ``at_s`` seconds of the act, from ``source``, at ``path``.

    ``polls_each_s``: the path is a playlist, which it polls so often; 0 for a stream.
    """

    name: str
    group: str
    source: str
    path: str
    at_s: float
    polls_each_s: float = 0.0


class Listeners:
    """Runs all arrivals until it is cancelled; in ``audience``, listeners that are in at that moment stay in.

    ``elapsed_s`` returns the time of the act.
    """

    def __init__(self, arrivals: Sequence[Arrival], url: str, elapsed_s: Callable[[], float]) -> None:
        self._arrivals = [(arrival, Listener(arrival.name, arrival.group)) for arrival in arrivals]
        self.audience = Audience([listener for _, listener in self._arrivals])
        self._url = url
        self._elapsed_s = elapsed_s

    async def run(self) -> None:
        """Run until cancelled."""
        async with AsyncExitStack() as stack:
            sessions = {}
            for source in dict.fromkeys(arrival.source for arrival, _ in self._arrivals):
                connector = aiohttp.TCPConnector(limit=0, local_addr=(source, 0))
                session = aiohttp.ClientSession(
                    connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=_TIMEOUT
                )
                sessions[source] = await stack.enter_async_context(session)
            async with asyncio.TaskGroup() as all_of_them:
                for arrival, listener in self._arrivals:
                    all_of_them.create_task(self._evening(arrival, listener, sessions[arrival.source]))

    async def _evening(self, arrival: Arrival, listener: Listener, session: aiohttp.ClientSession) -> None:
        await asyncio.sleep(max(0.0, arrival.at_s - self._elapsed_s()))
        listener.came_s = time.monotonic()
        cookies: dict[str, str] = {}
        try_it = self._poll if arrival.polls_each_s else self._knock
        while True:
            wait_s = await try_it(arrival, listener, session, cookies)
            await asyncio.sleep(wait_s)

    async def _knock(
        self, arrival: Arrival, listener: Listener, session: aiohttp.ClientSession, cookies: dict[str, str]
    ) -> float:
        """Listen as long as allowed; returns the seconds to wait before trying again."""
        headers = {"Accept": "text/event-stream", **cookie_header(cookies)}
        stay = None
        try:
            async with session.get(URL(self._url + arrival.path, encoded=True), headers=headers) as answer:
                cookies.update({name: morsel.value for name, morsel in answer.cookies.items()})
                if answer.status != 200:
                    body = await answer.read()
                    listener.refusals.append(refused(time.monotonic(), answer.status, body))
                    return told_to_wait_s(answer.headers, body)
                stay = Stay(time.monotonic())
                listener.stays.append(stay)
                return await self._listen(stay, answer.content)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return _COME_BACK_AFTER_S
        finally:
            # A listener who is still in when the drill itself ends has not lost the stream.
            if stay is not None and not _cancelled():
                stay.ended_s = time.monotonic()

    async def _poll(
        self, arrival: Arrival, listener: Listener, session: aiohttp.ClientSession, cookies: dict[str, str]
    ) -> float:
        """Ask for the playlist once; returns the seconds to wait before the next time."""
        sent_s, told_why, wait_s = time.monotonic(), False, _COME_BACK_AFTER_S
        try:
            url = URL(self._url + arrival.path, encoded=True)
            async with session.get(url, headers=cookie_header(cookies), timeout=_POLL_TIMEOUT) as answer:
                cookies.update({name: morsel.value for name, morsel in answer.cookies.items()})
                body = await answer.read()
                if answer.status == 200:
                    if not listener.seated:
                        listener.stays.append(Stay(time.monotonic()))
                    # As players do: the interval counts from one request to the next.
                    return max(0.0, arrival.polls_each_s - (time.monotonic() - sent_s))
                listener.refusals.append(refused(time.monotonic(), answer.status, body))
                told_why = answer.status == 503 and bool(members_of(body).get("detail"))
                wait_s = told_to_wait_s(answer.headers, body)
        except (aiohttp.ClientError, OSError, TimeoutError):
            pass  # no answer: its seat is as lost as by a refusal, and nobody told why
        if listener.seated:
            listener.stays[-1].ended_s, listener.stays[-1].told_why = time.monotonic(), told_why
        return wait_s

    async def _listen(self, stay: Stay, content: aiohttp.StreamReader) -> float:
        reader, wait_s = EventReader(), _COME_BACK_AFTER_S
        async for chunk in content.iter_any():
            for event in reader.feed(chunk):
                if event.retry_ms is not None:
                    wait_s = event.retry_ms / 1000
                if event.name == "shed":
                    stay.told_why = True
                elif event.id is not None:
                    worker = str(members_of(event.data).get("worker", ""))
                    self.audience.heard(stay, worker, int(event.id))
        return wait_s


def _cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def cookie_header(cookies: Mapping[str, str]) -> dict[str, str]:
    """Pure: the header that shows these cookies; none if there are none."""
    return {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())} if cookies else {}


def refused(at_s: float, status: int, body: bytes) -> Refused:
    """Pure: the record of an answer that is not a stream."""
    return Refused(at_s, status, bool(members_of(body).get("recording_url")))


def told_to_wait_s(headers: Mapping[str, str], body: bytes) -> float:
    """Pure: the longer of the waits in the header and the body, as the event's page does it."""
    header = headers.get("Retry-After", "")
    in_body = members_of(body).get("retry_after_ms")
    header_s = float(header) if header.isascii() and header.isdigit() else 0.0
    body_s = in_body / 1000 if isinstance(in_body, int | float) else 0.0
    return max(header_s, body_s) or _COME_BACK_AFTER_S


def members_of(text: str | bytes) -> dict[str, Any]:
    """Pure: the members of a JSON object; empty if it is something else."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
