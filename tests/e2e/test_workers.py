"""Apps with the middleware under servers that are not ours: an embedded server for all workers, and workers that are
replaced in the middle of the event. What docs/integration.md says of uvicorn and gunicorn is seen here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from e2e.clients import TIMEOUT_S, ask, fresh_address
from e2e.test_seats import Listener, run, until
from e2e.test_serve import BURST, SETTINGS
from servers import AsgiKind, HttpServer, asgi_server, redis_server, wait_until
from servers.places import own_directory

EMBEDDED = {**SETTINGS, "SHIELD_REDIS_URL": "embedded://"}


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The folder for temporary files of the server under test, and of nobody else."""
    with own_directory() as folder:
        yield folder


def running_in(folder: Path) -> list[str]:
    """The command lines that name the folder: an embedded server and its keeper."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder) in (command := (process / "cmdline").read_text().replace("\0", " ")):
                found.append(command)
    return found


SERVERS: dict[str, tuple[AsgiKind, Sequence[str]]] = {
    "uvicorn": ("uvicorn", ()),
    "gunicorn": ("gunicorn", ()),
    "gunicorn --preload": ("gunicorn", ("--preload",)),
    "hypercorn": ("hypercorn", ()),
    "granian": ("granian", ()),
}


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("kind", SERVERS)
def test_workers_share_one_embedded_server(kind: str, killed: bool, temporary: Path, tmp_path: Path) -> None:
    """A client gets its burst exactly once, whichever worker answers, and nothing is left once the server has ended."""
    server_kind, arguments = SERVERS[kind]
    environment = {**EMBEDDED, "TMPDIR": str(temporary)}
    address = fresh_address()
    with asgi_server(
        server_kind, "shielded_app:shielded", env=environment, cwd=tmp_path, workers=2, args=arguments
    ) as server:
        with ThreadPoolExecutor(4) as pool:
            statuses = list(pool.map(lambda _: ask(server, address, "/hello").status, range(BURST * 3)))
            workers = {answer.body for answer in pool.map(lambda _: ask(server, address, "/pid"), range(60))}
        assert len(running_in(temporary)) == 2
        if killed:
            server.kill()
        else:
            assert server.terminate() == 0
        wait_until(lambda: not running_in(temporary), TIMEOUT_S, "the embedded server to end")
        assert [path for path in temporary.iterdir() if path.name.startswith("shieldmw")] == []
    assert statuses.count(200) == BURST
    assert statuses.count(429) == BURST * 2
    assert len(workers) == 2, "one worker answered everything"


MOST_REQUESTS = 40

REPLACED: dict[str, tuple[AsgiKind, Sequence[str]]] = {
    "uvicorn": ("uvicorn", ("--limit-max-requests", str(MOST_REQUESTS))),
    "uvicorn on uvloop": ("uvicorn", ("--limit-max-requests", str(MOST_REQUESTS), "--loop", "uvloop")),
    "gunicorn": ("gunicorn", ("--max-requests", str(MOST_REQUESTS))),
}


@pytest.mark.parametrize("kind", REPLACED)
def test_a_worker_that_has_had_its_requests_is_not_held_by_listeners(kind: str, tmp_path: Path) -> None:
    """No signal is sent then. Listeners hear of the end all the same, and the worker ends instead of serving nobody."""
    server_kind, arguments = REPLACED[kind]
    with redis_server("valkey") as store:
        env = {"SHIELD_REDIS_URL": store.url, "SHIELD_LIVE_PATHS": "/live/*", "SHIELD_REDIS_TIMEOUT_MS": "1000"}
        with asgi_server(
            server_kind, "shielded_live_app:shielded", env=env, cwd=tmp_path, workers=1, args=arguments
        ) as server:

            async def story() -> str:
                listener = Listener()
                assert await listener.ask(server)
                await until(lambda: listener.heard, TIMEOUT_S, "an event")
                for _ in range(MOST_REQUESTS):
                    with suppress(OSError):  # refused: it ends already
                        ask(server, fresh_address(), "/healthz")
                await until(lambda: listener.left_s, TIMEOUT_S, "the goodbye")
                return listener.heard

            heard = run(story())
            assert "\n\nevent: shed\nretry: " in heard
            assert "This server is restarting" in heard
            if server_kind == "uvicorn":
                assert server.process.wait(TIMEOUT_S) == 0
            else:
                wait_until(lambda: _answers(server), TIMEOUT_S, "a new worker to serve", server.log)


def _answers(server: HttpServer) -> bool:
    with suppress(OSError):
        return ask(server, fresh_address(), "/healthz").status == 200
    return False


@pytest.mark.parametrize("kind", ["uvicorn", "gunicorn", "hypercorn", "granian"])
def test_a_dry_run_is_seen_in_the_log_of_a_server_that_is_not_set_up_for_it(kind: AsgiKind, tmp_path: Path) -> None:
    """The log is a dry run's only result, and these servers show nothing below WARNING of other loggers."""
    environment = {**SETTINGS, "SHIELD_REDIS_URL": "memory://", "SHIELD_DRY_RUN": "true"}
    address = fresh_address()
    with asgi_server(kind, "shielded_app:shielded", env=environment, cwd=tmp_path) as server:
        assert [ask(server, address, "/hello").status for _ in range(BURST + 1)] == [200] * (BURST + 1)
        expected = f"dry_run quota: 1; the last one: guest {address} at '/hello' by ip"
        wait_until(lambda: expected in server.log(), TIMEOUT_S, "the line of the refusal", server.log)
