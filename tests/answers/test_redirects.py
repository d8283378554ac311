"""Guests whose poll of a playlist finds no seat are redirected to the recording, where that is set."""

from __future__ import annotations

from typing import Any

import pytest

from doors.asgi.harness import Record, call, http_scope, run, websocket_scope
from doors.asgi.shields import ok
from shieldmw import Identity, Settings, ShieldMiddleware
from shieldmw.answers.redirects import RecordingRedirect
from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Decision, Reason, Verdict

RECORDING = "https://example.org/rec/ev%20ent.m3u8?q=1"
POLLED: dict[str, Any] = {
    "polled_paths": "/hls/*",
    "capacity": 1,
    "recording_url": RECORDING,
    "redirect_to_recording": True,
    "redis_url": "memory://",
}


def refused(reason: Reason = Reason.NO_SEAT, *, lease_s: int = 30, member: bool = False) -> Decision:
    """A refusal on a path."""
    identity = Identity("alice", ListenerClass.MEMBER) if member else None
    return Decision(Verdict.REFUSED, reason, b"\x7f\x00\x00\x01", identity, lease_s=lease_s)


@pytest.mark.parametrize(
    ("decision", "path", "redirected"),
    [
        pytest.param(refused(), "/hls/live.m3u8", True, id="a poll"),
        pytest.param(refused(Reason.EMERGENCY), "/hls/live.M3U8", True, id="a path for members"),
        pytest.param(refused(Reason.QUOTA), "/hls/live.m3u8", False, id="a limit"),
        pytest.param(refused(Reason.TOO_MANY_STREAMS), "/hls/live.m3u8", False, id="too many streams"),
        pytest.param(refused(Reason.RESTARTING), "/hls/live.m3u8", False, id="a restart"),
        pytest.param(refused(Reason.OVERLOAD), "/hls/live.m3u8", False, id="overload"),
        pytest.param(refused(Reason.DENY_LIST), "/hls/live.m3u8", False, id="denied"),
        pytest.param(refused(member=True), "/hls/live.m3u8", False, id="a member, who waits in line"),
        pytest.param(refused(lease_s=0), "/hls/live.m3u8", False, id="a stream"),
        pytest.param(refused(), "/hls/1.aac", False, id="a segment"),
        pytest.param(refused(), "/hls/live.mpd", False, id="a playlist of another kind"),
        pytest.param(refused(), "/rec/ev ent.m3u8", False, id="the recording itself"),
    ],
)
def test_who_is_redirected(decision: Decision, path: str, redirected: bool) -> None:
    """A guest's poll of a playlist, if a seat is all it lacks, and nothing else."""
    answer = RecordingRedirect(RECORDING).answer(decision, path)
    assert (answer is not None) == redirected


def test_the_redirect_as_it_is_sent() -> None:
    """307, to the URL as it was set, never stored; no Retry-After, which would delay the redirect itself."""
    answer = RecordingRedirect("https://example.org/späť/a%20b.mpd?x=1&y[]=2").answer(refused(), "/live.mpd")
    assert answer is not None
    location = b"https://example.org/sp%C3%A4%C5%A5/a%20b.mpd?x=1&y[]=2"
    assert answer.headers == [(b"location", location), (b"content-length", b"0"), (b"cache-control", b"no-store")]
    assert (answer.status, answer.body) == (307, b"")


def polls(*paths: str, method: str = "GET", **values: Any) -> list[Record]:
    """The answers to polls of as many guests, each from an address of its own."""

    async def asking() -> list[Record]:
        shield = ShieldMiddleware(ok, Settings(**{**POLLED, **values}))
        scopes = [http_scope(path, client=(f"203.0.113.{number}", 1)) for number, path in enumerate(paths)]
        return [await call(shield, {**scope, "method": method}) for scope in scopes]

    return run(asking())


def test_a_guest_without_a_seat_is_redirected() -> None:
    """The first has the only seat; the next is sent to the recording, but not for a segment; a page may follow."""
    cors: dict[str, Any] = {"cors_origins": ("*",)}
    first, second, segment = polls("/hls/live.m3u8", "/hls/live.m3u8", "/hls/1.aac", **cors)
    assert first.status == 200
    assert (second.status, second.value(b"location"), second.body) == (307, RECORDING, b"")
    assert second.value(b"access-control-allow-origin") == "*"
    assert segment.status == 503
    assert segment.value(b"retry-after")


@pytest.mark.parametrize(("method", "status"), [("HEAD", 307), ("POST", 503)])
def test_what_may_change_something_is_not_sent_elsewhere(method: str, status: int) -> None:
    """Only GET and HEAD are redirected: 307 would send the body of another request to the recording."""
    assert polls("/hls/live.m3u8", "/hls/live.m3u8", method=method)[1].status == status


def test_unless_it_is_wanted_nobody_is_redirected() -> None:
    """By default the answer is a 503 with the problem document, which names the recording."""
    told = polls("/hls/live.m3u8", "/hls/live.m3u8", redirect_to_recording=False)[1]
    assert (told.status, told.values(b"location")) == (503, [])
    assert RECORDING.encode() in told.body


def test_limits_and_websockets_are_told_why() -> None:
    """A 429 stays a 429, and a refused handshake what it is."""

    async def asking() -> tuple[Record, Record]:
        shield = ShieldMiddleware(ok, Settings(**{**POLLED, "capacity": 0, "ip_limit": "1/hour"}))
        await call(shield, http_scope("/hls/live.m3u8"))
        limited = await call(shield, http_scope("/hls/live.m3u8"))
        return limited, await call(shield, websocket_scope("/hls/live.m3u8"))

    limited, socket = run(asking())
    assert limited.status == 429
    assert b"location" not in [name for message in socket.sent for name, _ in message.get("headers", ())]
