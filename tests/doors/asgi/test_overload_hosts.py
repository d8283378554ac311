"""Apps of several frameworks behind the lane: a member comes before guests that have waited longer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from doors.asgi.harness import NO_BODY, Record, call, http_scope, run
from doors.asgi.test_overload_answers import somebody
from shieldmw import Settings, ShieldMiddleware


class Door:
    """What a handler does: note who it is, and hold its place until it is let go, in the loop or in a thread."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.let_go = threading.Event()

    def enter(self, who: str) -> str:
        """In a thread."""
        self.order.append(who)
        assert self.let_go.wait(10)
        return who

    async def enter_async(self, who: str) -> str:
        """On the loop."""
        self.order.append(who)
        while not self.let_go.is_set():  # noqa: ASYNC110  (what is waited for has no event of the loop)
            await asyncio.sleep(0)
        return who


def starlette_app(door: Door) -> ASGIApp:
    async def page(request: Request) -> Response:
        return PlainTextResponse(await door.enter_async(request.path_params["who"]))

    return Starlette(routes=[Route("/{who}", page)])


def starlette_in_threads(door: Door) -> ASGIApp:
    def page(request: Request) -> Response:
        return PlainTextResponse(door.enter(request.path_params["who"]))

    return Starlette(routes=[Route("/{who}", page)])


def fastapi_in_threads(door: Door) -> ASGIApp:
    app = FastAPI()

    @app.get("/{who}")
    def page(who: str) -> str:
        return door.enter(who)

    return app


def django_in_threads(door: Door) -> ASGIApp:
    import django  # type: ignore[import-untyped]
    from django.conf import settings  # type: ignore[import-untyped]
    from django.core.asgi import get_asgi_application  # type: ignore[import-untyped]
    from django.http import HttpRequest, HttpResponse  # type: ignore[import-untyped]
    from django.urls import path  # type: ignore[import-untyped]

    def page(request: HttpRequest, who: str) -> HttpResponse:
        return HttpResponse(door.enter(who))

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="of the tests alone", ROOT_URLCONF="none")
        django.setup()

    class Urls:
        urlpatterns = [path("<str:who>", page)]  # noqa: RUF012  (as Django wants it)

    settings.ROOT_URLCONF = Urls
    app: ASGIApp = get_asgi_application()
    return app


HOSTS: dict[str, Callable[[Door], ASGIApp]] = {
    "starlette": starlette_app,
    "starlette in threads": starlette_in_threads,
    "fastapi in threads": fastapi_in_threads,
    "django in threads": django_in_threads,
}


async def in_the_order_they_came(shield: ShieldMiddleware, outermost: ASGIApp, door: Door) -> list[Record]:
    """One is inside, three guests wait, a member comes; then the door opens."""

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110  (what is waited for has no event)
            await asyncio.sleep(0)

    def waiting() -> int:
        gate = shield._worker
        return 0 if gate is None or gate.overload is None else gate.overload.lane.waiting

    async def ask(path: str, **more: Any) -> asyncio.Task[Record]:
        return asyncio.create_task(call(outermost, http_scope(path, **more), NO_BODY))

    tasks = [await ask("/inside")]
    await until(lambda: door.order == ["inside"])
    for number, path in enumerate(("/guest0", "/guest1", "/guest2")):
        tasks.append(await ask(path))
        await until(lambda number=number: waiting() == number + 1)  # type: ignore[misc]
    tasks.append(await ask("/member", headers=[(b"x-member", b"alice")]))
    await until(lambda: waiting() == 4)
    assert door.order == ["inside"]
    door.let_go.set()
    records = list(await asyncio.gather(*tasks))
    assert shield._worker is not None
    assert shield._worker.overload is not None
    assert shield._worker.overload.lane.places.inside == 0
    return records


def shield_of(app: ASGIApp) -> ShieldMiddleware:
    """With one place, and patience: what a thread needs to end a response is nobody's fault."""
    return ShieldMiddleware(app, Settings(redis_url="memory://", max_in_flight=1, queue_ms=2000), authenticate=somebody)


@pytest.mark.parametrize("host", HOSTS)
def test_a_member_goes_before_guests_who_came_first(host: str) -> None:
    """Whether handlers run on the loop or in threads."""
    door = Door()
    shield = shield_of(HOSTS[host](door))
    records = run(in_the_order_they_came(shield, shield, door))
    assert [record.status for record in records] == [200] * 5, records
    assert door.order == ["inside", "member", "guest0", "guest1", "guest2"]


def test_behind_a_middleware_of_starlette_that_runs_apps_in_tasks() -> None:
    """BaseHTTPMiddleware around the shield: places are given back as they are without it."""

    class Outer(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
            return await call_next(request)

    door = Door()
    shield = shield_of(starlette_app(door))
    outermost = Outer(shield)
    records = run(in_the_order_they_came(shield, outermost, door))
    assert [record.status for record in records] == [200] * 5, records
    assert door.order == ["inside", "member", "guest0", "guest1", "guest2"]


def test_as_a_middleware_of_starlette() -> None:
    """The usual way to set it up; the lane is inside the app's own middleware."""

    async def page(request: Request) -> Response:
        return PlainTextResponse(f"{request.scope['shield'].listener_class}")

    app = Starlette(
        routes=[Route("/", page)],
        middleware=[Middleware(ShieldMiddleware, settings=Settings(redis_url="memory://", max_in_flight=1))],
    )

    async def story() -> list[Record]:
        return list(await asyncio.gather(*(call(app, http_scope(), NO_BODY) for _ in range(10))))

    assert [(record.status, record.body) for record in run(story())] == [(200, b"guest")] * 10
