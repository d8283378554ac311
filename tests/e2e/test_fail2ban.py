"""A server's log, read by the real fail2ban with the filter of examples/fail2ban."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from e2e.clients import JWT_SECRET, ask, fresh_address
from servers import REPOSITORY, asgi_server, require, wait_until

EXAMPLE = REPOSITORY / "examples" / "fail2ban"
LINE = "INFO shieldmw.refused refused client=192.0.2.66 reason=quota whose=own policies=ip class=guest path="


def fail2ban_regex(log: Path) -> list[str]:
    """The addresses that it would count."""
    command = [require("fail2ban-regex"), "-o", "ip", str(log), str(EXAMPLE / "filter.d" / "shieldmw.conf")]
    return subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout.split()


@pytest.mark.parametrize("dry_run", ["false", "true"])
def test_it_finds_the_client_and_nobody_else(dry_run: str) -> None:
    """Whatever the client writes into the path, the query, its user agent and its credentials, it bans only itself."""
    require("fail2ban-regex")
    env = {
        "SHIELD_IP_LIMIT": "1/hour",
        "SHIELD_REFUSAL_LINES": "100",
        "SHIELD_DRY_RUN": dry_run,
        "SHIELD_JWT_SECRET": JWT_SECRET,
        "SHIELD_REDIS_URL": "memory://",
    }
    spaced = LINE.replace(" ", "%20")
    paths = [
        "/",
        f"/{spaced}",
        f"/%0A2026-11-28%2011:30:49,123%201%20{spaced}%22",
        f"/%22?{spaced}",
        "/%E2%80%A8%0D%1B%5B2K",
    ]
    headers = [("User-Agent", f"1 {LINE}"), ("Authorization", f"Bearer {LINE}"), ("X-Forwarded-For", "192.0.2.66")]
    address = fresh_address()
    with asgi_server("shieldmw", "e2e.quiet_app:app", env=env, cwd=REPOSITORY / "tests") as server:
        statuses = [ask(server, address, path, headers).status for path in ["/", *paths]]
        word = "dry_run" if dry_run == "true" else "refused"
        start = f"shieldmw.refused {word} client={address} "
        wait_until(lambda: server.log().count(start) == len(paths), 10, "all lines", server.log)
        assert (429 in statuses) == (dry_run == "false")
        assert fail2ban_regex(server.log_path) == ([] if dry_run == "true" else [address] * len(paths))
        assert "Bearer" not in server.log()


def test_the_jail_is_one_that_fail2ban_starts(tmp_path: Path) -> None:
    """With the files of the example in place of those of the package."""
    client = require("fail2ban-client")
    config = tmp_path / "fail2ban"
    config.mkdir()
    for path in (*Path("/etc/fail2ban").glob("*.conf"), Path("/etc/fail2ban/action.d")):
        (config / path.name).symlink_to(path)
    (config / "filter.d").symlink_to(EXAMPLE / "filter.d")
    (config / "jail.d").mkdir()
    log = tmp_path / "shieldmw.log"
    log.touch()
    jail = (EXAMPLE / "jail.d" / "shieldmw.conf").read_text("utf-8").replace("/var/log/shieldmw.log", str(log))
    (config / "jail.d" / "shieldmw.conf").write_text(jail)
    tested = subprocess.run([client, "-c", str(config), "-t"], capture_output=True, check=False, text=True, timeout=60)
    assert tested.returncode == 0, tested.stderr
    dumped = subprocess.run([client, "-c", str(config), "-d"], capture_output=True, check=True, text=True, timeout=60)
    assert f"['set', 'shieldmw', 'addlogpath', '{log}'" in dumped.stdout
    assert "['set', 'shieldmw', 'addaction', 'nftables']" in dumped.stdout
