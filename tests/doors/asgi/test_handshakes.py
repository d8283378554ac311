"""SHIELD_WEBSOCKET_REFUSALS=close: a handshake is accepted and closed at once, with a reason and a wait."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from doors.asgi.harness import CONNECT, Record, call, run, websocket_scope
from doors.asgi.shields import ok
from shieldmw import Settings, ShieldMiddleware
from shieldmw.answers.refusals import RefusalAnswers, RefusalLinks
from shieldmw.core.address import Networks, parse_networks
from shieldmw.core.bounds import MOST_PROTOCOLS
from shieldmw.core.client import Identity
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.waiting import QueuePosition
from shieldmw.doors.asgi.handshakes import Handshakes, subprotocol
from shieldmw.doors.asgi.lingering import Lingering
from shieldmw.doors.asgi.replies import Replies

JWT = f"{'e' * 20}.{'p' * 40}.{'s' * 43}"
OFFERS_BOTH: dict[str, Any] = {"extensions": {"websocket.http.response": {}}}
TOKEN = "an admin token, long enough"


def refused(path: str = "/", subprotocols: list[str] | None = None, **values: Any) -> Record:
    """The second handshake where there is one to be had."""
    scope = websocket_scope(path, subprotocols=subprotocols or [], **OFFERS_BOTH)
    settings = Settings(**{"ip_limit": "1/day", "websocket_refusals": "close", **values})

    async def asking() -> Record:
        shield = ShieldMiddleware(ok, settings)
        await call(shield, scope, [CONNECT])
        return await call(shield, scope, [CONNECT])

    return run(asking())


@pytest.mark.parametrize(
    ("path", "values", "code", "reason"),
    [
        ("/", {}, 1013, r"Too many requests; retry-after=\d+"),
        ("/", {"deny_ips": Networks(parse_networks("203.0.113.7"))}, 1008, r"Abnormal usage detected; retry-after=\d+"),
        ("/-/shield/status", {"admin_token": TOKEN}, 1008, "no WebSocket here"),
    ],
)
def test_a_handshake_is_accepted_and_closed(path: str, values: dict[str, Any], code: int, reason: str) -> None:
    """At once, without reading anything, and with a code and a reason that a browser hands on."""
    record = refused(path, **values)
    accept, close = record.sent
    assert (accept["type"], accept["subprotocol"], accept["headers"]) == ("websocket.accept", None, [])
    assert (close["type"], close["code"]) == ("websocket.close", code)
    assert re.fullmatch(reason, close["reason"])
    assert record.received == []


@pytest.mark.parametrize("path", ["/", "/-/shield/status"])
def test_by_default_it_is_refused_in_http(path: str) -> None:
    """Unless it is asked for, nothing is accepted that is refused."""
    record = refused(path, websocket_refusals="http", admin_token=TOKEN)
    assert record.sent[0]["type"] in ("websocket.http.response.start", "websocket.close")


@pytest.mark.parametrize(
    ("offered", "chosen", "reason"),
    [
        ([], None, "none was offered"),
        (["chat"], "chat", "the one"),
        (["chat.v2", "chat.v1"], "chat.v2", "the first of the client's"),
        (["bearer", JWT], "bearer", "the word before a token is none"),
        (["bearer", "short"], "bearer", "however short the token is"),
        (["Bearer", "short", "chat"], "Bearer", "in any case"),
        (["bearer." + JWT, "chat"], "chat", "a token in one word"),
        (["BEARER.x", "chat"], "chat", "in any case"),
        (["chat", "bearer", "short"], "chat", "a token behind"),
        ([JWT, "chat"], "chat", "a bare token"),
        (["bearer." + JWT], None, "nothing but a token"),
        ([JWT], None, "likewise, bare"),
        (["bearer.x"] * (MOST_PROTOCOLS - 1) + ["chat"], "chat", "the last that is read"),
        (["bearer.x"] * MOST_PROTOCOLS + ["chat"], None, "no more are read"),
    ],
)
def test_what_is_chosen_was_offered_and_is_no_token(offered: list[str], chosen: str | None, reason: str) -> None:
    """A browser takes one of its own subprotocols only, and no answer repeats a credential."""
    assert subprotocol(offered) == chosen, reason
    assert refused(subprotocols=offered).sent[0]["subprotocol"] == chosen, reason


REFUSED = Decision(Verdict.REFUSED, Reason.QUOTA, None, retry_after_us=12_000_000)
MEMBER = REFUSED._replace(identity=Identity("ada"), reason=Reason.NO_SEAT)


@pytest.mark.parametrize(
    ("decision", "code", "reason"),
    [
        (REFUSED, 1013, "Too many requests; retry-after=12"),
        (REFUSED.refused_for(Reason.NO_SEAT), 1013, "Fewer listeners for now; retry-after=300"),
        (REFUSED._replace(reason=Reason.EMERGENCY, retry_after_us=0), 1013, "Fewer listeners for now; retry-after=300"),
        (REFUSED.refused_for(Reason.RESTARTING), 1012, "This server is restarting; retry-after=1"),
        (MEMBER._replace(place=QueuePosition(9, 7, 60.0, 10.0)), 1013, "You are in the waiting room; retry-after=10"),
    ],
)
def test_the_code_says_whether_to_come_back_and_the_reason_when(decision: Decision, code: int, reason: str) -> None:
    """1012 and 1013 mean later, and the wait is what Retry-After would have been."""
    replies = Replies(
        RefusalAnswers(RefusalLinks(None, None, 300), lambda: 0.0), handshakes=Handshakes(Lingering(), closes=True)
    )
    record = run(call(lambda *asgi: replies.refuse(decision, *asgi), websocket_scope()))
    assert record.sent[1] == {"type": "websocket.close", "code": code, "reason": reason}
    assert len(reason.encode()) <= 123


def test_the_waiting_room_s_number_goes_with_it() -> None:
    """A member's number is a cookie of the handshake's answer."""
    replies = Replies(
        RefusalAnswers(RefusalLinks(None, None, 300), lambda: 0.0), handshakes=Handshakes(Lingering(), closes=True)
    )
    decision = MEMBER._replace(place=QueuePosition(9, 7, 60.0, 10.0), signed_ticket="a.number")
    record = run(call(lambda *asgi: replies.refuse(decision, *asgi), websocket_scope()))
    ((name, value),) = record.sent[0]["headers"]
    assert (name, value.partition(b";")[0]) == (b"set-cookie", b"shield_ticket=a.number")


def test_a_client_that_does_not_close_is_not_waited_for() -> None:
    """Some servers wait for the client's close: not longer than we linger, and with as many as that has room for."""

    async def asking() -> list[str]:
        closing, kinds = asyncio.Event(), []

        async def send(message: Any) -> None:
            kinds.append(message["type"])
            if message["type"] == "websocket.close":
                closing.set()
                await asyncio.Event().wait()

        one = Handshakes(Lingering(most_at_once=1, longest_s=3600), closes=True)
        waiting = asyncio.create_task(one.close(websocket_scope(), send, 1013, "x"))
        await closing.wait()
        assert not one.closes, "no room: the next is refused in HTTP"
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert one.closes
        await Handshakes(Lingering(longest_s=0), closes=True).close(websocket_scope(), send, 1013, "x")
        return kinds

    assert run(asking()) == ["websocket.accept", "websocket.close"] * 2
