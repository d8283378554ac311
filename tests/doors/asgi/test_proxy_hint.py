"""The hint about a missing SHIELD_TRUSTED_PROXIES: it says what to set, is rare, and costs little."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Scope

from doors.asgi.harness import Headers, http_scope, websocket_scope
from gate.doubles import FakeClock, clock_of, run
from shieldmw.answers.refusals import RefusalAnswers, RefusalLinks
from shieldmw.core.bounds import MOST_LINES_BEFORE_ACCEPT
from shieldmw.core.client import Identity
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.doors.asgi.proxy_hint import HINT_AGAIN_S, LOOK_AGAIN_S, ProxyHint
from shieldmw.doors.asgi.replies import Replies

FORWARDED: Headers = [(b"x-forwarded-for", b"198.51.100.66")]
REFUSED = Decision(Verdict.REFUSED, Reason.QUOTA, None)


def replies(header: str = "x-forwarded-for", clock: FakeClock | None = None) -> Replies:
    """Replies that may hint."""
    hint = ProxyHint(header, clock_of((clock or FakeClock()).s))
    return Replies(RefusalAnswers(RefusalLinks(None, None, 300)), hint=hint)


async def refuse(replies: Replies, scope: Scope, decision: Decision = REFUSED) -> None:
    """Send one refusal to nobody."""

    async def receive() -> Message:
        raise AssertionError("nothing of the body is read")

    async def send(message: Message) -> None:
        await asyncio.sleep(0)

    await replies.refuse(decision, scope, receive, send)


def test_it_says_what_to_set_and_what_it_means_if_there_is_no_proxy(caplog: pytest.LogCaptureFixture) -> None:
    """It names the header and the peer, and nothing of the header's value, which anybody may write."""
    run(refuse(replies(), http_scope(headers=FORWARDED)))
    assert caplog.messages == [
        "a refused request has the header x-forwarded-for, which is not read since SHIELD_TRUSTED_PROXIES is empty. "
        "If its peer, 203.0.113.7, is a proxy of yours, all clients behind it share one limit: "
        "set SHIELD_TRUSTED_PROXIES=203.0.113.7. "
        "Otherwise a client has made the header up, which does nothing: ignore this line"
    ]


@pytest.mark.parametrize(
    ("scope", "set_to"),
    [
        (websocket_scope(headers=FORWARDED), "203.0.113.7"),
        (http_scope(headers=[(b"forwarded", b"for=198.51.100.66")]), "203.0.113.7"),
        (http_scope(headers=[(b"cf-connecting-ip", b"198.51.100.66")]), "203.0.113.7"),
        (http_scope(headers=FORWARDED, client=None), "unix"),
        (http_scope(headers=FORWARDED, client=("", 0)), "unix"),
        (http_scope(headers=FORWARDED, client=("2001:DB8:0::7", 0)), "2001:db8::7"),
    ],
)
def test_any_door_and_header(caplog: pytest.LogCaptureFixture, scope: Scope, set_to: str) -> None:
    """A WebSocket too, the usual headers and the one that is set, and a peer without an address."""
    run(refuse(replies("cf-connecting-ip"), scope))
    (line,) = caplog.messages
    assert f"set SHIELD_TRUSTED_PROXIES={set_to}" in line


@pytest.mark.parametrize("peer", ["0.0.0.0/0", "\x1b[2J" * 99, "everybody", "1.2.3.4 5.6.7.8"])
def test_what_a_server_took_from_the_header_is_no_advice(caplog: pytest.LogCaptureFixture, peer: str) -> None:
    """A server that believes everybody's header shows its text as the peer: only an address is shown."""
    run(refuse(replies(), http_scope(headers=FORWARDED, client=(peer, 0))))
    assert caplog.messages == []


def test_it_comes_seldom(caplog: pytest.LogCaptureFixture) -> None:
    """Once in ten minutes, however many are refused; and of a flood one request in ten seconds is looked at.

    Whatever event loop they are on: a test client has one for each request.
    """

    clock = FakeClock()
    one = replies(clock=clock)

    def refuse_in_new_loop(scope: Scope) -> None:
        run(refuse(one, scope))

    for _ in range(1000):
        refuse_in_new_loop(http_scope(headers=FORWARDED))
    clock.now_s += HINT_AGAIN_S - 1
    refuse_in_new_loop(http_scope(headers=FORWARDED))
    assert len(caplog.messages) == 1
    clock.now_s += 1
    refuse_in_new_loop(http_scope())  # looked at in vain
    refuse_in_new_loop(http_scope(headers=FORWARDED))
    assert len(caplog.messages) == 1
    clock.now_s += LOOK_AGAIN_S
    refuse_in_new_loop(http_scope(headers=FORWARDED))
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(
    "decision",
    [
        REFUSED._replace(reason=Reason.DENY_LIST),
        REFUSED._replace(reason=Reason.OVERLOAD),
        REFUSED._replace(identity=Identity("alice")),
    ],
)
def test_only_a_guest_that_a_limit_refuses_is_looked_at(caplog: pytest.LogCaptureFixture, decision: Decision) -> None:
    """Others are not refused because they share an address."""
    run(refuse(replies(), http_scope(headers=FORWARDED), decision))
    assert caplog.messages == []


def test_only_so_much_of_a_head_is_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    """As for the other headers that a refusal depends on."""
    lines = [(b"x", b"y")] * MOST_LINES_BEFORE_ACCEPT
    run(refuse(replies(), http_scope(headers=lines + FORWARDED)))
    assert caplog.messages == []
