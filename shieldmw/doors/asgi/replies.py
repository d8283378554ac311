"""Sends the shield's own answers over ASGI, and adds headers to the app's."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.types import Message, Receive, Scope, Send

from shieldmw.answers.problems import close_code, problem_of
from shieldmw.answers.rate_limit import Headers
from shieldmw.answers.redirects import RecordingRedirect
from shieldmw.answers.refusals import Answer, RefusalAnswers
from shieldmw.core.bounds import LONGEST_ACCEPT, MOST_LINES_BEFORE_ACCEPT
from shieldmw.core.decision import Decision, Reason

from .cors import Cors
from .handshakes import Handshakes
from .proxy_hint import ProxyHint
from .tickets import ticket_cookie

_IN_HTTP = ("http.response.start", "http.response.body")
_IN_WEBSOCKET = ("websocket.http.response.start", "websocket.http.response.body")


class Replies:
    """Sends refusals. ``cors`` says which pages may read them; ``handshakes`` refuses WebSockets by accepting and
    closing them, if they are not refused in HTTP. ``hint`` looks for a proxy's header where no proxy is trusted.
    ``redirect`` sends players to the recording.
    """

    def __init__(
        self,
        answers: RefusalAnswers,
        cors: Cors | None = None,
        handshakes: Handshakes | None = None,
        hint: ProxyHint | None = None,
        redirect: RecordingRedirect | None = None,
    ) -> None:
        self.answers = answers
        self._hint = hint
        self._cors = cors
        self._handshakes = handshakes
        self._redirect = redirect

    async def refuse(self, decision: Decision, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer to a refused request."""
        hint = self._hint
        if hint is not None and hint.due and decision.reason is Reason.QUOTA and decision.identity is None:
            hint.look(scope)
        websocket = scope["type"] == "websocket"
        if websocket and self._handshakes is not None and self._handshakes.closes:
            reason, headers = self.answers.close_reason(decision), _place_cookie(decision, scope)
            await self._handshakes.close(scope, send, close_code(decision), reason, headers)
            return
        if websocket and "websocket.http.response" not in (scope.get("extensions") or {}):
            # Before accept, servers turn a close into a plain HTTP 403; the code is for those that can pass it on.
            await send({"type": "websocket.close", "code": close_code(decision), "reason": problem_of(decision).title})
            return
        status, headers, body = self.answer(decision, scope)
        begins, goes_on = _IN_WEBSOCKET if websocket else _IN_HTTP
        await send({"type": begins, "status": status, "headers": headers})
        await send({"type": goes_on, "body": b"" if scope.get("method") == "HEAD" else body})

    def answer(self, decision: Decision, scope: Scope) -> Answer:
        """The answer to a refused request over HTTP, with the body that a HEAD does not get."""
        status, headers, body = self._redirected(decision, scope) or self.answers.answer(
            decision, wants_html=_wants_html(scope)
        )
        if decision.signed_ticket is not None:
            headers += _place_cookie(decision, scope)
        if self._cors is not None:
            headers += self._cors.headers(scope)
        return Answer(status, headers, body)

    def _redirected(self, decision: Decision, scope: Scope) -> Answer | None:
        if self._redirect is None or scope.get("method") not in ("GET", "HEAD"):
            return None
        return self._redirect.answer(decision, scope["path"])


def send_with(headers: Headers, send: Send) -> Send:
    """A ``send`` that adds headers to the start of an HTTP response and touches nothing else."""

    def send_and_add(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            message = {**message}
            message["headers"] = [*message.get("headers", ()), *headers]
        return send(message)

    return send_and_add


def _place_cookie(decision: Decision, scope: Scope) -> Headers:
    """The cookie that keeps the place in the waiting room."""
    return [] if decision.signed_ticket is None else [(b"set-cookie", ticket_cookie(decision.signed_ticket, scope))]


def _wants_html(scope: Scope) -> bool:
    lines = scope["headers"]
    for line in lines if len(lines) <= MOST_LINES_BEFORE_ACCEPT else lines[:MOST_LINES_BEFORE_ACCEPT]:
        if line[0] == b"accept":
            return b"text/html" in line[1][:LONGEST_ACCEPT].lower()
    return False
