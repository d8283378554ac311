"""An app that needs 2 ms of CPU for each request, so that a few hundred connections drown its worker."""

from __future__ import annotations

import time

from starlette.types import Receive, Scope, Send

CPU_S = 0.002


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Burn CPU, then answer; the health check costs nothing."""
    if scope["type"] != "http":
        return
    until_s = time.thread_time() + (0 if scope["path"] == "/healthz" else CPU_S)
    while time.thread_time() < until_s:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
