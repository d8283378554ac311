"""Writes the ticket into HLS playlists of polled paths, for players that keep no cookies.

The answer to a poll is held back until all of it is there. If it is an HLS playlist its relative URIs get the ticket as
``shield_ticket=…``; if not, it goes on as it came.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable

from starlette.types import Message, Scope, Send

from shieldmw.core.bounds import MOST_PLAYLIST_BYTES
from shieldmw.core.paths import HLS, playlist_kind
from shieldmw.core.playlists import BEGINNING, with_parameter

from .tickets import TICKET_COOKIE

_START, _BODY = "http.response.start", "http.response.body"

# Headers that describe the body as it was; the new one is of one client alone, and nobody is to keep it.
_OF_THE_BODY = (
    *(b"content-length", b"content-md5", b"digest", b"content-digest", b"repr-digest", b"accept-ranges"),
    *(b"etag", b"last-modified", b"cache-control", b"expires"),
)
_NOT_KEPT = (b"cache-control", b"private, no-store")

# All that a ticket is made of; nothing that could begin a line or another parameter.
_TICKET = re.compile(r"[A-Za-z0-9_.-]+")

_TYPES = (b"application/vnd.apple.mpegurl", b"application/x-mpegurl", b"audio/mpegurl", b"audio/x-mpegurl")


def send_with_ticket(ticket: str, scope: Scope, send: Send) -> Send:
    """A ``send`` that adds the ticket to the answer if that is an HLS playlist.

    The ticket may be unverified: what cannot be one is not added.
    """
    if scope["type"] != "http" or scope.get("method") != "GET" or not _TICKET.fullmatch(ticket):
        return send
    return _Playlist(ticket.encode("ascii"), scope["path"], send).send


class _Playlist:
    """One answer: passed on as it is, or held back until it is complete or too long to be a playlist."""

    __slots__ = ("_chunks", "_length", "_path", "_send", "_start", "_ticket")

    def __init__(self, ticket: bytes, path: str, send: Send) -> None:
        self._ticket = ticket
        self._path = path
        self._send = send
        self._start: Message | None = None
        self._chunks: list[Message] = []
        self._length = 0

    def send(self, message: Message) -> Awaitable[None]:
        """Send a message of the app, or keep it for later."""
        kind = message["type"]
        if kind == _START and _may_be_playlist(message, self._path):
            return self._hold(message)
        if self._start is None or kind != _BODY:
            return self._send(message)
        return self._go_on(message)

    async def _hold(self, start: Message) -> None:
        self._start = start

    async def _go_on(self, message: Message) -> None:
        self._chunks.append(message)
        self._length += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        if not is_whole and self._length <= MOST_PLAYLIST_BYTES and self._looks_like_one():
            return
        start, self._start = self._start, None
        assert start is not None
        if is_whole and self._length <= MOST_PLAYLIST_BYTES and self._looks_like_one():
            body = b"".join([chunk.get("body", b"") for chunk in self._chunks])
            changed = with_parameter(body, TICKET_COOKIE.encode("ascii"), self._ticket)
            if changed != body:
                start = {**start, "headers": _headers_of(start, changed)}
                self._chunks = [{"type": _BODY, "body": changed}]
        await self._send(start)
        for chunk in self._chunks:
            await self._send(chunk)

    def _looks_like_one(self) -> bool:
        """Whether the body begins as a playlist does, as far as it is known."""
        begins = b""
        for chunk in self._chunks:
            begins += chunk.get("body", b"")[: len(BEGINNING)]
            if len(begins) >= len(BEGINNING):
                break
        return begins[: len(BEGINNING)] == BEGINNING[: len(begins)]


def _may_be_playlist(start: Message, path: str) -> bool:
    """Whether a response may be a playlist that is not compressed."""
    headers = {bytes(name).lower(): bytes(value) for name, value in start.get("headers", ())}
    if start["status"] != 200 or start.get("trailers") or headers.get(b"content-encoding", b"identity") != b"identity":
        return False
    named = headers.get(b"content-type", b"").partition(b";")[0].strip().lower() in _TYPES
    return named or playlist_kind(path) == HLS


def _headers_of(start: Message, body: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of the changed playlist: its length if there was one, and nobody may keep it."""
    headers = [(bytes(name), bytes(value)) for name, value in start.get("headers", ())]
    had_length = any(name.lower() == b"content-length" for name, _ in headers)
    kept = [line for line in headers if line[0].lower() not in _OF_THE_BODY]
    return [*kept, *([(b"content-length", b"%d" % len(body))] if had_length else []), _NOT_KEPT]
