"""Checks that an app works before it is measured: an app that fails is fast."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import aiohttp
import click

from benchmarks.cases import Case
from benchmarks.load import Load
from benchmarks.servers import Server
from benchmarks.store import Store

_LIMIT_HEADERS: Final = ("ratelimit", "ratelimit-policy")
_OF_UVICORN: Final = {"date", "server"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What an app sent, without what uvicorn adds."""

    status: int
    headers: list[tuple[str, str]]
    body: str

    def save(self, path: Path) -> None:
        """Save it for the app that sends the same."""
        path.write_text(json.dumps(asdict(self)), "utf-8")


async def prove(case: Case, server: Server, store: Store, database: int, load: Load) -> Answer:
    """Send the first request, as the load's first client.

    Raises:
        click.ClickException: the answer is not as the case says, or an app that counts in Redis wrote nothing there.
    """
    with store.writes(database) as keys:
        if case.refused:
            await _ask(server, load)  # the one that is allowed
        answer = await check(case, server, load)
        if server.app.has_store and not keys():
            raise click.ClickException(f"{server.app.name} wrote nothing to Redis")
    return answer


async def check(case: Case, server: Server, load: Load) -> Answer:
    """Check that the answer is as the case says.

    Raises:
        click.ClickException: it is not.
    """
    answer = await _ask(server, load)
    wanted = 429 if case.refused and server.app.kind != "bare" else 200
    if answer.status != wanted:
        log = server.last_lines(30)
        raise click.ClickException(f"{server.app.name} answered {answer.status}, not {wanted}\n{log}")
    names = {name for name, _ in answer.headers}
    if server.app.kind == "shield" and not names.issuperset(_LIMIT_HEADERS):
        raise click.ClickException(f"{server.app.name} sent no {' or '.join(_LIMIT_HEADERS)}: {answer.headers}")
    return answer


async def _ask(server: Server, load: Load) -> Answer:
    async with aiohttp.ClientSession() as session, session.get(server.url, headers=load.headers()) as answer:
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in answer.raw_headers]
        own = [(name, value) for name, value in headers if name not in _OF_UVICORN]
        return Answer(answer.status, own, await answer.text("latin-1"))
