"""Cached answers: each request gets the same answer as without the cache."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from doors.asgi.harness import Headers, Record, Server, body, http_scope, run, websocket_scope
from doors.asgi.shields import part, start
from shieldmw import Settings, ShieldMiddleware
from shieldmw.answers import rate_limit
from shieldmw.answers.problems import status_of
from shieldmw.answers.rate_limit import FIELDS_KEPT, limit_headers
from shieldmw.answers.refusals import RefusalAnswers, RefusalLinks
from shieldmw.core.bucket import Charge, Outcome
from shieldmw.core.client import Client
from shieldmw.core.decision import Decision, Reason, Verdict, combine
from shieldmw.core.facts import Facts
from shieldmw.core.limits import US_PER_S, Limit
from shieldmw.doors.asgi.replies import Replies

GUEST = Client("ip", "203.0.113.7/32", "ip:203.0.113.7/32")
LINKS = RefusalLinks("https://example.org/recording", "https://example.org/sign-in", 300)
HTML: Headers = [(b"accept", b"text/html")]
ANSWERS: dict[str, Any] = {"extensions": {"websocket.http.response": {}}}
SCOPES = [
    http_scope(),
    http_scope("/other", "HEAD"),
    http_scope(headers=HTML),
    http_scope(method="HEAD", headers=HTML),
    http_scope(method="POST", headers=[(b"accept", b"application/json")]),
    websocket_scope(),
    websocket_scope(**ANSWERS),
    websocket_scope(headers=HTML, **ANSWERS),
]


def refused(wait_us: int) -> Decision:
    """As those who are refused together share it."""
    limit = Limit("ip", 1, 3600, 3)
    outcome = Outcome(False, 0, (limit.tau_us - limit.unit_us + wait_us,))
    return combine((Charge(GUEST, limit),), outcome, None, None)


async def answer(replies: Replies, decision: Decision, scope: Scope) -> list[Message]:
    """The answer; whoever sends it may do with its headers what they like."""
    server = Server(scope)
    await replies.refuse(decision, scope, server.receive, spoiling(server.send))
    return server.record.sent


def spoiling(send: Send) -> Send:
    async def send_and_spoil(message: Message) -> None:
        await send(message)
        message.get("headers", []).clear()

    return send_and_spoil


def alone(wait_us: int, scope: Scope) -> list[Message]:
    """What there is to be sent, of a decision that nobody shares."""
    if scope["type"] == "websocket" and not scope["extensions"]:
        return [{"type": "websocket.close", "code": 1013, "reason": "Too many requests"}]
    wants_html = HTML[0] in scope["headers"]
    replies = Replies(RefusalAnswers(LINKS, jitter=lambda: 0.5))
    decision = refused(wait_us)._replace(rendered=None)
    _, headers, body = replies.answers.answer(decision, wants_html=wants_html)
    assert (b"content-length", b"%d" % len(body)) in headers
    assert body.startswith(b"<!doctype html>" if wants_html else b"{")
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    return [
        {"type": f"{kind}.start", "status": 429, "headers": headers},
        {"type": f"{kind}.body", "body": b"" if scope.get("method") == "HEAD" else body},
    ]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(SCOPES), max_size=8), st.integers(1, 3600 * US_PER_S))
def test_a_shared_refusal_is_answered_as_one_of_its_own(scopes: list[Scope], wait_us: int) -> None:
    """GET, HEAD, browsers and both kinds of WebSockets, in any order: status, headers and body."""
    shared = refused(wait_us)
    assert shared.rendered == []
    replies = Replies(RefusalAnswers(LINKS, jitter=lambda: 0.5))

    async def story() -> None:
        for scope in scopes:
            assert await answer(replies, shared, scope) == alone(wait_us, scope)

    run(story())


def test_each_answer_has_its_own_jitter() -> None:
    """Those who share a refusal do not come back together."""
    jitters = iter([0.0, 0.75, 0.25])
    replies, shared = Replies(RefusalAnswers(LINKS, jitter=lambda: next(jitters))), refused(100 * US_PER_S)

    async def waits() -> list[str]:
        return [Record(await answer(replies, shared, http_scope())).value(b"retry-after") for _ in range(3)]

    assert run(waits()) == ["100", "115", "105"]


def test_what_is_said_on_leaving_is_not_a_kept_refusal() -> None:
    """A decision that becomes another one has its own answer, and holds no charges while a stream lasts."""
    replies, shared = Replies(RefusalAnswers(LINKS, jitter=lambda: 0.0)), refused(US_PER_S)

    async def story() -> None:
        await answer(replies, shared, http_scope())
        for decision in (shared.refused_for(Reason.NO_SEAT), shared.refused_for(Reason.RESTARTING)):
            (first, *_) = await answer(replies, decision, http_scope())
            assert first["status"] == status_of(decision) == 503
            assert (decision.charges, decision.outcome) == ((), None)
            body = (await answer(replies, decision, http_scope()))[1]["body"]
            assert b'"status": 503' in body

    run(story())


# --- the headers on limited answers -------------------------------------------------------------------

NAMES = st.sampled_from(["ip", "100%", "%d%s", "%%", "%(r)d", "tr\xe9s"])
CHARGED = st.tuples(
    st.builds(
        Limit, NAMES, st.integers(1, 5000), st.sampled_from([1, 7, 60, 86_400]), st.sampled_from([1, 2, 10, 5000])
    ),
    st.floats(-1, 1.1),
    st.integers(-1, 1),
)


@settings(deadline=None, max_examples=500)
@given(st.lists(CHARGED, max_size=4), st.booleans(), st.integers(0, 10**15))
@example([(Limit("ip", 1, 1, 1), 1.0, 0)], True, 0)
@example([(Limit("ip", 1, 1, 2), 0.0, 1), (Limit("ip-2", 1, 60, 2), 0.0, 0)], False, 5)
def test_limit_headers_are_what_the_levels_say(
    charged: list[tuple[Limit, float, int]], allowed: bool, now_us: int
) -> None:
    """However many limits, whatever their names; buckets that are full, empty, or were full long ago."""
    charges = tuple(Charge(GUEST, limit) for limit, _, _ in charged)
    tats_us = tuple(now_us + round(debt * limit.tau_us) + off_us for limit, debt, off_us in charged)
    outcome = Outcome(allowed, now_us, tats_us)
    decision = Decision(Verdict.ALLOWED, Reason.WITHIN_LIMITS, None, None, charges, outcome)
    if not charged:
        assert limit_headers(decision) == []
        return
    policies = [
        f'"{limit.name}";q={limit.amount};w={limit.period_s}'
        + (f";burst={limit.burst}" if limit.burst != limit.amount else "")
        for limit, _, _ in charged
    ]
    least = min(decision.statuses, key=lambda level: level.remaining / level.limit.burst)
    for level, (limit, _, _), tat_us in zip(decision.statuses, charged, tats_us, strict=True):
        full_us = max(0, tat_us - now_us)
        assert (level.limit, level.full_after_us) == (limit, full_us)
        assert level.remaining == max(0, limit.tau_us - full_us) // limit.unit_us
    rate = f'"{least.limit.name}";r={least.remaining};t={-(-least.full_after_us // US_PER_S)}'
    assert limit_headers(decision) == [
        (b"ratelimit-policy", ", ".join(policies).encode("latin-1")),
        (b"ratelimit", rate.encode("latin-1")),
    ]
    assert limit_headers(decision._replace(outcome=None)) == []


# --- what is left of a request while its response lasts -------------------------------------------------


def alive(*kinds: type) -> int:
    """How many there are."""
    gc.collect()
    return sum(type(found) in kinds for found in gc.get_objects())


class Streams:
    """An app whose responses last until they may end."""

    def __init__(self, count: int) -> None:
        self._begun = asyncio.Semaphore(0)
        self._count = count
        self.may_end = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begin, wait, end."""
        await send(start())
        await send(part(b"a", more=True))
        self._begun.release()
        await self.may_end.wait()
        await send(part(b"b"))

    async def all_begun(self) -> None:
        """Wait until all have begun."""
        for _ in range(self._count):
            await self._begun.acquire()


def peers(count: int) -> Iterable[tuple[str, int]]:
    return ((f"198.18.0.{number}", 1) for number in range(count))


@pytest.mark.parametrize(
    ("values", "decisions"),
    [({}, 0), ({"live_paths": "/"}, 1), ({"dry_run": True}, 0), ({"ip_limit": "off"}, 0), ({"exempt_paths": "/"}, 0)],
    ids=["plain", "live", "dry run", "no limit", "exempt"],
)
def test_a_response_that_lasts_keeps_nothing_of_its_decision(values: dict[str, Any], decisions: int) -> None:
    """No facts, and no decision; a live one keeps what it would have to say goodbye with."""
    count = 20

    async def story() -> None:
        app = Streams(count)
        shield = ShieldMiddleware(app, Settings(**values))
        before, facts_before = alive(Decision), alive(Facts)
        # With the message that servers have for each request: on a busy machine some pass the lane, which asks for it.
        servers = [Server(http_scope(client=peer), body(b"")) for peer in peers(count)]
        tasks = [asyncio.create_task(shield(server.scope, server.receive, server.send)) for server in servers]
        await app.all_begun()
        assert alive(Facts) == facts_before
        assert alive(Decision) - before == decisions * count
        app.may_end.set()
        await asyncio.gather(*tasks)
        assert all(server.record.body == b"ab" for server in servers)

    run(story())


def test_what_is_kept_of_several_limits_is_bounded_and_of_their_own() -> None:
    """However many combinations there are: each is answered with its own policies."""
    for number in range(2 * FIELDS_KEPT):
        limits = [Limit(name, number + 1, 60, number + 1) for name in ("one", "two")]
        charges = tuple([Charge(GUEST, limit) for limit in limits])
        allowed = combine(charges, Outcome(True, 0, (0, 0)), None, None)
        for _ in range(2):
            (_, policies), _ = limit_headers(allowed)
            assert policies == b'"one";q=%d;w=60, "two";q=%d;w=60' % (number + 1, number + 1)
    assert len(rate_limit._fields_of) <= FIELDS_KEPT
