"""The sections of docs/integration.md on tests and servers: the tests pass as written, and the text on workers is true.

Embedded servers and workers that are replaced are in tests/e2e/test_workers.py.
"""

from __future__ import annotations

import asyncio
import inspect
import shlex
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from docs.documents import blocks, section
from e2e.clients import ask, fresh_address
from servers import REPOSITORY, AsgiKind, asgi_server, redis_server
from shieldmw import Settings, ShieldMiddleware

INTEGRATION = (REPOSITORY / "docs" / "integration.md").read_text("utf-8")
(TESTS,) = blocks(section(INTEGRATION, "Testing an app that is shielded"), "python")
(COMMANDS,) = blocks(section(INTEGRATION, "uvicorn and gunicorn workers"), "sh")


def _namespace() -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(TESTS, "docs/integration.md", "exec"), names)
    return names


NAMES = _namespace()


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("test_")])
def test_the_tests_pass(name: str) -> None:
    """Each in an event loop of its own, as test runners do it."""
    test: Callable[[], Coroutine[Any, Any, None]] = NAMES[name]
    assert inspect.iscoroutinefunction(test)
    asyncio.run(test())


LOOPS = 50


@pytest.mark.parametrize("threads", [0, 1], ids=["here", "in another thread"])
def test_a_loop_for_each_request_leaves_no_connection(threads: int) -> None:
    """With a Redis, too: test clients end each loop without a lifespan, and its connections end with it. Starlette's
    has its loops in another thread.
    """
    with redis_server("redis") as store:
        shield = ShieldMiddleware(NAMES["app"], Settings(redis_url=store.url, redis_timeout_ms=1000))

        async def once() -> int:
            async with NAMES["client"](shield) as client:
                answer: httpx.Response = await client.get("/search")
                return answer.status_code

        def ask_once(_: int) -> int:
            return asyncio.run(once())

        with ThreadPoolExecutor(1) as pool:
            several = pool.map if threads else map
            assert set(several(ask_once, range(LOOPS))) == {200}
        assert store.client().info("clients")["connected_clients"] == 1  # the one that asks


FORWARDED = [("X-Forwarded-For", "192.0.2.1")]


@pytest.mark.parametrize("kind", ["uvicorn", "gunicorn"])
def test_the_commands_leave_proxy_headers_to_the_shield(kind: AsgiKind, tmp_path: Path) -> None:
    """As written: served by several workers on one Redis, and a client cannot choose its bucket by a header."""
    (line,) = [line for line in COMMANDS.splitlines() if f" {kind} " in line]
    _url, program, target, *arguments = shlex.split(line)
    assert (program, target) == (kind, "app:app")
    address = fresh_address()
    with redis_server("redis") as store:
        env = {"SHIELD_REDIS_URL": store.url, "SHIELD_IP_LIMIT": "3/minute", "SHIELD_REDIS_TIMEOUT_MS": "1000"}
        with asgi_server(
            kind, "shielded_app:shielded", env=env, cwd=tmp_path, workers=4, args=_without_workers(arguments)
        ) as server:
            answers = [ask(server, address, "/who", FORWARDED) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert address.encode() in answers[0].body


def _without_workers(arguments: list[str]) -> list[str]:
    """The helper names the workers itself."""
    place = next(place for place, argument in enumerate(arguments) if argument in ("--workers", "-w"))
    assert arguments[place + 1] == "4"
    return arguments[:place] + arguments[place + 2 :]
