"""Any worker tells the busiest of the whole fleet: every request is counted once, by the client that really asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from e2e.clients import TIMEOUT_S, ask, fresh_address
from servers import HttpServer, asgi_server, wait_until

ADMIN = "an-admin-token-of-some-length"
SETTINGS = {"SHIELD_ADMIN_TOKEN": ADMIN, "SHIELD_IP_LIMIT": "10/hour", "SHIELD_REDIS_TIMEOUT_MS": "5000"}
WORKERS = 3


def top(server: HttpServer) -> dict[str, Any]:
    """What /top answers."""
    with httpx.Client(headers={"authorization": f"Bearer {ADMIN}"}, timeout=TIMEOUT_S) as operator:
        answer = operator.get(f"{server.base_url}/-/shield/top")
    assert answer.status_code == 200
    told: dict[str, Any] = answer.json()
    return told


def test_the_sums_of_all_workers_are_exact(tmp_path: Path) -> None:
    """Over connections of their own, so that all workers answer some; what is refused is counted, too."""
    flood, guest = fresh_address(), fresh_address()
    with asgi_server("shieldmw", "apps:app", env=SETTINGS, cwd=tmp_path, workers=WORKERS) as server:
        statuses = [ask(server, flood, "/hello").status for _ in range(60)]
        assert statuses.count(429) == 50
        assert [ask(server, guest, "/hello?page=2").status for _ in range(4)] == [200] * 4

        def counted() -> bool:
            names = {entry["name"]: entry for entry in top(server)["addresses"]}
            return [names.get(f"{one}/32", {}).get("requests") for one in (flood, guest)] == [60, 4]

        wait_until(counted, 30, "the reports of all workers", server.log)
        told = top(server)
        assert told["workers"] == WORKERS
        assert told["refused"] == 50
        found = {entry["name"]: (entry["requests"], entry["refused"]) for entry in told["addresses"]}
        assert (found[f"{flood}/32"], found[f"{guest}/32"]) == ((60, 50), (4, 0))
        assert ("/hello", 64, 50) in [(entry["name"], entry["requests"], entry["refused"]) for entry in told["paths"]]
