"""Long polls on real servers: what becomes of a lease seat while the app holds the answer back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from e2e.clients import client, fresh_address
from servers import HttpServer, asgi_server, wait_until

LEASE_S = 6
# A third of a lease, less what the way there takes: so the next poll renews before the lease ends.
HOLD_S = LEASE_S / 3 - 0.5
CUT_S = 12
ADMIN_TOKEN = "the token of the operator"
SETTINGS = {
    "SHIELD_RULES": json.dumps([{"name": "news", "path": "/poll", "polled": True, "lease_seconds": LEASE_S}]),
    "SHIELD_CAPACITY": "1",
    "SHIELD_IP_LIMIT": "off",
    "SHIELD_EMERGENCY_IP_LIMIT": "off",
    "SHIELD_RETRY_AFTER": "1",
    "SHIELD_ADMIN_TOKEN": ADMIN_TOKEN,
}


@contextmanager
def served(tmp_path: Path, more: Mapping[str, str] | None = None) -> Iterator[tuple[HttpServer, ThreadPoolExecutor]]:
    """The app behind the shield, and a thread for the poll that is held."""
    with (
        asgi_server("shieldmw", "e2e.long_poll_app:app", env={**SETTINGS, **(more or {})}, cwd=tmp_path) as server,
        ThreadPoolExecutor(1) as threads,
    ):
        yield server, threads


def poll(player: httpx.Client, server: HttpServer, hold_s: float) -> httpx.Response:
    """One poll, answered after so long unless there is news."""
    return player.get(f"{server.base_url}/poll", params={"hold": hold_s}, timeout=hold_s + 10)


def test_a_poll_that_is_held_for_less_than_a_third_of_its_lease_keeps_its_seat(tmp_path: Path) -> None:
    """For longer than two leases, while another asks for the only seat all the time, and in vain."""
    with (
        served(tmp_path) as (server, threads),
        client(fresh_address()) as player,
        client(fresh_address()) as other,
    ):
        assert poll(player, server, 0).status_code == 200
        began_s = time.monotonic()

        def is_answered() -> bool:
            assert poll(other, server, 0).status_code == 503
            return held.done()

        while time.monotonic() - began_s < 2 * LEASE_S + 1:
            held = threads.submit(poll, player, server, HOLD_S)
            wait_until(is_answered, 10, "the answer", server.log)
            assert held.result().status_code == 200


def test_a_poll_that_is_held_for_longer_than_its_lease_loses_its_seat(tmp_path: Path) -> None:
    """The lease ends while the answer is held back: it still comes, but the seat is another's by then."""
    with (
        served(tmp_path) as (server, threads),
        client(fresh_address()) as player,
        client(fresh_address()) as other,
    ):
        assert poll(player, server, 0).status_code == 200
        held = threads.submit(poll, player, server, 1.8 * LEASE_S)
        assert poll(other, server, 0).status_code == 503
        wait_until(lambda: poll(other, server, 0).status_code == 200, 2 * LEASE_S, "the lease to end", server.log)
        assert not held.done()
        assert held.result().status_code == 200
        assert poll(player, server, 0).status_code == 503


def test_a_poll_that_is_held_during_a_cut_is_answered(tmp_path: Path) -> None:
    """With the news that it waited for; a later one is refused, and told why."""
    with (
        served(tmp_path, {"SHIELD_CAPACITY": "10"}) as (server, threads),
        client(fresh_address()) as player,
        client(fresh_address(), {"authorization": f"Bearer {ADMIN_TOKEN}"}) as operator,
    ):
        assert poll(player, server, 0).status_code == 200
        held = threads.submit(poll, player, server, 20)
        mode = {"mode": "emergency", "reason": "a test"}
        operator.put(f"{server.base_url}/-/shield/mode", json=mode).raise_for_status()
        wait_until(lambda: poll(operator, server, 0).status_code == 503, 5, "the cut", server.log)
        assert not held.done()
        operator.post(f"{server.base_url}/news").raise_for_status()
        assert (held.result().status_code, held.result().text) == (200, "news")
        answers: list[httpx.Response] = []

        def is_refused() -> bool:
            answers.append(poll(player, server, 0))
            return answers[-1].status_code == 503

        wait_until(is_refused, CUT_S + LEASE_S, "the lease to be refused", server.log)
        assert answers[-1].json()["title"] == "Fewer listeners for now"
