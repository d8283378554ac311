"""A user of a server with the rights that the runbook gives, or with all of them but one."""

from __future__ import annotations

import re
from pathlib import Path

from servers import HOST, REPOSITORY, RedisServer

RUNBOOK = Path(REPOSITORY) / "docs" / "operations.md"
PASSWORD = "secret"


def rights() -> list[str]:
    """What the runbook's ACL line gives, right by right."""
    found = re.search(r"^ACL SETUSER shield (.+)$", RUNBOOK.read_text("utf-8"), re.MULTILINE)
    assert found is not None
    return found[1].replace("PASSWORD", PASSWORD).split()


def user_without(server: RedisServer, missing: str | None) -> str:
    """A user with all rights but one; the URL that it logs in with."""
    given = [right for right in rights() if right != missing]
    server.client().execute_command("ACL", "SETUSER", "shield", "reset", *given)  # type: ignore[no-untyped-call]
    return f"redis://shield:{PASSWORD}@{HOST}:{server.port}"
