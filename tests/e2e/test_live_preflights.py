"""Preflights on a live path whose app treats them like a GET: none becomes a long-lived stream."""

from __future__ import annotations

import http.client
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from e2e.clients import TIMEOUT_S
from e2e.test_stopping import ONE_PROCESS
from servers import HOST, HttpServer, asgi_server
from servers.asgi import AsgiKind

PREFLIGHT = {"Origin": "https://page.example", "Access-Control-Request-Method": "GET"}
ASKED = 20

# Two seconds for the answer, the rest for a machine that has more to do.
END_S = 5.0

APP = """
import asyncio
from shieldmw import ShieldMiddleware

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    headers = [(b"content-type", b"text/event-stream")]
    if scope["path"] == "/declared":
        headers.append((b"content-length", b"1000"))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] != "/healthz":
        await asyncio.sleep(600)
    await send({"type": "http.response.body", "body": b"ok"})

shielded = ShieldMiddleware(app)
"""

SERVERS: dict[str, tuple[AsgiKind, tuple[str, ...]]] = {
    "uvicorn": ("uvicorn", ("--http", "h11", "--loop", "asyncio")),
    "uvicorn with httptools on uvloop": ("uvicorn", ("--http", "httptools", "--loop", "uvloop")),
    "shieldmw serve": ("shieldmw", ()),
    "hypercorn": ("hypercorn", ONE_PROCESS),
}


@pytest.mark.parametrize("kind", SERVERS)
def test_a_preflight_opens_no_stream(kind: str, tmp_path: Path) -> None:
    """The answers end in the response's own terms, or with their connection, and the server can end meanwhile."""
    server_kind, arguments = SERVERS[kind]
    (tmp_path / "app.py").write_text(APP, "utf-8")
    target = "app:app" if server_kind == "shieldmw" else "app:shielded"
    env = {"SHIELD_LIVE_PATHS": "/live,/declared", "SHIELD_CAPACITY": "1", "SHIELD_EXEMPT_PATHS": "/healthz"}
    with asgi_server(server_kind, target, env=env, cwd=tmp_path, args=arguments) as server, ExitStack() as stack:
        began = time.monotonic()
        asked = [stack.enter_context(closing(_ask(server, "/live"))) for _ in range(ASKED)]
        cut = stack.enter_context(closing(_ask(server, "/declared")))
        assert [answer.getresponse().read() for answer in asked] == [b""] * ASKED, "ended, and not cut"
        with pytest.raises((http.client.HTTPException, OSError)):
            cut.getresponse().read()
        assert time.monotonic() - began < END_S
        last = stack.enter_context(closing(_ask(server, "/live")))
        answer = last.getresponse()
        began = time.monotonic()
        server.terminate(TIMEOUT_S)
        assert time.monotonic() - began < END_S
        answer.close()


def _ask(server: HttpServer, path: str) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=TIMEOUT_S)
    connection.request("OPTIONS", path, headers=PREFLIGHT)
    return connection
