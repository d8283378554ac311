"""Behind a real Envoy that asks `shieldmw envoy`: what is refused never reaches the upstream."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import indent
from threading import Thread
from typing import Any

import pytest

from e2e.clients import Answer, ask, client, fresh_address
from e2e.test_proxies import FORGERIES, VICTIM
from servers import (
    HOST,
    REPOSITORY,
    Envoy,
    HttpServer,
    clean_environment,
    envoy,
    envoy_shield,
    redis_server,
    wait_until,
)

EXAMPLE = REPOSITORY / "examples" / "envoy_grpc"
BURST = 4
WAIT_S = 20.0

# Tests wait longer for an answer than an example should, since their machine may be busy.
PATIENT = "timeout: 5s"


class Upstream:
    """A server that answers all requests, and counts them."""

    def __init__(self) -> None:
        seen = self.seen = list[tuple[str, dict[str, str]]]()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path != "/healthz":
                    seen.append((self.path, dict(self.headers.items())))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(b"ok")

            do_HEAD = do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.port = self.server.server_address[1]


@contextmanager
def upstream() -> Iterator[Upstream]:
    app = Upstream()
    thread = Thread(target=app.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield app
    finally:
        app.server.shutdown()
        thread.join()
        app.server.server_close()


def config(name: str, app: Upstream, *shields: int, allow_failures: bool = False) -> str:
    """The example's config, with other ports, and patience instead of a short time-out."""
    text = (EXAMPLE / name).read_text("utf-8")
    endpoint = "              - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 9001 } } }\n"
    endpoints = "".join(endpoint.replace("9001", str(port)) for port in shields)
    for was, now in (
        ("port_value: 8080", "port_value: {port}"),
        ("port_value: 8000", f"port_value: {app.port}"),
        (endpoint, endpoints),
        ("timeout: 0.1s", PATIENT),
        ("address: 0.0.0.0", f"address: {HOST}"),
    ):
        assert was in text, was
        text = text.replace(was, now)
    lets_pass = re.search("failure_mode_(allow: true|deny: false)", text)
    assert lets_pass
    refuses = {
        "failure_mode_allow: true": "failure_mode_allow: false",
        "failure_mode_deny: false": "failure_mode_deny: true",
    }
    return text if allow_failures else text.replace(lets_pass[0], refuses[lets_pass[0]])


class Stand:
    """Envoy, the process that it asks, and the upstream."""

    def __init__(self, proxy: Envoy, shield: HttpServer, app: Upstream) -> None:
        self.proxy, self.shield, self.app = proxy, shield, app

    def ask(self, address: str, path: str, headers: list[tuple[str, str]] | None = None) -> Answer:
        return ask(self.proxy, address, path, headers)

    def statuses(self, address: str, path: str, count: int, headers: list[tuple[str, str]] | None = None) -> list[int]:
        return [self.ask(address, path, headers).status for _ in range(count)]


@contextmanager
def stand(env: dict[str, str], *, allow_failures: bool = False) -> Iterator[Stand]:
    with (
        upstream() as app,
        envoy_shield(env) as shield,
        envoy(config("envoy.yaml", app, shield.port, allow_failures=allow_failures)) as proxy,
    ):
        yield Stand(proxy, shield, app)


RULES = json.dumps(
    [
        {"name": "search", "path": "/search/*", "limits": "2/hour"},
        {"name": "inside", "path": "/inside", "emergency": "members"},
    ]
)
KEY = "an API key that is long enough"
LB = "127.99.0.1"
SETTINGS = {
    "SHIELD_IP_LIMIT": f"{BURST}/hour",
    "SHIELD_TOKEN_LIMIT": "100/hour",
    "SHIELD_TRUSTED_PROXIES": f"{LB}/32",
    "SHIELD_RULES": RULES,
    "SHIELD_LIVE_PATHS": "/live",
    "SHIELD_CAPACITY": "1",
}


@pytest.fixture(scope="module")
def here() -> Iterator[Stand]:
    with stand(SETTINGS) as made:
        yield made


def test_it_allows_and_refuses(here: Stand) -> None:
    """Within the limit requests pass, with RateLimit headers on the answer; then a 429 as it is over HTTP."""
    address, before = fresh_address(), len(here.app.seen)
    answers = [here.ask(address, f"/page/{number}?x=%2F") for number in range(BURST + 2)]
    assert [answer.status for answer in answers] == [200] * BURST + [429] * 2
    assert answers[0].headers["ratelimit-policy"] == f'"ip";q={BURST};w=3600'
    refused = answers[-1]
    problem = json.loads(refused.body)
    assert (problem["status"], problem["violated-policies"]) == (429, ["ip"])
    assert refused.headers["content-type"] == "application/problem+json"
    assert int(refused.headers["retry-after"]) >= problem["retry_after_ms"] / 1000
    assert [path for path, _ in here.app.seen[before:]] == [f"/page/{number}?x=%2F" for number in range(BURST)]


def test_a_browser_gets_a_page_and_a_head_no_body(here: Stand) -> None:
    """What the client accepts decides as it does without Envoy."""
    address = fresh_address()
    assert here.statuses(address, "/", BURST) == [200] * BURST
    page = here.ask(address, "/", [("Accept", "text/html")])
    assert (page.status, page.headers["content-type"]) == (429, "text/html; charset=utf-8")
    assert b"<html" in page.body
    with client(address) as guest:
        head = guest.head(f"{here.proxy.base_url}/")
    assert (head.status_code, head.content) == (429, b"")
    handshake = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
    assert here.ask(address, "/", [*handshake, ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")]).status == 429


@pytest.mark.parametrize("forged", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_client_is_its_own_address(here: Stand, forged: list[str]) -> None:
    """Whatever it writes into X-Forwarded-For: it is charged for it, nobody else is."""
    address, others = fresh_address(), [("X-Real-IP", VICTIM), ("Forwarded", f"for={VICTIM}")]
    lines = [*others, *(("X-Forwarded-For", line) for line in forged)]
    statuses = [here.ask(address, "/", lines).status for _ in range(BURST)]
    # Envoy itself turns down a head of more than 60 KiB, or with more than 100 lines.
    assert set(statuses) <= {200}
    assert here.statuses(address, "/", 1) == [429]


def test_a_proxy_before_envoy_names_its_clients(here: Stand) -> None:
    """One of SHIELD_TRUSTED_PROXIES is believed, from the right, and Envoy itself adds nothing but its address."""
    for named in ("203.0.113.1", "198.51.100.9, 203.0.113.2", "2001:db8::7"):
        lines = [("X-Forwarded-For", named)]
        assert here.statuses(LB, "/", BURST + 1, lines) == [200] * BURST + [429]


def test_rules_see_the_path_that_the_upstream_sees(here: Stand) -> None:
    """Spellings of a path that servers read alike are under its rule."""
    for path in ("/search/x", "/%73earch/x?y=1", "//search//x", "/a/../search/x", "/search%2fx"):
        address = fresh_address()
        statuses = here.statuses(address, path, 3)
        assert statuses[-1] in (429, 307), (path, statuses)


def test_a_live_path_holds_a_lease_seat(here: Stand) -> None:
    """One seat: the first client has it and comes back with its ticket, the second is told that there is none."""
    first, second = fresh_address(), fresh_address()

    def admitted() -> Answer | None:
        answer = here.ask(first, "/live")
        return answer if answer.status == 200 else None

    held = wait_until(admitted, WAIT_S, "a seat to be granted", here.shield.log)
    assert held is not None
    assert held.headers["set-cookie"].startswith(f"shield_ticket={held.headers['shield-ticket']};")
    assert here.ask(first, "/live", [("Shield-Ticket", held.headers["shield-ticket"])]).status == 200
    refused = here.ask(second, "/live")
    assert refused.status == 503
    assert json.loads(refused.body)["title"] == "Fewer listeners for now"


def test_in_an_emergency_members_come_first(tmp_path: Path) -> None:
    """The switch, flipped through the store: guests get 503 with the reason, members pass."""
    keys = tmp_path / "keys"
    keys.write_text(f"{hashlib.sha256(KEY.encode()).hexdigest()} alice\n", "utf-8")
    with redis_server("valkey") as store:
        env = {**SETTINGS, "SHIELD_REDIS_URL": store.tcp_url, "SHIELD_API_KEYS_FILE": str(keys)}
        env["SHIELD_REDIS_TIMEOUT_MS"] = "5000"
        with stand(env) as made:
            guest, member = fresh_address(), [("Authorization", f"Bearer {KEY}")]
            assert made.ask(guest, "/inside").status == 200
            command = [
                sys.executable,
                "-m",
                "shieldmw",
                "mode",
                "emergency",
                "--direct",
                "--for",
                "10m",
                "--reason",
                "x",
            ]
            subprocess.run(command, env=clean_environment(env), cwd=tmp_path, check=True, capture_output=True)
            wait_until(lambda: made.ask(guest, "/inside").status == 503, WAIT_S, "the flip", made.shield.log)
            refused = made.ask(guest, "/inside")
            assert json.loads(refused.body)["type"].endswith("#temporary-reduced-capacity")
            assert int(refused.headers["retry-after"]) > 0
            before = len(made.app.seen)
            assert made.ask(guest, "/inside", member).status == 200
            assert len(made.app.seen) == before + 1


@pytest.mark.parametrize(("allow", "status"), [(True, 200), (False, 403)])
def test_without_the_shield_envoy_does_as_it_is_told(allow: bool, status: int) -> None:
    """failure_mode_allow lets requests pass while nobody answers, and otherwise none."""
    with stand(SETTINGS, allow_failures=allow) as made:
        address = fresh_address()
        assert made.statuses(address, "/", BURST + 1) == [200] * BURST + [429]
        made.shield.kill()
        assert made.statuses(address, "/", 3) == [status] * 3
        with envoy_shield(SETTINGS, port=made.shield.port):
            wait_until(lambda: made.ask(fresh_address(), "/").headers.get("ratelimit"), WAIT_S, "it to be asked again")


# --- the rate limit service -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def counted() -> Iterator[Stand]:
    with (
        upstream() as app,
        envoy_shield(SETTINGS) as shield,
        envoy(config("rate_limit.yaml", app, shield.port)) as proxy,
    ):
        yield Stand(proxy, shield, app)


def test_two_descriptors_are_two_limits(counted: Stand) -> None:
    """An address has its own limit everywhere, and on the route with a name that of the rule as well."""
    address, other = fresh_address(), fresh_address()
    before = len(counted.app.seen)
    assert counted.statuses(address, "/search?q=1", 3) == [200, 200, 429]
    assert counted.statuses(other, "/page", BURST + 1) == [200] * BURST + [429]
    refused = counted.ask(fresh := fresh_address(), "/search")
    assert refused.status == 200
    assert refused.headers["ratelimit"].startswith('"search";r=1;')
    assert counted.statuses(fresh, "/search", 2) == [200, 429]
    refused = counted.ask(fresh, "/search")
    problem = json.loads(refused.body)
    assert problem["violated-policies"] == ["search"]
    assert refused.headers["content-type"] == "application/problem+json"
    assert int(refused.headers["retry-after"]) >= problem["retry_after_ms"] / 1000
    assert len(counted.app.seen) == before + 2 + BURST + 2


def test_the_service_believes_no_forged_header(counted: Stand) -> None:
    """Envoy names the peer as the remote address, whatever the client writes."""
    address = fresh_address()
    forged = [("X-Forwarded-For", VICTIM)]
    assert counted.statuses(address, "/", BURST + 1, forged) == [200] * BURST + [429]


# The route of /search in the example, and what its descriptors are instead: a response's cost is known at its end.
OF_SEARCH = re.compile("( *)- match: { prefix: /search }.*?(?= *- match:)", re.DOTALL)
NAMED = "actions: [{ generic_key: { descriptor_value: bytes } }, { remote_address: {} }]"
LOOKS = f"- {{ {NAMED}, hits_addend: {{ number: 0 }} }}"
CHARGES = f'- {{ {NAMED}, apply_on_stream_done: true, hits_addend: {{ format: "%BYTES_SENT%" }} }}'
CHARGING = """
- match: { prefix: /search }
  route: { cluster: app }
  typed_per_filter_config:
    envoy.filters.http.ratelimit:
      "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute
      rate_limits:
"""


@contextmanager
def charging_when_done(*descriptors: str) -> Iterator[Stand]:
    """The example, whose /search has these descriptors alone; a client may be sent five bytes an hour."""
    rule = {"name": "bytes", "path": "/-/bytes", "limits": "5/hour"}
    with upstream() as app, envoy_shield({"SHIELD_RULES": json.dumps([rule])}) as shield:
        text = config("rate_limit.yaml", app, shield.port)
        found = OF_SEARCH.search(text)
        assert found
        route = CHARGING[1:] + "".join(f"      {descriptor}\n" for descriptor in descriptors)
        with envoy(text.replace(found[0], indent(route, found[1]))) as proxy:
            yield Stand(proxy, shield, app)


def statuses_when_done(made: Stand, address: str, count: int, calls: int) -> list[int]:
    """The answers to so many requests, each after all ``calls`` about the one before have been answered."""
    statuses = []

    def answered() -> int:
        return made.proxy.counter("cluster.shield.upstream_rq_completed")

    before = answered()
    for done in range(1, count + 1):
        statuses.append(made.ask(address, "/search").status)
        enough = before + done * calls
        wait_until(partial(_reaches, answered, enough), WAIT_S, "the stream to be charged", made.shield.log)
    return statuses


def _reaches(counter: Callable[[], int], least: int) -> bool:
    return counter() >= least


def test_what_is_charged_when_the_stream_is_done_refuses_nothing() -> None:
    """apply_on_stream_done: without another descriptor every request passes, whatever it costs."""
    with charging_when_done(CHARGES) as made:
        assert statuses_when_done(made, fresh_address(), 6, calls=1) == [200] * 6


def test_what_was_charged_then_is_seen_by_the_next_look() -> None:
    """Responses of two bytes: the third costs more than is left, and passes; then a look with 0 hits refuses. Other
    clients have their own, and a refusal, whose stream is charged as well, takes nothing of an empty bucket."""
    with charging_when_done(LOOKS, CHARGES) as made:
        address = fresh_address()
        assert statuses_when_done(made, address, 5, calls=2) == [200, 200, 200, 429, 429]
        status = made.ask(address, "/search").headers["ratelimit"]
        assert int(status.partition(";t=")[2]) <= 3600, "the bucket is empty, and no emptier"
        assert statuses_when_done(made, fresh_address(), 4, calls=2) == [200, 200, 200, 429]
