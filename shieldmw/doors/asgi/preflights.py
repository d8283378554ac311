"""Answers to preflights on live paths are cut short, since preflights hold no seats.

An answer ends with the first part of its body, and after ``ANSWER_S`` at the latest, so that an app that treats a
preflight like a GET opens no stream. The number of concurrent ones is bounded by their rate: for one address, a burst
plus those that arrive in ``ANSWER_S``.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .dropping import CONNECTIONS, ends_of

# Time for the app to answer. Apps answer preflights from their settings, within milliseconds.
ANSWER_S = 2.0

# Time to send the end of the answer to a client that does not read.
END_S = 1.0


async def answer_preflight(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run the app until it ends or its time is up; then end the answer that it has begun, or answer 504."""
    answer = _ShortAnswer(send)
    deadline = asyncio.timeout(ANSWER_S)
    try:
        async with deadline:
            await app(scope, receive, answer.send)
    except BaseException as error:
        # Apps may turn the cancellation into other errors or an exception group. A CancelledError that is raised here
        # is not the deadline's.
        if not deadline.expired() or isinstance(error, asyncio.CancelledError | KeyboardInterrupt | SystemExit):
            raise
    if not deadline.expired():
        return
    ends = ends_of(scope)
    connection = None if ends is None else await CONNECTIONS.find(ends)
    if not await answer.end() and connection is not None:
        await CONNECTIONS.drop(connection)


class _ShortAnswer:
    """Sends an answer that ends with the first part of its body."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._has_begun = False
        self._is_over = False
        self._is_sent = False

    async def send(self, message: Message) -> None:
        """Send a message of the app. The last part of an answer that is over is dropped, since the app ends with it.

        Raises:
            OSError: the answer is over, but the app goes on. Servers raise the same if the client has disconnected.
        """
        if self._is_over:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                return
            await asyncio.sleep(0)  # an app that catches the error and sends again must not starve other tasks
            raise OSError("a preflight has no stream for an answer")
        self._has_begun = True
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        self._is_over = True
        await self._send({**message, "more_body": False})
        self._is_sent = True

    async def end(self) -> bool:
        """End the answer in place of the app; returns whether the server accepted all of it."""
        if self._is_over:
            return self._is_sent
        self._is_over = True
        try:
            async with asyncio.timeout(END_S):
                if not self._has_begun:
                    headers = [(b"content-length", b"0"), (b"cache-control", b"no-store")]
                    await self._send({"type": "http.response.start", "status": 504, "headers": headers})
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        except Exception:  # the client does not read, or the body is too short: errors vary among servers
            return False
        return True
