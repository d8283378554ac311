"""Listeners and probes over real sockets, against a small event of the test's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from aiohttp import web

from shieldmw.rehearsal.load.listeners import Arrival, Listeners, refused, told_to_wait_s
from shieldmw.rehearsal.load.propagation import Probes, Propagation

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
HOST = "127.0.0.1"


async def served(handler: Handler, use: Callable[[int], Awaitable[None]]) -> None:
    """Serves the handler on a free port while ``use`` runs."""
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    try:
        await asyncio.wait_for(use(runner.addresses[0][1]), 20)
    finally:
        await runner.cleanup()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  what it waits for is counted by the code under test
        await asyncio.sleep(0.01)


async def stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def line(line_id: int) -> bytes:
    data = json.dumps({"id": line_id, "worker": "a"})
    return f"id: {line_id}\nevent: line\ndata: {data}\n\n".encode()


async def stream(request: web.BaseRequest) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    answer.set_cookie("shield_ticket", "t1")
    await answer.prepare(request)
    return answer


def test_a_listener_is_shed_refused_and_let_in_again_as_a_browser_would_be() -> None:
    """It waits as told each time, shows the cookie it was given, and what it heard is what was sent."""
    cookies: list[str] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        cookies.append(request.headers.get("Cookie", ""))
        if len(cookies) == 2:
            body = {"recording_url": "/recording", "retry_after_ms": 50}
            return web.json_response(body, status=503, headers={"Retry-After": "0"})
        answer = await stream(request)
        await answer.write(line(7) + line(8))
        if len(cookies) == 1:
            await answer.write(b"event: shed\nretry: 20\ndata: {}\n\n")
            return answer
        while True:
            await asyncio.sleep(0.01)
            await answer.write(b": still here\n\n")

    async def use(port: int) -> None:
        arrivals = [Arrival("one", "guests", "127.0.1.1", "/live?token=x", 0.0)]
        listeners = Listeners(arrivals, f"http://{HOST}:{port}", lambda: 0.0)
        running = asyncio.create_task(listeners.run())
        (one,) = listeners.audience.listeners
        await until(lambda: len(one.stays) == 2 and one.stays[1].lines == 2)
        await stopped(running)
        first, second = one.stays
        assert (first.told_why, first.first_id, first.last_id, first.lines) == (True, 7, 8, 2)
        assert first.ended_s is not None
        assert [(answer.status, answer.names_recording) for answer in one.refusals] == [(503, True)]
        assert one.seated
        assert second.ended_s is None, "the end of the drill is not the end of the stream"

    asyncio.run(served(handler, use))
    assert cookies == ["", "shield_ticket=t1", "shield_ticket=t1"]


def test_a_stream_that_is_cut_has_ended_without_a_word() -> None:
    """A reset is no polite goodbye."""
    heard = asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        answer = await stream(request)
        await answer.write(line(1))
        await heard.wait()  # a reset takes along what was not read yet
        assert request.transport is not None
        request.transport.abort()
        return answer

    async def use(port: int) -> None:
        arrivals = [Arrival("one", "guests", "127.0.1.1", "/live", 0.0)]
        listeners = Listeners(arrivals, f"http://{HOST}:{port}", lambda: 0.0)
        running = asyncio.create_task(listeners.run())
        (one,) = listeners.audience.listeners
        await until(lambda: bool(one.stays) and one.stays[0].lines == 1)
        heard.set()
        await until(lambda: one.stays[0].ended_s is not None)
        await stopped(running)
        assert (one.stays[0].told_why, one.stays[0].lines, one.seated) == (False, 1, False)

    asyncio.run(served(handler, use))


def test_a_listener_who_polls_is_in_until_a_poll_is_refused() -> None:
    """It keeps its cookie, polls again and again, and comes back as told; a refusal without a word is no reason."""
    cookies: list[str] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        cookies.append(request.headers.get("Cookie", ""))
        polls = len(cookies)
        if polls in {4, 6}:
            body = {"detail": "Fewer listeners.", "retry_after_ms": 50} if polls == 4 else {"retry_after_ms": 50}
            return web.json_response(body, status=503)
        answer = web.Response(text="#EXTM3U")
        answer.set_cookie("shield_ticket", f"t{polls}")
        return answer

    async def use(port: int) -> None:
        arrivals = [Arrival("one", "guests", "127.0.1.1", "/live.m3u8", 0.0, polls_each_s=0.01)]
        listeners = Listeners(arrivals, f"http://{HOST}:{port}", lambda: 0.0)
        running = asyncio.create_task(listeners.run())
        (one,) = listeners.audience.listeners
        await until(lambda: len(one.stays) == 3)
        await stopped(running)
        assert [stay.told_why for stay in one.stays] == [True, False, False]
        assert [stay.ended_s is None for stay in one.stays] == [False, False, True]
        assert one.stays[1].began_s - one.refusals[0].at_s > 0.04
        assert len(one.refusals) == 2

    asyncio.run(served(handler, use))
    assert cookies[:6] == ["", *(f"shield_ticket=t{polls}" for polls in (1, 2, 3, 3, 5))]


def test_a_poll_without_an_answer_ends_the_stay() -> None:
    """The connection is reset: the seat is lost, and nobody said why."""
    polls: list[web.BaseRequest] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        polls.append(request)
        if len(polls) > 1:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(text="#EXTM3U")

    async def use(port: int) -> None:
        arrivals = [Arrival("one", "guests", "127.0.1.1", "/live.m3u8", 0.0, polls_each_s=0.01)]
        listeners = Listeners(arrivals, f"http://{HOST}:{port}", lambda: 0.0)
        running = asyncio.create_task(listeners.run())
        (one,) = listeners.audience.listeners
        await until(lambda: bool(one.stays) and not one.seated)
        await stopped(running)
        assert (len(one.stays), one.stays[0].told_why, one.refusals) == (1, False, [])

    asyncio.run(served(handler, use))


@pytest.mark.parametrize(
    ("header", "body", "wait_s", "reason"),
    [
        ("4", b'{"retry_after_ms": 3000}', 4.0, "the header is rounded and jittered upward"),
        ("3", b'{"retry_after_ms": 3500}', 3.5, "or the body is longer"),
        (None, b'{"retry_after_ms": 1500}', 1.5, "the body alone"),
        ("2", b"<p>no</p>", 2.0, "the header alone"),
        (None, b"[]", 3.0, "neither: as a browser"),
    ],
)
def test_the_longer_wait_counts(header: str | None, body: bytes, wait_s: float, reason: str) -> None:
    """A listener that comes back earlier than any part of the answer says is refused again."""
    assert told_to_wait_s({} if header is None else {"Retry-After": header}, body) == wait_s, reason


def test_an_answer_that_is_no_problem_names_no_recording() -> None:
    """Only the member counts, not a word somewhere in a page."""
    assert not refused(1.0, 503, b"<p>recording_url</p>").names_recording
    assert refused(1.0, 503, b'{"recording_url": "/r"}').names_recording


def probed(handler: Handler, workers: int) -> Propagation:
    """Six addresses may probe; each worker gets two probes if it can be found."""
    found: list[Propagation] = []

    async def use(port: int) -> None:
        async with Probes(HOST, port, [f"127.0.1.{n}" for n in range(1, 7)], workers, each=2) as probes:
            await probes.prepare()
            found.append(await probes.obeyed())

    asyncio.run(served(handler, use))
    return found[0]


def test_the_last_worker_to_refuse_ends_the_propagation() -> None:
    """Two workers, told apart by connection; one refuses at its third knock, the other at its sixth."""
    knocks: dict[tuple[str, int], int] = {}

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        address, port = request.transport.get_extra_info("peername")
        worker = int(address.rpartition(".")[2]) % 2
        if request.method == "GET":
            return web.json_response({"worker": f"w{worker}"})
        count = knocks[address, port] = knocks.get((address, port), 0) + 1
        return web.Response(status=503 if count >= (3, 6)[worker] else 200)

    propagation = probed(handler, workers=2)
    first, last = propagation.refused_s["w0"], propagation.refused_s["w1"]
    assert first is not None
    assert last is not None
    assert first < last
    assert propagation.after_s(first) == last - first
    assert propagation.after_s(last + 1) == 0.0, "obeyed before the operator had the answer"


def test_a_worker_that_was_not_found_has_not_obeyed() -> None:
    """Nothing is known of it, so nothing is promised."""

    propagation = Propagation({"only": 1.0, "unseen 0": None})
    assert propagation.after_s(0.5) is None
    assert Propagation({}).after_s(0.5) is None


def test_a_door_that_was_never_open_proves_nothing() -> None:
    """A probe that is refused before the flip is no probe."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"worker": "a"}) if request.method == "GET" else web.Response(status=503)

    assert probed(handler, workers=1).after_s(0.0) is None
