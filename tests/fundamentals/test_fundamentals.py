"""What shieldmw does, one idea a test. Read this first.

An app is wrapped in ``ShieldMiddleware`` and asked over HTTP, inside this process. Limits are per day, so that no
unit comes back while a test runs.
"""

from __future__ import annotations

import asyncio
import json

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Scope

from shieldmw import Identity, Settings, ShieldMiddleware

ALICE = "203.0.113.7"
BOB = "198.51.100.9"
PROXY = "10.0.0.1"

SERVED, REFUSED = 200, 429


async def hello(request: Request) -> PlainTextResponse:
    """The app: it greets whom the shield let in."""
    identity = request.scope["shield"].identity
    return PlainTextResponse(f"hello {identity.subject if identity else 'guest'}")


async def verify(scope: Scope) -> Identity | None:
    """The app's own way to know its members: here a single good token."""
    token = dict(scope["headers"]).get(b"authorization")
    return Identity("alice") if token == b"Bearer good" else None


APP = Starlette(routes=[Route("/healthz", hello), Route("/dear", hello), Route("/{path:path}", hello)])


class Asked:
    """One request: from which address, for which path, with which headers."""

    def __init__(self, address: str, path: str = "/", **headers: str) -> None:
        self.address = address
        self.path = path
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def answers(settings: Settings, *requests: Asked) -> list[httpx.Response]:
    """The answers of a fresh shield to requests that come one after the other."""
    shield = ShieldMiddleware(APP, settings=settings, authenticate=verify)

    async def ask() -> list[httpx.Response]:
        responses = []
        for request in requests:
            transport = httpx.ASGITransport(shield, client=(request.address, 50_000))
            async with httpx.AsyncClient(transport=transport, base_url="http://shielded.example") as client:
                responses.append(await client.get(request.path, headers=request.headers))
        return responses

    return asyncio.run(ask())


def statuses(settings: Settings, *requests: Asked) -> list[int]:
    return [response.status_code for response in answers(settings, *requests)]


def test_a_bucket_refuses_after_its_burst() -> None:
    """A client may ask as often as its limit says, and is refused after that."""
    settings = Settings(ip_limit="3/day")
    assert statuses(settings, *[Asked(ALICE)] * 5) == [SERVED, SERVED, SERVED, REFUSED, REFUSED]


def test_every_address_has_a_bucket_of_its_own() -> None:
    """One client that asks too much takes nothing from another."""
    settings = Settings(ip_limit="1/day")
    assert statuses(settings, Asked(ALICE), Asked(ALICE), Asked(BOB)) == [SERVED, REFUSED, SERVED]


def test_a_refusal_costs_nothing() -> None:
    """A request that was refused, however often, leaves what was there for the next one that fits."""
    dear = {"name": "dear", "path": "/dear", "cost": 3}
    settings = Settings(ip_limit="4/day", rules=json.dumps([dear]))
    asked = [Asked(ALICE, "/dear"), *[Asked(ALICE, "/dear")] * 3, Asked(ALICE, "/"), Asked(ALICE, "/")]
    assert statuses(settings, *asked) == [SERVED, REFUSED, REFUSED, REFUSED, SERVED, REFUSED]


def test_a_refusal_says_when_to_come_back_and_where_to_go_meanwhile() -> None:
    """A refused client is told how long to wait, which limit it was, and where the recording is."""
    settings = Settings(ip_limit="1/day", recording_url="https://example.org/recording")
    refused = answers(settings, Asked(ALICE), Asked(ALICE))[1]
    assert int(refused.headers["retry-after"]) >= 86_399
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["cache-control"] == "no-store"
    body = refused.json()
    assert body["violated-policies"] == ["ip"]
    assert body["recording_url"] == "https://example.org/recording"


def test_a_verified_token_is_a_client_of_its_own() -> None:
    """A member is charged as a member: not to a crowded address, and the same bucket wherever it comes from."""
    settings = Settings(ip_limit="1/day", token_limit="2/day")
    member, elsewhere = Asked(ALICE, authorization="Bearer good"), Asked(BOB, authorization="Bearer good")
    found = answers(settings, Asked(ALICE), Asked(ALICE), member, elsewhere, elsewhere)
    assert [response.status_code for response in found] == [SERVED, REFUSED, SERVED, SERVED, REFUSED]
    assert [found[0].text, found[2].text] == ["hello guest", "hello alice"]


def test_a_made_up_token_is_no_client() -> None:
    """Only a token that was verified counts: inventing new ones leaves a guest on its address."""
    settings = Settings(ip_limit="1/day")
    invented = [Asked(ALICE, authorization=f"Bearer invented-{number}") for number in range(3)]
    assert statuses(settings, *invented) == [SERVED, REFUSED, REFUSED]


def test_a_forged_header_changes_nothing() -> None:
    """A client that claims to be somebody else is still the address it comes from."""
    settings = Settings(ip_limit="1/day", trusted_proxies=PROXY)
    forged = [Asked(ALICE, x_forwarded_for=f"192.0.2.{number}") for number in range(3)]
    assert statuses(settings, *forged) == [SERVED, REFUSED, REFUSED]


def test_a_trusted_proxy_says_who_is_asking() -> None:
    """Behind a trusted proxy the client is the one the proxy appended, whatever the client wrote before it."""
    settings = Settings(ip_limit="1/day", trusted_proxies=PROXY)
    forwarded = [f"{ALICE}", f"192.0.2.1, {ALICE}", f"192.0.2.1, {BOB}"]
    asked = [Asked(PROXY, x_forwarded_for=text) for text in forwarded]
    assert statuses(settings, *asked) == [SERVED, REFUSED, SERVED]


def test_an_exempt_path_is_never_refused_and_its_look_alikes_are() -> None:
    """Health checks pass always, and nobody passes by looking like one."""
    settings = Settings(ip_limit="1/day", exempt_paths="/healthz")
    asked = [Asked(ALICE), *[Asked(ALICE, "/healthz")] * 3, Asked(ALICE, "/x/healthz"), Asked(ALICE, "//healthz")]
    assert statuses(settings, *asked) == [SERVED, SERVED, SERVED, SERVED, REFUSED, REFUSED]
