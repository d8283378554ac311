"""Playlists of HLS and DASH on polled paths with the ticket in their URIs, and everything else byte by byte as the app
sent it."""

from __future__ import annotations

import re
from http.cookies import SimpleCookie
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doors.asgi.harness import Headers, Record, call, comparable, http_scope, run
from doors.asgi.shields import OFF, part, start
from shieldmw import Settings, ShieldMiddleware
from shieldmw.core.bounds import MOST_PLAYLIST_BYTES
from shieldmw.doors.asgi.playlists import send_with_ticket

POLLED: dict[str, Any] = {**OFF, "polled_paths": "/hls/*", "redis_url": "memory://", "ticket_in_playlists": True}
HLS: Headers = [(b"content-type", b"application/vnd.apple.mpegurl")]
PLAYLIST = b"#EXTM3U\r\n#EXTINF:4,\r\n1.aac\r\nhttps://cdn.example.org/2.aac\r\n"
TICKET = "abc.DEF-1_2"
WITH_TICKET = PLAYLIST.replace(b"1.aac", b"1.aac?shield_ticket=" + TICKET.encode())


def answering(*messages: Message) -> ASGIApp:
    """An app that sends these messages."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


def filtered(*messages: Message, scope: Scope | None = None, ticket: str = TICKET) -> Record:
    """What goes out when an app sends these messages through the filter."""
    scope = scope or http_scope("/hls/live.m3u8")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering(*messages)(scope, receive, send_with_ticket(ticket, scope, send))

    return run(call(app, scope))


def asked(app: ASGIApp, scope: Scope, **values: Any) -> Record:
    """The shield's answer."""

    async def asking() -> Record:
        return await call(ShieldMiddleware(app, Settings(**{**POLLED, **values})), scope)

    return run(asking())


# --- through the shield ---------------------------------------------------------------------------


def test_a_new_viewer_finds_its_ticket_in_the_playlist() -> None:
    """The one of its cookie; so the next poll shows it, and no new one is given."""
    app = answering(start(headers=[*HLS, (b"content-length", b"%d" % len(PLAYLIST))]), part(PLAYLIST))
    first = asked(app, http_scope("/hls/live.m3u8"))
    ticket = SimpleCookie(first.value(b"set-cookie"))["shield_ticket"].value.encode()
    assert first.body == PLAYLIST.replace(b"1.aac", b"1.aac?shield_ticket=" + ticket)
    assert first.value(b"content-length") == str(len(first.body))


def test_a_poll_inside_its_lease_gets_the_ticket_that_it_shows() -> None:
    """In the query as well as in a cookie."""
    app = answering(start(headers=HLS), part(PLAYLIST))

    async def asking() -> tuple[Record, Record]:
        shield = ShieldMiddleware(app, Settings(**POLLED))
        first = await call(shield, http_scope("/hls/live.m3u8"))
        found = re.search(rb"\?(shield_ticket=[A-Za-z0-9_.-]+)", first.body)
        assert found
        return first, await call(shield, http_scope("/hls/live.m3u8", query_string=found[1]))

    first, second = run(asking())
    assert second.body == first.body
    assert second.values(b"set-cookie") == []


def test_what_is_no_ticket_is_not_written() -> None:
    """Nobody can put a line of his own into a playlist, nor another parameter."""
    app = answering(start(headers=HLS), part(PLAYLIST))

    async def asking() -> Record:
        shield = ShieldMiddleware(app, Settings(**POLLED))
        await call(shield, http_scope("/hls/live.m3u8"))
        return await call(shield, http_scope("/hls/live.m3u8", query_string=b"shield_ticket=a%0Ahttp://evil/"))

    assert run(asking()).body == PLAYLIST
    assert filtered(start(headers=HLS), part(PLAYLIST), ticket="a&b=c").body == PLAYLIST


@pytest.mark.parametrize("values", [{"ticket_in_playlists": False}, {"polled_paths": "/other/*"}], ids=["off", "path"])
def test_otherwise_every_byte_is_the_apps(values: dict[str, Any]) -> None:
    """By default, and on any path that is not polled."""
    app = answering(start(headers=[*HLS, (b"etag", b'"1"')]), part(PLAYLIST[:9], more=True), part(PLAYLIST[9:]))
    record = asked(app, http_scope("/hls/live.m3u8"), **values)
    assert [message.get("body") for message in record.sent[1:]] == [PLAYLIST[:9], PLAYLIST[9:]]
    assert record.headers[:2] == [*HLS, (b"etag", b'"1"')]


def test_a_file_is_sent_in_messages() -> None:
    """Where the server could send a file by itself, the app is not told that it can."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await answering(start(headers=HLS), part(PLAYLIST))(scope, receive, send)

    extensions: dict[str, dict[str, str]] = {"http.response.pathsend": {}, "http.response.debug": {}}
    asked(app, http_scope("/hls/live.m3u8", extensions=extensions))
    asked(app, http_scope("/hls/live.m3u8", extensions=extensions), ticket_in_playlists=False)
    assert [list(scope["extensions"]) for scope in seen] == [["http.response.debug"], list(extensions)]


# --- the filter -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [[], [3], [1, 2, 8, 20], list(range(1, len(PLAYLIST)))])
def test_a_playlist_in_any_pieces(cuts: list[int]) -> None:
    """It is put together first: a line may be cut anywhere."""
    ends = [*cuts, len(PLAYLIST)]
    pieces = [PLAYLIST[begin:end] for begin, end in zip([0, *cuts], ends, strict=True)]
    parts = [part(piece, more=number < len(cuts)) for number, piece in enumerate(pieces)]
    record = filtered(start(headers=HLS), part(b"", more=True), *parts)
    assert record.body == WITH_TICKET
    assert record.values(b"content-length") == []


def test_the_headers_of_a_changed_playlist() -> None:
    """The length is corrected; what identified the old body is gone, and no cache may keep the new one."""
    stale = [(b"Content-Length", b"%d" % len(PLAYLIST)), (b"ETag", b'"1"'), (b"cache-control", b"max-age=9"), *HLS]
    record = filtered(start(headers=[*stale, (b"x-own", b"1")]), part(PLAYLIST))
    length = (b"content-length", b"%d" % len(WITH_TICKET))
    assert record.headers == [*HLS, (b"x-own", b"1"), length, (b"cache-control", b"private, no-store")]


DASH: Headers = [(b"content-type", b"application/dash+xml; charset=utf-8")]
MANIFEST = b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="dynamic">@<Period/></MPD>'


@pytest.mark.parametrize("headers", [DASH, []], ids=["by its type", "by its path"])
@pytest.mark.parametrize(
    ("values", "own"),
    [
        ({}, "live%20a.mpd?"),
        ({"raw_path": None}, "live%20a.mpd?"),
        ({"query_string": b"token=a.b&shield_ticket=old"}, "live%20a.mpd?token=a.b&amp;"),
    ],
    ids=["as asked for", "a server without raw_path", "with a query"],
)
def test_a_live_manifest_of_dash_says_where_to_ask_again(headers: Headers, values: dict[str, Any], own: str) -> None:
    """With the ticket, and with what else the query had, such as a token."""
    scope = {**http_scope("/dash/live a.mpd"), "raw_path": b"/dash/live%20a.mpd", **values}
    body = MANIFEST.replace(b"@", b"")
    record = filtered(start(headers=headers), part(body[:3], more=True), part(body[3:]), scope=scope)
    location = f"<Location>{own}shield_ticket={TICKET}</Location>"
    assert record.body == MANIFEST.replace(b"@", location.encode())
    assert record.value(b"cache-control") == "private, no-store"


LONG = b"#EXTM3U\n" + b"#EXTINF:4,\n1.aac\n" * (MOST_PLAYLIST_BYTES // 17)
GZIP: Headers = [(b"content-encoding", b"gzip")]


@pytest.mark.parametrize(
    ("messages", "scope"),
    [
        pytest.param([start(headers=[*HLS, *GZIP]), part(PLAYLIST)], {}, id="compressed"),
        pytest.param([start(404, headers=HLS), part(PLAYLIST)], {}, id="an error"),
        pytest.param([start(headers=DASH), part(PLAYLIST)], {}, id="another kind"),
        pytest.param([start(206, headers=HLS), part(PLAYLIST)], {}, id="a range"),
        pytest.param([start(headers=HLS), part(PLAYLIST)], {"method": "HEAD"}, id="HEAD"),
        pytest.param([start(headers=HLS), part(PLAYLIST)], {"method": "POST"}, id="POST"),
        pytest.param([start(), part(PLAYLIST)], {"path": "/hls/live"}, id="not called a playlist"),
        pytest.param([start(headers=HLS), part(b"\xff\xf1\x50" * 99)], {}, id="a segment under a wrong name"),
        pytest.param([start(headers=HLS), part(b"#EXT")], {}, id="the beginning of one"),
        pytest.param([start(headers=HLS), part(b"")], {}, id="empty"),
        pytest.param([start(headers=HLS), part(LONG, more=True), part(b"1.aac\n" * 99)], {}, id="too long"),
        pytest.param([start(headers=HLS), part(b"#EXTM3U\nhttps://e.org/a\n")], {}, id="nothing to add"),
        pytest.param([start(headers=HLS, trailers=True), part(PLAYLIST)], {}, id="with trailers"),
    ],
)
def test_what_is_passed_on_as_it_came(messages: list[Message], scope: dict[str, Any]) -> None:
    """Message by message, with the headers that it had."""
    asked_for = {**http_scope("/hls/live.m3u8"), **scope}
    assert filtered(*messages, scope=asked_for).sent == run(call(answering(*messages), asked_for)).sent


def test_a_playlist_is_known_by_its_type_or_its_name() -> None:
    """Many servers give it no type of its own."""
    named = filtered(start(headers=[(b"content-type", b"text/plain")]), part(PLAYLIST))
    typed = filtered(
        start(headers=[(b"content-type", b"Audio/MPEGURL; charset=utf-8")]), part(PLAYLIST), scope=http_scope("/hls/x")
    )
    assert named.body == typed.body == WITH_TICKET


def test_an_endless_answer_is_not_held_back() -> None:
    """What does not begin as a playlist goes on piece by piece, at once."""
    record = filtered(start(headers=HLS), part(b"data", more=True))
    assert len(record.sent) == 2


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=3))
def test_any_other_body_is_the_same(content: bytes, cuts: list[int]) -> None:
    """Bytes of any kind, in any pieces."""
    ends = sorted({min(cut, len(content)) for cut in cuts} | {len(content)})
    pieces = [content[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    messages = [start(headers=HLS), *(part(piece, more=n < len(pieces) - 1) for n, piece in enumerate(pieces))]
    record = filtered(*messages)
    assert comparable(record) == comparable(run(call(answering(*messages), http_scope("/hls/live.m3u8"))))
