"""The facts that are read from a request: the credential, the methods, the address."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from doors.asgi.harness import Headers, Record, call, http_scope, run, websocket_scope
from doors.asgi.shields import ok
from shieldmw import Settings, ShieldMiddleware

KEYS = {"k-alice": "alice", "k-bob": "bob", "k-carol": "carol"}


class Seen:
    """An app that keeps whom the shield took each request for."""

    def __init__(self) -> None:
        self.subjects: list[str | None] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note the subject, answer."""
        identity = scope["shield"].identity
        self.subjects.append(None if identity is None else identity.subject)
        await ok(scope, receive, send)


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """API keys of three subjects."""
    path = tmp_path / "keys"
    path.write_text("".join(f"{sha256(key.encode()).hexdigest()} {subject}\n" for key, subject in KEYS.items()))
    return path


def lines(*values: bytes, name: bytes = b"authorization") -> Headers:
    return [(name, value) for value in values]


COOKIE = lines(b"key=k-bob", name=b"cookie")
QUERY = b"key=k-carol"

CREDENTIALS: list[tuple[Headers, bytes, str | None, str]] = [
    ([], b"", None, "nothing presented"),
    (lines(b"Bearer k-alice"), b"", "alice", "a bearer token"),
    (lines(b"bearer k-alice"), b"", "alice", "schemes have no case"),
    (lines(b"BEARER   k-alice  "), b"", "alice", "spaces are no part of it"),
    (lines(b"k-alice"), b"", "alice", "bare"),
    (lines(b" \tk-alice\t "), b"", "alice", "bare, with spaces"),
    (lines(b"JWT k-alice"), b"", "alice", "the scheme that older JWT libraries write"),
    (lines(b"jwt  k-alice"), b"", "alice", "in small letters too"),
    (lines(b"JWTk-alice"), b"", None, "but it is a word of its own"),
    (lines(b"Basic k-alice"), b"", None, "Basic is not ours"),
    (lines(b"Digest k-alice"), b"", None, "no other scheme either"),
    (lines(b"Bearerk-alice"), b"", None, "no scheme, and no key"),
    (lines(b"Bearer k-nobody"), b"", None, "a key that nobody has"),
    (lines(b"Bearer k-alice k-bob"), b"", None, "two words are no key"),
    (lines(b"Bearer k-alice", b"Bearer k-bob"), b"", "alice", "the first of several lines"),
    (lines(b"Bearer k-nobody", b"Bearer k-bob"), b"", None, "the first, even where a later one is right"),
    (lines(b"Basic x", b"Bearer k-bob"), b"", None, "the first, even where it is not ours"),
    (COOKIE, b"", "bob", "a cookie"),
    (lines(b"a=1; key=k-bob; b=2", name=b"cookie"), b"", "bob", "among others"),
    (lines(b"a=1", b"key=k-bob", name=b"cookie"), b"", "bob", "in a second line, as HTTP/2 sends them"),
    (lines(b"key=k-bob", b"a=1", name=b"cookie"), b"", "bob", "or in the first"),
    (lines(b"xkey=k-bob", name=b"cookie"), b"", None, "a cookie of another name"),
    (lines(b"a key=k-bob", name=b"cookie"), b"", None, "nor one inside another"),
    (lines(b"a=key=k-bob", name=b"cookie"), b"", None, "nor a value that looks so"),
    (lines(b"key=k-bob;xkey=1; a=key=2", name=b"cookie"), b"", "bob", "beside those that look so"),
    (lines(b"a=1;key=k-bob;b", name=b"cookie"), b"", "bob", "without blanks between"),
    (lines(b"  key= k-bob ;", name=b"cookie"), b"", "bob", "with more of them"),
    (lines(b"key=k-alice; key=k-bob", name=b"cookie"), b"", "bob", "the last of several"),
    (lines(b'key="k-bob"', name=b"cookie"), b"", "bob", "in plain quotes"),
    (lines(b'key="k-b\\157b"', name=b"cookie"), b"", None, "but nothing is unquoted"),
    (
        lines(b"; ".join([b"c%d=%s" % (n, b"v" * 90) for n in range(180)] + [b"key=k-bob"]), name=b"cookie"),
        b"",
        "bob",
        "behind as many as a browser keeps",
    ),
    (
        lines(*[b"c%d=%s" % (n, b"v" * 90) for n in range(180)], b"key=k-bob", name=b"cookie"),
        b"",
        "bob",
        "each in a line of its own",
    ),
    (lines(b"key=k-bob" + b" " * 4100, name=b"cookie"), b"", None, "one that is longer than a browser keeps"),
    (lines(b"a=" + b"v" * 33_000 + b"; key=k-bob", name=b"cookie"), b"", None, "all together too long"),
    (lines(*[b"a=1"] * 300, b"key=k-bob", name=b"cookie"), b"", None, "behind more lines than are read"),
    ([], QUERY, "carol", "a query parameter"),
    ([], b"a=1&key=k-carol&key=k-bob", "carol", "the first of several"),
    ([], b"key=k%2Dcarol", "carol", "decoded"),
    ([], b"a=\xff\xfe&key=k-carol", "carol", "beside bytes that are no text"),
    ([], b"Key=k-carol", None, "a parameter of another name"),
    ([], b"a=" + b"v" * 17_000 + b"&key=k-carol", None, "a query that is too long"),
    ([], b"key=" + b"%6b" * 65, None, "more escapes than a key needs"),
    ([], b"&".join([b"a=1"] * 100) + b"&key=k-carol", None, "too many parameters to look at"),
    (lines(b"Bearer k-alice") + COOKIE, QUERY, "alice", "the header before cookie and query"),
    (COOKIE, QUERY, "bob", "the cookie before the query"),
    (lines(b"Basic x") + COOKIE, QUERY, "bob", "a header that is not ours leaves the cookie"),
    (lines(b"Basic x"), QUERY, "carol", "and the query"),
    (lines(b"Bearer k-nobody") + COOKIE, QUERY, None, "a header that fails is not saved by the rest"),
    (lines(b"") + COOKIE, b"", "bob", "an empty header is none"),
    (lines(b"Bearer ") + COOKIE, b"", None, "a scheme alone is a bare credential, and fails"),
    (lines(b"k-alice", name=b"x-api-key"), b"", None, "a header of another name"),
]


@pytest.mark.parametrize(("headers", "query", "subject", "reason"), CREDENTIALS)
@pytest.mark.parametrize("make", [http_scope, websocket_scope], ids=["http", "websocket"])
def test_the_credential_is_found(
    make: Any, headers: Headers, query: bytes, subject: str | None, reason: str, keys_file: Path
) -> None:
    """Header, then cookie, then query; `Bearer x` or a bare `x`; what is found first is what counts."""
    seen = Seen()
    shield = ShieldMiddleware(seen, Settings(api_keys_file=keys_file, token_cookie="key", token_query="key"))
    run(call(shield, make(headers=headers, query_string=query)))
    assert seen.subjects == [subject], reason


def test_cookie_and_query_are_not_looked_at_unless_configured(keys_file: Path) -> None:
    """By default only the header carries a credential."""
    seen = Seen()
    shield = ShieldMiddleware(seen, Settings(api_keys_file=keys_file))
    run(call(shield, http_scope(headers=COOKIE, query_string=QUERY)))
    assert seen.subjects == [None]


def test_another_header_can_carry_the_credential(keys_file: Path) -> None:
    """With SHIELD_TOKEN_HEADER set, that header counts and Authorization does not."""
    seen = Seen()
    shield = ShieldMiddleware(seen, Settings(api_keys_file=keys_file, token_header="X-API-Key"))
    headers = lines(b"Bearer k-alice") + lines(b"k-bob", name=b"x-api-key")
    run(call(shield, http_scope(headers=headers)))
    assert seen.subjects == ["bob"]


PROTOCOLS: list[tuple[Headers, str | None, str]] = [
    ([], None, "none offered"),
    (lines(b"bearer, k-alice"), "alice", "the credential behind its name"),
    (lines(b"chat.v1,Bearer,k-alice, chat.v2"), "alice", "among others; names have no case here"),
    (lines(b"bearer.k-alice"), "alice", "in one word with it"),
    (lines(b"chat.v1, BEARER.k-alice"), "alice", "also among others"),
    (lines(b"k-alice"), "alice", "alone it may be bare"),
    (lines(b"chat.v1, k-alice"), None, "but not among others"),
    (lines(b"bearer"), None, "a name without a credential"),
    (lines(b"chat, bearer"), None, "nor with one before it"),
    (lines(b"bearer."), None, "an empty one"),
    (lines(b"bearer, , k-alice"), None, "nothing where it should be"),
    (lines(b"chat, " * 20 + b"bearer, k-alice"), None, "behind more than any page offers"),
    (lines(b"bearer, k-nobody"), None, "a key that nobody has"),
]


@pytest.mark.parametrize(("headers", "subject", "reason"), PROTOCOLS)
def test_a_credential_is_found_among_websocket_subprotocols(
    headers: Headers, subject: str | None, reason: str, keys_file: Path
) -> None:
    """With SHIELD_TOKEN_HEADER=sec-websocket-protocol: the one thing that a browser's WebSocket lets a page say."""
    seen = Seen()
    shield = ShieldMiddleware(seen, Settings(api_keys_file=keys_file, token_header="Sec-WebSocket-Protocol"))
    offered = [(b"sec-websocket-protocol", value) for _, value in headers]
    run(call(shield, websocket_scope(headers=offered)))
    assert seen.subjects == [subject], reason


@pytest.mark.parametrize("query", [None, "missing"])
def test_a_websocket_need_not_have_a_query(query: str | None, keys_file: Path) -> None:
    """The query string of a websocket scope may be missing or None (ASGI specification), and then holds nothing."""
    seen = Seen()
    shield = ShieldMiddleware(seen, Settings(api_keys_file=keys_file, token_query="key"))
    scope = websocket_scope(query_string=query)
    if query == "missing":
        del scope["query_string"]
    record = run(call(shield, scope))
    assert record.raised is None
    assert seen.subjects == [None]


def statuses(scopes: Iterator[Scope] | list[Scope], app: ASGIApp = ok, **values: Any) -> list[int | str]:
    """The status of each answer; for a WebSocket the type of its first message."""

    async def asking() -> list[Record]:
        shield = ShieldMiddleware(app, Settings(**values))
        return [await call(shield, scope) for scope in scopes]

    return [record.sent[0].get("status", record.sent[0]["type"]) for record in run(asking())]


def rule(*methods: str, name: str = "rule", limits: str = "1/day") -> dict[str, Any]:
    return {"name": name, "path": "/limited/*", "methods": list(methods), "limits": limits}


def overriding(method: str, *overrides: bytes, name: bytes = b"x-http-method-override") -> Scope:
    return http_scope("/limited", method, headers=lines(*overrides, name=name))


METHODS: list[tuple[list[str], Scope, bool, str]] = [
    (["GET"], http_scope("/limited"), True, "itself"),
    (["GET"], http_scope("/limited", "HEAD"), True, "HEAD is a GET without its body"),
    (["GET"], http_scope("/limited", "head"), True, "in small letters too"),
    (["HEAD"], http_scope("/limited"), False, "but GET is no HEAD"),
    (["GET"], http_scope("/limited", "POST"), False, "another method"),
    (["GET"], http_scope("/limited", "OPTIONS"), False, "OPTIONS is a method of its own"),
    (["OPTIONS"], http_scope("/limited", "OPTIONS"), True, "and can have a rule"),
    (["BREW"], http_scope("/limited", "BREW"), True, "as can one that nobody knows"),
    ([], http_scope("/limited", "BREW"), True, "no methods are all methods"),
    (["DELETE"], overriding("POST", b"DELETE"), True, "the app may take it for a DELETE"),
    (["DELETE"], overriding("POST", b" delete "), True, "however it is written"),
    (["DELETE"], overriding("POST", b"PUT", b"DELETE"), True, "in any of its lines"),
    (["DELETE"], overriding("POST", b"DELETE, X"), True, "and a list as any of it"),
    (["DELETE"], overriding("POST", b"DELETE", name=b"x_http_method_override"), True, "as CGI and WSGI spell it"),
    (["DELETE"], overriding("POST", b"DELETE", name=b"x-http_method-override"), True, "or half of it"),
    (["GET"], overriding("POST", b"HEAD"), True, "or for a HEAD, which is a GET"),
    (["POST"], overriding("POST", b"GET"), True, "it stays a POST all the same"),
    (["GET"], overriding("GET", b"X"), True, "nonsense does not hide it"),
    (["DELETE"], overriding("POST", b"X", b"Y"), True, "several lines may end up as anything"),
    (["DELETE"], overriding("POST", b"X" * 40), True, "and so may a name that no method has"),
    (["DELETE"], http_scope("/limited", "X" * 40), True, "wherever it stands"),
    (["DELETE"], http_scope("/limited", "POST", headers=[(b"a", b"")] * 300), True, "or a line that is not read"),
    (["DELETE"], http_scope("/limited", "POST", headers=[(b"a", b"")] * 150), False, "none of which is here"),
    (["GET"], websocket_scope("/limited"), True, "a WebSocket handshake is a GET"),
    (["POST"], websocket_scope("/limited"), False, "and nothing else"),
    ([], websocket_scope("/limited/a"), True, "below the path as well"),
]


@pytest.mark.parametrize(("methods", "scope", "limited", "reason"), METHODS)
def test_a_rule_holds_for_every_method_the_request_may_end_up_as(
    methods: list[str], scope: Scope, limited: bool, reason: str
) -> None:
    """HEAD falls under the rules for GET, a handshake too; a header that changes the method only ever adds one."""
    first, second = statuses([dict(scope), dict(scope)], ip_limit="off", rules=json.dumps([rule(*methods)]))
    assert first in (200, "websocket.accept")
    assert (second in (429, "websocket.close")) is limited, reason


def test_a_header_that_changes_the_method_never_loosens_a_limit() -> None:
    """A second, wider rule for another method is no way around the narrow one for the real method."""
    rules = json.dumps([rule("POST", name="posts", limits="100/day"), rule("GET", name="reads", limits="1/day")])
    assert statuses([overriding("GET"), overriding("GET")], ip_limit="off", rules=rules) == [200, 429]
    assert statuses([overriding("GET", b"POST"), overriding("GET", b"POST")], ip_limit="off", rules=rules) == [200, 429]


def test_a_websocket_handshake_pays_like_any_request() -> None:
    """A handshake and a request on one path share the bucket, whichever comes first."""
    values: dict[str, Any] = {"ip_limit": "off", "rules": json.dumps([rule()])}
    http, websocket = partial(http_scope, "/limited"), partial(websocket_scope, "/limited")
    assert statuses([http(), websocket()], **values) == [200, "websocket.close"]
    assert statuses([websocket(), http()], **values) == ["websocket.accept", 429]


def test_a_mounted_shield_matches_the_path_below_its_mount() -> None:
    """Inside a mount the rules are for what the app's own router sees, and for the whole path too."""
    scope = http_scope("/mount/limited", root_path="/mount")
    assert statuses([dict(scope), dict(scope)], ip_limit="off", rules=json.dumps([rule()])) == [200, 429]


@pytest.mark.parametrize(
    ("client", "reason"),
    [
        (None, "a unix socket"),
        (("", 0), "a unix socket, as some servers write it"),
        (("testclient", 1), "a test client"),
        (("not an address", 1), "nonsense"),
        (["203.0.113.9", 1], "a list, as JSON-minded servers have it"),
    ],
)
def test_a_peer_without_an_address_is_limited_too(client: Any, reason: str) -> None:
    """Whoever holds the connection, its second request is over a limit of one."""
    scope = http_scope(client=client)
    assert statuses([scope, dict(scope)], ip_limit="1/day") == [200, 429], reason


def test_a_scope_need_not_name_its_client() -> None:
    """`client` is optional in a scope; without it all requests are one client."""
    scope = http_scope()
    del scope["client"]
    assert statuses([scope, dict(scope)], ip_limit="1/day") == [200, 429]


def test_peers_without_an_address_share_one_bucket() -> None:
    """What is no address is no client of its own, or anybody could have as many as they like."""
    scopes = [http_scope(client=(f"nonsense-{n}", 1)) for n in range(3)]
    assert statuses(scopes, ip_limit="2/day") == [200, 200, 429]


def test_a_path_that_is_beyond_reading_has_the_strictest_rules() -> None:
    """It pays for every rule, is never exempt, and is open in an emergency to nobody whom any rule keeps out."""
    rules = json.dumps(
        [rule("GET"), {"name": "free", "path": "/free", "cost": 0}, {"name": "dear", "path": "/dear", "cost": 3}]
    )
    tricky = "/healthz/" + "%" * 3000
    assert statuses([http_scope(tricky), http_scope(tricky)], ip_limit="off", rules=rules) == [200, 429]
    assert statuses([http_scope(tricky), http_scope("/limited")], ip_limit="off", rules=rules) == [200, 429]
    assert statuses([http_scope(tricky), http_scope(tricky)], ip_limit="3/day", exempt_paths="/*", rules=rules) == [
        200,
        429,
    ]
    plain = http_scope("/healthz/" + "a" * 70_000)
    assert statuses([plain, plain], ip_limit="1/day", exempt_paths="/healthz/*") == [200, 200], (
        "a long one may be exempt"
    )


def test_the_proxies_header_is_found_behind_any_number_of_lines() -> None:
    """A refused client cannot hide its address behind other lines."""
    values: dict[str, Any] = {"trusted_proxies": "203.0.113.0/24", "deny_ips": "198.51.100.7"}
    for before, behind in ((0, 0), (0, 3000), (3000, 0), (3000, 3000)):
        headers = [(b"a", b"")] * before + [(b"x-forwarded-for", b"198.51.100.7")] + [(b"z", b"")] * behind
        assert statuses([http_scope(headers=headers)], **values) == [429]
