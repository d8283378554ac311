"""The answer to an address that already has all the live streams it may have."""

from __future__ import annotations

import asyncio
import json

from starlette.types import Receive, Scope, Send

from doors.asgi.harness import Record, call, http_scope, run
from doors.asgi.shields import ok
from shieldmw import Settings, ShieldMiddleware


def test_one_stream_too_many_is_a_quota() -> None:
    """429 and half a minute's wait, with the policy named; other paths are as before, and one that ends makes room."""

    async def story() -> tuple[Record, Record, Record]:
        begun = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/live" and not begun.is_set():
                begun.set()
                await asyncio.Event().wait()
            await ok(scope, receive, send)

        shield = ShieldMiddleware(app, Settings(live_paths="/live", redis_url="memory://", streams_per_address=1))
        stream = asyncio.create_task(call(shield, http_scope("/live")))
        await begun.wait()
        refused = await call(shield, http_scope("/live"))
        elsewhere = await call(shield, http_scope("/"))
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
        return refused, elsewhere, await call(shield, http_scope("/live"))

    refused, elsewhere, after = run(story())
    problem = json.loads(refused.body)
    assert (refused.status, problem["status"], problem["violated-policies"]) == (429, 429, ["streams"])
    assert problem["type"].endswith("#quota-exceeded")
    assert 30 <= int(refused.value(b"retry-after")) <= 36
    assert (elsewhere.status, after.status) == (200, 200)
