"""The admin routes as an ASGI app: recognizes its requests, authorizes them, and carries them out."""

from __future__ import annotations

from functools import partial
from itertools import groupby
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from shieldmw.answers.problems import WEBSOCKET_POLICY_VIOLATION
from shieldmw.core.bounds import LONGEST_PATH, MOST_LINES
from shieldmw.core.paths import PathPattern, below_root, is_beyond_reading, plain
from shieldmw.doors.asgi.handshakes import Handshakes
from shieldmw.errors import StoreError
from shieldmw.gate.operator.control import Control

from .answers import json_answer, problem, read_json, validated
from .auth import AdminAuth, Operator
from .live import Live
from .openapi import document
from .page import page_answer
from .routes import OPERATIONS, Call, Operation
from .schema import ActorHeader, admin_called

NO_WEBSOCKET = "no WebSocket here"

_OPERATOR = "shieldmw.operator"
_CONTROL = "shieldmw.control"


class Admin:
    """The routes below ``path``, for requests that ``admin_auth`` authorizes."""

    def __init__(self, path: str, admin_auth: AdminAuth, handshakes: Handshakes) -> None:
        self._path = path
        self._handshakes = handshakes
        self._below = PathPattern(f"{path}/*")
        self._questions = PathPattern(f"{path}/authorize/*")
        self._admin_auth = admin_auth
        self._app = _app(Live())

    def owns(self, scope: Scope) -> bool:
        """Whether a request is for these routes: its path literally begins with ``path``, and no reading of it leads
        elsewhere. Not the questions of proxies, which carry the clients' own credentials: as wrong admin tokens these
        would lock the proxy out."""
        path: str = scope["path"]
        if len(path) > LONGEST_PATH or self._path not in path:
            return False
        root: str = scope.get("root_path", "")
        route = below_root(path, root)
        if self._questions.matches(route):
            return False
        if not self._below.matches(route) or is_beyond_reading(route) or not self._below.matches(plain(route)):
            return False
        raw: bytes | None = scope.get("raw_path")
        return raw is None or any(_begins(raw, start) for start in self._spellings(root))

    def _spellings(self, root: str) -> set[str]:
        """The possible starts of a request target. Servers disagree on whether ``raw_path`` includes the root path."""
        literal = {self._path, f"{root}{self._path}"}
        return literal | {quote(start) for start in literal}

    async def answer(self, control: Control, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is for these routes."""
        if scope["type"] == "websocket":
            if self._handshakes.closes:
                await self._handshakes.close(scope, send, WEBSOCKET_POLICY_VIOLATION, NO_WEBSOCKET)
            else:
                await send({"type": "websocket.close", "code": WEBSOCKET_POLICY_VIOLATION, "reason": NO_WEBSOCKET})
            return
        if len(scope["headers"]) > MOST_LINES:
            await problem(431, f"Send at most {MOST_LINES} header lines.")(scope, receive, send)
            return
        path: str = scope["path"]
        below = below_root(path, scope.get("root_path", ""))[len(self._path) :]
        file = page_answer(scope, below)
        if file is not None:
            await (self._admin_auth.page_refusal(scope) or file)(scope, receive, send)
            return
        operator = self._admin_auth.enter(scope)
        if isinstance(operator, Response):
            await operator(scope, receive, send)
            return
        inner = {**scope, "root_path": path.removesuffix(below) if below else path}
        await self._app({**inner, _OPERATOR: operator, _CONTROL: control}, receive, send)


def _begins(raw: bytes, start: str) -> bool:
    encoded = start.encode()
    return raw == encoded or raw.startswith((encoded + b"/", encoded + b"?"))


def _app(live: Live) -> Starlette:
    by_path = groupby(sorted(OPERATIONS, key=lambda operation: operation.path), key=lambda operation: operation.path)
    routes = [_route(path, {operation.method: operation for operation in group}) for path, group in by_path]
    app = Starlette(
        routes=[
            *routes,
            Route("/openapi.json", _openapi, methods=["GET"]),
            Route("/live", partial(_live, live), methods=["GET"]),
        ],
        exception_handlers={HTTPException: _http_problem, StoreError: _store_problem, Exception: _bug},
    )
    app.router.redirect_slashes = False
    return app


def _route(path: str, operations: dict[str, Operation]) -> Route:
    async def serve(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await _carry_out(operations[method], request)

    return Route(path.replace("{cidr}", "{cidr:path}"), serve, methods=list(operations))


async def _carry_out(operation: Operation, request: Request) -> Response:
    """Parse and validate the whole request, then carry it out."""
    path = given = None
    actor = "admin"
    if operation.changes:
        named = _actor(request)
        if isinstance(named, Response):
            return named
        actor = named
    if operation.parameters is not None:
        path = validated(operation.parameters, request.path_params)
        if isinstance(path, Response):
            return path
    if operation.body is not None:
        given = await read_json(request, operation.body)
    elif operation.query is not None:
        given = validated(operation.query, _once(request))
    if isinstance(given, Response):
        return given
    scope = request.scope
    operator: Operator = scope[_OPERATOR]
    control: Control = scope[_CONTROL]
    return await operation.endpoint(Call(control, operator, actor, request, path, given))


def _once(request: Request) -> dict[str, object]:
    """The query parameters. A repeated one becomes a list, which no field accepts."""
    query = request.query_params
    return {name: values[0] if len(values := query.getlist(name)) == 1 else values for name in query}


def _actor(request: Request) -> str | Response:
    """The actor: the token's role, and the name in the request's header."""
    lines = request.headers.getlist("shield-actor")
    if not lines:
        return "admin"
    named = validated(ActorHeader, {"Shield-Actor": ", ".join(lines)})
    return named if isinstance(named, Response) else admin_called(named.actor)


async def _openapi(request: Request) -> Response:
    return json_answer(document(request.scope["root_path"]))


async def _live(live: Live, request: Request) -> Response:
    operator: Operator = request.scope[_OPERATOR]
    return live.answer(request.scope[_CONTROL], operator.role, head_only=request.method == "HEAD")


async def _http_problem(request: Request, error: Exception) -> Response:
    """Answer the errors that Starlette's router raises: 404 and 405."""
    if not isinstance(error, HTTPException):
        raise error
    method = request.method[:20].encode("ascii", "replace").decode()
    details = {404: "There is no such admin route.", 405: f"Not with {method}: see Allow."}
    return problem(error.status_code, details.get(error.status_code, error.detail), headers=error.headers)


async def _store_problem(_request: Request, _error: Exception) -> Response:
    return problem(
        503,
        "Nothing was changed: the mode, the limits and the deny list stay as they are. "
        "If the store received this change all the same, /status and /audit show it once it answers.",
        title="The store is away",
        headers={"retry-after": "1"},
    )


async def _bug(_request: Request, _error: Exception) -> Response:
    return problem(500, "An error in shieldmw: see its log.")
