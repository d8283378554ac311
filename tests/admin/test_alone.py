"""The admin routes without an app: the same routes and the same control, in a process that is not a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from starlette.types import Message

from admin.app import ADMIN, WRONG, Operator, run
from doors.asgi.harness import call, websocket_scope
from doors.asgi.test_same_lifespan import STARTUP, lifespan_scope
from shieldmw import Settings
from shieldmw.admin.alone import AdminAlone
from shieldmw.core.distinct import Distinct
from shieldmw.core.load import WorkerLoad
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.core.seats import Audience, Capacity, Report
from shieldmw.errors import SettingsError, StoreUnavailable
from shieldmw.gate.operator.desk import Desk
from shieldmw.store.documents import MODE
from shieldmw.store.memory import MemoryStore
from shieldmw.store.port import C, Document, S, Store, Stored
from shieldmw.wiring import admin_alone, build_desk

REDIS = "redis://127.0.0.1:1"
SECRET = b"a secret of the fleet, long enough"


class AwayStore(MemoryStore):
    """A store that does not answer for the mode and the limits."""

    async def document(self, kind: Document[C, S]) -> Stored[S]:
        """Not now."""
        raise StoreUnavailable("away")


@asynccontextmanager
async def served(store: Store, **values: object) -> AsyncIterator[AdminAlone]:
    """The routes over a store, from startup to shutdown."""
    settings = Settings.model_validate({"admin_token": ADMIN, "redis_url": REDIS, **values})
    app = admin_alone(settings)
    app._open_desk = lambda: build_desk(settings, store)
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    life = asyncio.create_task(app(lifespan_scope(), inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    assert (await outbox.get())["type"] == "lifespan.startup.complete"
    yield app
    await inbox.put({"type": "lifespan.shutdown"})
    assert (await outbox.get())["type"] == "lifespan.shutdown.complete"
    await life


def test_it_sees_the_fleet_and_is_none_of_it() -> None:
    """Workers, listeners and demand are those of the fleet; the process is not counted, and granted nothing."""

    async def work() -> None:
        store = MemoryStore(SECRET)
        report = Report(
            "worker 1", Audience(members=3), Audience(members=4), leased=Audience(members=2), leased_for_s=30
        )
        await store.seats(report, Capacity(10, 10))
        load = WorkerLoad("worker 1", "web-1", 1, time.time(), 0, 0, 4, Audience(), Audience(), Audience(), 0)
        await store.report_load(replace(load, unseated=(Distinct(), Distinct(1, (7,)), Distinct())))
        async with served(store, capacity=10) as app:
            status = (await Operator(app).get("/status")).json()
            assert (status["workers"], status["counted"], status["capacity"]) == (1, "fleet", 10)
            assert (status["seats"]["member"], status["demand"]["member"]) == (3, 4)
            assert status["leased"] == {"host": 0, "member": 2, "guest": 0}
            assert status["granted_here"] == 0
        assert (await store.seats(report, Capacity(10, 10))).workers == 1

    run(work)


def test_a_flip_is_the_fleets() -> None:
    """What is changed there is in the store, with its audit; what others change is seen there."""

    async def work() -> None:
        store = MemoryStore(SECRET)
        async with served(store) as app:
            operator = Operator(app, Shield_Actor="kim")
            answer = await operator.put("/mode", {"mode": "emergency", "for_seconds": 60})
            assert answer.json()["mode"] == "emergency"
            stored = await store.document(MODE)
            assert stored.state.mode is Mode.EMERGENCY
            change = ModeChange(Mode.NORMAL, "another worker", "")
            await store.set_document(MODE, change, was=stored.state, expected_version=None)
            assert (await operator.get("/status")).json()["mode"] == "normal"
            assert [entry["who"] for entry in (await operator.get("/audit")).json()["entries"]] == [
                "another worker",
                "admin (kim)",
            ]

    run(work)


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/-/shieldx/status", "/-/shield/../status", "/-/shield/authorize/nginx"]
)
def test_all_else_is_404(path: str) -> None:
    """There is no app behind it."""

    async def work() -> None:
        async with served(MemoryStore(SECRET)) as app:
            answer = await Operator(app).anywhere(path)
            assert answer.status_code == 404
            assert answer.headers["content-type"] == "application/problem+json"

    run(work)


def test_the_questions_of_a_misdirected_proxy_lock_nobody_out() -> None:
    """They carry the clients' own credentials, which are no wrong admin tokens; the workers answer them."""

    async def work() -> None:
        async with served(MemoryStore(SECRET)) as app:
            for _ in range(100):
                answer = await Operator(app, WRONG).get("/authorize/nginx")
                assert answer.status_code == 404
            assert (await Operator(app).get("/status")).status_code == 200

    run(work)


def test_a_websocket_is_refused() -> None:
    """There is none."""

    async def work() -> None:
        async with served(MemoryStore(SECRET)) as app:
            for path in ("/", "/-/shield/status"):
                assert [message["type"] for message in (await call(app, websocket_scope(path))).sent] == [
                    "websocket.close"
                ]

    run(work)


def test_the_door_is_the_same() -> None:
    """Three wrong tokens lock an address out, and the right one comes in all the same."""

    async def work() -> None:
        async with served(MemoryStore(SECRET)) as app:
            stranger = Operator(app, WRONG)
            assert [(await stranger.get("/status")).status_code for _ in range(4)] == [401, 401, 401, 429]
            assert (await Operator(app).get("/status")).status_code == 200

    run(work)


def test_it_answers_while_the_store_is_away() -> None:
    """Its start does not fail, and the status says that the store is away."""

    async def work() -> None:
        async with served(AwayStore(SECRET)) as app:
            assert (await Operator(app).get("/status")).json()["store"] == "away"

    run(work)


def test_a_start_that_fails_is_told_to_the_server() -> None:
    """Nothing is served then."""

    def fail() -> Desk:
        raise SettingsError(["SHIELD_REDIS_URL: no"])

    async def work() -> None:
        app = admin_alone(Settings(admin_token=ADMIN, redis_url=REDIS))
        app._open_desk = fail
        record = await call(app, lifespan_scope(), [STARTUP])
        assert record.sent == [{"type": "lifespan.startup.failed", "message": "SHIELD_REDIS_URL: no"}]

    run(work)


@pytest.mark.parametrize(
    ("values", "named"), [({"redis_url": REDIS}, "SHIELD_ADMIN_TOKEN"), ({"admin_token": ADMIN}, "SHIELD_REDIS_URL")]
)
def test_it_needs_a_token_and_a_store_that_processes_share(values: dict[str, str], named: str) -> None:
    """Else it could serve nothing, or change nothing."""
    with pytest.raises(SettingsError, match=named):
        admin_alone(Settings.model_validate(values))
