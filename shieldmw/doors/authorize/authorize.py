"""The routes that proxies ask: ``GET {admin path}/authorize/{dialect}``.

A question is decided as if the request that it is about had come, by the same gate. It needs no admin token, since
proxies pass on the client's own ``Authorization``; but only trusted proxies are answered. It does not enter the app, so
the lane neither delays nor sheds it. It ends before a live stream begins, so live paths hold lease seats.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from urllib.parse import quote

from starlette.types import Receive, Scope, Send

from shieldmw.answers.problems import WEBSOCKET_POLICY_VIOLATION
from shieldmw.answers.refusals import Answer
from shieldmw.core.address import Networks, locate_peer, parse_address
from shieldmw.core.client import address_text
from shieldmw.core.decision import REFUSED, Decision
from shieldmw.core.paths import below_root
from shieldmw.doors.asgi.asked import seated
from shieldmw.doors.asgi.facts import FactsReader
from shieldmw.doors.asgi.replies import Replies
from shieldmw.gate.log_throttle import LogThrottle
from shieldmw.gate.worker import Worker

from .dialects import DIALECTS, Dialect, Refusals
from .questions import Misasked, original_scope
from .verdicts import allowed, misasked, refused

log = logging.getLogger(__name__)

_UNTRUSTED = "Only proxies that SHIELD_TRUSTED_PROXIES names are answered here."


class Authorize:
    """Answers the questions of ``trusted`` proxies, which name the client in ``forwarded_header``."""

    def __init__(
        self,
        admin_path: str,
        trusted: Networks,
        forwarded_header: str,
        reader: FactsReader,
        replies: Replies,
        *,
        now_s: Callable[[], float] = monotonic,
    ) -> None:
        self.path = f"{admin_path}/authorize"
        self._start = self.path.encode()
        self._trusted = trusted
        self._forwarded_header = forwarded_header
        self._reader = reader
        self._replies = replies
        self._proxy: object = object()  # the last peer that was trusted
        self._untrusted = LogThrottle(now_s)
        self._misasked = LogThrottle(now_s)

    def question(self, scope: Scope) -> bytes | None:
        """What follows the path of these routes in a request's target; None if the request is not for them.

        It is taken as it was sent, since behind Envoy it holds the original target. Servers disagree on whether
        ``raw_path`` includes the root path.
        """
        root = scope.get("root_path", "")
        if not below_root(scope["path"], root).startswith(self.path):
            return None
        raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
        for start in (self._start, root.encode() + self._start) if root else (self._start,):
            if raw.startswith(start) and raw[len(start) : len(start) + 1] in (b"", b"/"):
                return raw[len(start) :]
        return None

    async def answer(self, worker: Worker, question: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a question, named by what follows the path of these routes."""
        if scope["type"] == "websocket":  # its proxy passes on the client's Upgrade
            await send({"type": "websocket.close", "code": WEBSOCKET_POLICY_VIOLATION, "reason": "no WebSocket here"})
            return
        status, headers, body = await self._answer(worker, question, scope)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, worker: Worker, question: bytes, scope: Scope) -> Answer:
        peer = scope.get("client")
        if not self._is_trusted(peer[0] or None if peer else None):
            return self._of_stranger(scope)
        name, slash, rest = question[1:].partition(b"/")
        dialect = DIALECTS.get(name.decode("latin-1"))
        if dialect is None or (slash and dialect.target is not None):
            return misasked(404, f"There is {self.path}/ and one of {', '.join(DIALECTS)}.")
        try:
            original = original_scope(dialect, scope, slash + rest)
            facts = self._reader.read(original)
            if not facts.forwarded:
                raise Misasked(f"no {self._forwarded_header}")
        except Misasked as error:
            return self._of_misasked(name.decode("latin-1"), dialect, str(error), scope)
        decision = worker.gate_beside_lane.decide_now(facts)
        if not isinstance(decision, Decision):
            decision = await decision
        decision, headers = seated(worker, facts, decision, original)
        if decision.verdict is REFUSED:
            html = dialect.refusals is not Refusals.AS_403
            return refused(self._replies.rendered(decision, original, may_be_html=html), dialect)
        return allowed(headers)

    def _is_trusted(self, peer: str | None) -> bool:
        if peer == self._proxy:
            return True
        if not locate_peer(peer, self._trusted)[1]:
            return False
        self._proxy = peer
        return True

    def _of_stranger(self, scope: Scope) -> Answer:
        """The same for every question, so that it tells nothing."""
        if (counts := self._untrusted.due("untrusted")) is not None:
            log.warning(
                "%s: %s; the last from %s, which is not answered: if it is a proxy of yours, name it in "
                "SHIELD_TRUSTED_PROXIES",
                *(self.path, counts, _peer_text(scope)),
            )
        return misasked(403, _UNTRUSTED)

    def _of_misasked(self, name: str, dialect: Dialect, why: str, scope: Scope) -> Answer:
        if (counts := self._misasked.due(name)) is not None:
            log.warning(
                "%s: questions that cannot be read: %s; the last from the proxy %s: %s",
                *(self.path, counts, _peer_text(scope), why),
            )
        return refused(misasked(400, f"The proxy's question cannot be read: {why}."), dialect)


def _peer_text(scope: Scope) -> str:
    """The peer's address; servers may have taken it from a header, so it is shown only if it is one."""
    client = scope.get("client")
    return (address_text(parse_address(client[0])) or "an unknown peer") if client and client[0] else "a unix socket"
