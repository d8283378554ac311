"""What the reader keeps of looks that come again: whatever came before, its facts are those of a reader that is new."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Scope

from doors.asgi.harness import Headers, http_scope, websocket_scope
from doors.asgi.shields import member
from shieldmw.core.facts import Facts
from shieldmw.doors.asgi import facts as facts_module
from shieldmw.doors.asgi.facts import LONGEST_KEPT, LOOKS_KEPT, CredentialSources, FactsReader
from shieldmw.doors.asgi.tickets import TICKET_COOKIE, TICKET_HEADER

TICKET = TICKET_HEADER
IN_COOKIE = TICKET_COOKIE.encode()
COOKIES = CredentialSources("x-forwarded-for", "authorization", "key", None)
QUERIES = CredentialSources("forwarded", "x-api-key", None, "key")
NOTHING = CredentialSources("x-forwarded-for", None, None, None)
READINGS = (COOKIES, QUERIES, NOTHING)


def bare(facts: Facts) -> Facts:
    """The facts but for where the gate may keep something."""
    return facts._replace(kept=None)


def afresh(sources: CredentialSources, scope: Scope) -> Facts:
    """The facts as a reader sees them that has seen nothing else."""
    return bare(FactsReader(sources, None).read(scope))


def known(sources: CredentialSources, *scopes: Scope) -> FactsReader:
    """A reader that keeps the facts of these."""
    reader = FactsReader(sources, None)
    for scope in scopes:
        first, second, third = (reader.read(scope) for _ in range(3))
        assert first.kept is None
        assert second.kept == []
        assert third is second
    return reader


# --- whatever comes, in whatever order ----------------------------------------------------------------

NAMES = st.sampled_from(
    [b"authorization", b"x-api-key", b"cookie", b"x-forwarded-for", b"forwarded", b"x-http-method-override", TICKET]
)
VALUES = st.sampled_from(
    [
        b"",
        b"Bearer a",
        b"b",
        b"key=a",
        b"key=b; " + IN_COOKIE + b"=t",
        IN_COOKIE + b"=u",
        b"PUT",
        b"192.0.2.1",
        b"\xff, 1",
    ]
)
QUERY_STRINGS = st.sampled_from(
    [b"", b"key=q", b"key=r", b"a=1", IN_COOKIE + b"=v", IN_COOKIE + b"=w&key=q", None, "missing"]
)


@st.composite
def scopes(draw: st.DrawFn) -> Scope:
    """A request; many differ from another in one thing."""
    headers: Any = draw(st.lists(st.tuples(NAMES | st.just(b"accept"), VALUES), max_size=3))
    if draw(st.booleans()):
        headers = [list(header) for header in headers]
    path, root_path = draw(st.sampled_from([("/a", ""), ("/a", "/a"), ("/a/b", "/a"), ("/b", "")]))
    scope = http_scope(path, draw(st.sampled_from(["GET", "get", "POST"])), headers=headers, root_path=root_path)
    if draw(st.booleans()):
        scope = websocket_scope(path, headers=headers, root_path=root_path)
    scope["client"] = draw(st.sampled_from([("192.0.2.1", 1), ["192.0.2.1", 2], ("192.0.2.2", 1), ("", 0), None]))
    scope["query_string"] = draw(QUERY_STRINGS)
    for name in ("query_string", "root_path", "client"):
        if scope[name] in ("missing", "", None) and draw(st.booleans()):
            del scope[name]
    if scope.get("query_string") == "missing":
        del scope["query_string"]
    return scope


@settings(deadline=None, max_examples=300)
@given(
    st.lists(scopes(), min_size=1, max_size=6),
    st.lists(st.integers(0, 5), max_size=40),
    st.sampled_from(READINGS),
    st.sampled_from([1, 2, 3, LOOKS_KEPT]),
)
def test_a_reader_that_has_seen_much_reads_as_one_that_is_new(
    some: list[Scope], order: list[int], sources: CredentialSources, places: int
) -> None:
    """Requests that are much alike, in any order and in a table of any size; some share their place."""
    with patch.object(facts_module, "LOOKS_KEPT", places):
        reader = FactsReader(sources, None)
        for number in order:
            scope = some[number % len(some)]
            found = reader.read(scope)
            assert bare(found) == afresh(sources, scope)


# --- any single difference ----------------------------------------------------------------------------

BASE: Headers = [
    (b"x-forwarded-for", b"192.0.2.8"),
    (b"x-forwarded-for", b"192.0.2.9"),
    (b"authorization", b"Basic x"),
    (b"cookie", b"key=alice"),
    (b"cookie", b"a=1"),
    (b"x-http-method-override", b"PUT"),
    (TICKET, b"paper"),
]


def without(at: int) -> Headers:
    return BASE[:at] + BASE[at + 1 :]


def instead(at: int, value: bytes) -> Headers:
    return [*BASE[:at], (BASE[at][0], value), *BASE[at + 1 :]]


def scope_of(sources: CredentialSources = COOKIES, headers: Headers = BASE, **more: Any) -> Scope:
    """The request that all others differ from."""
    values = {"path": "/mount/a", "root_path": "/mount", "query_string": b"key=carol", **more}
    return http_scope(headers=headers, **values)


DIFFERENCES: list[tuple[str, CredentialSources, Scope]] = [
    ("peer", COOKIES, scope_of(client=("203.0.113.8", 50123))),
    ("no peer", COOKIES, scope_of(client=None)),
    ("path", COOKIES, scope_of(path="/mount/b")),
    ("root path", COOKIES, scope_of(root_path="/moun")),
    ("no root path", COOKIES, scope_of(root_path="")),
    ("method", COOKIES, scope_of(method="POST")),
    ("query", QUERIES, scope_of(query_string=b"key=dave")),
    ("no query", QUERIES, scope_of(query_string=b"")),
    ("a ticket in the query", NOTHING, scope_of(query_string=IN_COOKIE + b"=other", headers=BASE[:3])),
    ("a line less", COOKIES, scope_of(headers=without(1))),
    ("the first line less", COOKIES, scope_of(headers=without(0))),
    ("a line twice", COOKIES, scope_of(headers=[BASE[0], *BASE])),
    ("lines in another order", COOKIES, scope_of(headers=[BASE[1], BASE[0], *BASE[2:]])),
    ("two lines as one", COOKIES, scope_of(headers=[(b"x-forwarded-for", b"192.0.2.8, 192.0.2.9"), *BASE[2:]])),
    ("a value under another name", COOKIES, scope_of(headers=[*BASE[:3], (TICKET, b"key=alice"), *BASE[4:]])),
    ("authorization", COOKIES, scope_of(headers=instead(2, b"Bearer bob"))),
    ("a second authorization", COOKIES, scope_of(headers=[(b"authorization", b"bob"), *BASE])),
    ("cookie", COOKIES, scope_of(headers=instead(3, b"key=bob"))),
    ("a cookie's name", COOKIES, scope_of(headers=instead(3, b"Key=bob"))),
    ("no cookie", COOKIES, scope_of(headers=without(3))),
    ("a method that overrides", COOKIES, scope_of(headers=instead(5, b"DELETE"))),
    ("none that overrides", COOKIES, scope_of(headers=without(5))),
    ("ticket", COOKIES, scope_of(headers=instead(6, b"other"))),
    ("no ticket", COOKIES, scope_of(headers=without(6))),
    ("another token header", QUERIES, scope_of(headers=[*BASE, (b"x-api-key", b"bob")])),
    ("another forwarded header", QUERIES, scope_of(headers=[*BASE, (b"forwarded", b"for=192.0.2.7")])),
]


@pytest.mark.parametrize(("what", "sources", "other"), DIFFERENCES, ids=[what for what, *_ in DIFFERENCES])
def test_any_difference_that_matters_makes_another_request(what: str, sources: CredentialSources, other: Scope) -> None:
    """Beside facts that are kept each differing request has its own, and they stay what they are."""
    base = scope_of(headers=BASE[:3]) if what == "a ticket in the query" else scope_of()
    assert afresh(sources, base) != afresh(sources, other), "the case itself"
    reader = known(sources, base)
    for scope in (other, base, other, other, base):
        assert bare(reader.read(scope)) == afresh(sources, scope)


@pytest.mark.parametrize(
    "same",
    [
        scope_of(query_string=b"a=2"),
        scope_of(headers=[*BASE, (b"accept", b"*/*")]),
        scope_of(scheme="https"),
        scope_of(client=("203.0.113.7", 9)),
        scope_of(headers=[list(header) for header in BASE]),  # type: ignore[misc]
        scope_of(headers=tuple(BASE)),  # type: ignore[arg-type]
    ],
    ids=["query", "other header", "scheme", "port", "lists", "a tuple of headers"],
)
def test_what_does_not_matter_makes_none(same: Scope) -> None:
    """So the facts that are kept are found again, under another query or port and beside other headers."""
    reader = known(COOKIES, scope_of())
    assert reader.read(same) is reader.read(scope_of())


def test_a_websocket_has_its_own_look() -> None:
    """It has no method, and nobody else's facts: neither does a GET get its."""
    http, websocket = http_scope("/a", "POST"), websocket_scope("/a")
    reader = known(COOKIES, http, websocket)
    assert reader.read(http).methods == {"POST"}
    assert reader.read(websocket).methods == {"GET"}


class Alike(str):
    """A path of whose like all have one hash."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 1


def test_two_looks_of_one_number_do_not_mix() -> None:
    """Not even where the whole hash is the same: each takes the other's place."""
    one, two = (http_scope(path=Alike(path)) for path in ("/one", "/two"))
    reader = FactsReader(COOKIES, None)
    for scope in (one, one, two, one, two, two, one, one):
        assert reader.read(scope).path == scope["path"]
        assert reader.read(scope).route_path == scope["path"]


# --- what is not kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["value", "path", "lines"])
def test_a_long_look_is_read_anew(where: str) -> None:
    """One that is as long as may be is kept; with a letter more it is not, wherever it is."""
    small = scope_of(path="/", root_path="")
    spare = LONGEST_KEPT - sum(len(name) + len(value) for name, value in BASE) - len("203.0.113.7") - len("GET") - 1

    def of(length: int) -> Scope:
        if where == "path":
            return {**small, "path": "/" + "a" * length}
        if where == "value":
            return {**small, "headers": [*BASE, (b"cookie", b"x" * (length - len(b"cookie")))]}
        lines, rest = divmod(length, len(b"cookie"))
        return {**small, "headers": [*BASE, *[(b"cookie", b"")] * (lines - 1), (b"cookie", b"x" * rest)]}

    known(COOKIES, of(spare))
    reader = FactsReader(COOKIES, None)
    seen = [reader.read(of(spare + 1)) for _ in range(4)]
    assert all(facts.kept is None for facts in seen)
    assert len(set(map(id, seen))) == 4


def test_where_the_host_app_is_asked_nothing_is_kept() -> None:
    """Each request has its own check, bound to its own scope."""
    reader = FactsReader(COOKIES, member)
    for scope in [scope_of() for _ in range(4)]:
        facts = reader.read(scope)
        assert facts.kept is None
        check: Any = facts.authenticate
        assert check.func is member
        assert check.args[0] is scope


def alive(readers: Iterable[FactsReader]) -> int:
    """How many facts there are, while the readers are."""
    gc.collect()
    return sum(type(found) is Facts for found in gc.get_objects())


def test_a_flood_leaves_no_more_than_so_many_looks() -> None:
    """Of those who come once nothing stays; of those who come twice no more than there are places."""
    before = alive(())
    reader = FactsReader(COOKIES, None)
    for number in range(3 * LOOKS_KEPT):
        reader.read(http_scope(f"/{number}"))
    assert alive((reader,)) == before
    for number in range(3 * LOOKS_KEPT):
        for _ in range(2):
            facts = reader.read(http_scope(f"/{number}"))
        assert facts.kept == []
    del facts
    assert LOOKS_KEPT / 2 < alive((reader,)) - before <= LOOKS_KEPT


def test_what_is_shown_to_the_admin_door_is_never_kept() -> None:
    """However often it comes: a secret of the operator's leaves nothing behind."""
    reader = FactsReader(CredentialSources("x-forwarded-for", "authorization", None, None), None)
    scope = http_scope(headers=[(b"authorization", b"Bearer secret"), (b"x-forwarded-for", b"192.0.2.1")])
    read = [reader.read_once(scope) for _ in range(4)]
    assert {(facts.credential, facts.forwarded) for facts in read} == {("secret", ("192.0.2.1",))}
    assert all(facts.kept is None for facts in read)
    assert not any(reader._kept)
