"""An app of Starlette's parts behaves the same with and without the shield."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Host, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from doors.asgi.harness import NO_BODY, Step, body, http_scope
from doors.asgi.shields import MODES, Case, Mode, assert_same

DISCONNECT = {"type": "http.disconnect"}
FILES = Path(__file__).parent
FILE = FILES / "harness.py"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "BREW")


def of(response: Response) -> ASGIApp:
    """The response as an app: it is one."""
    return response


async def plain(request: Request) -> Response:
    return PlainTextResponse("hello")


async def show(request: Request) -> Response:
    """The scope as the endpoint sees it, but for what Starlette and the shield put there."""
    scope = {key: value for key, value in request.scope.items() if key not in OWN}
    return PlainTextResponse("\n".join(f"{key}={value!r}" for key, value in sorted(scope.items())))


OWN = ("shield", "app", "router", "endpoint", "starlette.exception_handlers", "route")


async def echo(request: Request) -> Response:
    return Response(await request.body())


async def chunk_sizes(request: Request) -> Response:
    return JSONResponse([len(chunk) async for chunk in request.stream()])


async def all_or_gone(request: Request) -> Response:
    try:
        return Response(await request.body())
    except ClientDisconnect:
        return PlainTextResponse("gone while sending", 499)


async def asks_if_gone(request: Request) -> Response:
    return PlainTextResponse(str(await request.is_disconnected()))


async def fails(request: Request) -> Response:
    raise RuntimeError("on purpose")


async def refuses(request: Request) -> Response:
    raise HTTPException(418, "teapot", headers={"x-pot": "tea"})


async def cookies(request: Request) -> Response:
    response = PlainTextResponse(repr(sorted(request.cookies.items())))
    response.set_cookie("a", "1", httponly=True)
    response.set_cookie("b", "2", samesite="none", secure=True)
    return response


async def hints(request: Request) -> Response:
    await request.send_push_promise("/style.css")
    return PlainTextResponse("pushed")


async def counting(numbers: int) -> AsyncIterator[bytes]:
    for number in range(numbers):
        yield f"{number};".encode()
        await asyncio.sleep(0)


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"data: tick\n\n"
        await asyncio.sleep(0)


async def breaking() -> AsyncIterator[bytes]:
    yield b"first"
    raise RuntimeError("in mid-stream")


async def streaming(request: Request) -> Response:
    return StreamingResponse(counting(5))


async def later(log: list[str], text: str) -> None:
    await asyncio.sleep(0)
    log.append(text)


def background_app() -> ASGIApp:
    """Answers what the background tasks of earlier answers did: it is asked once more from inside the last one."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        log: list[str] = []
        tasks = BackgroundTasks([BackgroundTask(later, log, "one"), BackgroundTask(later, log, "two")])
        await PlainTextResponse("soon", background=tasks)(scope, receive, send)
        await send({"type": "test.background", "log": log})

    return app


def failing_background() -> ASGIApp:
    async def fail() -> None:
        raise RuntimeError("in the background")

    return PlainTextResponse("sent already", background=BackgroundTask(fail))


class Stamp(BaseHTTPMiddleware):
    """A middleware of the kind that reads the request and changes the answer."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        request.state.stamped = True
        response = await call_next(request)
        response.headers["x-stamp"] = "yes"
        return response


class Session:
    """What a session middleware does: a value in the scope, a cookie on the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"] = {"visits": 1}

        async def send_with_cookie(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"set-cookie", repr(scope["session"]).encode()))
            await send(message)

        await self.app(scope, receive, send_with_cookie)


async def visits(request: Request) -> Response:
    request.session["visits"] += 1
    return PlainTextResponse("counted")


def site(*middleware: Middleware, debug: bool = False) -> ASGIApp:
    """A whole application."""
    inner = Starlette(routes=[Route("/", plain), Route("/show/{name}", show), Route("/fails", fails)])
    return Starlette(
        debug=debug,
        middleware=middleware,
        routes=[
            Route("/", plain, methods=["GET", "POST"]),
            Route("/show/{name:path}", show),
            Route("/fails", fails),
            Route("/refuses", refuses),
            Route("/echo", echo, methods=["POST"]),
            Route("/sizes", chunk_sizes, methods=["POST"]),
            Route("/streaming", streaming),
            Route("/cookies", cookies),
            Route("/visits", visits),
            Route("/hints", hints),
            Mount("/inner", inner),
            Mount("/files", StaticFiles(directory=FILES)),
            Host("api.example.org", inner),
        ],
    )


def asked(
    name: str,
    path: str,
    *middleware: Middleware,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    steps: list[Step] | None = None,
    debug: bool = False,
    raises: str | None = None,
    **more: Any,
) -> Case:
    """A request to the whole application."""
    lines = [(key.encode(), value.encode()) for key, value in (headers or {}).items()]
    scope = http_scope(path, method, headers=lines, **more)
    return Case(name, partial(site, *middleware, debug=debug), scope, steps or NO_BODY, raises=raises)


GZIP = Middleware(GZipMiddleware, minimum_size=1)
CORS = Middleware(CORSMiddleware, allow_origins=["https://a.example"], allow_credentials=True, max_age=5)
PREFLIGHT = {"origin": "https://a.example", "access-control-request-method": "GET"}
PATHSEND: dict[str, Any] = {"extensions": {"http.response.pathsend": {}}}
MODERN = {"version": "3.0", "spec_version": "2.4"}

RESPONSES = [
    Case("plain text", lambda: of(PlainTextResponse("hello")), steps=NO_BODY, sends=2),
    Case("json", lambda: of(JSONResponse({"a": [1, "é", None]})), steps=NO_BODY, sends=2),
    Case("html", lambda: of(HTMLResponse("<b>ü</b>", 203, {"x-a": "é"})), steps=NO_BODY, sends=2),
    Case("redirect", lambda: of(RedirectResponse("/x y?q=ü", 303)), steps=NO_BODY, sends=2),
    Case("204", lambda: of(Response(status_code=204)), steps=NO_BODY, sends=2),
    Case("streaming", lambda: of(StreamingResponse(counting(7))), steps=NO_BODY, sends=9),
    Case("empty stream", lambda: of(StreamingResponse(counting(0))), steps=NO_BODY, sends=2),
    Case("sync stream", lambda: of(StreamingResponse(iter(["a", "b"]))), steps=NO_BODY, sends=4),
    Case("streaming to a modern server", lambda: of(StreamingResponse(counting(3))), http_scope(asgi=MODERN), NO_BODY),
    Case(
        "endless, client goes",
        lambda: of(StreamingResponse(endless(), media_type="text/event-stream")),
        steps=[*NO_BODY, Step(DISCONNECT, after_sent=5)],
    ),
    Case(
        "endless, modern server, send raises",
        lambda: of(StreamingResponse(endless())),
        http_scope(asgi=MODERN),
        NO_BODY,
        gone_after=6,
        sends=6,
        raises="ClientDisconnect",
    ),
    Case(
        "stream that breaks",
        lambda: of(StreamingResponse(breaking())),
        http_scope(asgi=MODERN),
        NO_BODY,
        sends=2,
        raises="RuntimeError",
    ),
    Case(
        "stream that breaks, in a group",
        lambda: of(StreamingResponse(breaking())),
        steps=NO_BODY,
        sends=2,
        raises="RuntimeError",
    ),
    Case("file", lambda: of(FileResponse(FILE)), steps=NO_BODY),
    Case("file as download", lambda: of(FileResponse(FILE, filename="ü.py")), steps=NO_BODY),
    Case("file, HEAD", lambda: of(FileResponse(FILE)), http_scope(method="HEAD"), NO_BODY, sends=2),
    Case("file by path send", lambda: of(FileResponse(FILE)), http_scope(**PATHSEND), NO_BODY, sends=2),
    Case("file, one range", lambda: of(FileResponse(FILE)), http_scope(headers=[(b"range", b"bytes=5-20")])),
    Case("file, its end", lambda: of(FileResponse(FILE)), http_scope(headers=[(b"range", b"bytes=-7")])),
    Case("file, two ranges", lambda: of(FileResponse(FILE)), http_scope(headers=[(b"range", b"bytes=0-3,9-12")])),
    Case("file, range beyond", lambda: of(FileResponse(FILE)), http_scope(headers=[(b"range", b"bytes=999999-")])),
    Case("file, no range", lambda: of(FileResponse(FILE)), http_scope(headers=[(b"range", b"apples=1")])),
    Case("no file", lambda: of(FileResponse(FILES / "none")), steps=NO_BODY, sends=0, raises="RuntimeError"),
    Case("background tasks", background_app, steps=NO_BODY, sends=3),
    Case("failing background task", failing_background, steps=NO_BODY, sends=2, raises="RuntimeError"),
]

REQUESTS = [
    *(asked(f"{method} /", "/", method=method) for method in METHODS),
    asked("404", "/nowhere"),
    asked("405", "/echo"),
    asked("slash is added", "/inner"),
    asked("own 418", "/refuses"),
    asked("500", "/fails", raises="RuntimeError"),
    asked("500 with debug page", "/fails", debug=True, headers={"accept": "text/html"}, raises="RuntimeError"),
    asked("500 with debug text", "/fails", debug=True, raises="RuntimeError"),
    asked("scope", "/show/a/b", query_string=b"q=%ff&x", root_path="", state={"db": 1}, scheme="https"),
    asked("scope with root path", "/root/show/a", root_path="/root"),
    asked("scope with extensions", "/show/a", extensions={"tls": {"cipher_suite": 1}, "x": {"y": [1]}}),
    asked("mount", "/inner/"),
    asked("mount, parameter", "/inner/show/ü"),
    asked("mount, 404", "/inner/none"),
    asked("mount, 500", "/inner/fails", raises="RuntimeError"),
    asked("static file", "/files/harness.py"),
    asked("static file, HEAD", "/files/harness.py", method="HEAD"),
    asked("static file by path send", "/files/harness.py", **PATHSEND),
    asked("static file, climbing", "/files/../pyproject.toml"),
    asked("static file, none", "/files/none.js"),
    asked("static file, POST", "/files/harness.py", method="POST"),
    asked(
        "static file, not modified", "/files/harness.py", headers={"if-modified-since": "Fri, 01 Jan 2100 00:00:00 GMT"}
    ),
    asked("static file, range", "/files/harness.py", headers={"range": "bytes=2-9"}),
    asked("body", "/echo", method="POST", steps=body(b"all at once")),
    asked("body in many chunks", "/echo", method="POST", steps=body(*(b"%d," % n for n in range(200)))),
    asked("sizes of chunks", "/sizes", method="POST", steps=body(b"", b"a", b"", b"bb", b"c" * 70_000, b"")),
    asked("body of all bytes", "/echo", method="POST", steps=body(bytes(range(256)))),
    asked("cookies", "/cookies", headers={"cookie": "x=1; y=2"}),
    asked("push offered", "/hints", extensions={"http.response.push": {}}),
    asked("push not offered", "/hints"),
    asked("gzip", "/", GZIP, headers={"accept-encoding": "gzip"}),
    asked("gzip of a stream", "/streaming", GZIP, headers={"accept-encoding": "gzip"}),
    asked("gzip not wanted", "/", GZIP),
    asked("cors", "/", CORS, headers={"origin": "https://a.example"}),
    asked("cors preflight", "/", CORS, method="OPTIONS", headers=PREFLIGHT),
    asked("cors, other origin", "/", CORS, headers={"origin": "https://b.example"}),
    asked(
        "cors preflight, other origin",
        "/",
        CORS,
        method="OPTIONS",
        headers={**PREFLIGHT, "origin": "https://b.example"},
    ),
    asked("wrong host", "/", Middleware(TrustedHostMiddleware, allowed_hosts=["other.example"])),
    asked("session", "/visits", Middleware(Session)),
    asked("base middleware", "/", Middleware(Stamp)),
    asked("base middleware, body", "/echo", Middleware(Stamp), method="POST", steps=body(b"a", b"b", b"c")),
    asked("base middleware, stream", "/streaming", Middleware(Stamp)),
    asked("base middleware, 500", "/fails", Middleware(Stamp), raises="RuntimeError"),
    asked("all of them", "/streaming", GZIP, CORS, Middleware(Stamp), headers={"accept-encoding": "gzip", **PREFLIGHT}),
]

GOING = [
    Case(
        "client goes while it sends",
        lambda: Starlette(routes=[Route("/", all_or_gone, methods=["POST"])]),
        http_scope(method="POST"),
        [*body(b"a", b"b", b"c")[:2], Step(DISCONNECT)],
        sends=2,
    ),
    Case(
        "client goes while it sends, nobody catches",
        lambda: Starlette(routes=[Route("/", echo, methods=["POST"])]),
        http_scope(method="POST"),
        [*body(b"a", b"b")[:1], Step(DISCONNECT)],
        raises="ClientDisconnect",
    ),
    Case(
        "app asks whether the client is gone: it is",
        lambda: Starlette(routes=[Route("/", asks_if_gone)]),
        steps=[Step(DISCONNECT)],
        sends=2,
    ),
    Case(
        "app asks whether the client is gone: it is not",
        lambda: Starlette(routes=[Route("/", asks_if_gone)]),
        steps=NO_BODY,
        sends=2,
    ),
]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("case", [*RESPONSES, *REQUESTS, *GOING], ids=lambda case: case.name)
def test_a_starlette_app_behaves_the_same(case: Case, mode: Mode) -> None:
    """Every message, every read and every exception is the same; only limited answers carry two lines more."""
    assert_same(case, mode)
