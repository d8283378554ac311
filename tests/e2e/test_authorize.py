"""Behind each proxy that asks, started by its example.

What the shield refuses does not reach the app, whatever a client writes, and what it allows does, as it was sent.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import httpx
import pytest

from e2e.clients import JWT_SECRET, TIMEOUT_S, Answer, ask, bearer, client, fresh_address, wire
from servers import SHORT, HttpServer, Seen, Upstream, asgi_server, asking, upstream, wait_until

PROXIES = ("nginx", "haproxy", "caddy", "traefik", "envoy")
BURST = 3
TOKEN = "an admin token, long enough"
RULES = [
    {"name": "closed", "path": "/members/*", "emergency": "members"},
    {"name": "admin", "path": "/admin/*", "limits": "1/hour"},
]
SETTINGS = {
    "SHIELD_TRUSTED_PROXIES": "127.0.0.1/32",
    "SHIELD_IP_LIMIT": f"{BURST}/hour",
    "SHIELD_EMERGENCY_IP_LIMIT": f"{BURST}/hour",
    "SHIELD_RULES": json.dumps(RULES),
    "SHIELD_LIVE_PATHS": "/live",
    "SHIELD_CAPACITY": "1",
    "SHIELD_JWT_SECRET": JWT_SECRET,
    "SHIELD_CORS_ORIGINS": "https://page.example",
    "SHIELD_ADMIN_TOKEN": TOKEN,
    "SHIELD_REDIS_TIMEOUT_MS": "5000",
}
NO_APP = "shieldmw.doors.authorize.no_app:app"
VICTIM = "203.0.113.7"
Lines = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Edge:
    """A proxy, the shield that it asks, and the app behind it."""

    name: str
    proxy: HttpServer
    shield: HttpServer
    app: Upstream

    def ask(self, address: str, path: str, headers: Lines | None = None) -> Answer:
        """The answer to a GET, with no Host but the proxy's."""
        return ask(self.proxy, address, path, headers)

    def exhausted(self) -> str:
        """A client that is refused from now on."""
        address = fresh_address()
        assert [self.ask(address, "/").status for _ in range(BURST + 1)] == [200] * BURST + [429]
        self.app.forget()
        return address

    def raw(self, address: str, data: bytes) -> int:
        """The status that answers such bytes; 0 if the connection is closed without one."""
        with suppress(OSError), wire(self.proxy, address) as stream:
            with suppress(OSError):  # an answer may come, and the connection be closed, before all is sent
                stream.write(data)
            line = stream.readline(200)
            return int(line.split()[1]) if line.startswith(b"HTTP/1.1 ") else 0
        return 0


@pytest.fixture(scope="module")
def app() -> Iterator[Upstream]:
    """The app behind all of them."""
    with upstream() as found:
        yield found


@pytest.fixture(scope="module", params=PROXIES)
def edge(request: pytest.FixtureRequest, app: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """Each proxy, by its example, with a shield of its own."""
    with (
        asgi_server("shieldmw", NO_APP, env=SETTINGS, cwd=tmp_path_factory.mktemp("cwd")) as shield,
        asking(request.param, shield, app.port) as proxy,
    ):
        yield Edge(request.param, proxy, shield, app)


# --- allowed and refused ------------------------------------------------------------------------


def test_within_the_limit_and_beyond(edge: Edge) -> None:
    """What is allowed reaches the app; a refusal is a true 429 with the wait and the problem document."""
    address = fresh_address()
    edge.app.forget()
    answers = [edge.ask(address, "/x?a=1&b=%20") for _ in range(BURST + 2)]
    assert [answer.status for answer in answers] == [200] * BURST + [429] * 2
    assert [seen.target for seen in edge.app.seen] == ["/x?a=1&b=%20"] * BURST
    refused = answers[-1]
    assert int(refused.headers["retry-after"]) > 1000
    assert refused.headers["content-type"] == "application/problem+json"
    problem = json.loads(refused.body)
    assert (problem["status"], problem["violated-policies"]) == (429, ["ip"])
    assert refused.headers["ratelimit"].startswith('"ip";r=0;')
    if edge.name != "traefik":  # it has no way to add them to a response
        assert answers[0].headers["ratelimit"].startswith(f'"ip";r={BURST - 1};')
        assert answers[0].headers["ratelimit-policy"] == f'"ip";q={BURST};w=3600'
    else:
        assert edge.app.seen[0].values("ratelimit")[0].startswith(f'"ip";r={BURST - 1};')


def test_a_flood_reaches_nobody(edge: Edge) -> None:
    """On connections that are kept alive, with and without bodies."""
    address = edge.exhausted()
    with client(address) as bot:
        for number in range(100):
            url = f"{edge.proxy.base_url}/{number}"
            answer = bot.post(url, content=b"x" * 5000) if number % 2 else bot.get(url)
            assert (answer.status_code, "retry-after" in answer.headers) == (429, True)
    assert edge.app.seen == []


def test_the_apps_own_refusal_is_its_own(edge: Edge) -> None:
    """A 403 of the app is not taken for the shield's."""
    answer = edge.ask(fresh_address(), "/forbidden")
    assert (answer.status, answer.body) == (403, b"/forbidden")


def _requests(seen: list[Seen]) -> list[tuple[str, str, bytes]]:
    return [(one.method, one.target, one.body) for one in seen]


def test_methods_and_bodies(edge: Edge) -> None:
    """Reach the app; a question has no body, whatever the client announces."""
    with client(fresh_address(), bearer("alice")) as member:
        edge.app.forget()
        url = f"{edge.proxy.base_url}/form"
        member.post(url, content=b"a=1").raise_for_status()
        member.put(url, content=iter([b"in ", b"chunks"]), headers={"content-length": "9"}).raise_for_status()
        assert member.head(url).raise_for_status().content == b""
        member.request("DELETE", url).raise_for_status()
        member.options(url).raise_for_status()
    assert _requests(edge.app.seen) == [
        ("POST", "/form", b"a=1"),
        ("PUT", "/form", b"in chunks"),
        ("HEAD", "/form", b""),
        ("DELETE", "/form", b""),
        ("OPTIONS", "/form", b""),
    ]


def test_a_refused_head_request(edge: Edge) -> None:
    """Has no body, and the next answer on its connection is whole."""
    with client(edge.exhausted()) as bot:
        for _ in range(2):
            answer = bot.head(edge.proxy.base_url)
            assert (answer.status_code, answer.content) == (429, b"")
            assert bot.get(edge.proxy.base_url).json()["status"] == 429


def test_a_page_for_browsers(edge: Edge) -> None:
    """But behind nginx, which passes on no body."""
    answer = edge.ask(edge.exhausted(), "/", [("Accept", "text/html")])
    assert answer.status == 429
    assert answer.headers["content-type"].startswith("application/" if edge.name == "nginx" else "text/html")


def test_pages_of_other_origins_can_read_a_refusal(edge: Edge) -> None:
    """With the headers that SHIELD_CORS_ORIGINS is for."""
    headers = edge.ask(edge.exhausted(), "/", [("Origin", "https://page.example")]).headers
    assert headers["access-control-allow-origin"] == "https://page.example"
    assert headers["access-control-allow-credentials"] == "true"
    assert "Retry-After" in headers["access-control-expose-headers"]
    assert headers["vary"] == "Origin"


# --- the switch, members, seats -----------------------------------------------------------------


@pytest.fixture
def emergency(edge: Edge) -> Iterator[None]:
    """An emergency, and its end."""
    with httpx.Client(headers={"authorization": f"Bearer {TOKEN}"}, timeout=TIMEOUT_S) as operator:
        url = f"{edge.shield.base_url}/-/shield/mode"
        operator.put(url, json={"mode": "emergency", "reason": "a test"}).raise_for_status()
        yield
        operator.put(url, json={"mode": "normal", "reason": "a test"}).raise_for_status()


@pytest.mark.usefixtures("emergency")
def test_in_an_emergency_members_come_first(edge: Edge) -> None:
    """Guests are refused with 503 (behind Envoy with 429), and members let through."""
    edge.app.forget()
    address = fresh_address()
    guest = edge.ask(address, "/members/lounge")
    assert guest.status == (429 if edge.name == "envoy" else 503)
    assert (json.loads(guest.body)["status"], int(guest.headers["retry-after"]) > 0) == (503, True)
    assert edge.app.seen == []
    member = edge.ask(address, "/members/lounge", list(bearer("bob").items()))
    assert (member.status, len(edge.app.seen)) == (200, 1)


def test_a_live_path_holds_a_lease_seat(edge: Edge) -> None:
    """Its ticket comes in one cookie; while it is held others are refused, and the one who shows it is not."""
    with client(fresh_address(), bearer("carol")) as listener:

        def poll() -> httpx.Response | None:
            answer = listener.get(f"{edge.proxy.base_url}/live")
            return answer if answer.status_code == 200 else None

        # After a change of the mode the one seat is granted within seconds.
        first = wait_until(poll, TIMEOUT_S, "a seat")
        assert first is not None
        assert len(first.headers.get_list("set-cookie")) == 1
        assert first.headers["set-cookie"].startswith("shield_ticket=")
        edge.app.forget()
        refused = edge.ask(fresh_address(), "/live")
        assert (refused.status, edge.app.seen) == (429 if edge.name == "envoy" else 503, [])
        assert json.loads(refused.body)["status"] == 503
        again = listener.get(f"{edge.proxy.base_url}/live")
        assert (again.status_code, again.headers.get_list("set-cookie"), len(edge.app.seen)) == (200, [], 1)


# --- what clients write -------------------------------------------------------------------------

FORGERIES: dict[str, Lines] = {
    "an address": [("X-Forwarded-For", VICTIM)],
    "several addresses": [("X-Forwarded-For", f"198.51.100.1, {VICTIM}"), ("X-Forwarded-For", VICTIM)],
    "the proxy's": [("X-Forwarded-For", "127.0.0.1")],
    "an empty one": [("X-Forwarded-For", "")],
    "a long one": [("X-Forwarded-For", f"{VICTIM}, " * 300 + VICTIM)],
    "other headers of addresses": [(name, VICTIM) for name in ("X-Real-IP", "CF-Connecting-IP", "True-Client-IP")],
    "Forwarded": [("Forwarded", f"for={VICTIM};proto=https;host=x")],
    "underscores": [("X_Forwarded_For", VICTIM), ("X_Forwarded_Uri", "/healthz"), ("X_Original_URI", "/healthz")],
    "X-Original-URI": [("X-Original-URI", "/healthz"), ("X-Original-Method", "GET"), ("X-Original-URL", "/healthz")],
    "X-Forwarded-Uri": [("X-Forwarded-Uri", "/healthz"), ("X-Forwarded-Method", "HEAD"), ("X-Forwarded-Path", "/")],
    "them twice": [("X-Original-URI", "/healthz"), ("X-Forwarded-Uri", "/healthz")] * 2,
    "X-Rewrite-URL": [("X-Rewrite-URL", "/healthz"), ("X-Envoy-Original-Path", "/healthz")],
    "a host": [("X-Forwarded-Host", "x/healthz?"), ("X-Original-Host", "x"), ("X-Forwarded-Prefix", "/healthz")],
    "Envoy's": [("X-Envoy-External-Address", VICTIM), ("X-Envoy-Internal", "true"), ("X-Envoy-Auth-Partial-Body", "1")],
    "hop by hop": [("Connection", "X-Forwarded-For, X-Forwarded-Uri, X-Original-URI, X-Forwarded-Method, close")],
    "the answer": [("Shield-Status", "200"), ("Shield-Is-Away", "pass"), ("RateLimit", "x")],
    "an upgrade": [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "x" * 22 + "==")],
    "h2c": [
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA"),
    ],
    "an expectation": [("Expect", "100-continue")],
    "a length": [("Content-Length", "0")],
    "credentials": [("Authorization", f"Bearer {TOKEN}")],
}


@pytest.mark.parametrize("forged", FORGERIES)
def test_no_header_lets_a_refused_client_in(edge: Edge, forged: str) -> None:
    """Nor is another client charged for it."""
    address = edge.exhausted()
    for path in ("/", "/x", "/healthzz"):
        with suppress(HTTPException):  # closed without an answer
            assert edge.ask(address, path, FORGERIES[forged]).status in (400, 403, 417, 426, 429)
    assert edge.app.seen == []


@pytest.mark.parametrize("forged", [name for name in FORGERIES if "address" in name or "URI" in name or "Uri" in name])
def test_no_header_is_charged_to_another(edge: Edge, forged: str) -> None:
    """A client with forged headers is charged as itself."""
    address = fresh_address()
    statuses = [edge.ask(address, "/", FORGERIES[forged]).status for _ in range(BURST + 1)]
    assert statuses == [200] * BURST + [429]


SPELLINGS = (
    *(
        "/healthz/../x",
        "/x/../healthz/../x",
        "/./x",
        "//x",
        "/healthz/%2e%2e/x",
        "/%68ealthz/../x",
        "/healthz%2f..%2fx",
    ),
    *("/healthz;/../x", "/healthz/.;/x", "/healthz%00", "/healthz%0a", "/HEALTHZ", "/healthz/x", "/x?/healthz"),
    *("/healthz\\x", "/healthz%5cx", "/x%3f/healthz", "/x/..;/healthz/x", "/healthz#", "/x#/healthz", "//healthz/x"),
    *("/-/shield/status", "/-/shield/authorize/nginx", "/ask-shield", "/../../-/shield/status", "/healthz?#/../x"),
    *("http://127.0.0.1/x", "http://127.0.0.1/healthz/../x", "*", "/healthz%2e", "/healthz%20", "/%2e%2e/healthz%2fx"),
)


@pytest.mark.parametrize("target", SPELLINGS)
def test_no_spelling_of_a_target_lets_a_refused_client_in(edge: Edge, target: str) -> None:
    """Unless the app sees the exempt path itself."""
    address = edge.exhausted()
    for method in ("GET", "OPTIONS"):
        status = edge.raw(address, f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        # Go's servers answer * themselves.
        assert status != 200 or target == "*" or _targets(edge) == {"/healthz"}
    assert _targets(edge) <= {"/healthz"}


def _targets(edge: Edge) -> set[str]:
    return {seen.target for seen in edge.app.seen}


@pytest.mark.parametrize(
    "target",
    ["/admin/x", "//admin/x", "/a/../admin/x", "/%61dmin/x", "/admin%2fx", "/./admin/x", "/admin;a=b/x", "/admin//x"],
)
def test_no_spelling_of_a_target_evades_a_rule(edge: Edge, target: str) -> None:
    """Of two such requests one is let through, if any."""
    address = fresh_address()
    line = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    edge.app.forget()
    statuses = [edge.raw(address, line) for _ in range(2)]
    assert statuses[1] != 200
    assert len(edge.app.seen) <= 1


def _bomb(target: str = "/", *lines: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: x", "Connection: close", *lines, "", ""]).encode()


BOMBS = {
    "a path of 4 KB": _bomb("/" + "x" * 4096),
    "a path of 7.5 KB": _bomb("/" + "x" * 7680),
    "a path of 15 KB": _bomb("/" + "x" * 15_360),
    "a path of 30 KB": _bomb("/" + "x" * 30_720),
    "a query of 7 KB": _bomb("/?" + "x" * 7168),
    "many marks": _bomb("/" + "%2e/" * 1000),
    "a cookie of 7 KB": _bomb("/", "Cookie: a=" + "x" * 7168),
    "95 lines": _bomb("/", *[f"X-{number}: y" for number in range(95)]),
    "150 lines": _bomb("/", *[f"X-{number}: y" for number in range(150)]),
    "300 lines of one name": _bomb("/", *["X-A: y"] * 300),
    "13 KB": _bomb("/", *[f"X-{number}: {'y' * 1000}" for number in range(13)]),
    "14.5 KB": _bomb("/", *[f"X-{number}: {'y' * 1000}" for number in range(14)], "X-Y: " + "y" * 300),
    "15.2 KB": _bomb("/", *[f"X-{number}: {'y' * 1000}" for number in range(15)]),
    "30 KB": _bomb("/", *[f"X-{number}: {'y' * 3000}" for number in range(10)]),
    "60 KB": _bomb("/", *[f"X-{number}: {'y' * 6000}" for number in range(10)]),
    "900 KB": _bomb("/", *[f"X-{number}: {'y' * 10_000}" for number in range(90)]),
    "1 MB": _bomb("/", *[f"X-{number}: {'y' * 10_000}" for number in range(100)]),
    "tokens": _bomb("/", *["Authorization: Bearer " + "x" * 3000] * 4),
    "bytes": _bomb("/", "X-A: \x80\xff", "Cookie: \xe4=\xfc"),
    "control characters": _bomb("/", "X-A: \x01\x7f", "Cookie: a=\x0b"),
    "NUL": _bomb("/", "X-A: a\0b"),
    "folded lines": _bomb("/", "X-A: a", " b"),
    "a lone LF": b"GET / HTTP/1.1\nHost: x\nConnection: close\n\n",
    "two hosts": _bomb("/", "Host: y"),
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "two lengths": _bomb("/", "Content-Length: 0", "Content-Length: 5"),
    "chunked and a length": _bomb("/", "Content-Length: 4", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "an unknown method": b"G3T! / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "a long method": b"G" * 40 + b" / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "TRACE": b"TRACE / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_no_head_makes_the_question_fail(edge: Edge, bomb: str) -> None:
    """All of the examples fail open: so no client may be able to make its own question fail."""
    address = edge.exhausted()
    for _ in range(2):
        status = edge.raw(address, BOMBS[bomb])
        assert status == 0 or 400 <= status < 600
    assert edge.app.seen == []


def test_haproxy_says_what_it_cannot_ask_about(edge: Edge) -> None:
    """431, since a question must fit into one of its buffers."""
    if edge.name == "haproxy":
        assert edge.raw(fresh_address(), BOMBS["95 lines"]) == 431
        assert edge.raw(fresh_address(), BOMBS["14.5 KB"]) == 431


# --- while the shield is away -------------------------------------------------------------------

# The examples wait for 250 ms; the rest is for a machine that is busy.
MOST_AWAITED_S = 2.0

CLOSED: dict[str, tuple[tuple[str, str], int]] = {
    "nginx": (("error_page 502 504 =204 @shield_is_away;", ""), 500),
    "haproxy": (("Shield-Is-Away pass", "Shield-Is-Away refuse"), 503),
    "caddy": (("handle_errors 502 504 {", "handle_errors 999 {"), 502),
    "traefik": (("127.0.0.1:8001/-", "127.0.0.1:8000/-"), 500),
    "envoy": (("failure_mode_allow: true", "failure_mode_allow: false"), 403),
}


@pytest.mark.parametrize("name", PROXIES)
def test_while_the_shield_is_away(name: str, app: Upstream, tmp_path: Path) -> None:
    """Requests pass within the short time-out, whether it hangs or is not there; and are refused where the example is
    changed as its README says. When it is back it is asked again."""
    edit, status = CLOSED[name]
    with (
        asgi_server("shieldmw", NO_APP, env={**SETTINGS, "SHIELD_IP_LIMIT": "1/hour"}, cwd=tmp_path) as shield,
        asking(name, shield, app.port, wait=SHORT) as opens,
        asking(name, shield, app.port, edit=edit) as closes,
    ):
        address = fresh_address()
        wait_until(lambda: ask(opens, address, "/").status == 429, TIMEOUT_S, "a refusal within the short time-out")
        assert ask(closes, address, "/").status == 429
        os.killpg(shield.process.pid, signal.SIGSTOP)
        _passes_soon(opens, address, app)
        os.killpg(shield.process.pid, signal.SIGCONT)
        wait_until(lambda: ask(opens, address, "/").status == 429, TIMEOUT_S, "the shield to be asked again")
        shield.kill()
        _passes_soon(opens, address, app)
        assert ask(closes, address, "/").status == status
        assert len(app.seen) == 1


def _passes_soon(proxy: HttpServer, address: str, app: Upstream) -> None:
    """A request reaches the app, and nobody waits long for the shield."""
    app.forget()
    began_s = time.monotonic()
    assert ask(proxy, address, "/").status == 200
    assert time.monotonic() - began_s < MOST_AWAITED_S
    assert len(app.seen) == 1
