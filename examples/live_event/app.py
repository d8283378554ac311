"""A live event: a page, an SSE stream, sound by HLS, a chat, a small JSON API and a sign-in.

Nothing here limits anybody: `shieldmw serve app:app` puts the shield in front; `uvicorn app:app` does not.
The state of a worker is in its `Venue`, which the lifespan creates.
"""

import asyncio
import json
import logging
import os
import random
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qsl

import jwt
import sound
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import Send
from starlette.websockets import WebSocket, WebSocketDisconnect

log = logging.getLogger("live_event")
HERE = Path(__file__).parent
TRANSCRIPT = tuple((HERE / "transcript.txt").read_text("utf-8").splitlines())
NO_STORE = {"Cache-Control": "no-store"}
DEMO_SECRET = "demo-only-secret-that-everyone-can-read-in-the-source"
TOKEN_LIFETIME_S = 3600
MAX_BODY_BYTES = 16 * 1024
CHAT_BACKLOG = 100  # messages kept for a slow reader before it starts to miss some
CHAT_PAUSE_S = 0.2  # a client sends at most five messages a second
QUESTIONS_KEPT = 20


class LiveEvent:
    """The event clock: each second it encodes one SSE frame and wakes all listeners, which share its bytes."""

    def __init__(self) -> None:
        self.listeners = 0
        self.worker = secrets.token_hex(3)  # a name for this process, to show which one answered
        self._tick = asyncio.Event()
        self._publish(int(time.time()))

    def _publish(self, moment: int) -> None:
        # The id is the time, so that all workers number their lines alike without communicating.
        line = TRANSCRIPT[moment % len(TRANSCRIPT)]
        self.now = {"id": moment, "line": line, "listeners": self.listeners, "worker": self.worker}
        self._frame = f"id: {moment}\nevent: line\ndata: {json.dumps(self.now)}\n\n".encode()
        ticked, self._tick = self._tick, asyncio.Event()
        ticked.set()

    async def run(self) -> None:
        due = int(time.time())
        while True:
            due = max(due, int(time.time())) + 1  # a late clock skips seconds, and none is repeated
            await asyncio.sleep(due - time.time())
            self._publish(due)

    async def frames(self) -> AsyncIterator[bytes]:
        # Random, so that listeners that were cut off together do not come back together.
        yield f"retry: {random.randint(2000, 6000)}\n\n".encode()
        while True:
            tick = self._tick
            yield self._frame
            await tick.wait()


class LiveStream(StreamingResponse):
    """An SSE response that is counted for exactly as long as it is being sent."""

    def __init__(self, event: LiveEvent) -> None:
        super().__init__(event.frames(), headers=NO_STORE, media_type="text/event-stream")
        self._event = event

    async def stream_response(self, send: Send) -> None:
        self._event.listeners += 1
        try:
            await super().stream_response(send)
        finally:
            self._event.listeners -= 1


class ChatRoom:
    """Everyone in the chat on this worker. Queues are bounded, and a slow reader holds up nobody else."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[str]] = set()

    def say(self, author: str, text: str) -> None:
        message = json.dumps({"type": "message", "from": author, "text": text})
        for queue in self._queues:
            with suppress(asyncio.QueueFull):
                queue.put_nowait(message)

    @asynccontextmanager
    async def joined(self, socket: WebSocket) -> AsyncIterator[None]:
        async def deliver() -> None:
            with suppress(WebSocketDisconnect, RuntimeError):  # the socket closed first; its reader notices too
                while True:
                    await socket.send_text(await queue.get())

        queue: asyncio.Queue[str] = asyncio.Queue(CHAT_BACKLOG)
        self._queues.add(queue)
        delivery = asyncio.create_task(deliver())
        try:
            yield
        finally:
            self._queues.discard(queue)
            delivery.cancel()


class Questions:
    """The questions asked on this worker, as if in a database: reading holds a connection of a small pool for a while.

    That bounds the capacity of the app, whatever the machine: beyond it, requests wait for one another.
    """

    def __init__(self, connections: int, query_s: float) -> None:
        self._free = asyncio.Semaphore(connections)
        self._query_s = query_s
        self._kept: deque[dict[str, str]] = deque(maxlen=QUESTIONS_KEPT)

    def add(self, question: dict[str, str]) -> None:
        self._kept.append(question)

    async def latest(self) -> list[dict[str, str]]:
        async with self._free:
            await asyncio.sleep(self._query_s)
            return list(self._kept)


@dataclass(frozen=True, slots=True)
class Venue:
    signing_secret: str
    hosts: frozenset[str]
    questions: Questions
    event: LiveEvent = field(default_factory=LiveEvent)
    room: ChatRoom = field(default_factory=ChatRoom)


def venue_of(connection: HTTPConnection) -> Venue:
    return cast(Venue, connection.app.state.venue)


def shield_of(connection: HTTPConnection) -> Any:
    """What the shield says about this client, or a stand-in if the app runs without it."""
    address = connection.client.host if connection.client else None
    bare = SimpleNamespace(identity=None, client_address=address, listener_class="guest", mode="normal")
    return connection.scope.get("shield", bare)


def name_of(connection: HTTPConnection) -> str:
    identity = shield_of(connection).identity
    return str(identity.subject) if identity else "guest"


def signing_secret(environ: Mapping[str, str]) -> str:
    secret = environ.get("LIVE_EVENT_JWT_SECRET") or environ.get("SHIELD_JWT_SECRET")
    if not secret:
        log.warning("Signing with the public demo secret: anyone can forge tokens. Set SHIELD_JWT_SECRET.")
    return secret or DEMO_SECRET


async def text_from(request: Request, name: str, max_chars: int) -> str:
    """One member of a JSON object or a form; a body that is too large is refused before all of it is in memory."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"Send at most {MAX_BODY_BYTES} bytes.")
    is_form = "x-www-form-urlencoded" in request.headers.get("content-type", "")
    try:
        fields = dict(parse_qsl(body.decode(), max_num_fields=20)) if is_form else json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "Send a JSON object or a form, in UTF-8.") from None
    text = fields.get(name) if isinstance(fields, dict) else None
    if not isinstance(text, str) or not text.isprintable() or not 0 < len(text.strip()) <= max_chars:
        raise HTTPException(422, f"'{name}' must be 1 to {max_chars} printable characters.")
    return text.strip()


async def problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = {"title": "Not accepted", "status": error.status_code, "detail": error.detail}
    return JSONResponse(body, error.status_code, error.headers, "application/problem+json")


async def live(request: Request) -> Response:
    # EventSource cannot send our headers: the token comes as ?token=… (SHIELD_TOKEN_QUERY=token).
    is_listener = request.method == "GET"  # HEAD gets no stream
    return LiveStream(venue_of(request).event) if is_listener else Response(media_type="text/event-stream")


async def live_sound(_request: Request) -> Response:
    return Response(sound.live_playlist(time.time()), media_type=sound.PLAYLIST_TYPE, headers=NO_STORE)


async def live_segment(request: Request) -> Response:
    number = request.path_params["number"]
    if not sound.is_live(number, time.time()):
        raise HTTPException(404, "This part of the sound is not there, or no longer.")
    return Response(sound.segment(number), media_type=sound.SEGMENT_TYPE)


async def recorded_segment(request: Request) -> Response:
    number = request.path_params["number"]
    if number >= sound.SEGMENTS_OF_RECORDING:
        raise HTTPException(404, "The recording ends before.")
    return Response(sound.segment(number), media_type=sound.SEGMENT_TYPE)


async def chat(socket: WebSocket) -> None:
    author, room = name_of(socket), venue_of(socket).room
    await socket.accept()
    await socket.send_json({"type": "welcome", "you": author})
    async with room.joined(socket):
        while (message := await socket.receive())["type"] == "websocket.receive":
            if text := (message.get("text") or "").strip()[:500]:
                room.say(author, text)
            await asyncio.sleep(CHAT_PAUSE_S)


async def now(request: Request) -> Response:
    return JSONResponse(venue_of(request).event.now, headers=NO_STORE)


async def question(request: Request) -> Response:
    asked = {"from": name_of(request), "question": await text_from(request, "question", max_chars=500)}
    venue = venue_of(request)
    venue.questions.add(asked)
    venue.room.say(f"{asked['from']} asks the speakers", asked["question"])
    return JSONResponse(asked, 202)


async def questions(request: Request) -> Response:
    return JSONResponse(await venue_of(request).questions.latest(), headers=NO_STORE)


async def me(request: Request) -> Response:
    shield = shield_of(request)
    facts = {
        "identity": shield.identity and shield.identity.subject,
        "listener_class": shield.listener_class,
        "client_address": shield.client_address,
        "mode": shield.mode,
    }
    return JSONResponse(facts, headers=NO_STORE)


async def sign_in(request: Request) -> Response:
    # Any name is accepted, even a host's. A real site asks for a passkey or a password here.
    name = await text_from(request, "name", max_chars=40)
    venue, issued = venue_of(request), int(time.time())
    claims = {"sub": name, "aud": "live-event", "iss": "live-event"}
    times = {"iat": issued, "exp": issued + TOKEN_LIFETIME_S}
    favour = {"shield_class": "host"} if name in venue.hosts else {}
    token = jwt.encode(claims | times | favour, venue.signing_secret, algorithm="HS256")
    return JSONResponse({"token": token, "name": name, "expires_in": TOKEN_LIFETIME_S}, headers=NO_STORE)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    hosts = frozenset(name.strip() for name in os.environ.get("LIVE_EVENT_HOSTS", "").split(","))
    connections = int(os.environ.get("LIVE_EVENT_DATABASE_CONNECTIONS", "8"))
    query_s = int(os.environ.get("LIVE_EVENT_QUERY_MS", "20")) / 1000
    app.state.venue = venue = Venue(signing_secret(os.environ), hosts, Questions(connections, query_s))
    clock = asyncio.create_task(venue.event.run())
    yield
    clock.cancel()


def file(path: str, name: str, media_type: str) -> Route:
    return Route(path, Response((HERE / name).read_bytes(), media_type=media_type), methods=["GET"])


app = Starlette(
    routes=[
        file("/", "page.html", "text/html"),
        file("/recording", "recording.html", "text/html"),
        file("/hls.js", "vendor/hls.light.min.js", "text/javascript"),
        file("/api/programme", "programme.json", "application/json"),
        Route("/healthz", PlainTextResponse("ok"), methods=["GET"]),
        Route("/live", live),
        Route("/recording.m3u8", Response(sound.recorded_playlist(), media_type=sound.PLAYLIST_TYPE), methods=["GET"]),
        Route("/hls/live.m3u8", live_sound),
        Route("/hls/{number:int}.aac", live_segment),
        Route("/recording/{number:int}.aac", recorded_segment),
        WebSocketRoute("/chat", chat),
        Route("/api/now", now),
        Route("/api/question", question, methods=["POST"]),
        Route("/api/questions", questions),
        Route("/api/me", me),
        Route("/sign-in", sign_in, methods=["POST"]),
    ],
    exception_handlers={HTTPException: problem},
    lifespan=lifespan,
)
