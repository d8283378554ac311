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
        if self._hint is not None and decision.reason is Reason.QUOTA and decision.identity is None:
            self._hint.look(scope)
        websocket = scope["type"] == "websocket"
        if websocket and self._handshakes is not None and self._handshakes.closes:
            reason, headers = self.answers.close_reason(decision), _place_cookie(decision, scope)
            await self._handshakes.close(scope, send, close_code(decision), reason, headers)
            return
        if websocket and "websocket.http.response" not in (scope.get("extensions") or {}):
            # Before accept, servers turn a close into a plain HTTP 403; the code is for those that can pass it on.
            await send({"type": "websocket.close", "code": close_code(decision), "reason": problem_of(decision).title})
            return
        status, headers, body = self.rendered(decision, scope)
        begins, goes_on = _IN_WEBSOCKET if websocket else _IN_HTTP
        await send({"type": begins, "status": status, "headers": headers})
        await send({"type": goes_on, "body": b"" if scope.get("method") == "HEAD" else body})

    def rendered(self, decision: Decision, scope: Scope, *, may_be_html: bool = True) -> Answer:
        """The answer to a refused request in HTTP; its body is the same for HEAD."""
        answer = None if self._redirect is None else self._redirected(self._redirect, decision, scope)
        if answer is None:
            answer = self.answers.answer(decision, wants_html=may_be_html and _wants_html(scope))
        headers = answer.headers
        if decision.signed_ticket is not None:
            headers += _place_cookie(decision, scope)
        if self._cors is not None:
            headers += self._cors.headers(scope)
        return answer

    @staticmethod
    def _redirected(redirect: RecordingRedirect, decision: Decision, scope: Scope) -> Answer | None:
        return redirect.answer(decision, scope["path"]) if scope.get("method") in ("GET", "HEAD") else None


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
