"""The shield's own routes, which are answered before anything is decided: those that proxies ask, and operators'."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from starlette.types import Receive, Scope, Send

from shieldmw.gate.operator.control import Control
from shieldmw.gate.worker import Worker

from .lingering import Lingering


class ProxyQuestions(Protocol):
    """The routes that proxies ask before they forward a request."""

    def question(self, scope: Scope) -> bytes | None:
        """The question that a request's path asks, for ``answer``; None if the request is not for these routes."""

    async def answer(self, worker: Worker, question: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer such a request."""


class OperatorRoutes(Protocol):
    """The routes of the admin API."""

    def owns(self, scope: Scope) -> bool:
        """Whether a request is for one of these routes."""

    async def answer(self, control: Control, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer such a request."""


class OwnRoutes:
    """The routes of proxies and of operators below ``path``; the latter only if there are ``operators``."""

    def __init__(
        self, path: str, questions: ProxyQuestions, operators: OperatorRoutes | None, lingering: Lingering
    ) -> None:
        self.path = path
        self._questions = questions
        self._operators = operators
        self._lingering = lingering

    def answer(self, worker: Worker, scope: Scope, receive: Receive, send: Send) -> Awaitable[None] | None:
        """The answer to a request for one of these routes; None for any other."""
        question = self._questions.question(scope)
        if question is not None:
            around = self._lingering.around(scope, receive, send)
            return self._questions.answer(worker, question, scope, *around)
        if self._operators is not None and self._operators.owns(scope):
            return self._operators.answer(worker.control, scope, *self._lingering.around(scope, receive, send))
        return None
