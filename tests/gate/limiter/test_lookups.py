"""Clients that a trusted proxy does not name: they count as the proxy, are never on the allow list, and are logged."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from gate.doubles import FakeClock, facts, memory_store, run, worker
from shieldmw.core.decision import Reason

PROXY, CLIENT = "127.0.0.1", "203.0.113.7"
UNREADABLE = "198.51.100.7\x1b[31m, nonsense"


def reasons(*forwarded: tuple[str, ...], peer: str | None = PROXY, **more: Any) -> list[Reason]:
    """What becomes of these requests, with two a minute for an address."""
    clock = FakeClock()
    values = {"trusted_proxies": "127.0.0.0/8,unix", "allow_ips": "127.0.0.0/8,192.0.2.0/24", "ip_limit": "2/minute"}
    one = worker(memory_store(clock), clock, **{**values, **more})

    async def story() -> list[Reason]:
        return [(await one.gate.decide(facts(peer=peer)._replace(forwarded=lines))).reason for lines in forwarded]

    return run(story())


@pytest.mark.parametrize(
    "forwarded",
    [(UNREADABLE,), ("",), (), ("127.0.0.2",), (f"{CLIENT}, 127.0.0.2,",)],
    ids=["unreadable", "empty", "missing", "proxies only", "unreadable at its end"],
)
def test_a_proxy_that_names_no_client_is_not_on_the_allow_list(forwarded: tuple[str, ...]) -> None:
    """Everyone behind it would be without a limit."""
    assert reasons(forwarded, forwarded, forwarded) == [Reason.WITHIN_LIMITS] * 2 + [Reason.QUOTA]


def test_nor_is_a_unix_socket() -> None:
    """Though peers on it are allowed."""
    more = {"peer": None, "allow_ips": "unix"}
    assert reasons((), (), (), **more) == [Reason.WITHIN_LIMITS] * 2 + [Reason.QUOTA]


def test_an_address_that_is_named_may_be_on_it() -> None:
    """By the proxy, or by its own connection where no proxy is trusted there."""
    assert reasons(*[("192.0.2.1",)] * 3) == [Reason.ALLOW_LIST] * 3
    assert reasons((), (), (), peer="192.0.2.9") == [Reason.ALLOW_LIST] * 3
    assert reasons((), (), (), trusted_proxies="10.0.0.0/8") == [Reason.ALLOW_LIST] * 3


def test_a_header_that_cannot_be_read_is_said_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Which header, from which proxy, and how it looked; nothing of it reaches a terminal as it is."""
    with caplog.at_level(logging.WARNING):
        reasons(*[(UNREADABLE,)] * 30, ())
    (record,) = caplog.records
    line = record.getMessage()
    assert line.startswith("SHIELD_FORWARDED_HEADER=x-forwarded-for: unreadable: 1; the last from the proxy 127.0.0.1:")
    assert r"'198.51.100.7\x1b[31m, nonsense'" in line


def test_a_header_that_is_missing_or_read_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """A proxy's own health checks have none."""
    with caplog.at_level(logging.WARNING):
        reasons((), ("192.0.2.1",), ("127.0.0.2",))
        reasons((UNREADABLE,), peer=CLIENT)
    assert caplog.records == []


def test_a_preflight_is_never_taken_for_the_same_path_s_ordinary_options() -> None:
    """Whichever comes first: each has buckets of its own, though nothing else of them differs."""
    asked = facts("192.0.2.1")._replace(methods=frozenset({"OPTIONS"}))
    for first in (asked, asked._replace(preflight=True)):
        lookups = worker(memory_store(FakeClock()), FakeClock(), ip_limit="1/minute").gate._lookups
        routes = [lookups.route(first), lookups.route(first._replace(preflight=not first.preflight))]
        assert [route.route_rules.preflight for route in routes] == [first.preflight, not first.preflight]
