"""Limits that are changed on four workers: obeyed everywhere in time, kept without Redis, and ended at their end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from cli.commands import shieldmw
from e2e.clients import fresh_address
from e2e.test_switch import ADMIN_PATH, ADMIN_TOKEN, PATIENCE_S, TOLD_S, WORKERS, Each, Fleet, fleet
from servers import RedisServer, wait_until

CHANGES = 5
RULES = json.dumps([{"name": "search", "path": "/search", "limits": "1000/second"}])

Record = Callable[[str, object], None]


def until_all_say(guest: Each, amount: int, since_s: float) -> float:
    """Seconds since a moment until the last of the workers decides by a limit of so many units."""
    wanted = f'"ip";q={amount};'
    late: dict[bytes, float] = {}

    def all_do() -> bool:
        for pid, answer in guest.ask("/").items():
            if pid not in late and answer.headers["ratelimit-policy"].startswith(wanted):
                late[pid] = time.monotonic() - since_s
        return len(late) == WORKERS

    wait_until(all_do, PATIENCE_S, f"{amount} on every worker", lambda: str(late))
    return max(late.values())


def command(shield: Fleet, *args: str) -> float:
    """Run the command; returns when it was answered."""
    url = f"{shield.server.base_url}{ADMIN_PATH}"
    ran = shieldmw("limits", *args, SHIELD_ADMIN_URL=url, SHIELD_ADMIN_TOKEN=ADMIN_TOKEN)
    assert (ran.status, ran.err) == (0, "")
    return time.monotonic()


def test_every_worker_obeys_within_a_second(store: RedisServer, tmp_path: Path, record_property: Record) -> None:
    """From the answer to the operator until the last of four workers decides by the new limit: 1 s at most."""
    with fleet(store, tmp_path, SHIELD_RULES=RULES) as shield:
        guest = shield.seen_by_all(fresh_address())
        took = []
        for number in range(1, 1 + CHANGES):
            told = shield.admin("PUT", "/limits", {"settings": {"SHIELD_IP_LIMIT": f"{1000 + number}/second"}})
            assert told.status == 200
            took.append(until_all_say(guest, 1000 + number, told.answered_s))
        record_property("limits_propagation_max_s", round(max(took), 3))
        assert max(took) <= TOLD_S, took
        answered_s = command(shield, "set", "SHIELD_IP_LIMIT=2000/second", "--reason", "flood")
        by_command = until_all_say(guest, 2000, answered_s)
        answered_s = command(shield, "undo")
        by_undo = until_all_say(guest, 1000 + CHANGES, answered_s)
        record_property("limits_command_propagation_max_s", round(max(by_command, by_undo), 3))
        assert max(by_command, by_undo) <= TOLD_S
        assert len(shield.audit()) == CHANGES + 2


def test_a_worker_that_starts_later_decides_by_them_at_once(store: RedisServer, tmp_path: Path) -> None:
    """Its first answer already has the changed limit."""
    with fleet(store, tmp_path, SHIELD_RULES=RULES) as old:
        assert old.admin("PUT", "/limits", {"settings": {"SHIELD_IP_LIMIT": "777/second"}}).status == 200
        with fleet(store, tmp_path, SHIELD_RULES="[]") as new:
            answers = new.seen_by_all(fresh_address()).ask("/")
            assert {answer.headers["ratelimit-policy"] for answer in answers.values()} == {'"ip";q=777;w=1'}
            told = old.admin("PUT", "/limits", {"rules": {"search": {"dry_run": True}}})
            assert (told.status, told.json["ignored"]) == (200, [])
            line = "rule 'search': there is no such rule here: SHIELD_RULES has none"

            def all_say() -> bool:
                return new.server.log().count(line) == WORKERS

            wait_until(all_say, PATIENCE_S, "every worker to say so", new.server.log)
            assert new.admin("GET", "/status").json["limits_ignored"] == [line]


def test_without_redis_they_stay_and_end_at_their_end(
    store: RedisServer, tmp_path: Path, record_property: Record
) -> None:
    """Killed: every worker goes on with them, and is back at the settings within a second of their end."""
    with fleet(store, tmp_path, SHIELD_RULES=RULES) as shield:
        guest = shield.seen_by_all(fresh_address())
        body = {"settings": {"SHIELD_IP_LIMIT": "555/second"}, "for_seconds": 6}
        told = shield.admin("PUT", "/limits", body)
        until_all_say(guest, 555, told.answered_s)
        left_s = told.json["until"] - told.json["now"]
        store.kill()
        kept_s = time.monotonic()
        refused = shield.admin("PUT", "/limits", {})
        assert refused.status == 503
        assert "Nothing was changed" in refused.json["detail"]
        assert shield.admin("GET", "/limits").json["store"] == "away"
        assert until_all_say(guest, 555, kept_s) < left_s
        last_s = until_all_say(guest, 100_000, told.asked_s)
        record_property("limits_ended_late_by_s", round(last_s - left_s, 3))
        assert left_s <= last_s <= left_s + (told.answered_s - told.asked_s) + TOLD_S
