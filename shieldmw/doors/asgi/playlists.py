"""Writes the ticket into HLS playlists and DASH manifests of polled paths, for players that keep no cookies.

The answer to a poll is held back until all of it is there. If it is a playlist of either kind its relative URIs get the
ticket as ``shield_ticket=…``; if not, it goes on as it came.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from urllib.parse import quote

from starlette.types import Message, Scope, Send

from shieldmw.core import manifests, playlists
from shieldmw.core.bounds import MOST_PLAYLIST_BYTES
from shieldmw.core.paths import DASH, HLS, playlist_kind

from .tickets import TICKET_COOKIE

_START, _BODY = "http.response.start", "http.response.body"

# Headers dropped from a changed playlist: they describe the old body, or permit caching what is now one client's own.
_OF_THE_BODY = (
    *(b"content-length", b"content-md5", b"digest", b"content-digest", b"repr-digest", b"accept-ranges"),
    *(b"etag", b"last-modified", b"cache-control", b"expires"),
)
_NOT_KEPT = (b"cache-control", b"private, no-store")

# The characters of a ticket: none of them could begin a line or another parameter.
_TICKET = re.compile(r"[A-Za-z0-9_.-]+")

_KIND_OF = {
    b"application/vnd.apple.mpegurl": HLS,
    b"application/x-mpegurl": HLS,
    b"audio/mpegurl": HLS,
    b"audio/x-mpegurl": HLS,
    b"application/dash+xml": DASH,
}
_BEGINNING_OF = {HLS: playlists.BEGINNING, DASH: manifests.BEGINNING}

_NAME = TICKET_COOKIE.encode("ascii")


def send_with_ticket(ticket: str, scope: Scope, send: Send) -> Send:
    """A ``send`` that adds the ticket to the answer if that is a playlist of HLS or a manifest of DASH.

    The ticket may be unverified; text with characters that no ticket has is not added.
    """
    if scope["type"] != "http" or scope.get("method") != "GET" or not _TICKET.fullmatch(ticket):
        return send
    return _Playlist(ticket.encode("ascii"), scope, send).send


class _Playlist:
    """One answer: passed on as it is, or held back until it is complete or too long to be a playlist."""

    __slots__ = ("_beginning", "_chunks", "_kind", "_length", "_scope", "_send", "_start", "_ticket")

    def __init__(self, ticket: bytes, scope: Scope, send: Send) -> None:
        self._ticket = ticket
        self._scope = scope
        self._send = send
        self._kind: str | None = None
        self._beginning = b""
        self._start: Message | None = None
        self._chunks: list[Message] = []
        self._length = 0

    def send(self, message: Message) -> Awaitable[None]:
        """Send a message of the app, or keep it for later."""
        kind = message["type"]
        if kind == _START and (playlist := _kind_of(message, self._scope["path"])) is not None:
            self._kind, self._beginning = playlist, _BEGINNING_OF[playlist]
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
            changed = self._changed(body)
            if changed != body:
                start = {**start, "headers": _headers_of(start, changed)}
                self._chunks = [{"type": _BODY, "body": changed}]
        await self._send(start)
        for chunk in self._chunks:
            await self._send(chunk)

    def _changed(self, body: bytes) -> bytes:
        if self._kind == HLS:
            return playlists.with_parameter(body, _NAME, self._ticket)
        return manifests.with_parameter(body, _own(self._scope), _NAME, self._ticket)

    def _looks_like_one(self) -> bool:
        """Whether the body begins as a playlist does, as far as it is known."""
        beginning, begins = self._beginning, b""
        for chunk in self._chunks:
            begins += chunk.get("body", b"")[: len(beginning)]
            if len(begins) >= len(beginning):
                break
        return begins[: len(beginning)] == beginning[: len(begins)]


def _own(scope: Scope) -> bytes:
    """The last segment of the path and the query, as requested."""
    path, query = scope.get("raw_path") or quote(scope["path"]).encode("ascii"), scope.get("query_string", b"")
    segment = path.partition(b"?")[0].rpartition(b"/")[2]
    return bytes(segment + b"?" + query if query else segment)


def _kind_of(start: Message, path: str) -> str | None:
    """The kind of playlist that a response may be; None if it is none, or compressed."""
    headers = {bytes(name).lower(): bytes(value) for name, value in start.get("headers", ())}
    if start["status"] != 200 or start.get("trailers") or headers.get(b"content-encoding", b"identity") != b"identity":
        return None
    named = _KIND_OF.get(headers.get(b"content-type", b"").partition(b";")[0].strip().lower())
    return named or playlist_kind(path)


def _headers_of(start: Message, body: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of the changed playlist: not cacheable, with its new length if it had one."""
    headers = [(bytes(name), bytes(value)) for name, value in start.get("headers", ())]
    had_length = any(name.lower() == b"content-length" for name, _ in headers)
    kept = [line for line in headers if line[0].lower() not in _OF_THE_BODY]
    return [*kept, *([(b"content-length", b"%d" % len(body))] if had_length else []), _NOT_KEPT]
