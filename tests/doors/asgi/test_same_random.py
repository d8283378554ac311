"""Random answers and random requests come through the shield unchanged."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doors.asgi.harness import CONNECT, Record, Step, body, call, http_scope, run, websocket_scope, without_added
from doors.asgi.shields import part, start
from shieldmw import Settings, ShieldMiddleware

EXAMPLES = 150

names = st.binary(max_size=20) | st.sampled_from([b"ratelimit", b"RateLimit-Policy", b"retry-after", b"set-cookie"])
header_lines = st.lists(st.tuples(names, st.binary(max_size=40)), max_size=6)
contents = st.binary(max_size=60) | st.just(b"")
others = st.dictionaries(st.text(min_size=1, max_size=5).map("x-{}".format), st.integers() | st.none(), max_size=2)

hints: st.SearchStrategy[Message] = st.fixed_dictionaries(
    {"type": st.sampled_from(["http.response.early_hint", "http.response.debug", "http.response.push"])}
)
starts = st.builds(
    lambda status, headers, more: start(status, headers, **more), st.integers(100, 599), header_lines, others
)
parts = st.builds(lambda content, more: {**part(content, more=True), **more}, contents, others)
trailers = st.builds(lambda headers: {"type": "http.response.trailers", "headers": headers}, header_lines)


@st.composite
def answers(draw: st.DrawFn) -> list[Message]:
    """What an app may send, in an order that is valid: hints, a start, pieces, the last piece, trailers."""
    messages = [*draw(st.lists(hints, max_size=2)), draw(starts), *draw(st.lists(parts, max_size=6))]
    if draw(st.booleans()):
        messages.append({"type": "http.response.pathsend", "path": draw(st.text(max_size=9))})
    else:
        messages.append(part(draw(contents)))
    return messages + draw(st.lists(trailers, max_size=2))


@st.composite
def talks(draw: st.DrawFn) -> list[Message]:
    """What an app may send over a WebSocket: an accept, messages, a close."""
    message: st.SearchStrategy[Message] = st.one_of(
        st.builds(lambda text: {"type": "websocket.send", "text": text}, st.text(max_size=20)),
        st.builds(lambda content: {"type": "websocket.send", "bytes": content}, contents),
    )
    accept: Message = {"type": "websocket.accept", "headers": draw(header_lines)}
    close: Message = {"type": "websocket.close", "code": draw(st.integers(1000, 4999)), "reason": draw(st.text())}
    return [accept, *draw(st.lists(message, max_size=8)), close]


def sender(messages: list[Message]) -> ASGIApp:
    """An app that sends these and nothing else."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in copy.deepcopy(messages):
            await send(message)

    return app


def behind(app: ASGIApp, scope: Scope, steps: list[Step] | None = None, **values: Any) -> Record:
    return run(call(ShieldMiddleware(app, Settings(**values)), scope, steps or []))


@given(answers())
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_answer_comes_through(messages: list[Message]) -> None:
    """Every message of an app arrives as it was sent, in its order, limited or not."""
    assert behind(sender(messages), http_scope(), ip_limit="off").sent == messages
    assert without_added(behind(sender(messages), http_scope())).sent == messages


@given(talks())
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_talk_comes_through(messages: list[Message]) -> None:
    """Every message of a WebSocket app arrives as it was sent, and none is added."""
    assert behind(sender(messages), websocket_scope(), [CONNECT]).sent == messages


class Listener:
    """An app that keeps what it was given."""

    def __init__(self) -> None:
        self.scope: Scope = {}
        self.messages: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the whole request."""
        self.scope = dict(scope)
        more = True
        while more:
            message = await receive()
            self.messages.append(message)
            more = message["more_body"]


paths = st.text(max_size=30).map("/{}".format)
query_strings = st.binary(max_size=40)


@given(
    chunks=st.lists(contents, min_size=1, max_size=8),
    headers=header_lines,
    path=paths,
    query=query_strings,
    method=st.text(min_size=1, max_size=9),
    root=st.sampled_from(["", "/a", "/"]),
)
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_request_reaches_the_app_as_it_is(
    chunks: list[bytes], headers: list[tuple[bytes, bytes]], path: str, query: bytes, method: str, root: str
) -> None:
    """Path, query, headers and every chunk of the body are what the server gave; only `shield` is new in the scope."""
    listener = Listener()
    scope = http_scope(path, method, headers=headers, query_string=query, root_path=root)
    before = copy.deepcopy(scope)
    record = behind(listener, scope, body(*chunks), token_query="key", token_cookie="key")
    assert record.raised is None
    assert listener.messages == [step.message for step in body(*chunks)]
    assert set(listener.scope) - set(before) == {"shield"}
    assert {key: listener.scope[key] for key in before} == before
