"""REDbot's linter has nothing to say of a response through `shieldmw serve --upstream` that it does not say bare."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module, util

import pytest

from e2e.proxied import answering, ask_raw, proxy, request
from servers import HttpServer, missing
from servers.upstreams import ScriptedUpstream, scripted_upstream

DATED = b"Date: Sat, 28 Nov 2026 10:00:00 GMT\r\n"
TEXT = b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 2\r\n"

RESPONSES = {
    "plain": b"HTTP/1.1 200 OK\r\n" + DATED + TEXT + b"\r\nok",
    "without a date": b"HTTP/1.1 200 OK\r\n" + TEXT + b"\r\nok",
    "cacheable": b'HTTP/1.1 200 OK\r\nETag: "a"\r\nCache-Control: max-age=60\r\nVary: Accept\r\n'
    + DATED
    + TEXT
    + b"\r\nok",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n" + DATED + b"\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n" + DATED + b"\r\n",
    "not modified": b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nCache-Control: max-age=60\r\n' + DATED + b"\r\n",
    "cookies": b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nSet-Cookie: c=d; Path=/\r\n" + DATED + TEXT + b"\r\nok",
    "not found": b"HTTP/1.1 404 Not Found\r\n" + DATED + TEXT + b"\r\nno",
}

# That there is a Via is what a proxy has to say.
EXPECTED = {"VIA_PRESENT"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HttpServer, ScriptedUpstream]]:
    """The proxy with a limit, so that it adds its headers, and its upstream."""
    if util.find_spec("httplint") is None:
        missing("httplint")
    directory = tmp_path_factory.mktemp("lint")
    with (
        scripted_upstream(answering(RESPONSES["plain"])) as upstream,
        proxy([upstream.url], directory, {"SHIELD_IP_LIMIT": "1000000/day"}) as server,
    ):
        yield server, upstream


def _notes(response: bytes) -> set[str]:
    head, _, body = response.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    version, status, *phrase = first.split(b" ", 2)
    linter = import_module("httplint").HttpResponseLinter()
    linter.process_response_topline(version, status, b"".join(phrase))
    linter.process_headers([(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)])
    linter.feed_content(body)
    linter.finish_content(True)
    return {type(note).__name__ for note in linter.notes}


@pytest.mark.parametrize("what", RESPONSES)
def test_nothing_new_is_found(pair: tuple[HttpServer, ScriptedUpstream], what: str) -> None:
    """Neither in what the proxy changes, nor in the shield's own headers."""
    server, upstream = pair
    upstream.reset(answering(RESPONSES[what]))
    got = ask_raw(server, request("/"))
    assert got.values(b"ratelimit")
    assert _notes(got.text) - _notes(RESPONSES[what]) <= EXPECTED
