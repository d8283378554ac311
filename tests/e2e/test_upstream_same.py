"""Apps behave the same behind `shieldmw serve --upstream` as without it: the cases that are compared within one
process (tests/doors/asgi/test_same_*.py), over sockets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from starlette.types import Message

from doors.asgi.shields import Case
from doors.asgi.test_same_raw import HTTP, WEBSOCKET
from doors.asgi.test_same_starlette import GOING, REQUESTS, RESPONSES
from e2e.proxied import PATIENCE_S, proxy
from e2e.same import Answer, HttpKind, Seen, Stage, Talk, ask, staged, talk

Pair = tuple[Stage, int, int]


@pytest.fixture(scope="module", params=get_args(HttpKind))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """The stage, its own port, and that of the proxy before it."""
    with (
        staged(request.param) as (stage, port),
        proxy([f"http://127.0.0.1:{port}"], tmp_path_factory.mktemp("proxy")) as server,
    ):
        yield stage, port, server.port


# What HTTP itself, or the server of `shieldmw serve`, makes different; docs/proxy.md has the table for users.
NOT_OVER_SOCKETS = {
    "client is gone at the start": "no client can leave between two messages of the app: it asks, and leaves",
    "client is gone in the middle": "the same",
    "client is gone at accept": "the same",
    "app asks whether the client is gone: it is": "it asks before either server can know",
    "client goes before accept": "granian tells of it only after the handshake: the upstream sees it then",
}
ANSWERS_WITH_ITS_REQUEST = {"scope", "scope with extensions", "mount, parameter"}
CUT_BEFORE_A_BODY = {"zero copy", "path send", "starts only", "starts twice", "fails after start"}


def over_sockets(*cases: Case) -> list[Case]:
    return [case for case in cases if case.name not in NOT_OVER_SOCKETS]


def without_boundary(answer: Answer) -> Answer:
    """A multipart boundary is random."""
    answer.body = re.sub(rb"[0-9a-f]{26}", b"boundary", answer.body)
    answer.headers = [(name, re.sub(rb"[0-9a-f]{26}", b"boundary", value)) for name, value in answer.headers]
    return answer


def play(stage: Stage, port: int, case: Case) -> tuple[Answer, Seen]:
    """Play a case's client, before the stage itself or the proxy."""
    stage.set(case.app())
    answer = without_boundary(ask(port, case, stage))
    if stage.begun.is_set():
        assert stage.ended.wait(PATIENCE_S), "the app is still running"
    return answer, stage.seen


@pytest.mark.parametrize("case", over_sockets(*HTTP, *RESPONSES, *REQUESTS, *GOING), ids=lambda case: case.name)
def test_an_app_behaves_the_same(pair: Pair, case: Case) -> None:
    """Status, header lines and body of the answer, and whether it is cut; the request that the app gets, what it reads,
    and what it raises."""
    stage, port, proxy_port = pair
    alone, saw_alone = play(stage, port, case)
    behind, saw = play(stage, proxy_port, case)
    assert request_of(saw) == request_of(saw_alone)
    assert messages_of(saw) == messages_of(saw_alone)
    assert (saw.body, saw.raised) == (saw_alone.body, saw_alone.raised)
    if case.name in CUT_BEFORE_A_BODY and not alone.is_whole:
        assert (alone.status, alone.body, behind.status) == (200, b"", 500)
        return
    if case.name in ANSWERS_WITH_ITS_REQUEST and alone.status == 200:
        assert b"x-forwarded-for" in behind.body
        alone.body, alone.length = behind.body, behind.length
    if case.name == "sizes of chunks":
        assert sum(json.loads(behind.body)) == sum(json.loads(alone.body))
        alone.body, alone.length = behind.body, behind.length
    if alone.length is None:  # in chunks, and whole at once behind the proxy: granian gives it a length
        behind.length = None
    if behind.status:
        assert (b"via", b"1.1 shieldmw") in behind.headers
    behind.headers = [line for line in behind.headers if line[0] != b"via"]
    assert behind == alone


def request_of(seen: Seen) -> dict[str, Any]:
    """The request that the app got, if it got one; a missing body may have the length 0, as RFC 9110 (8.6) wants it."""
    if not seen.scope:
        return {}
    request = seen.request()
    request["headers"] = [line for line in request["headers"] if line != (b"content-length", b"0")]
    return request


def messages_of(seen: Seen) -> list[Message]:
    """What the app read besides the body. The reason of a client's close is lost: granian only gives the code. An app
    whose send has failed may have read of the disconnect before that, or not."""
    messages = [{key: value for key, value in message.items() if key != "reason"} for message in seen.messages]
    return [message for message in messages if not (seen.raised and message["type"].endswith(".disconnect"))]


def converse(stage: Stage, port: int, case: Case) -> tuple[Talk, Seen]:
    """Play a case's client, as ``play``."""
    stage.set(case.app())
    found = talk(port, case)
    assert stage.ended.wait(PATIENCE_S), "the app is still running"
    return found, stage.seen


@pytest.mark.parametrize("case", over_sockets(*WEBSOCKET), ids=lambda case: case.name)
def test_a_websocket_app_behaves_the_same(pair: Pair, case: Case) -> None:
    """Messages, close codes and refusals at both ends, and the handshake that the app gets."""
    stage, port, proxy_port = pair
    alone, saw_alone = converse(stage, port, case)
    behind, saw = converse(stage, proxy_port, case)
    assert saw.request() == saw_alone.request()
    assert messages_of(saw) == messages_of(saw_alone)
    assert saw.raised == saw_alone.raised
    if alone.closed[0] == 1006:  # the app has failed, and the server has dropped the connection
        assert behind.closed[0] == 1014
        behind.closed = alone.closed
    assert behind == alone
