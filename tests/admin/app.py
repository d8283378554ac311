"""A shielded app with admin routes, and operators that call it in process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from shieldmw import Settings, ShieldMiddleware, ShieldObserver
from shieldmw.doors.asgi.facts import AuthenticateScope

ADMIN = "an-admin-token-of-some-length"
VIEW = "a-view-token-of-some-length"
WRONG = "a-wrong-token-of-some-length"
HOME = "203.0.113.9"

LIMIT_S = 30


async def _the_app(request: Request) -> Response:
    return PlainTextResponse(f"the app at {request.scope['path']}")


def app_below(prefix: str = "") -> Starlette:
    """An app that answers every path, those below the admin prefix too."""
    everything = Route("/{path:path}", _the_app, methods=["GET", "PUT", "POST", "DELETE"])
    return Starlette(routes=[Mount(prefix, routes=[everything])] if prefix else [everything])


def shielded(
    app: ASGIApp | None = None,
    *,
    authenticate: AuthenticateScope | None = None,
    observers: Sequence[ShieldObserver] = (),
    **values: Any,
) -> ShieldMiddleware:
    """The shield with both tokens, in one process."""
    settings = Settings(**{"admin_token": ADMIN, "view_token": VIEW, "ip_limit": "5/day", **values})
    return ShieldMiddleware(app or app_below(), settings, authenticate=authenticate, observers=observers)


def bearer(token: str) -> dict[str, str]:
    """The header that shows a token."""
    return {"Authorization": f"Bearer {token}"}


class Operator:
    """Somebody at an address who shows a token, or none."""

    def __init__(self, app: ASGIApp, token: str | None = ADMIN, address: str = HOME, **headers: str) -> None:
        shown = {} if token is None else bearer(token)
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=(address, 40_000)),
            base_url="http://shield.test",
            headers={**shown, **{name.replace("_", "-"): value for name, value in headers.items()}},
        )

    async def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """One request below the admin path."""
        return await self._client.request(method, f"/-/shield{path}", **request)

    async def get(self, path: str, **request: Any) -> httpx.Response:
        """A GET below the admin path."""
        return await self.ask("GET", path, **request)

    async def put(self, path: str, body: Mapping[str, Any], **headers: str) -> httpx.Response:
        """A PUT of JSON below the admin path."""
        return await self.ask(
            "PUT", path, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    async def anywhere(self, path: str, **request: Any) -> httpx.Response:
        """A GET of any path."""
        return await self._client.get(path, **request)


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run one test's coroutine on a loop of its own, within a limit."""

    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await work()

    asyncio.run(limited())


__all__ = ["ADMIN", "HOME", "VIEW", "WRONG", "Operator", "app_below", "bearer", "run", "shielded"]
