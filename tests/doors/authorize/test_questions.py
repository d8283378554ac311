"""A question is read as the request that it is about, by the headers of its dialect and no others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.types import Scope

from doors.asgi.harness import Headers, Record, run
from doors.authorize.proxies import ALL, ROUTE, Seen, ask, question, shield, true_status
from shieldmw.doors.authorize.dialects import DIALECTS

RULES = json.dumps(
    [
        {"name": "search", "path": "/search", "methods": ["POST"], "limits": "1/hour"},
        {"name": "below", "path": "/admin/*", "limits": "1/hour"},
    ]
)
# The headers in which other proxies hand on a request, and names that servers may take for them.
OTHERS = (
    *("x-original-method", "x-original-uri", "x-original-url", "x-rewrite-url", "x-forwarded-method"),
    *("x-forwarded-uri", "x-forwarded-host", "x-forwarded-path", "x-envoy-original-path"),
    *("x_original_uri", "x_forwarded_uri", "x_original_method", "x_forwarded_method"),
)


def original(scope: Scope) -> Scope:
    """The scope that the shield reads for a question."""
    seen = Seen()
    assert run(ask(shield(seen), scope)).status == 200
    (found,) = seen.scopes
    return found


def answers(*scopes: Scope, **values: Any) -> list[Record]:
    """The answers of one shield to questions, in order."""

    async def story() -> list[Record]:
        app = shield(**{"ip_limit": "off", "rules": RULES, **values})
        return [await ask(app, scope) for scope in scopes]

    return run(story())


@pytest.mark.parametrize("name", ALL)
def test_the_original_request(name: str) -> None:
    """Method, target, host and scheme are its own, and so are the client's headers."""
    headers: Headers = [(b"cookie", b"a=b"), (b"authorization", b"Bearer x")]
    target = "/a%2Fb//./c;d?q=%20&r=/x?"
    found = original(question(name, target, "DELETE", headers=headers, scheme="https", host="shop.example"))
    assert (found["method"], found["scheme"], found["root_path"]) == ("DELETE", "https", "")
    assert (found["raw_path"], found["query_string"]) == (b"/a%2Fb//./c;d", b"q=%20&r=/x?")
    assert found["path"] == "/a/b//./c;d"
    assert [value for key, value in found["headers"] if key == b"host"] == [b"shop.example"]
    assert set(headers) < set(found["headers"])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("target", ["/search?q=1", "/search", "//search", "/x/../search", "/%73earch", "/search/"])
def test_the_rules_of_the_path_and_the_method(name: str, target: str) -> None:
    """Apply in all spellings, and to no other method."""
    posts = answers(question(name, target, "POST"), question(name, target, "POST"), question(name, target))
    assert [true_status(record) for record in posts] == [200, 429, 200]


@pytest.mark.parametrize("name", ALL)
def test_headers_of_other_dialects_are_the_clients(name: str) -> None:
    """They change nothing, whatever they say."""
    own = {DIALECTS[name].method, DIALECTS[name].target, DIALECTS[name].host}
    forged: Headers = [
        (other.encode(), b"GET" if "method" in other else b"/healthz") for other in OTHERS if other.encode() not in own
    ]
    assert len(forged) >= 9
    records = answers(*[question(name, "/search", "POST", headers=forged)] * 2)
    assert [true_status(record) for record in records] == [200, 429]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("header", [b"x-http-method-override", b"x_http_method_override", b"x-http_method-override"])
def test_the_method_override_of_the_client(name: str, header: bytes) -> None:
    """Counts as it does without a proxy, also as WSGI and PHP read it, which know no hyphens."""
    scope = question(name, "/search", headers=[(header, b"POST")])
    assert [true_status(record) for record in answers(scope, scope)] == [200, 429]


@pytest.mark.parametrize("name", ALL)
def test_too_many_escapes_hide_no_rule(name: str) -> None:
    """Such a path is not decoded, so the strictest rules apply."""
    target = "/%61dmin/" + "%41" * 2000
    records = answers(question(name, target), question(name, target))
    assert [true_status(record) for record in records] == [200, 429]


def test_behind_envoy_no_target_leads_out_of_the_route() -> None:
    """Neither to the operators' routes nor to another dialect."""
    records = answers(*[question("envoy", "/../../status/../admin/x")] * 2, admin_token="0123456789abcdef")
    assert [true_status(record) for record in records] == [200, 429]


def test_below_a_root_path() -> None:
    """Whether or not the server's raw path includes it."""
    for root in ("", "/api"):
        scope = {**question("envoy", "/search", "POST"), "root_path": "/api"}
        scope.update(path="/api" + scope["path"], raw_path=root.encode() + scope["raw_path"])
        assert original(scope)["raw_path"] == b"/search"
        assert (original(scope)["path"], original(scope)["root_path"]) == ("/search", "")


NGINX = DIALECTS["nginx"]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("part", ["method", "target", "host"])
@pytest.mark.parametrize("fault", ["missing", "doubled", "empty"])
def test_a_header_that_is_not_there_once(name: str, part: str, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """The question is refused, and says why: a client's header must not take the proxy's place."""
    header = getattr(DIALECTS[name], part)
    if header is None:
        return
    good = question(name)
    (line,) = [line for line in good["headers"] if line[0] == header]
    bad = {"missing": [], "doubled": [line, line], "empty": [(header, b"")]}[fault]
    scope = {**good, "headers": [*[line for line in good["headers"] if line[0] != header], *bad]}
    (record,) = answers(scope)
    assert true_status(record) == 400
    assert (header in (record.value(b"shield-problem").encode() if record.status == 403 else record.body)) is True
    assert [entry.levelname for entry in caplog.records] == ["WARNING"]
    assert f"{name}: 1; the last from the proxy 192.0.2.7: " in caplog.text
    assert header.decode() in caplog.text


@pytest.mark.parametrize("name", ALL)
def test_without_the_clients_address(name: str) -> None:
    """All clients would share the proxy's own limits."""
    (record,) = answers(question(name, without=b"x-forwarded-for"))
    assert true_status(record) == 400


@pytest.mark.parametrize("name", ["nginx", "caddy"])
@pytest.mark.parametrize("target", ["x", "http://example.org/", "/a b", "/a#b", "/a\x7f", "/a\tb", "*x"])
def test_what_is_no_target(name: str, target: str) -> None:
    """A server behind the proxy might read it in another way."""
    (record,) = answers(question(name, target))
    assert true_status(record) == 400


@pytest.mark.parametrize("method", ["GET /x", "", "G\xc9T"])
def test_what_is_no_method(method: str) -> None:
    """Is no question."""
    (record,) = answers(question("nginx", method=method))
    assert true_status(record) == 400


def test_the_server_as_a_whole() -> None:
    """OPTIONS * is a request."""
    assert original(question("nginx", "*", "OPTIONS"))["path"] == "*"


@pytest.mark.parametrize("below", ["", "/", "/apache", "/NGINX", "/nginx/", "/nginx/x", "/nginx%20"])
def test_what_is_no_dialect(below: str) -> None:
    """404, and the names of those that there are."""
    scope = {**question("nginx"), "path": ROUTE + below, "raw_path": f"{ROUTE}{below}".encode()}
    (record,) = answers(scope)
    assert record.status == 404
    assert all(name in record.body.decode() for name in ALL)
