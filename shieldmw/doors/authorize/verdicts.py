"""Writes a verdict in the dialect of the proxy that asked."""

from __future__ import annotations

import json
from http import HTTPStatus

from shieldmw.answers.rate_limit import Headers
from shieldmw.answers.refusals import Answer

from .dialects import Dialect, Refusals

# The refusal's true status, where a proxy cannot pass it on, and its problem document, where that drops the body.
STATUS_HEADER = b"shield-status"
PROBLEM_HEADER = b"shield-problem"

_NO_BODY = (b"content-length", b"0")
_OF_THE_BODY = (b"content-length", b"content-type")


def allowed(headers: Headers) -> Answer:
    """Let the request pass. The same for all: Envoy would send a 204 to the client."""
    return Answer(200, [_NO_BODY, *headers], b"")


def refused(answer: Answer, dialect: Dialect) -> Answer:
    """A refusal that the proxy passes on as far as it can."""
    status, headers, body = answer
    true_status = (STATUS_HEADER, b"%d" % status)
    if dialect.refusals is Refusals.AS_403:
        kept = [line for line in headers if line[0] not in _OF_THE_BODY]
        problem = [(PROBLEM_HEADER, body)] if body else []
        return Answer(403, [*kept, true_status, *problem, _NO_BODY], b"")
    if dialect.refusals is Refusals.BELOW_500 and status >= 500:
        return Answer(429, [*headers, true_status], body)
    return answer


def misasked(status: int, detail: str) -> Answer:
    """The problem document of a question that cannot be answered."""
    body = json.dumps(
        {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    ).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    return Answer(status, headers, body)
