"""`/live`: the state of the fleet as server-sent events, one each second, made once for all pages that are open.

The page reads them with ``fetch``, since an ``EventSource`` cannot send the token.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shieldmw.gate.operator.control import Control

from .answers import problem
from .auth import Role
from .live_state import LiveState, history, live_state

log = logging.getLogger(__name__)

# Interval between two events.
INTERVAL_S = 1.0

# Pages that are open at a time, for each worker: enough for a team and its screens.
MOST_PAGES = 50

# Of these, as many are kept for those with the admin token: who may only look cannot shut them out.
KEPT_FOR_ADMINS = 10

# Time for a page to take an event. A longer pause means that its computer sleeps, and it connects again.
SEND_S = 20.0


class Live:
    """The events of this process: for each event loop, and so each ``Control``, those of its open pages."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._feeds: dict[Control, _Feed] = {}

    def answer(self, control: Control, role: Role, *, head_only: bool = False) -> Response:
        """The endless answer to one page."""
        feed = self._feeds.get(control)
        most = MOST_PAGES if role is Role.ADMIN else MOST_PAGES - KEPT_FOR_ADMINS
        if feed is not None and feed.pages >= most:
            detail = f"{feed.pages} pages are open here, which is the most for this token. Close some."
            return problem(503, detail, title="Too many pages", headers={"retry-after": "5"})
        return _Events(self, control, role, head_only=head_only)

    @contextmanager
    def page(self, control: Control) -> Iterator[_Feed]:
        """The feed of one page while it is open. With the last page it is dropped, and what it holds can be freed."""
        feed = self._feeds.setdefault(control, _Feed(control, self._interval_s))
        feed.pages += 1
        try:
            yield feed
        finally:
            feed.pages -= 1
            if not feed.pages:
                del self._feeds[control]


class _Feed:
    """Makes the state once each interval while there are pages."""

    def __init__(self, control: Control, interval_s: float) -> None:
        self._control = control
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None
        self._next: asyncio.Future[_Frame | None] | None = None
        self.pages = 0

    def history(self) -> bytes:
        """The event with the state of the last quarter of an hour, sent before the first state."""
        return history(self._control)

    async def frames(self) -> AsyncIterator[_Frame]:
        """The states from now on. A slow page misses some; it ends when the process is about to stop."""
        while (frame := await asyncio.shield(self._coming())) is not None:
            yield frame

    def _coming(self) -> asyncio.Future[_Frame | None]:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._make(), name="shieldmw live page")
        return self._next

    async def _make(self) -> None:
        """Make states until no page is open, or the process is about to stop."""
        known: LiveState | None = None
        frame: _Frame | None = None
        try:
            while self.pages and not self._control.is_leaving:
                known = await live_state(self._control, known)
                frame = _Frame(known)
                self._publish(frame)
                await asyncio.sleep(self._interval_s)
        finally:
            self._publish(None)

    def _publish(self, frame: _Frame | None) -> None:
        coming, self._next = self._next, None
        if coming is not None and not coming.done():
            coming.set_result(frame)


class _Frame:
    """One state as an event, by role, each written once."""

    def __init__(self, state: LiveState) -> None:
        self._state = state
        self._events: dict[Role, bytes] = {}

    def event(self, role: Role) -> bytes:
        """The event for pages with this role."""
        event = self._events.get(role)
        if event is None:
            event = self._events[role] = b"data: " + self._state.json_for(role) + b"\n\n"
        return event


class _Events(Response):
    """An answer that sends events until the page goes, or the process is about to stop."""

    media_type = "text/event-stream"

    def __init__(self, live: Live, control: Control, role: Role, *, head_only: bool) -> None:
        # x-accel-buffering: nginx would collect events until its buffer is full.
        headers = {"cache-control": "no-store", "x-content-type-options": "nosniff", "x-accel-buffering": "no"}
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._live = live
        self._control = control
        self._role = role
        self._head_only = head_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        with self._live.page(self._control) as feed:  # before anything is awaited: more pages may be opening
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if not self._head_only:
                await self._send_until_gone(feed, receive, send)
        with suppress(OSError, TimeoutError):  # the page may have gone, or be asleep
            async with asyncio.timeout(SEND_S):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_until_gone(self, feed: _Feed, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send_all(feed, send))
        going = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((sending, going), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, going):
                task.cancel()
            failure, _ = await asyncio.gather(sending, going, return_exceptions=True)
            if not isinstance(failure, OSError | TimeoutError | asyncio.CancelledError | None):
                log.error("a page's events have ended", exc_info=failure)

    async def _send_all(self, feed: _Feed, send: Send) -> None:
        await self._send_event(b"event: history\ndata: " + feed.history() + b"\n\n", send)
        async for frame in feed.frames():
            await self._send_event(frame.event(self._role), send)

    @staticmethod
    async def _send_event(event: bytes, send: Send) -> None:
        async with asyncio.timeout(SEND_S):
            await send({"type": "http.response.body", "body": event, "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
