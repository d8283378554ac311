"""Addresses of upstreams, and which one is next."""

from __future__ import annotations

import pytest

from shieldmw.doors.proxy.upstreams import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    MOST_FAILURES,
    Balancer,
    UpstreamAddress,
    parse_upstream,
)


@pytest.mark.parametrize(
    ("text", "address", "authority"),
    [
        ("http://127.0.0.1:9000", UpstreamAddress("http://127.0.0.1:9000", "127.0.0.1", 9000), b"127.0.0.1:9000"),
        ("http://app", UpstreamAddress("http://app", "app", 80), b"app"),
        ("https://App.example/", UpstreamAddress("https://App.example", "app.example", 443, tls=True), b"app.example"),
        ("https://a:8443", UpstreamAddress("https://a:8443", "a", 8443, tls=True), b"a:8443"),
        ("http://[::1]:9000", UpstreamAddress("http://[::1]:9000", "::1", 9000), b"[::1]:9000"),
        ("unix:/run/app.sock", UpstreamAddress("unix:/run/app.sock", "localhost", 0, "/run/app.sock"), b"localhost"),
    ],
)
def test_addresses(text: str, address: UpstreamAddress, authority: bytes) -> None:
    """Of every kind, with the Host by which the upstream knows itself."""
    assert parse_upstream(text) == address
    assert address.authority == authority


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("127.0.0.1:9000", "not an upstream"),
        ("ftp://a", "not an upstream"),
        ("http://", "not an upstream"),
        ("", "not an upstream"),
        ("http://a/app", "its own path|their own path"),
        ("http://a/?x", "their own path"),
        ("http://a#x", "their own path"),
        ("http://user:secret@a", "no user and password"),
        ("http://a:0x1", "port"),
        ("http://a:99999", "port"),
        ("http://a b", "no host"),
        ("http://-", "no host"),
        ("unix:run/app.sock", "no absolute path"),
        ("unix://run/app.sock", "not an upstream"),
    ],
)
def test_wrong_addresses(text: str, told: str) -> None:
    """What is wrong, and an example of what would be right."""
    with pytest.raises(ValueError, match=told) as raised:
        parse_upstream(text)
    assert "http://127.0.0.1:9000" in str(raised.value)
    assert "secret" not in str(raised.value)


def _fail(balancer: Balancer, number: int, now_s: float, times: int = MOST_FAILURES) -> list[bool]:
    return [balancer.failed(number, now_s) for _ in range(times)]


def test_they_take_turns() -> None:
    """Round robin."""
    balancer = Balancer(3)
    assert [balancer.choose(0) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_one_that_was_not_reached_is_passed_over() -> None:
    """For this request; with all of them unreached, the next one is taken all the same."""
    balancer = Balancer(3)
    assert balancer.choose(0, {0}) == 1
    assert balancer.choose(0, {0, 1}) == 2
    assert balancer.choose(0, {0, 1, 2}) == 0


def test_failures_in_a_row_leave_one_out() -> None:
    """For a pause that doubles with each trial that fails, up to a limit; an answer ends it."""
    balancer = Balancer(2)
    assert _fail(balancer, 0, 0.0) == [False, False, True]
    assert {balancer.choose(0.5) for _ in range(4)} == {1}
    assert {balancer.choose(FIRST_PAUSE_S) for _ in range(4)} == {0, 1}
    now_s, pauses = FIRST_PAUSE_S, []
    for _ in range(10):
        assert balancer.failed(0, now_s)
        pauses.append(balancer.pause_s(0))
        now_s += balancer.pause_s(0)
    assert pauses[:3] == [2.0, 4.0, 8.0]
    assert pauses[-1] == LONGEST_PAUSE_S
    balancer.succeeded(0)
    assert _fail(balancer, 0, now_s, MOST_FAILURES - 1) == [False] * (MOST_FAILURES - 1)


def test_an_answer_between_failures_counts() -> None:
    """Only failures in a row do harm."""
    balancer = Balancer(2)
    for _ in range(10):
        balancer.failed(0, 0.0)
        balancer.succeeded(0)
    assert {balancer.choose(0.0) for _ in range(4)} == {0, 1}


def test_a_burst_of_failures_is_one() -> None:
    """Requests that were under way when it was left out do not lengthen the pause."""
    balancer = Balancer(2)
    _fail(balancer, 0, 0.0, 50)
    assert balancer.pause_s(0) == FIRST_PAUSE_S


def test_one_is_never_left_out() -> None:
    """The last one that is left, and one that is alone."""
    alone = Balancer(1)
    assert not any(_fail(alone, 0, 0.0, 100))
    assert alone.choose(0.0) == 0
    two = Balancer(2)
    _fail(two, 0, 0.0)
    assert not any(_fail(two, 1, 0.0, 100))
    assert [two.choose(0.5) for _ in range(3)] == [1, 1, 1]
