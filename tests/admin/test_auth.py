"""Access to the admin routes, on a fake clock, since waits are tested."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.responses import Response
from starlette.types import Scope

from admin.app import ADMIN, HOME, VIEW, WRONG
from core.addresses import PREFIXES
from shieldmw.admin.auth import GUESSES_LIMIT, LIMIT, TOKEN_LIMIT, AdminAuth, Operator, Role
from shieldmw.core.address import Addressing, Networks, parse_networks
from shieldmw.core.limits import aggregate
from shieldmw.doors.asgi.facts import CredentialSources, FactsReader
from shieldmw.store.memory import MemoryBuckets

PROXY = "10.0.0.1"


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def s(self) -> float:
        return self.now_s

    def us(self) -> int:
        return int(self.now_s * 1_000_000)


class Doorway:
    """A door on a clock of the test's."""

    def __init__(self) -> None:
        self.clock = Clock()
        addressing = Addressing(Networks(parse_networks("10.0.0.0/8")), "x-forwarded-for", PREFIXES)
        reader = FactsReader(CredentialSources("x-forwarded-for", "authorization", None, None), None)
        buckets = MemoryBuckets(now_us=self.clock.us)
        self.admin_auth = AdminAuth(ADMIN, VIEW, addressing, reader, limit=buckets, now_s=self.clock.s)

    def enter(self, token: str | None, peer: str = HOME, method: str = "GET", **headers: str) -> Operator | Response:
        shown = {} if token is None else {"authorization": f"Bearer {token}"}
        lines = {name.replace("_", "-"): value for name, value in {**shown, **headers}.items()}
        return self.admin_auth.enter(
            scope(peer, method, [(name.encode(), value.encode()) for name, value in lines.items()])
        )

    def status(self, *asked: Any, **more: Any) -> int:
        found = self.enter(*asked, **more)
        return found.status_code if isinstance(found, Response) else 200


def scope(peer: str, method: str, headers: list[tuple[bytes, bytes]]) -> Scope:
    return {
        "type": "http",
        "method": method,
        "path": "/-/shield/status",
        "query_string": b"",
        "headers": headers,
        "client": (peer, 4000),
    }


def test_the_right_tokens_come_in_and_nothing_else_does() -> None:
    """The admin token for all, the view token to look; none, a wrong one, a part of one for nothing."""
    doorway = Doorway()
    assert doorway.enter(ADMIN, method="PUT") == Operator(Role.ADMIN, doorway.enter(ADMIN).address)  # type: ignore[union-attr]
    assert doorway.status(VIEW) == 200
    assert doorway.status(VIEW, method="PUT") == 403
    assert doorway.status(VIEW, method="DELETE") == 403
    for peer, token in enumerate([None, WRONG, ADMIN[:-1], ADMIN + "x", ADMIN.upper(), ""]):
        assert doorway.status(token, f"192.0.2.{peer}") == 401


@pytest.mark.parametrize(
    "lines",
    [
        [b"Basic " + ADMIN.encode()],
        [ADMIN.encode()],
        [b"Bearer " + ADMIN.encode(), b"Bearer " + ADMIN.encode()],
        [b"Bearer " + WRONG.encode(), b"Bearer " + ADMIN.encode()],
        [b"Bearer"],
        [b"Bearer \xff\xfe"],
    ],
)
def test_a_token_is_shown_in_one_bearer_header(lines: list[bytes]) -> None:
    """No other scheme, no bare token, no second header."""
    found = Doorway().admin_auth.enter(scope(HOME, "GET", [(b"authorization", line) for line in lines]))
    assert isinstance(found, Response)
    assert found.status_code == 401
    assert found.headers["www-authenticate"] == "Bearer"


def test_a_token_in_a_cookie_or_a_query_opens_nothing() -> None:
    """What a browser sends by itself is no proof that the operator meant it."""
    doorway = Doorway()
    assert doorway.status(None, cookie=f"token={ADMIN}; authorization=Bearer {ADMIN}") == 401
    asked = {**scope(HOME, "GET", []), "query_string": f"token={ADMIN}&authorization={ADMIN}".encode()}
    found = doorway.admin_auth.enter(asked)
    assert isinstance(found, Response)
    assert found.status_code == 401


def test_wrong_tokens_wait_longer_each_time() -> None:
    """After the third the wait doubles; the right token comes in at any time, and clears all."""
    doorway = Doorway()
    assert [doorway.status(WRONG) for _ in range(3)] == [401] * 3
    waits = []
    for _ in range(5):
        found = doorway.enter(WRONG)
        assert isinstance(found, Response)
        assert found.status_code == 429
        wait_s = int(found.headers["retry-after"])
        assert json.loads(bytes(found.body))["retry_after_ms"] <= wait_s * 1000
        waits.append(wait_s)
        doorway.clock.now_s += wait_s
        assert doorway.status(WRONG) == 401
    assert waits == [2, 4, 8, 16, 32]
    assert doorway.status(WRONG) == 429
    assert doorway.status(ADMIN) == 200
    assert [doorway.status(WRONG) for _ in range(2)] == [401] * 2
    assert doorway.status(ADMIN) == 200


@pytest.mark.parametrize("others", [None, WRONG])
@pytest.mark.parametrize("token", [ADMIN, VIEW])
def test_nobody_at_the_same_address_locks_the_operator_out(others: str | None, token: str) -> None:
    """With no token or with wrong ones, as fast as they like: they are refused, and the right token comes in."""
    doorway = Doorway()
    for _ in range(500):
        last = doorway.status(others)
        assert doorway.status(token, method="GET") == 200
        doorway.clock.now_s += 1  # the operator's own pace
    for _ in range(500):
        last = doorway.status(others)
    assert last == 429
    assert doorway.status(token) == 200


def use_up_guesses(doorway: Doorway, addresses: list[str]) -> None:
    """Wrong tokens from there until no more are compared."""
    for number in range(aggregate(GUESSES_LIMIT).burst + LIMIT.burst):
        doorway.status(WRONG, addresses[number % len(addresses)])


@pytest.mark.parametrize("others", [None, WRONG])
def test_guesses_at_one_address_take_none_from_another(others: str | None) -> None:
    """Beyond a number a minute no token is compared where wrong ones come from; the operator comes in elsewhere.

    And does so whatever is asked without a token, or guessed now and then, at the operator's own address.
    """
    doorway = Doorway()
    for _ in range(LIMIT.burst + 5):
        doorway.status(others)
    use_up_guesses(doorway, ["198.51.100.1"])
    assert doorway.status(ADMIN, "198.51.100.1") == 429
    for _ in range(20):
        assert doorway.status(others) != 200
        assert doorway.status(ADMIN) == 200
        assert doorway.status(others, "198.51.100.1") == 429
    assert doorway.status(ADMIN, "198.51.100.2") == 200
    doorway.clock.now_s += 1
    assert doorway.status(ADMIN, "198.51.100.1") == 200


def test_requests_without_a_token_are_no_guesses() -> None:
    """However many there are, the right token is compared."""
    doorway = Doorway()
    for _ in range(GUESSES_LIMIT.burst + LIMIT.burst):
        last = doorway.status(None)
    assert last == 429
    assert doorway.status(ADMIN) == 200


def test_guesses_of_an_ipv6_site_are_counted_together() -> None:
    """A /56 has the guesses of four addresses; the next /56 has its own."""
    doorway = Doorway()
    use_up_guesses(doorway, [f"2001:db8:0:{number:x}::1" for number in range(256)])
    assert doorway.status(ADMIN, "2001:db8:0:1::2") == 429
    for _ in range(LIMIT.burst * 5):
        doorway.status(None, "2001:db8:0:100::1")
    assert doorway.status(None, "2001:db8:0:100::1") == 429
    assert doorway.status(ADMIN, "2001:db8:0:100::1") == 200


def test_each_token_has_a_limit_of_its_own() -> None:
    """Wherever it is shown: who uses up the one that may look does not keep out the one that may touch."""
    doorway = Doorway()
    for number in range(TOKEN_LIMIT.burst):
        assert doorway.status(VIEW, f"192.0.2.{number % 250}") == 200
    found = doorway.enter(VIEW)
    assert isinstance(found, Response)
    assert (found.status_code, found.headers["retry-after"]) == (429, "1")
    assert doorway.status(ADMIN) == 200
    doorway.clock.now_s += 1
    assert doorway.status(VIEW) == 200


def test_the_view_token_earns_no_new_guesses() -> None:
    """The view token does not earn more guesses at the admin token."""
    doorway = Doorway()
    for _ in range(3):
        assert doorway.status(WRONG) == 401
        assert doorway.status(VIEW) == 200
    assert doorway.status(WRONG) == 429


def test_a_lockout_is_of_one_address_alone() -> None:
    """Brute force from many addresses locks each of them and never the operator."""
    doorway = Doorway()
    crowd = [f"198.51.{n // 250}.{n % 250}" for n in range(1000)]
    for address in crowd:
        assert [doorway.status(WRONG, address) for _ in range(4)] == [401, 401, 401, 429]
    assert doorway.status(ADMIN) == 200
    assert doorway.status(WRONG, crowd[0]) == 429


def test_a_lockout_is_of_a_whole_ipv6_site() -> None:
    """A /56 has no more guesses than an address has."""
    doorway = Doorway()
    assert [doorway.status(WRONG, f"2001:db8:0:{n}::1") for n in range(4)] == [401, 401, 401, 429]
    assert doorway.status(WRONG, "2001:db8:1:0::1") == 401


def test_an_address_is_told_as_the_gate_tells_it() -> None:
    """Behind a trusted proxy the last hop counts; a header from anybody else makes no new address."""
    doorway = Doorway()
    for number in range(3):
        assert doorway.status(WRONG, PROXY, x_forwarded_for=f"192.0.2.{number}, 198.51.100.7") == 401
    assert doorway.status(WRONG, PROXY, x_forwarded_for="198.51.100.7") == 429
    assert doorway.status(WRONG, PROXY, x_forwarded_for="198.51.100.8") == 401
    assert doorway.status(WRONG, "198.51.100.7", x_forwarded_for="192.0.2.1") == 429


def test_requests_of_one_address_are_few_a_minute() -> None:
    """Without a token; then 429 with the wait, and the limit is of the address alone."""
    doorway = Doorway()
    assert [doorway.status(None) for _ in range(LIMIT.burst)] == [401] * LIMIT.burst
    found = doorway.enter(None)
    assert isinstance(found, Response)
    assert (found.status_code, found.headers["retry-after"]) == (429, "1")
    assert doorway.status(None, "192.0.2.1") == 401
    doorway.clock.now_s += 1
    assert doorway.status(None) == 401


@pytest.mark.parametrize("token", [None, WRONG, VIEW, ADMIN])
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_other_sites_are_refused_and_cost_the_operator_nothing(token: str | None, method: str) -> None:
    """A strange page in the operator's browser gets 403 with any token, and locks nobody out."""
    doorway = Doorway()
    for _ in range(100):
        assert doorway.status(token, method=method, sec_fetch_site="cross-site") == 403
    assert doorway.status(token, method=method, sec_fetch_site="Cross-Site ") == 403
    assert doorway.status(ADMIN, method=method, sec_fetch_site="same-origin") == 200


def test_wrong_tokens_are_logged_without_the_token(caplog: pytest.LogCaptureFixture) -> None:
    """One line for many, with the address and never with what was shown."""
    doorway = Doorway()
    for number in range(200):
        doorway.status(WRONG, f"192.0.2.{number}")
    assert len(caplog.records) == 1
    assert WRONG not in caplog.text
    doorway.clock.now_s += 10
    doorway.status(WRONG, "192.0.2.250")
    assert "wrong: 200; the last from 192.0.2.250" in caplog.text
