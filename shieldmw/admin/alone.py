"""The admin routes as an app of their own, for a listener that answers while all workers are busy.

The routes and their authentication are those of the workers; there is no gate.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from shieldmw.answers.problems import WEBSOCKET_POLICY_VIOLATION
from shieldmw.doors.asgi.lingering import Lingering
from shieldmw.gate.operator.desk import Desk

from .answers import problem
from .routing import NO_WEBSOCKET, Admin


class AdminAlone:
    """Serves the routes of ``admin``, and 404 for all others. The desk runs from lifespan startup to shutdown."""

    def __init__(self, admin: Admin, lingering: Lingering, open_desk: Callable[[], Desk]) -> None:
        self._admin = admin
        self._lingering = lingering
        self._open_desk = open_desk
        self._desk: Desk | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP or WebSocket request; start and stop with the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif self._desk is not None and self._admin.owns(scope):
            around = self._lingering.around(scope, receive, send)
            await self._admin.answer(self._desk.control, scope, *around)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": WEBSOCKET_POLICY_VIOLATION, "reason": NO_WEBSOCKET})
        else:
            answer = problem(404, "Only the admin routes are served here.")
            await answer(scope, *self._lingering.around(scope, receive, send))

    def leave(self) -> None:
        """Prepare to stop: end the answers that do not end by themselves."""
        if self._desk is not None:
            self._desk.leave()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            desk = self._open_desk()
            await desk.start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        self._desk = desk
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._desk = None
        await desk.stop()
        await send({"type": "lifespan.shutdown.complete"})
