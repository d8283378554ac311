"""Ends a task from outside, for a reason that it then raises instead of the cancellation."""

from __future__ import annotations

import asyncio

from shieldmw.errors import UpstreamError


class Interruption:
    """May end the task that makes it, until ``over``."""

    __slots__ = ("_cancelling", "_reason", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._task = task = asyncio.current_task(loop)
        self._cancelling = 0 if task is None else task.cancelling()
        self._reason: UpstreamError | None = None

    def end(self, reason: UpstreamError) -> None:
        """Cancel the task. Only the first reason counts."""
        if self._reason is None and self._task is not None:
            self._reason = reason
            self._task.cancel()

    def reason(self) -> UpstreamError | None:
        """Why the task was cancelled; None if it was cancelled from elsewhere, which must be passed on."""
        if self._reason is None or (self._task is not None and self._task.uncancel() > self._cancelling):
            return None
        return self._reason

    def over(self) -> None:
        """The task goes on to something else, and is cancelled no more."""
        self._task = None
