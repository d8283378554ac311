"""The cost of reading heads: linear in their size, and for 64 KB little more than for a plain one.

These measure the thread's own processor time, of several tries the least: what else runs here does not count.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from time import thread_time_ns
from typing import Any

import pytest
from starlette.types import Message, Scope

from core.addresses import client_address
from doors.asgi.harness import http_scope, run
from doors.asgi.heads import HEADS, TRICKS, Head, scope_of
from doors.asgi.shields import ok
from shieldmw import Settings, ShieldMiddleware
from shieldmw.core.address import Networks, parse_networks
from shieldmw.core.bounds import LONGEST_PATH, MOST_MARKS
from shieldmw.core.facts import Facts
from shieldmw.core.paths import plain, readings
from shieldmw.core.rules import Policy
from shieldmw.core.tickets import Signer
from shieldmw.doors.asgi.facts import CredentialSources, FactsReader

KB = 1024

# Sixteen times the input may cost so many times as much: linear with its noise is below, quadratic is 256.
MOST_GROWTH = 60

# What costs less than this is not compared.
CHEAP_NS = 50_000

MOST_TIMES_PLAIN = 10

# A machine that is busy with something else is measured again.
TURNS = 10

RULES = [
    {"name": f"r{number}", "path": f"/api{number}/*", "methods": ["GET", "POST"], "limits": "100/minute"}
    for number in range(20)
]
PROXIES = Networks(parse_networks("192.0.2.0/24"))


def settings(**more: Any) -> Settings:
    """Everything that reads: cookies, the query, live paths, rules and the admin routes."""
    values: dict[str, Any] = {
        "ip_limit": "5/minute",
        "live_paths": "/live,/chat/*",
        "rules": json.dumps(RULES),
        "token_cookie": "token",
        "token_query": "token",
        "admin_token": "a" * 20,
        **more,
    }
    return Settings(**values)


def least_ns(tries: int, work: Callable[[], object]) -> int:
    """The least processor time of several tries."""
    spent = []
    for _ in range(tries):
        began = thread_time_ns()
        work()
        spent.append(thread_time_ns() - began)
    return min(spent)


def assert_linear(work_on: Callable[[int], Callable[[], object]]) -> None:
    """Sixteen times as much costs about sixteen times as much, small and large."""
    for size in (64 * KB, 256 * KB):
        part, whole = work_on(size // 16), work_on(size)
        least = max(CHEAP_NS, least_ns(3, part))
        cost = least_ns(3, whole)
        if cost > MOST_GROWTH * least:
            cost = least_ns(TURNS, whole)
        assert cost <= MOST_GROWTH * least, (
            f"{size // KB} KB cost {cost / 1e6:.2f} ms, a sixteenth of it {least / 1e6:.2f} ms"
        )


def facts_of(scope: Scope) -> Facts:
    return READER.read(scope)


READER = FactsReader(CredentialSources("x-forwarded-for", "authorization", "token", "token"), None)
PROTOCOLS = FactsReader(CredentialSources("forwarded", "sec-websocket-protocol", "token", "token"), None)
POLICY: Policy = settings().policy


@pytest.mark.parametrize("name", HEADS)
def test_reading_a_head_never_costs_more_than_its_size_allows(name: str) -> None:
    """All that is read of a head and said of its path, at growing sizes."""

    def work_on(size: int) -> Callable[[], object]:
        scope = scope_of(HEADS[name](size))
        return lambda: (POLICY.route_rules(facts_of(scope)), PROTOCOLS.read(scope))

    assert_linear(work_on)


FORWARDED: dict[str, tuple[str, str]] = {
    "trusted hops": ("x-forwarded-for", "192.0.2.9,"),
    "empty hops": ("x-forwarded-for", ","),
    "trusted elements": ("forwarded", "for=192.0.2.9,"),
    "commas in quotes": ("forwarded", 'for="' + "," * 400 + '",'),
    "a quote that never ends": ("forwarded", '",'),
    "nested quotes": ("forwarded", 'A="p,k=";B=";q=1;'),
    "backslashes": ("forwarded", "\\"),
    "one value": ("cf-connecting-ip", "1"),
    "colons": ("cloudfront-viewer-address", "1:"),
}


@pytest.mark.parametrize("name", FORWARDED)
@pytest.mark.parametrize("as_lines", [False, True], ids=["one line", "lines"])
def test_reading_the_proxies_header_never_costs_more_than_its_size_allows(name: str, as_lines: bool) -> None:
    """The worst of each grammar, in one line and in as many as fit."""
    header, piece = FORWARDED[name]

    def work_on(size: int) -> Callable[[], object]:
        count = size // len(piece)
        forwarded = (piece.strip(","),) * count if as_lines else (piece * count + "for=192.0.2.9",)
        return lambda: client_address("192.0.2.1", forwarded, PROXIES, header)

    assert_linear(work_on)


@pytest.mark.parametrize("piece", ["a", "a.", "=", "-_", "\u1234"])
def test_reading_a_ticket_never_costs_more_than_its_size_allows(piece: str) -> None:
    """Whatever is shown."""
    signer = Signer(b"k" * 32, "event")

    def work_on(size: int) -> Callable[[], object]:
        text = piece * (size // len(piece))
        return lambda: (signer.read_ticket(text, 0), signer.read_number(text, 0))

    assert_linear(work_on)


@pytest.mark.parametrize("piece", [TRICKS, "%", "%25", "%25%32%35", "/..", "\x01", ";/", "/", "\\", "%c3"])
def test_making_a_path_plain_never_costs_more_than_its_size_allows(piece: str) -> None:
    """Even where nothing bounds the path."""

    def work_on(size: int) -> Callable[[], object]:
        text = piece * (size // len(piece))
        return lambda: plain(text)

    assert_linear(work_on)


@pytest.mark.parametrize("piece", [TRICKS, "%25", "%c3%28", "\x01;", "/.a\\", "aé"])
def test_the_trickiest_path_that_is_read_costs_under_two_milliseconds(piece: str) -> None:
    """It is read in all its ways, and they are few enough."""
    marks = sum(map(piece.count, "/\\%;")) or 1
    text = ("/" + piece * (MOST_MARKS // marks - 2)).ljust(LONGEST_PATH - 2, "a") + ";\x01"
    text = text[:LONGEST_PATH]
    assert readings(text, text) != ()
    assert least_ns(7, lambda: readings(text, text)) < 2_000_000


# --- one refused client ------------------------------------------------------------------------------


class Asked:
    """A shield whose guest has used up its limit, driven without a loop's help: nothing of a refusal waits."""

    def __init__(self, **more: Any) -> None:
        # On a busy machine those who still pass might have to wait.
        self.shield = ShieldMiddleware(ok, settings(overload="off", **more))
        self.statuses: list[int] = []

    async def send(self, message: Message) -> None:
        """Note the status."""
        if "status" in message:
            self.statuses.append(message["status"])

    async def receive(self) -> Message:
        """Nothing of the body is read."""
        raise AssertionError

    async def cost_ns(self, tries: int, make: Callable[[int], Scope]) -> int:
        """The least cost of a refusal; each try is another request."""
        spent = []
        for number in range(tries):
            scope = make(number)
            answer: Awaitable[None] = self.shield(scope, self.receive, self.send)
            began = thread_time_ns()
            await answer
            spent.append(thread_time_ns() - began)
        return min(spent)


def differing(head: Head, first: int, number: int) -> Scope:
    """A head of 64 KB that did not come before."""
    number += first
    scope = scope_of(head(64 * KB - number))
    if scope["headers"] == [] and scope["query_string"] == b"":
        scope["path"] += str(number)
    return scope


@pytest.mark.parametrize("name", HEADS)
def test_a_refused_client_cannot_cost_ten_times_as_much(name: str) -> None:
    """A head of 64 KB from a client that is over its limit, beside a plain request of its own."""

    async def story() -> None:
        asked = Asked()
        await asked.cost_ns(20, lambda number: http_scope(f"/{number}"))
        del asked.statuses[:]
        plain_ns, worst_ns = await asked.cost_ns(50, lambda _: http_scope("/")), sys.maxsize
        for turn in range(TURNS):
            worst_ns = min(worst_ns, await asked.cost_ns(10, partial(differing, HEADS[name], 10 * turn)))
            if worst_ns <= MOST_TIMES_PLAIN * plain_ns:
                break
            plain_ns = max(plain_ns, await asked.cost_ns(50, lambda _: http_scope("/")))
        assert set(asked.statuses) <= {429, 401}
        assert worst_ns <= MOST_TIMES_PLAIN * plain_ns, f"{worst_ns} ns beside {plain_ns} ns"

    run(story())
