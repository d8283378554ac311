"""Requests with few headers are read by a fast path, with the same result as by the slow one."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Scope

from doors.asgi.harness import Headers, http_scope, websocket_scope
from doors.asgi.shields import member
from shieldmw.core.bounds import LONGEST_HEADER, MOST_LINES
from shieldmw.core.facts import Facts
from shieldmw.doors.asgi.facts import AuthenticateScope, CredentialSources, FactsReader
from shieldmw.doors.asgi.tickets import TICKET_COOKIE, TICKET_HEADER

IN_COOKIE = TICKET_COOKIE.encode()
SOURCES = [
    CredentialSources("x-forwarded-for", "authorization", "key", None),
    CredentialSources("forwarded", "x-api-key", None, "key"),
    CredentialSources("x-forwarded-for", None, None, None),
    CredentialSources(None, "authorization", None, None),
    CredentialSources("x-api-key", "x-api-key", None, None),
]


class Reader(FactsReader):
    """A reader that counts what it reads carefully."""

    careful = 0

    def _facts(self, *arguments: Any) -> Facts:
        self.careful += 1
        return super()._facts(*arguments)


def carefully(sources: CredentialSources, scope: Scope, authenticate: AuthenticateScope | None = None) -> Facts:
    """The facts, read without any short cut."""
    reader = FactsReader(sources, authenticate)
    if len(scope["headers"]) > MOST_LINES:
        return reader._with_too_many_lines(scope)
    return reader._facts(scope, scope.get("query_string") or b"", scope["headers"])


def same(facts: Facts) -> tuple[object, ...]:
    """All that is read; the host app's check is another object each time."""
    return (*facts[:8], facts.authenticate and facts.authenticate.func, facts.signed_ticket)  # type: ignore[attr-defined]


NAMES = [
    *(b"authorization", b"x-api-key", b"cookie", b"x-forwarded-for", b"forwarded", b"x-http-method-override"),
    *(TICKET_HEADER, b"accept", b"origin", b"access-control-request-method"),
]
VALUES = [
    *(b"", b"Bearer a", b"b", b"key=a", b"key=b; " + IN_COOKIE + b"=t", IN_COOKIE + b"=u", b"PUT", b"192.0.2.1"),
    *(b"\xff, 1", b"1" * LONGEST_HEADER + b"2", b"3" * 100_000),
]
QUERY_STRINGS = st.sampled_from(
    [b"", b"key=q", b"key=r", b"a=1", IN_COOKIE + b"=v", IN_COOKIE + b"=w&key=q", None, "missing"]
)
METHODS = st.sampled_from(["GET", "get", "POST", "OPTIONS", "HEAD", "PROPFIND", "G" * 100, ""])


@st.composite
def scopes(draw: st.DrawFn) -> Scope:
    """A request, most of them with few lines that say anything."""
    lines: Any = draw(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=3))
    if draw(st.booleans()):
        lines = [list(line) for line in lines]
    if draw(st.sampled_from([False] * 9 + [True])):
        lines = [*lines, *[(b"accept", b"*/*")] * MOST_LINES, (b"x-forwarded-for", b"192.0.2.7")]
    path, root_path = draw(st.sampled_from([("/a", ""), ("/a", "/a"), ("/a/b", "/a"), ("/b", "")]))
    scope = http_scope(path, draw(METHODS), headers=lines, root_path=root_path)
    if draw(st.booleans()):
        scope = websocket_scope(path, headers=lines, root_path=root_path)
    scope["client"] = draw(st.sampled_from([("192.0.2.1", 1), ["192.0.2.1", 2], ("192.0.2.2", 1), ("", 0), None]))
    scope["query_string"] = draw(QUERY_STRINGS)
    for name in ("query_string", "root_path", "client"):
        if scope[name] in ("missing", "", None) and draw(st.booleans()):
            del scope[name]
    if scope.get("query_string") == "missing":
        del scope["query_string"]
    return scope


@settings(deadline=None, max_examples=500)
@given(scopes(), st.sampled_from(SOURCES), st.sampled_from([None, None, member]))
def test_a_quick_look_sees_what_a_careful_one_sees(
    scope: Scope, sources: CredentialSources, authenticate: AuthenticateScope | None
) -> None:
    """Whatever is in the head, and whatever is missing."""
    found = FactsReader(sources, authenticate).read(scope)
    assert same(found) == same(carefully(sources, scope, authenticate))


@pytest.mark.parametrize("sources", SOURCES, ids=lambda sources: str(sources.forwarded_header))
def test_no_single_line_is_mistaken(sources: CredentialSources) -> None:
    """Each line that means something to somebody, alone."""
    for line in product(NAMES, VALUES):
        scope = http_scope(headers=[line])
        assert same(FactsReader(sources, None).read(scope)) == same(carefully(sources, scope)), line


FORWARDED = (b"x-forwarded-for", b"192.0.2.1")


@pytest.mark.parametrize(
    ("headers", "query", "careful"),
    [
        ([], b"", 0),
        ([FORWARDED], b"", 0),
        ([FORWARDED, (b"accept", b"*/*"), (b"x-api-key", b"a")], b"a=1", 0),
        ([FORWARDED, FORWARDED], b"", 1),
        ([FORWARDED, (b"cookie", b"a=1")], b"", 1),
        ([FORWARDED, (b"authorization", b"Bearer a")], b"", 0),
        ([(b"authorization", b"Basic a")], b"", 1),
        ([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")], b"", 1),
        ([(TICKET_HEADER, b"a")], b"", 1),
        ([(b"x-http-method-override", b"PUT")], b"", 1),
        ([], IN_COOKIE + b"=a", 1),
    ],
)
def test_what_most_requests_show_is_read_quickly(headers: Headers, query: bytes, careful: int) -> None:
    """Where they come from, and a token; all else is read with care."""
    reader = Reader(SOURCES[0], None)
    reader.read(http_scope(headers=headers, query_string=query))
    assert reader.careful == careful
