"""Envoy's external authorization (ext_authz v3): whether a request may pass, and otherwise what its client is told."""

from __future__ import annotations

from collections.abc import Awaitable
from http import HTTPStatus

from google.protobuf.message import DecodeError
from starlette.types import Scope

from shieldmw.answers.rate_limit import Headers
from shieldmw.core.decision import REFUSED, Decision
from shieldmw.core.facts import Facts
from shieldmw.doors.asgi.asked import seated
from shieldmw.doors.asgi.facts import FactsReader
from shieldmw.doors.asgi.replies import Replies
from shieldmw.gate.worker import Worker

from .frames import GrpcStatus
from .protos.authorization_pb2 import CheckRequest, CheckResponse
from .protos.shared_pb2 import HeaderValueOption
from .requests import scope_of
from .server import MalformedMessage

# Envoy makes these itself.
_OF_ENVOY = b"content-length"

# Any status but 0 refuses; what the client is told is in the response itself.
_DENIED = GrpcStatus.RESOURCE_EXHAUSTED

_APPEND = HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
_REPLACE = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


class Authorization:
    """Answers what Envoy asks about a request before it sends the request on."""

    def __init__(self, worker: Worker, reader: FactsReader, replies: Replies) -> None:
        self._worker = worker
        self._gate = worker.gate
        self._reader = reader
        self._replies = replies

    def check(self, message: bytes) -> bytes | Awaitable[bytes]:
        """Answer a CheckRequest."""
        try:
            asked = CheckRequest.FromString(message)
        except DecodeError:
            raise MalformedMessage from None
        scope = scope_of(asked)
        facts = self._reader.read(scope)
        decision = self._gate.decide_now(facts)
        if isinstance(decision, Decision):
            return self._answer(facts, decision, scope)
        return self._answer_later(facts, decision, scope)

    async def _answer_later(self, facts: Facts, decision: Awaitable[Decision], scope: Scope) -> bytes:
        return self._answer(facts, await decision, scope)

    def _answer(self, facts: Facts, decision: Decision, scope: Scope) -> bytes:
        decision, headers = seated(self._worker, facts, decision, scope)
        return self._denied(decision, scope) if decision.verdict is REFUSED else _allowed(headers)

    def _denied(self, decision: Decision, scope: Scope) -> bytes:
        status, headers, body = self._replies.rendered(decision, scope)
        response = CheckResponse()
        response.status.code = _DENIED
        denied = response.denied_response
        denied.status.code = HTTPStatus(status)
        denied.body = body.decode()
        for name, value in headers:
            if name != _OF_ENVOY:
                option = denied.headers.add(append_action=_APPEND if name == b"set-cookie" else _REPLACE)
                option.header.key, option.header.value = name.decode("latin-1"), value.decode("latin-1")
        return response.SerializeToString()


def _allowed(headers: Headers) -> bytes:
    if not headers:
        return _PLAINLY_ALLOWED
    response = CheckResponse()
    response.status.code = GrpcStatus.OK
    added = response.ok_response.response_headers_to_add
    for name, value in headers:
        header = added.add(append_action=_APPEND).header
        header.key, header.value = name.decode("latin-1"), value.decode("latin-1")
    return response.SerializeToString()


_response = CheckResponse()
_response.ok_response.SetInParent()
_PLAINLY_ALLOWED = _response.SerializeToString()
