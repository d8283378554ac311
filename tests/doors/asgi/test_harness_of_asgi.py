"""Tests of the harness: it must detect every difference."""

from __future__ import annotations

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doors.asgi.harness import NO_BODY, Record, call, comparable, http_scope, run, without_added
from doors.asgi.shields import ok


def changing(change: str) -> ASGIApp:
    """An app like ``ok``, with one thing changed."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if change == "reads":
            await receive()

        async def send_changed(message: Message) -> None:
            if change == "status" and "status" in message:
                message = {**message, "status": 201}
            if change == "header" and "headers" in message:
                message = {**message, "headers": [*message["headers"], (b"x", b"y")]}
            if change == "body" and "body" in message:
                message = {**message, "body": b"no"}
            if change == "key" and "body" in message:
                message = {**message, "more_body": False}
            if change != "swallows" or "body" not in message:
                await send(message)

        await ok(scope, receive, send_changed)
        if change == "raises":
            raise RuntimeError("after")

    return app


@pytest.mark.parametrize("change", ["reads", "status", "header", "body", "key", "swallows", "raises"])
def test_every_kind_of_difference_is_seen(change: str) -> None:
    """A changed status, header, body or key, a message too few, a read too many, an exception: each is a difference."""
    alone = run(call(ok, http_scope(), NO_BODY))
    assert comparable(run(call(changing(change), http_scope(), NO_BODY))) != comparable(alone)


@pytest.mark.parametrize(
    "names", [[], [b"ratelimit"], [b"ratelimit", b"ratelimit-policy"], [b"ratelimit-policy", b"ratelimit", b"x"]]
)
def test_the_added_lines_are_expected_at_the_end(names: list[bytes]) -> None:
    """Other lines than the two, or the two elsewhere, are no match."""
    record = Record([{"type": "http.response.start", "status": 200, "headers": [(name, b"") for name in names]}])
    with pytest.raises(AssertionError):
        without_added(record)
