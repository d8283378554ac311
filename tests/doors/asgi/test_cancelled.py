"""A client may disconnect at any await: the shield stays usable, and nothing is charged twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doors.asgi.harness import CONNECT, Server, Step, body, call, http_scope, run, websocket_scope
from doors.asgi.shields import ok, part, start
from doors.asgi.test_lifecycle import others, shield_of, with_lifespan
from doors.asgi.test_same_lifespan import COMPLETE, SHUTDOWN, STARTUP, lifespan_scope
from shieldmw import Identity, Settings, ShieldMiddleware

# More turns of the loop than any request below takes, so that the last ones are not cancelled at all.
MOST_TURNS = 40


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Waits at each of its steps."""
    if scope["type"] == "lifespan":
        await with_lifespan(*COMPLETE)(scope, receive, send)
        return
    await receive()
    await asyncio.sleep(0)
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await receive()
        return
    await send(start())
    await send(part(b"a", more=True))
    await asyncio.sleep(0)
    await send(part(b"b"))


async def thoughtful(scope: Scope) -> Identity | None:
    """A check of the host app that waits."""
    for _ in range(3):
        await asyncio.sleep(0)
    return Identity("alice")


async def cancelled_after(turns: int, app: ASGIApp, scope: Scope, steps: list[Step]) -> bool:
    """Cancel a call after so many turns of the loop; whether that ended it."""
    task = asyncio.create_task(call(app, dict(scope), steps))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return task.cancelled()


SCRIPTS = {
    "http": (http_scope(), body(b"x")),
    "websocket": (websocket_scope(), [CONNECT, Step({"type": "websocket.disconnect", "code": 1000}, 1)]),
    "refused": (http_scope(client=("192.0.2.66", 1)), body(b"x")),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_first_request_may_be_cancelled_at_every_turn(script: str) -> None:
    """Also the request that starts the gate: the next one finds a gate that works, and only one."""
    scope, steps = SCRIPTS[script]

    async def serve(turns: int) -> bool:
        shield = ShieldMiddleware(slow, Settings(token_limit="2/day", ip_limit="off"), authenticate=thoughtful)
        cut = await cancelled_after(turns, shield, scope, steps)
        statuses = [(await call(shield, http_scope(), body(b""))).status for _ in range(3)]
        # The cancelled one was charged once or not at all.
        assert statuses in ([200, 200, 429], [200, 429, 429]), turns
        assert others() == 1, turns
        await call(shield, lifespan_scope(), [STARTUP, SHUTDOWN])
        assert others() == 0, turns
        return cut

    cuts = [run(serve(turns)) for turns in range(MOST_TURNS)]
    assert cuts[0]
    assert not cuts[-1]
    assert sum(cuts) >= 5, "the request has await points to be cancelled at"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_hundred_requests_cancelled_at_every_turn_leave_it_usable(script: str) -> None:
    """One instance, many clients that go at different moments while others stay: those who stay are served."""
    scope, steps = SCRIPTS[script]

    async def serve() -> None:
        shield = ShieldMiddleware(slow, Settings(token_limit="100/day"), authenticate=thoughtful)
        leaving = [cancelled_after(n % MOST_TURNS, shield, scope, steps) for n in range(100)]
        staying = [call(shield, http_scope(), body(b"")) for _ in range(20)]
        *_, records = await asyncio.gather(asyncio.gather(*leaving), asyncio.gather(*staying))
        assert {record.status for record in records} <= {200, 429}
        assert others() == 1

    run(serve())


def test_one_of_fifty_first_requests_goes() -> None:
    """Those who wait for the same start are not cancelled with the one that began it."""

    async def serve() -> list[int]:
        shield = shield_of(ip_limit="off")
        tasks = [asyncio.create_task(call(shield, http_scope())) for _ in range(50)]
        await asyncio.sleep(0)
        for task in tasks[:10]:
            task.cancel()
        done = await asyncio.gather(*tasks[10:])
        assert all(task.cancelled() for task in tasks[:10])
        assert others() == 1
        return [record.status for record in done]

    assert run(serve()) == [200] * 40


def test_a_startup_that_is_cancelled_can_be_tried_again() -> None:
    """A server that gives up its startup leaves an instance that starts the next time."""

    async def serve(turns: int) -> tuple[int, int]:
        shield = shield_of(with_lifespan(*COMPLETE))
        await cancelled_after(turns, shield, lifespan_scope(), [STARTUP])
        record = await call(shield, lifespan_scope(), [STARTUP, SHUTDOWN])
        return len(record.sent), others()

    for turns in range(6):
        assert run(serve(turns)) == (2, 0), turns


def raising(at: str) -> tuple[ShieldMiddleware, Callable[[Server], tuple[Receive, Send]], list[str]]:
    """A shield, and a server whose one part cancels the request from inside."""
    reached: list[str] = []

    async def authenticate(scope: Scope) -> Identity | None:
        if at == "authenticate" and not reached:
            reached.append(at)
            raise asyncio.CancelledError
        return None

    def channel(server: Server) -> tuple[Receive, Send]:
        async def receive() -> Message:
            if at == "receive":
                reached.append(at)
                raise asyncio.CancelledError
            return await server.receive()

        async def send(message: Message) -> None:
            if at in (message["type"], "first send"):
                reached.append(at)
                raise asyncio.CancelledError
            await server.send(message)

        return receive, send

    return ShieldMiddleware(slow, Settings(ip_limit="1/day"), authenticate=authenticate), channel, reached


@pytest.mark.parametrize(
    ("at", "before", "then", "reason"),
    [
        ("authenticate", 0, 200, "nothing was charged yet"),
        ("receive", 0, 429, "it was charged: the app had begun"),
        ("http.response.start", 0, 429, "the same, in the app's answer"),
        ("http.response.body", 0, 429, "the same, later"),
        ("first send", 1, 429, "in the middle of a refusal"),
    ],
)
def test_a_cancellation_comes_through_from_wherever_it_is_raised(at: str, before: int, then: int, reason: str) -> None:
    """The shield never catches a cancellation, not even one out of the host app's own check."""

    async def serve() -> tuple[list[str], int, int]:
        shield, channel, reached = raising(at)
        for _ in range(before):
            await call(shield, http_scope(), body(b""))
        server = Server(http_scope(), body(b""))
        with pytest.raises(asyncio.CancelledError):
            await shield(server.scope, *channel(server))
        return reached, (await call(shield, http_scope(), body(b""))).status, others()

    assert run(serve()) == ([at], then, 1), reason


def test_a_cancelled_app_is_not_hidden() -> None:
    """An app that is cancelled inside ends the call the same way, and the next call is fine."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/cancel":
            raise asyncio.CancelledError
        await ok(scope, receive, send)

    async def serve() -> int:
        shield = shield_of(app)
        with pytest.raises(asyncio.CancelledError):
            await call(shield, http_scope("/cancel"))
        return (await call(shield, http_scope())).status

    assert run(serve()) == 200
