"""The gate begins before the first request, once, and ends with the app; the shield can be used again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from math import ceil
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doors.asgi.harness import Record, Server, Step, call, http_scope, run, websocket_scope
from doors.asgi.shields import ok
from doors.asgi.test_same_lifespan import COMPLETE, SHUTDOWN, STARTUP, answers, lifespan_scope
from shieldmw import Settings, ShieldMiddleware
from shieldmw.errors import SettingsError


def shield_of(app: ASGIApp = ok, **settings: Any) -> ShieldMiddleware:
    return ShieldMiddleware(app, Settings(**settings))


# What one gate keeps going in the background, where no path is live.
TASKS_OF_A_GATE = 14


def gates(tasks: Iterable[asyncio.Task[Any]]) -> int:
    """How many gates these tasks are, part of one counted as one, and each task of somebody else as one too."""
    names = [task.get_name() for task in tasks]
    ours = sum(name.startswith("shieldmw") for name in names)
    return len(names) - ours + ceil(ours / TASKS_OF_A_GATE)


def others() -> int:
    """How many gates, and tasks of others, run beside this task."""
    return gates(asyncio.all_tasks()) - 1


def with_lifespan(*turns: str | Exception) -> ASGIApp:
    """The small app, with answers to the lifespan."""
    answer = answers(*turns)()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (answer if scope["type"] == "lifespan" else ok)(scope, receive, send)

    return app


class Served:
    """A shield under a server: its lifespan runs beside the requests."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._ending = asyncio.Event()
        self._server = Server(lifespan_scope(), [STARTUP])

    async def __aenter__(self) -> Served:
        async def receive() -> Any:
            if not self._server.record.received:
                return await self._server.receive()
            await self._ending.wait()
            return SHUTDOWN.message

        self._task = asyncio.create_task(self._run(receive))
        started = asyncio.create_task(self._server.until_sent(1))
        await asyncio.wait((self._task, started), return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        await asyncio.gather(started, return_exceptions=True)
        return self

    async def _run(self, receive: Receive) -> None:
        await self.app(self._server.scope, receive, self._server.send)

    async def __aexit__(self, *_: object) -> None:
        self._ending.set()
        await asyncio.gather(self._task, return_exceptions=True)


def test_nothing_begins_before_it_is_needed() -> None:
    """A shield that is only built runs nothing, and needs no event loop."""
    shield = shield_of()

    async def count() -> int:
        await asyncio.sleep(0)
        return others()

    assert run(count()) == 0
    assert isinstance(shield, ShieldMiddleware)


LIVE_RULES = '[{"name": "live", "path": "/live", "live": true}]'


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({}, set()),
        ({"live_paths": "/live"}, {"shieldmw streams", "shieldmw expulsion"}),
        ({"rules": LIVE_RULES}, {"shieldmw streams", "shieldmw expulsion"}),
        ({"live_paths": "/live", "streams_per_member": 0, "streams_per_address": 0}, {"shieldmw expulsion"}),
    ],
)
def test_streams_are_looked_after_where_there_can_be_any(settings: dict[str, Any], more: set[str]) -> None:
    """Their caps only where there are caps; without a live path neither those nor whose credential is over."""

    async def serve() -> list[str]:
        await call(shield_of(**settings), http_scope())
        return [name for task in asyncio.all_tasks() if (name := task.get_name()).startswith("shieldmw")]

    names = run(serve())
    assert len(names) == TASKS_OF_A_GATE + len(more)
    assert {name for name in names if name in ("shieldmw streams", "shieldmw expulsion")} == more


def test_it_begins_at_startup_before_the_app_hears_of_it() -> None:
    """When the app gets its startup message the gate runs already, and no request is needed for it."""
    seen: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        seen.append(others())
        await send({"type": COMPLETE[0]})

    run(call(shield_of(app), lifespan_scope(), [STARTUP]))
    assert seen == [1]


@pytest.mark.parametrize("scope", [http_scope(), websocket_scope()], ids=["http", "websocket"])
def test_it_begins_at_the_first_request_where_there_is_no_lifespan(scope: Scope) -> None:
    """A server that sends no lifespan gets a gate all the same, with the first request of either kind."""

    async def serve() -> tuple[int, int]:
        shield = shield_of()
        before = others()
        await call(shield, scope)
        return before, others()

    assert run(serve()) == (0, 1)


@pytest.mark.parametrize(
    "lifespan",
    [answers(ValueError("not supported"), reads=False), answers()],
    ids=["app raises at once", "app returns at once"],
)
def test_it_begins_at_the_first_request_where_the_app_knows_no_lifespan(lifespan: Callable[[], ASGIApp]) -> None:
    """An app without a lifespan is served too: its first request starts the gate."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (lifespan() if scope["type"] == "lifespan" else ok)(scope, receive, send)

    async def serve() -> tuple[int, int, int]:
        shield = shield_of(app)
        await call(shield, lifespan_scope(), [STARTUP])
        before = others()
        return before, (await call(shield, http_scope())).status, others()

    assert run(serve()) == (0, 200, 1)


def test_fifty_first_requests_at_once_start_it_once() -> None:
    """However many requests find no gate, one is started, and every one of them is decided by it."""

    async def serve() -> tuple[list[int], int]:
        shield = shield_of(ip_limit="40/day", overload="off")
        records = await asyncio.gather(*(call(shield, http_scope()) for _ in range(50)))
        return sorted(record.status for record in records), others()

    assert run(serve()) == ([200] * 40 + [429] * 10, 1)


@pytest.mark.parametrize("last", [COMPLETE[1], "lifespan.shutdown.failed"])
def test_it_ends_at_shutdown_before_the_server_hears_of_it(last: str) -> None:
    """Nothing of the shield runs when the server is told that the shutdown is complete, or has failed."""

    async def serve() -> tuple[int, list[int]]:
        before = asyncio.all_tasks()
        after: list[int] = []
        shield = shield_of(with_lifespan(COMPLETE[0], last))
        server = Server(lifespan_scope(), [STARTUP, SHUTDOWN])

        async def send(message: Any) -> None:
            after.append(gates(asyncio.all_tasks() - before))
            await server.send(message)

        await shield(server.scope, server.receive, send)
        return gates(asyncio.all_tasks() - before), after

    assert run(serve()) == (0, [1, 0])


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (("lifespan.startup.failed",), "a startup that failed is no start: no shutdown will follow"),
        ((COMPLETE[0], RuntimeError("at shutdown")), "an app that fails at shutdown ends it too"),
        ((COMPLETE[0],), "an app that leaves its lifespan early has ended it"),
        ((RuntimeError("at startup"),), "a startup that raised is no start; the first request starts the gate again"),
    ],
)
def test_nothing_is_left_when_the_lifespan_ends_badly(turns: tuple[str | Exception, ...], reason: str) -> None:
    """However the app's lifespan ends, nothing of the shield runs after it."""

    async def serve() -> int:
        await call(shield_of(with_lifespan(*turns)), lifespan_scope(), [STARTUP, SHUTDOWN])
        return others()

    assert run(serve()) == 0, reason


def test_it_works_again_after_shutdown_and_startup() -> None:
    """The same instance is served three times one after the other; its buckets last, its tasks do not."""

    async def serve() -> tuple[list[tuple[int, int]], int]:
        shield = shield_of(with_lifespan(*COMPLETE), ip_limit="2/day")
        seen = []
        for _ in range(3):
            async with Served(shield):
                status = (await call(shield, http_scope())).status
                seen.append((status, others()))
        return seen, others()

    # Beside the shield's one task there is the one that plays the server.
    assert run(serve()) == ([(200, 2), (200, 2), (429, 2)], 0)


def test_a_request_after_shutdown_is_still_decided() -> None:
    """A late request finds no gate, and gets one rather than an error."""

    async def serve() -> list[int]:
        shield = shield_of(with_lifespan(*COMPLETE), ip_limit="1/day")
        await call(shield, lifespan_scope(), [STARTUP, SHUTDOWN])
        return [(await call(shield, http_scope())).status for _ in range(2)]

    assert run(serve()) == [200, 429]


def test_startup_after_the_first_request_starts_no_second_gate() -> None:
    """A lifespan that comes late finds the gate of the first request and ends it at its shutdown."""

    async def serve() -> tuple[int, int]:
        shield = shield_of(with_lifespan(*COMPLETE))
        await call(shield, http_scope())
        async with Served(shield):
            during = others()
        return during, others()

    assert run(serve()) == (2, 0)


def test_one_instance_serves_several_loops_one_after_the_other() -> None:
    """The buckets of memory:// belong to the instance, its gate to a loop: a second loop goes on with a new gate."""
    shield = shield_of(ip_limit="3/day")

    async def ask(times: int) -> tuple[list[int], int]:
        return [(await call(shield, http_scope())).status for _ in range(times)], others()

    assert run(ask(2)) == ([200, 200], 1)
    assert run(ask(2)) == ([200, 429], 1)


def test_two_loops_that_take_turns_have_one_gate_each() -> None:
    """Where two loops are both alive, each has its gate, however often the requests change between them."""
    shield = shield_of()
    loops = [asyncio.new_event_loop() for _ in range(2)]
    try:
        for _ in range(5):
            for loop in loops:
                assert loop.run_until_complete(call(shield, http_scope())).status == 200
        assert [gates(asyncio.all_tasks(loop)) for loop in loops] == [1, 1]
    finally:
        for loop in loops:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.close()


def test_instances_side_by_side_have_buckets_of_their_own() -> None:
    """Two shields in one process neither share a bucket nor end each other."""

    async def serve() -> tuple[list[int], int, int]:
        one, two = (shield_of(with_lifespan(*COMPLETE), ip_limit="1/day") for _ in range(2))
        statuses = [(await call(shield, http_scope())).status for shield in (one, one, two, two)]
        both = others()
        await call(one, lifespan_scope(), [STARTUP, SHUTDOWN])
        return statuses, both, others()

    assert run(serve()) == ([200, 429, 200, 429], 2, 1)


def test_instances_inside_each_other_both_decide() -> None:
    """A shield around a shield: a request passes both, the app sees the inner one's verdict, both end together."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await answers(*COMPLETE)()(scope, receive, send)
            return
        seen.append(str(scope["shield"].client_address))
        await ok(scope, receive, send)

    async def serve() -> tuple[list[int], int, int, Record]:
        inner = shield_of(app, ip_limit="2/day")
        outer = shield_of(inner, ip_limit="3/day")
        async with Served(outer):
            records = [await call(outer, http_scope()) for _ in range(4)]
            during = others()
        return [record.status for record in records], during, others(), records[0]

    statuses, during, after, first = run(serve())
    assert statuses == [200, 200, 429, 429]
    assert (during, after) == (3, 0)
    assert seen == ["203.0.113.7"] * 2
    assert [value.partition(b";")[2] for value in first.values(b"ratelimit-policy")] == [b"q=2;w=86400", b"q=3;w=86400"]


def test_one_instance_under_two_servers_ends_with_either_and_goes_on() -> None:
    """Two servers of one process share an instance: when one of them ends, the other is still served."""

    async def serve() -> tuple[list[int], int]:
        shield = shield_of(with_lifespan(*COMPLETE), ip_limit="2/day")
        async with Served(shield):
            async with Served(shield):
                statuses = [(await call(shield, http_scope())).status]
            statuses += [(await call(shield, http_scope())).status for _ in range(2)]
        return statuses, others()

    assert run(serve()) == ([200, 200, 429], 0)


def test_it_serves_a_client_that_knows_no_lifespan() -> None:
    """httpx sends requests straight into the app, each test of a user in a loop of its own."""

    async def ask(shield: ShieldMiddleware) -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(shield), base_url="http://x") as client:
            return [(await client.get("/")).status_code for _ in range(2)]

    shield = shield_of(ip_limit="3/day")
    assert run(ask(shield)) == [200, 200]
    assert run(ask(shield)) == [200, 429]


def test_the_lifespan_hands_over_each_message_once() -> None:
    """Startup is read by the app once and in its turn, also where the gate began with a request before."""

    async def serve() -> Record:
        shield = shield_of(with_lifespan(*COMPLETE))
        await call(shield, http_scope())
        return await call(shield, lifespan_scope(), [STARTUP, Step(SHUTDOWN.message, after_sent=1)])

    record = run(serve())
    assert record.received == ["lifespan.startup", "lifespan.shutdown"]
    assert [message["type"] for message in record.sent] == list(COMPLETE)


def test_wrong_settings_stop_the_start_where_the_middleware_is_made_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starlette makes it in the lifespan; what is raised there servers take for an app without one, and serve on."""
    monkeypatch.setenv("SHIELD_JWT_LEEWAY", "abc")
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return STARTUP.message

    async def serve() -> None:
        app = Starlette(middleware=[Middleware(ShieldMiddleware)])
        await app(lifespan_scope(), receive, send)

    with pytest.raises(SettingsError, match="SHIELD_JWT_LEEWAY='abc'"):
        asyncio.run(serve())
    assert sent == [{"type": "lifespan.startup.failed", "message": "SHIELD_JWT_LEEWAY='abc': write a whole number"}]


def test_wrong_settings_raise_at_once_where_no_loop_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that is wrapped when its module is loaded fails there."""
    monkeypatch.setenv("SHIELD_JWT_LEEWAY", "abc")
    with pytest.raises(SettingsError, match="SHIELD_JWT_LEEWAY='abc'"):
        ShieldMiddleware(ok)
