"""Any worker reports the load of all workers' apps, in calm and in a flood."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from click.testing import CliRunner

from e2e.clients import TIMEOUT_S, client, fresh_address
from servers import HttpServer, asgi_server, wait_until
from shieldmw.cli import main

ADMIN = "an-admin-token-of-some-length"
SETTINGS = {
    "SHIELD_ADMIN_TOKEN": ADMIN,
    "SHIELD_IP_LIMIT": "off",
    "SHIELD_MAX_IN_FLIGHT": "4",
    "SHIELD_REDIS_TIMEOUT_MS": "5000",
}
WORKERS = 2

# Many more than fit: each worker has room for four, which take 50 ms each.
CLIENTS = 80


def overload(server: HttpServer) -> dict[str, Any]:
    """What the status says of the workers' load."""
    with httpx.Client(headers={"authorization": f"Bearer {ADMIN}"}, timeout=TIMEOUT_S) as operator:
        answer = operator.get(f"{server.base_url}/-/shield/status")
    assert answer.status_code == 200
    told: dict[str, Any] = answer.json()["overload"]
    return told


def pids(server: HttpServer) -> set[int]:
    """Which workers the status tells of."""
    return {worker["pid"] for worker in overload(server)["workers"]}


def line_of_load(server: HttpServer) -> str:
    """What `shieldmw mode` says of it."""
    env = {"SHIELD_ADMIN_URL": server.base_url, "SHIELD_ADMIN_TOKEN": ADMIN}
    shown = CliRunner().invoke(main, ["mode"], env=env)
    assert shown.exit_code == 0, shown.output
    (line,) = (line for line in shown.stdout.splitlines() if line.startswith("load"))
    return line.removeprefix("load    ")


def test_whichever_worker_answers_tells_of_all(tmp_path: Path) -> None:
    """By their process ids; one that is killed is told of no longer, and the one in its place is."""
    with asgi_server("shieldmw", "apps:app", env=SETTINGS, cwd=tmp_path, workers=WORKERS) as server:
        serving = {int(line.rpartition(" ")[2]) for line in server.log().splitlines() if "app started in" in line}
        assert len(serving) == WORKERS
        for _ in range(10):  # each on a connection of its own, so both workers answer some
            assert pids(server) == serving
        told = overload(server)
        assert (told["setting"], told["counted"]) == ("on", "fleet")
        assert {worker["in_flight_limit"] for worker in told["workers"]} == {4}
        assert line_of_load(server).startswith("calm: ")
        killed = min(serving)
        os.kill(killed, signal.SIGKILL)

        def replaced() -> bool:
            with suppress(httpx.TransportError):  # queued for the worker that was killed
                seen = pids(server)
                return killed not in seen and len(seen) == WORKERS
            return False

        wait_until(replaced, 30, "the report of the worker in its place", server.log)


def test_a_flood_is_seen_while_it_goes_on_and_in_the_log(tmp_path: Path) -> None:
    """How many wait and how many are told to come later, a second, on both workers; afterwards all is calm again."""
    with asgi_server("shieldmw", "apps:app", env=SETTINGS, cwd=tmp_path, workers=WORKERS) as server:
        goes_on = True

        def ask_again_and_again(_: int) -> None:
            with client(fresh_address()) as guest:
                while goes_on:
                    with suppress(httpx.TransportError):
                        guest.get(f"{server.base_url}/slow?ms=50")

        def all_shed() -> bool:
            told = overload(server)["workers"]
            return len(told) == WORKERS and all(worker["shed_per_second"]["guest"] > 1 for worker in told)

        with ThreadPoolExecutor(CLIENTS) as pool:
            flood = [pool.submit(ask_again_and_again, number) for number in range(CLIENTS)]
            try:
                wait_until(all_shed, 30, "both workers to tell guests to come later", server.log)
                line = line_of_load(server)
            finally:
                goes_on = False
        for each in flood:
            each.result()
        assert line.startswith("2 of 2 workers overloaded: turns "), line
        assert line.endswith(" guests a second told to come later; members: 0"), line
        wait_until(lambda: line_of_load(server).startswith("calm: "), 15, "the calm after it", server.log)
        assert all(worker["shed"]["guest"] > 0 for worker in overload(server)["workers"])
        assert "the app is asked for more than it can do: shed guest: " in server.log()
        wait_until(
            lambda: server.log().count("no longer overloaded: shed guest: ") == WORKERS, 30, "its end in the log"
        )
