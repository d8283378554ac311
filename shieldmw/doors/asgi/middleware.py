"""The shield around an app: every request is decided first, and a refused one never reaches the app. Pure ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from threading import get_ident
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shieldmw.answers.rate_limit import limit_headers
from shieldmw.core.bounds import LONGEST_PATH
from shieldmw.core.client import Address, Identity, ListenerClass, address_text
from shieldmw.core.decision import ALLOWED, REFUSED, Decision
from shieldmw.core.facts import Facts
from shieldmw.core.mode import Mode
from shieldmw.gate.overload.gatekeeper import Passage
from shieldmw.gate.overload.overload import Overload
from shieldmw.gate.seats.admission import Entry
from shieldmw.gate.worker import Worker

from .facts import FactsReader
from .lingering import WITHOUT_A_BODY, Lingering
from .nesting import Nesting
from .own_routes import OwnRoutes
from .passages import Upload, receive_if_there, send_from_inside
from .playlists import send_with_ticket
from .preflights import answer_preflight
from .replies import Replies, send_with
from .streams import LiveStream, in_messages
from .tickets import renewed_headers, ticket_headers
from .workers import Workers

_FOR_APPS = ("identity", "client_address", "listener_class", "mode")

_LIFESPAN_ENDS = ("lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed")


class ShieldScope:
    """What the app may read from ``scope["shield"]``, as attributes or as keys: ``identity`` (None for a guest),
    ``client_address``, ``listener_class`` and ``mode``.
    """

    __slots__ = ("_address", "_identity", "_mode", "_nesting")

    def __init__(self, identity: Identity | None, address: Address | None, mode: Mode, nesting: Nesting) -> None:
        self._identity = identity
        self._address = address
        self._mode = mode
        self._nesting = nesting

    @property
    def identity(self) -> Identity | None:
        """The verified subject; None for a guest."""
        return self._identity

    @property
    def client_address(self) -> str | None:
        """The client's address, as text; None on a unix socket."""
        return address_text(self._address)

    @property
    def listener_class(self) -> ListenerClass:
        """The client's class."""
        return ListenerClass.GUEST if self._identity is None else self._identity.listener_class

    @property
    def mode(self) -> Mode:
        """The mode in which the request was decided."""
        return self._mode

    @property
    def nesting(self) -> Nesting:
        """Not for apps: what an inner shield needs to know of this one."""
        return self._nesting

    def __getitem__(self, name: str) -> Any:
        if name not in _FOR_APPS:
            raise KeyError(name)
        return getattr(self, name)


class Shield:
    """An ASGI app that admits requests to ``app``.

    A worker belongs to the event loop it started on, so each loop gets a new one from ``open_worker``. Usually there is
    one loop; test clients run one per request. ``own``: the routes that are answered before anything is decided.
    ``nesting`` says what happens inside another shield. ``ticket_in_playlists``: for players that keep no cookies.
    """

    def __init__(
        self,
        app: ASGIApp,
        open_worker: Callable[[], Worker],
        reader: FactsReader,
        replies: Replies,
        lingering: Lingering,
        nesting: Nesting,
        own: OwnRoutes,
        *,
        ticket_in_playlists: bool = False,
    ) -> None:
        self.app = app
        self._ticket_in_playlists = ticket_in_playlists
        self._reader = reader
        self._replies = replies
        self._own = own
        self._lingering = lingering
        self._worker: Worker | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: int | None = None
        self._nesting = nesting
        self._workers = Workers(open_worker, self._stopped)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: PLR0912  (each frame costs)
        """Decide http and websocket scopes; start and stop with the lifespan; pass on anything else."""
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await (self._lifespan if kind == "lifespan" else self.app)(scope, receive, send)
            return
        if "shield" in scope and self._steps_aside(scope):
            await self.app(scope, receive, send)
            return
        worker, loop = self._worker, self._loop
        # A thread runs one loop. Asking asyncio for it costs a system call on Python 3.11.
        if worker is None or loop is None or self._thread != get_ident() or not loop.is_running():
            worker = await self._start()
        own = self._own
        # Only searched at the beginning of the path, which may have 64 KB.
        may_be_own = own.path in scope["path"][:LONGEST_PATH]
        if may_be_own and (answered := own.answer(worker, scope, receive, send)) is not None:
            await answered
            return
        facts = self._reader.read(scope)
        decision = worker.decide_now(facts)
        if not isinstance(decision, Decision):
            decision = await decision
        if decision.lease_s:
            decision, scope, send = await self._polled(worker, facts, decision, scope, send)
        answer: Awaitable[None]
        passage: Passage | None = None
        try:
            if decision.verdict is REFUSED:
                worker.decided(facts, decision, scope["headers"])
                answer = self._refuse(decision, scope, receive, send)
            elif decision.live and not facts.preflight:
                answer = self._live(worker, facts, decision, scope, receive, send)
            else:
                overload = worker.overload
                passage = None if overload is None else overload.enter_now(facts, decision)
                if overload is None or passage is not None:
                    answer = self._pass(passage, worker, facts, decision, scope, receive, send)
                else:
                    answer = self._pass_later(None, overload, worker, facts, decision, scope, receive, send)
            # The answer may last for hours: free what only the decision needed.
            del worker, facts, decision
            await answer
        finally:
            if passage is not None and passage.is_inside:
                passage.end()

    def _pass(
        self,
        passage: Passage | None,
        worker: Worker,
        facts: Facts,
        decision: Decision,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> Awaitable[None]:
        """The app's answer."""
        scope["shield"] = ShieldScope(decision.identity, decision.address, decision.mode, self._nesting)
        headers = limit_headers(decision) if decision.verdict is ALLOWED else []
        if facts.signed_ticket is not None and not decision.lease_s:
            headers += renewed_headers(worker.entrance.admission, facts.signed_ticket, decision, scope)
        if passage is not None:
            send = send_from_inside(passage, scope, headers, send)
        elif headers:
            send = send_with(headers, send)
        if facts.preflight and decision.live:
            worker.decided(facts, decision, scope["headers"])
            return answer_preflight(self.app, scope, receive, send)
        if passage is not None and worker.overload is not None and scope.get("method", "GET") not in WITHOUT_A_BODY:
            enter = partial(worker.overload.passage, facts, decision)
            settled = partial(_settled, worker, facts, decision, scope)
            return self._upload(Upload(passage, enter, settled, receive, send), scope, receive, send)
        worker.decided(facts, decision, scope["headers"])
        return self.app(scope, receive, send)

    async def _upload(self, upload: Upload, scope: Scope, receive: Receive, send: Send) -> None:
        """The app's answer to a request with a body, or a refusal if the client was slow and the lane is full."""
        try:
            await self.app(scope, upload.receive, upload.send)
        except Exception:
            if upload.refusal is None:
                raise
        finally:
            upload.settle()
        if upload.refusal is not None:
            refuse = self._replies.refuse if upload.is_whole else self._refuse
            await refuse(upload.refusal, scope, receive, send)

    async def _pass_later(
        self,
        at_once: Passage | None,
        overload: Overload,
        worker: Worker,
        facts: Facts,
        decision: Decision,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """The app's answer once the lane has let the request in, or a refusal."""
        passage = at_once or await overload.enter(facts, decision)
        if isinstance(passage, Decision):
            worker.decided(facts, passage, scope["headers"])
            await self._refuse(passage, scope, receive, send)
            return
        try:
            still_there = receive if at_once else await receive_if_there(scope, receive)
            if still_there is None:
                return
            answer = self._pass(passage, worker, facts, decision, scope, still_there, send)
            del overload, worker, facts, decision  # it may last for hours
            await answer
        finally:
            passage.end()

    async def _polled(
        self, worker: Worker, facts: Facts, decision: Decision, scope: Scope, send: Send
    ) -> tuple[Decision, Scope, Send]:
        """The decision on a request of a polled path, and a ``send`` that adds the ticket of a new lease.

        A WebSocket there is a connection that is held, so it has a seat as on a live path.
        """
        if decision.verdict is REFUSED or decision.live:
            return decision, scope, send
        if scope["type"] == "websocket":
            return decision._replace(live=True, lease_s=0), scope, send
        polls = worker.polls
        decision, ticket = polls.enter_now(facts, decision) or await polls.enter_when_due(facts, decision)
        if self._ticket_in_playlists and decision.verdict is not REFUSED and (held := ticket or facts.signed_ticket):
            scope, send = in_messages(scope), send_with_ticket(held, scope, send)
        if ticket is not None:
            send = send_with(ticket_headers(ticket, scope, in_header=True), send)
        return decision, scope, send

    def _live(
        self, worker: Worker, facts: Facts, decision: Decision, scope: Scope, receive: Receive, send: Send
    ) -> Awaitable[None]:
        """The answer to a request for a live response: the app's if there is a seat, otherwise a refusal."""
        scope["shield"] = ShieldScope(decision.identity, decision.address, decision.mode, self._nesting)
        stream = LiveStream(self._replies, decision, scope, receive, send)
        entered = worker.entrance.enter_now(facts, decision, stream.leave)
        if entered is None:
            return self._live_later(worker, facts, decision, stream)
        return self._entered(worker, facts, *entered, stream)

    async def _live_later(self, worker: Worker, facts: Facts, decision: Decision, stream: LiveStream) -> None:
        """Answer a request for a live response once the fleet has said whether it has a seat."""
        decision, entry = await worker.entrance.enter_when_due(facts, decision, stream.leave)
        answer = self._entered(worker, facts, decision, entry, stream)
        del worker, facts, decision, entry  # it may last for hours
        await answer

    def _entered(
        self, worker: Worker, facts: Facts, decision: Decision, entry: Entry | None, stream: LiveStream
    ) -> Awaitable[None]:
        scope, receive, send = stream.connection
        headers = limit_headers(decision) if decision.verdict is ALLOWED else []
        if entry is not None:
            stream.admit(worker.entrance.seats, entry, headers)
            return stream.run(self.app, partial(_passage, worker, facts, decision, scope), self._refuse)
        if decision.refused:
            worker.decided(facts, decision, scope["headers"])
            return self._refuse(decision, scope, receive, send)
        if worker.overload is None:
            return self._pass(None, worker, facts, decision, scope, receive, send)
        at_once = worker.overload.enter_now(facts, decision)
        return self._pass_later(at_once, worker.overload, worker, facts, decision, scope, receive, send)

    def _refuse(self, decision: Decision, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Send the refusal, then read the rest of what the client sends."""
        if scope.get("method") in WITHOUT_A_BODY:
            return self._replies.refuse(decision, scope, receive, send)
        return self._replies.refuse(decision, scope, *self._lingering.around(scope, receive, send))

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._steps_aside(scope):
            await self.app(scope, receive, send)
            return
        scope["shield"] = ShieldScope(None, None, Mode.NORMAL, self._nesting)

        async def receive_and_start() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._start_or_fail(send)
            return message

        async def stop_and_send(message: Message) -> None:
            if message["type"] in _LIFESPAN_ENDS:
                await self._stop()
            await send(message)

        try:
            await self.app(scope, receive_and_start, stop_and_send)
        finally:
            # However the lifespan ends: a request that still comes starts the worker again.
            await self._stop()

    def _steps_aside(self, scope: Scope) -> bool:
        """Whether an outer shield has already done this one's work."""
        around = scope.get("shield")
        # A scope that comes through the same shield twice is decided twice, so sending a request through again is not
        # free.
        if not isinstance(around, ShieldScope) or around.nesting is self._nesting:
            return False
        return self._nesting.steps_aside(around.nesting)

    async def _start_or_fail(self, send: Send) -> None:
        """Start the worker. If that fails, say so: a server takes a bare exception for an app without lifespan support,
        and serves."""
        try:
            await self._start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise

    async def _start(self) -> Worker:
        """The worker of this loop."""
        worker = await self._workers.here()
        self._loop, self._thread, self._worker = asyncio.get_running_loop(), get_ident(), worker
        return worker

    async def _stop(self) -> None:
        self._loop = self._worker = None
        await self._workers.stop()

    def _stopped(self, worker: Worker) -> None:
        """Forget a stopped worker, so that it decides no further request."""
        if self._worker is worker:
            self._loop = self._worker = None


def _settled(worker: Worker, facts: Facts, decision: Decision, scope: Scope, refusal: Decision | None) -> None:
    """Count a request with a body, once it is refused or cannot be refused any more."""
    worker.decided(facts, refusal or decision, scope["headers"])


async def _passage(worker: Worker, facts: Facts, decision: Decision, scope: Scope) -> Passage | Decision | None:
    """The passage of a request that has its seat, or the refusal; None if there is no lane."""
    entry = None if worker.overload is None else await worker.overload.passage(facts, decision)
    worker.decided(facts, entry if isinstance(entry, Decision) else decision, scope["headers"])
    return entry
