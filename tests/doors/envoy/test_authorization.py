"""Through ext_authz a request is decided, and its client told, exactly as if it had come to the shield itself."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Scope

from doors.asgi.harness import NO_BODY, PEER, Headers, call, http_scope, run
from doors.asgi.shields import ok
from shieldmw import Settings, ShieldMiddleware
from shieldmw.doors.envoy.authorization import Authorization
from shieldmw.doors.envoy.protos.authorization_pb2 import CheckRequest, CheckResponse
from shieldmw.doors.envoy.requests import scope_of
from shieldmw.doors.envoy.server import MalformedMessage
from shieldmw.store.opener import store_opener
from shieldmw.wiring import build_worker
from shieldmw.wiring.doors import reader_of, replies_of

KEY = "a key of alice, long enough"
WAIT_S = 10.0

RULES = json.dumps(
    [
        {"name": "search", "path": "/search/*", "methods": ["GET"], "limits": "2/hour"},
        {"name": "post", "path": "/form", "methods": ["POST"], "limits": "1/hour", "cost": 1},
    ]
)


def asked(
    path: str = "/",
    method: str = "GET",
    *,
    headers: Headers | None = None,
    peer: str | None = PEER[0],
    scheme: str = "http",
    is_raw: bool = True,
) -> bytes:
    """What Envoy asks about a request."""
    request = CheckRequest()
    if peer is not None:
        address = request.attributes.source.address.socket_address
        address.address, address.port_value = peer, PEER[1]
    http = request.attributes.request.http
    http.method, http.path, http.scheme = method, path, scheme
    lines = [(b":authority", b"example.org"), (b":path", path.encode()), *(headers or [])]
    for name, value in lines:
        if is_raw:
            http.header_map.headers.add(key=name.decode(), raw_value=value)
        else:
            text = value.decode("utf-8", "replace")
            before = http.headers.get(name.decode())
            http.headers[name.decode()] = text if before is None else f"{before},{text}"
    return request.SerializeToString()


class Door:
    """A worker, and what answers Envoy in front of it."""

    def __init__(self, settings: Settings) -> None:
        self.worker = build_worker(settings, store_opener(settings)())
        self.authorization = Authorization(self.worker, reader_of(settings), replies_of(settings))

    async def __aenter__(self) -> Door:
        await self.worker.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.worker.stop()

    async def check(self, message: bytes) -> CheckResponse:
        answer = self.authorization.check(message)
        return CheckResponse.FromString(answer if isinstance(answer, bytes) else await answer)


Told = tuple[int, list[tuple[str, str]], str]

# A wait that is drawn, and a ticket that is signed for the moment.
_RANDOM = re.compile(r"(retry-after\D*|retry_after_ms\D*|;t=|in )\d+|shield_ticket=[\w.-]+|shield-ticket', '[^']*")


def without_chance(told: Told) -> str:
    return _RANDOM.sub("*", repr(told))


def told_by_envoy(response: CheckResponse) -> Told:
    """What the client is told: the status (200 if it may pass), our headers, the body."""
    if response.WhichOneof("http_response") == "ok_response":
        assert response.status.code == 0
        options = response.ok_response.response_headers_to_add
        return 200, [(option.header.key, option.header.value) for option in options], ""
    assert response.status.code != 0
    denied = response.denied_response
    headers = [(option.header.key, option.header.value) for option in denied.headers]
    return denied.status.code, headers, denied.body


async def told_over_http(shield: ShieldMiddleware, scope: Scope) -> Told:
    record = await call(shield, scope, NO_BODY)
    headers = [(name.decode(), value.decode()) for name, value in record.headers if name != b"content-length"]
    refused = record.body != b"ok"
    return record.status, headers, record.body.decode() if refused else ""


def both(settings: dict[str, Any], requests: Sequence[dict[str, Any]]) -> tuple[list[Told], list[Told]]:
    """What the clients of these requests are told through Envoy and by the middleware."""

    async def telling() -> tuple[list[Told], list[Told]]:
        shield = ShieldMiddleware(ok, Settings(**settings))
        over_http = []
        for request in requests:
            path, _, query = request.get("path", "/").partition("?")
            more = {**request, "path": unquote(path), "query_string": query.encode(), "raw_path": path.encode()}
            peer = more.pop("peer", PEER[0])
            client = None if peer is None else (peer, PEER[1])
            over_http.append(await told_over_http(shield, http_scope(**more, client=client)))
        async with Door(Settings(**settings)) as door:
            through = [told_by_envoy(await door.check(asked(**request))) for request in requests]
        heads = [request.get("method") == "HEAD" for request in requests]  # whose body Envoy leaves out
        return [
            (*told[:2], "" if is_head else told[2]) for told, is_head in zip(through, heads, strict=True)
        ], over_http

    return run(telling())


BEARER = [(b"authorization", f"Bearer {KEY}".encode())]
STORIES: dict[str, list[dict[str, Any]]] = {
    "a guest": [{}] * 5,
    "two addresses": [{"peer": "203.0.113.1"}, {"peer": "2001:db8::1"}] * 4,
    "no address": [{"peer": None}] * 5,
    "a rule": [{"path": "/search/x?q=1"}] * 4,
    "spellings": [{"path": path} for path in ("/search/x", "/%73earch/x", "//search//x/", "/a/../search/x", "/s%2fx")],
    "methods": [{"path": "/form", "method": method} for method in ("GET", "POST", "POST", "PUT")],
    "an override": [{"path": "/form", "headers": [(b"x-http-method-override", b"POST")]}] * 3,
    "an override as in CGI": [{"path": "/form", "headers": [(b"x_http_method_override", b"POST")]}] * 3,
    "exempt": [{"path": "/healthz"}] * 6,
    "nearly exempt": [{"path": "/healthz/"}] * 5,
    "a member": [{"headers": BEARER}] * 6,
    "a key in a cookie": [{"headers": [(b"cookie", f"a=b; token={KEY}".encode())]}] * 6,
    "a key in the query": [{"path": f"/x?a=1&key={KEY.replace(' ', '%20')}"}] * 6,
    "no key": [{"headers": [(b"authorization", b"Bearer something else")]}] * 5,
    "a browser": [{"headers": [(b"accept", b"text/html,*/*")]}] * 5,
    "a page of another origin": [{"headers": [(b"origin", b"https://page.example")]}] * 5,
    "a preflight": [
        {"method": "OPTIONS", "headers": [(b"origin", b"https://x"), (b"access-control-request-method", b"GET")]}
    ]
    * 5,
    "a trusted proxy": [{"peer": "127.0.0.1", "headers": [(b"x-forwarded-for", b"198.51.100.7, 127.0.0.1")]}] * 5,
    "several lines of it": [{"peer": "127.0.0.1", "headers": [(b"x-forwarded-for", b"1.2.3.4")] * 2}] * 5,
    "a forged one": [{"headers": [(b"x-forwarded-for", b"198.51.100.%d" % at)]} for at in range(5)],
    "the deny list": [{"peer": "192.0.2.66"}] * 2,
    "the allow list": [{"peer": "192.0.2.77"}] * 6,
    "a polled path": [{"path": "/hls/live.m3u8"}] * 2,
    "a poll without a seat": [{"path": "/hls/live.m3u8", "peer": f"203.0.113.{at}"} for at in range(1, 4)],
    "over TLS": [{"path": "/hls/live.m3u8", "scheme": "https"}],
    "bytes": [{"headers": [(b"cookie", b"\xff\xfe; token=\xff")]}] * 2,
    "many headers": [{"headers": [(b"x-%d" % at, b"v") for at in range(300)]}] * 5,
}


@pytest.fixture
def setting(tmp_path: Path) -> dict[str, Any]:
    keys = tmp_path / "keys"
    keys.write_text(f"{hashlib.sha256(KEY.encode()).hexdigest()} alice\n", "utf-8")
    return {
        "ip_limit": "3/hour",
        "token_limit": "4/hour",
        "rules": RULES,
        "trusted_proxies": "127.0.0.1/32",
        "token_cookie": "token",
        "token_query": "key",
        "cors_origins": "https://page.example",
        "deny_ips": "192.0.2.66/32",
        "allow_ips": "192.0.2.77/32",
        "polled_paths": "/hls/*",
        "capacity": 1,
        "api_keys_file": str(keys),
        "recording_url": "https://example.org/recording",
    }


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES.keys())
def test_a_client_is_told_the_same_as_over_http(setting: dict[str, Any], story: list[dict[str, Any]]) -> None:
    """The same verdicts in the same order, with the same status, headers and body."""
    through, over_http = both(setting, story)
    assert [without_chance(told) for told in through] == [without_chance(told) for told in over_http]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_also_for_requests_at_random(seed: int) -> None:
    """Paths, methods, peers and headers in any combination."""
    dice = random.Random(seed)
    names = [b"x-forwarded-for", b"authorization", b"cookie", b"accept", b"origin", b"x-http-method-override", b"x"]
    values = [b"203.0.113.9", b"Bearer x", b"a=b; shield_ticket=x.y.z", b"text/html", b"POST", b"\xff", b"", b"1, 2"]
    story = [
        {
            "path": dice.choice(("/", "/search/x", "/%2e%2e/search/x", "/form?x=%2f", "/%00", "/ü", "/a?b?c", "/*")),
            "method": dice.choice(("GET", "POST", "HEAD", "OPTIONS", "BREW")),
            "peer": dice.choice(("203.0.113.9", "127.0.0.1", "2001:db8::1", None)),
            "headers": [(dice.choice(names), dice.choice(values)) for _ in range(dice.randrange(5))],
        }
        for _ in range(12)
    ]
    limits = {"ip_limit": "2/hour", "rules": RULES, "trusted_proxies": "127.0.0.1/32"}
    through, over_http = both(limits, story)
    assert [without_chance(told) for told in through] == [without_chance(told) for told in over_http]


def test_joined_headers_are_read_as_well(setting: dict[str, Any]) -> None:
    """Without encode_raw_headers Envoy sends a map, in which lines of one name are joined."""

    async def telling() -> list[Told]:
        lines = [(b"x-forwarded-for", b"203.0.113.1"), (b"x-forwarded-for", b"203.0.113.2")]
        async with Door(Settings(**setting)) as door:
            return [
                told_by_envoy(await door.check(asked(peer="127.0.0.1", headers=lines, is_raw=is_raw)))
                for is_raw in (True, False, True, False)
            ]

    assert [status for status, *_ in run(telling())] == [200, 200, 200, 429]


def test_a_live_path_holds_a_lease_seat() -> None:
    """The first client gets a ticket, with which it comes back; the second is turned away; a preflight holds none."""
    limits = {"live_paths": "/live", "capacity": 1, "ip_limit": "100/hour"}
    preflight = [(b"origin", b"https://x"), (b"access-control-request-method", b"GET")]

    async def telling() -> list[Told]:
        async with Door(Settings(**limits)) as door:

            async def ask(**request: Any) -> Told:
                return told_by_envoy(await door.check(asked("/live", **request)))

            told = [await ask(method="OPTIONS", headers=preflight)]
            async with asyncio.timeout(WAIT_S):
                while (first := await ask())[0] != 200:  # noqa: ASYNC110  (until seats are divided)
                    await asyncio.sleep(0)
            ticket = dict(first[1])["shield-ticket"]
            again = await ask(headers=[(b"shield-ticket", ticket.encode())])
            return [*told, first, again, await ask(peer="203.0.113.99")]

    preflight_told, first, again, other = run(telling())
    assert (preflight_told[0], "shield-ticket" in dict(preflight_told[1])) == (200, False)
    assert dict(first[1])["set-cookie"].startswith("shield_ticket=")
    assert (again[0], "shield-ticket" in dict(again[1])) == (200, False)
    assert (other[0], json.loads(other[2])["title"]) == (503, "Fewer listeners for now")


def test_a_dry_run_lets_all_pass() -> None:
    """Without headers that a client could notice."""
    through, _ = both({"ip_limit": "1/hour", "dry_run": True}, [{}] * 3)
    assert through == [(200, [], "")] * 3


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"no message at all"])
def test_what_is_no_question_is_said_to_be_none(message: bytes) -> None:
    """Bytes that are no CheckRequest."""

    async def telling() -> None:
        async with Door(Settings()) as door:
            with pytest.raises(MalformedMessage):
                await door.check(message)

    run(telling())


def test_an_empty_question_is_a_request_from_nowhere() -> None:
    """It is charged to the client that nobody knows."""

    async def telling() -> list[int]:
        async with Door(Settings(ip_limit="2/hour")) as door:
            return [told_by_envoy(await door.check(b""))[0] for _ in range(3)]

    assert run(telling()) == [200, 200, 429]


def test_the_scope_is_that_of_a_server() -> None:
    """What a server makes of the same request."""
    headers = [(b"cookie", b"a=b"), (b"cookie", b"c=\xff")]
    question = CheckRequest.FromString(asked("/a%20b%2Fc?d=%20&e?f", "PUT", headers=headers, scheme="https"))
    scope = scope_of(question)
    assert {
        name: scope[name] for name in ("type", "method", "scheme", "path", "raw_path", "query_string", "client")
    } == {
        "type": "http",
        "method": "PUT",
        "scheme": "https",
        "path": "/a b/c",
        "raw_path": b"/a%20b%2Fc",
        "query_string": b"d=%20&e?f",
        "client": PEER,
    }
    assert scope["headers"][-2:] == headers
