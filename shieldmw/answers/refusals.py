"""Renders refusals: as a problem document (RFC 9457) or a page, the last event of a stream, or a close reason."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any, NamedTuple, cast

from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Decision, Reason
from shieldmw.core.limits import US_PER_S
from shieldmw.core.made import made
from shieldmw.core.waiting import QueuePosition

from .problems import Problem, problem_of, status_of
from .rate_limit import Headers, limit_headers

# Jitter: waits are lengthened by up to a fifth, so that clients refused together do not return together.
JITTER = 0.2

# Retry delay while the store is away: no bucket determines it, and the breaker probes the store each second.
STORE_CLOSED_RETRY_S = 5

# Retry delay of a member who got no number: the next block of numbers comes within a second or two.
NO_PLACE_RETRY_S = 3

# Retry delay after a restart or a replaced credential, and its spread: listeners who leave together return over a
# second and a half, and with the jitter of every wait within 3 s.
RESTART_RETRY_S = 1.0
RESTART_SPREAD = 1.5

# Retry delay of a client that has the maximum number of streams: it is unknown when one of them will end, and a page
# that keeps trying should not do so each second.
STREAMS_RETRY_S = 30

# Fixed retry delays by reason; and the reasons after which a client should return almost at once.
_WAITS_S = {Reason.STORE_CLOSED: STORE_CLOSED_RETRY_S, Reason.TOO_MANY_STREAMS: STREAMS_RETRY_S}
_AT_ONCE = (Reason.RESTARTING, Reason.CREDENTIAL_ENDED)

# Reconnect delay for EventSource: Chromium's default. It is sent at the start of each stream, since a browser keeps the
# last delay it received, and a goodbye sends a long one.
RECONNECT_MS = 3000

_PROBLEM_JSON = b"application/problem+json"
_HTML = b"text/html; charset=utf-8"


@dataclass(frozen=True, slots=True)
class RefusalLinks:
    """Links for refused clients, and their retry delay where no bucket determines it."""

    recording_url: str | None
    sign_in_url: str | None
    retry_after_s: int


class Answer(NamedTuple):
    """A refusal, ready to be sent."""

    status: int
    headers: Headers
    body: bytes


class _Rendered(NamedTuple):
    """An answer without ``Retry-After``, whose wait is jittered for each client."""

    status: int
    headers: Headers
    body: bytes
    wait_s: float


class RefusalAnswers:
    """Renders refusals. ``jitter`` returns numbers in [0, 1)."""

    def __init__(self, links: RefusalLinks, jitter: Callable[[], float] = random.random) -> None:
        self._refusal_links = links
        self._jitter = jitter
        self._page = Template(files("shieldmw.answers").joinpath("refused.html").read_text("utf-8"))

    def reconnect_field(self) -> bytes:
        """The ``retry:`` field with the reconnect delay, in a block of its own, which is not an event."""
        return b"retry: %d\n\n" % self._jittered(RECONNECT_MS)

    def shed_event(self, decision: Decision) -> bytes:
        """The last event for an evicted listener, with the same wait for browsers and for scripts.

        The blank lines before it end any event that the app has begun.
        """
        at_once = decision.reason in _AT_ONCE
        wait_us = self._wait_us(decision) if at_once else _at_most(decision, self._refusal_links.retry_after_s)
        wait_ms = self._jittered(wait_us / 1000)
        why = self._problem_json(decision, wait_ms * 1000)
        return b"\n\nevent: shed\nretry: %d\ndata: %s\n\n" % (wait_ms, why)

    def close_reason(self, decision: Decision) -> str:
        """The title and the wait, since pages cannot read a handshake's headers. Well below the limit of 123 bytes."""
        title, seconds = problem_of(decision).title, self._jittered(self._wait_us(decision) / US_PER_S)
        return f"{title}; retry-after={seconds}" if seconds else title

    def answer(self, decision: Decision, *, wants_html: bool) -> Answer:
        """The answer, with headers of its own. JSON is cached in the decision, which may be shared by many requests."""
        if wants_html:
            return self._page_for(decision)
        rendered = decision.rendered
        if rendered:
            status, headers, body, wait_s = cast("_Rendered", rendered[0])
        else:
            wait_us = self._wait_us(decision)
            body = self._problem_json(decision, wait_us)
            status, headers, wait_s = status_of(decision), _headers(decision, _PROBLEM_JSON, body), wait_us / US_PER_S
            if rendered is not None:
                rendered.append(_Rendered(status, headers, body, wait_s))
        return made(Answer, (status, [*headers, *retry_after(self._jittered(wait_s))], body))

    def _page_for(self, decision: Decision) -> Answer:
        """The page for a browser, with the same wait in its text as in the header."""
        retry_after_s = self._jittered(self._wait_us(decision) / US_PER_S)
        body = self._html(problem_of(decision), decision, retry_after_s)
        return Answer(status_of(decision), [*_headers(decision, _HTML, body), *retry_after(retry_after_s)], body)

    def _jittered(self, wait: float) -> int:
        """A whole number in the unit of ``wait``, never less than it and at most a fifth more."""
        return math.ceil(wait * (1 + JITTER * self._jitter()))

    def _wait_us(self, decision: Decision) -> int:
        """The wait in microseconds; 0 if no wait would help."""
        if decision.reason is Reason.QUOTA:
            return decision.retry_after_us
        if decision.place is not None:
            return int(decision.place.poll_s * US_PER_S)
        if decision.reason in _AT_ONCE:
            return int(RESTART_RETRY_S * US_PER_S * (1 + RESTART_SPREAD * self._jitter()))
        if decision.reason in (Reason.NO_SEAT, Reason.EMERGENCY):
            gets_a_number = decision.reason is Reason.NO_SEAT and decision.listener_class is not ListenerClass.GUEST
            return _at_most(decision, NO_PLACE_RETRY_S if gets_a_number else self._refusal_links.retry_after_s)
        if decision.retry_after_us:
            return decision.retry_after_us
        return _WAITS_S.get(decision.reason, self._refusal_links.retry_after_s) * US_PER_S

    def _problem_json(self, decision: Decision, wait_us: int) -> bytes:
        problem = problem_of(decision)
        body: dict[str, Any] = {
            "type": problem.type,
            "title": problem.title,
            "status": status_of(decision),
            "detail": problem.detail,
        }
        if decision.violated:
            body["violated-policies"] = decision.violated
        if wait_us:
            body["retry_after_ms"] = -(-wait_us // 1000)
        if decision.place is not None:
            body["position"] = decision.place.position
            if decision.place.wait_s is not None:
                body["estimated_wait_s"] = math.ceil(decision.place.wait_s)
        if decision.signed_ticket is not None:
            body["ticket"] = decision.signed_ticket
        body.update(self._links(decision))
        return json.dumps(body).encode()

    def _html(self, problem: Problem, decision: Decision, retry_after_s: int) -> bytes:
        names = {"recording_url": "The recording", "sign_in_url": "Sign in: listeners who are signed in go first"}
        links = "".join(
            f'<li><a href="{escape(url)}">{names[name]}</a></li>' for name, url in self._links(decision).items()
        )
        page = self._page.substitute(
            title=escape(problem.title),
            detail=escape(problem.detail),
            wait=_wait_text(decision.place, retry_after_s),
            refresh=f'<meta http-equiv="refresh" content="{retry_after_s}">' if decision.place else "",
            links=f"<ul>{links}</ul>" if links else "",
        )
        return page.encode()

    def _links(self, decision: Decision) -> dict[str, str]:
        links = {}
        if self._refusal_links.recording_url:
            links["recording_url"] = self._refusal_links.recording_url
        if self._refusal_links.sign_in_url and decision.identity is None:
            links["sign_in_url"] = self._refusal_links.sign_in_url
        return links


def _at_most(decision: Decision, wait_s: int) -> int:
    """The decision's wait in microseconds, capped at ``wait_s`` seconds; ``wait_s`` if the decision has none."""
    return min(decision.retry_after_us or wait_s * US_PER_S, wait_s * US_PER_S)


def _headers(decision: Decision, content_type: bytes, body: bytes) -> Headers:
    return [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *limit_headers(decision),
    ]


def retry_after(seconds: int) -> Headers:
    """The ``Retry-After`` header; none if no wait would help."""
    return [(b"retry-after", b"%d" % seconds)] if seconds else []


def _wait_text(where: QueuePosition | None, retry_after_s: int) -> str:
    if where is None:
        seconds = "1 second" if retry_after_s == 1 else f"{retry_after_s} seconds"
        return f"You can try again in {seconds}." if retry_after_s else ""
    estimate = "" if where.wait_s is None else f", about {max(1, round(where.wait_s / 60))} min"
    return f"You are number {where.position} in line{estimate}. This page asks again by itself."
