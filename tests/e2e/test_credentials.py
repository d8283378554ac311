"""Members who share an address with clients that send forged tokens stay members, also in an emergency."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from socket import create_server

import jwt
import pytest

from e2e.clients import JWT_SECRET, bearer, client, fresh_address
from servers import HOST, HttpServer, RedisServer, asgi_server, redis_server
from shieldmw.gate.auth.jwks import START_WAIT_S

MEMBERS = 40
TARGET = "e2e.shielded_app:shielded"


@pytest.fixture(scope="module")
def store() -> Iterator[RedisServer]:
    """A real store."""
    with redis_server("valkey") as running:
        yield running


@pytest.fixture(scope="module")
def server(store: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """Two workers that verify JWTs and limit nobody else."""
    environment = {
        "SHIELD_REDIS_URL": store.url,
        "SHIELD_REDIS_TIMEOUT_MS": "5000",
        "SHIELD_JWT_SECRET": JWT_SECRET,
        "SHIELD_IP_LIMIT": "off",
    }
    with asgi_server("uvicorn", TARGET, env=environment, cwd=tmp_path_factory.mktemp("cwd"), workers=2) as running:
        yield running


def forged(number: int) -> dict[str, str]:
    """A token that somebody else has signed."""
    token = jwt.encode({"sub": f"nobody-{number}", "exp": int(time.time()) + 600}, "x" * 40, algorithm="HS256")
    return {"authorization": f"Bearer {token}"}


def test_members_are_members_beside_forgers_of_their_address(server: HttpServer) -> None:
    """Three forged tokens for each good one, from one address: forty of forty members are members."""
    with client(fresh_address()) as shared:
        url = f"{server.base_url}/who"
        for number in range(30):
            shared.get(url, headers=forged(number))
        classes = []
        for member in range(MEMBERS):
            for number in range(3):
                assert shared.get(url, headers=forged(1000 + 3 * member + number)).json()["class"] == "guest"
            classes.append(shared.get(url, headers=bearer(f"member-{member}")).json()["class"])
    assert classes == ["member"] * MEMBERS


def test_a_jwks_that_hangs_does_not_hold_up_the_first_request(tmp_path: Path) -> None:
    """Also where the server sends no lifespan: it is fetched in the background."""
    with create_server((HOST, 0)) as silent:
        environment = {"SHIELD_JWT_JWKS_URL": f"http://{HOST}:{silent.getsockname()[1]}/jwks"}
        with (
            asgi_server("uvicorn", TARGET, env=environment, cwd=tmp_path, args=("--lifespan", "off")) as running,
            client(fresh_address()) as somebody,
        ):
            # Whoever waits until it serves has made the first request: it was answered, or there were no server.
            assert somebody.get(f"{running.base_url}/who").json()["class"] == "guest"
            assert f"no answer in {START_WAIT_S:g} s" in running.log()
            assert START_WAIT_S < 1
