"""Real load over real sockets, against a small server of the test's own: the counts are correct."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from aiohttp import web

from shieldmw.rehearsal.load.crowd import Ask, Client, Group, Pace, Phase, Story
from shieldmw.rehearsal.load.drill import Drill, Span, missing_sources, outcome_of
from shieldmw.rehearsal.load.tally import Allowance, Counts, GroupTally, Outcome

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def asking(*paths: str, **headers: str) -> Callable[[Random], Ask]:
    return lambda rng: Ask(rng.choice(paths), headers)


def story_of(*clients: Client, pace: Pace, seconds: float = 0.5, impatient: bool = False) -> Story:
    return Story((Group("crowd", clients, impatient),), (Phase("all", seconds, {"crowd": pace}),))


def crowd() -> GroupTally:
    return GroupTally("crowd", Allowance(10, 10))


def drilled(handler: Handler, story: Story, *spans: Span) -> Drill:
    """Serves the handler on a free port and runs the story against it."""

    async def run() -> Drill:
        server = web.Server(handler)
        runner = web.ServerRunner(server)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        drill = Drill(story, f"http://{host}:{port}", {"crowd": crowd()}, spans)
        try:
            await asyncio.wait_for(drill.run(), 20)
        finally:
            await runner.cleanup()
        return drill

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "content_type", "outcome"),
    [
        (200, "text/html", Outcome.SERVED),
        (307, "text/plain", Outcome.SERVED),
        (404, "application/problem+json", Outcome.APP_ERROR),
        (429, "application/problem+json", Outcome.REFUSED),
        (429, "text/html", Outcome.REFUSED),
        (500, "text/plain", Outcome.APP_ERROR),
        (503, "text/plain", Outcome.APP_ERROR),
        (503, "application/problem+json", Outcome.TURNED_AWAY),
    ],
)
def test_each_answer_has_one_outcome(status: int, content_type: str, outcome: Outcome) -> None:
    """A refusal is told from a failure by its status and, for 503, by its being explained."""
    assert outcome_of(status, content_type) is outcome


def test_each_client_comes_from_its_own_address_with_its_own_headers_and_paths() -> None:
    """The server sees the source address, the exact spelling of the path and the headers of each client."""
    seen: set[tuple[str, str, str]] = set()

    async def handler(request: web.BaseRequest) -> web.Response:
        seen.add((request.remote or "", request.raw_path, request.headers.get("X-Real-IP", "")))
        return web.Response(text="hello")

    story = story_of(
        Client("a", "127.0.1.1", asking("//api/now")),
        Client("b", "127.0.1.2", asking("/api/./now")),
        Client("c", "127.0.1.2", asking("/%61pi/x/../now", **{"X-Real-IP": "1.2.3.4"})),
        pace=Pace(20),
    )
    drill = drilled(handler, story)
    assert seen == {
        ("127.0.1.1", "//api/now", ""),
        ("127.0.1.2", "/api/./now", ""),
        ("127.0.1.2", "/%61pi/x/../now", "1.2.3.4"),
    }
    assert drill.tallies["crowd"].counts() == Counts(asked=30, served=30)


def test_served_and_refused_are_counted_for_each_client_and_one_refusal_is_kept() -> None:
    """A server that lets each address have four requests: the tallies say exactly that, and show a refusal."""
    had: Counter[str] = Counter()

    async def handler(request: web.BaseRequest) -> web.Response:
        had[request.remote or ""] += 1
        if had[request.remote or ""] <= 4:
            return web.Response(text="hello")
        return web.Response(status=429, text='{"title":"Slow down"}', headers={"Retry-After": "7"})

    names = ("127.0.1.1", "127.0.1.2")
    drill = drilled(handler, story_of(*(Client(n, n, asking("/")) for n in names), pace=Pace(20, lanes=2)))
    for name in names:
        assert drill.tallies["crowd"].clients[name].counts == Counts(asked=10, served=4, refused=6)
    ((kind, refusal),) = drill.refusals.items()
    assert kind == (429, "Slow down")
    assert refusal.status_line == "HTTP/1.1 429 Too Many Requests"
    assert ("Retry-After", "7") in refusal.headers
    assert refusal.body == '{"title":"Slow down"}'


def test_a_refusal_of_each_kind_is_kept() -> None:
    """Two answers of the same status that say different things are both there."""
    titles = iter(("Busy", "Full", "Busy") * 10)

    async def handler(_request: web.BaseRequest) -> web.Response:
        return web.json_response({"title": next(titles)}, status=503, content_type="application/problem+json")

    drill = drilled(handler, story_of(Client("a", "127.0.1.1", asking("/")), pace=Pace(20)))
    assert drill.tallies["crowd"].counts() == Counts(asked=10, turned_away=10)
    assert list(drill.refusals) == [(503, "Busy"), (503, "Full")]


def test_a_span_counts_what_is_due_in_it() -> None:
    """By when a request was due: one that is sent late, or answered after the end, belongs to the span all the same."""

    async def handler(_request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(0.2)
        return web.Response()

    first, nobodys = Span(0.0, 0.25, {"crowd": crowd()}), Span(0.0, 0.5, {})
    story = story_of(Client("a", "127.0.1.1", asking("/")), pace=Pace(20))
    drill = drilled(handler, story, first, nobodys)
    assert drill.tallies["crowd"].counts() == Counts(asked=10, served=10)
    assert first.tallies["crowd"].counts() == Counts(asked=5, served=5)
    slowest_s = first.tallies["crowd"].latencies.quantile_s(1.0)
    assert slowest_s is not None
    assert slowest_s > 0.6


def test_a_stream_that_never_ends_does_not_hold_its_client() -> None:
    """That an event stream began is the answer; the client does not wait for its end."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        while True:
            await answer.write(b"data: x\n\n")
            await asyncio.sleep(0.01)

    drill = drilled(handler, story_of(Client("a", "127.0.1.1", asking("/live")), pace=Pace(20)))
    assert drill.tallies["crowd"].counts() == Counts(asked=10, served=10)


def test_a_connection_cut_before_the_answer_is_a_lost_request() -> None:
    """A reset is neither served nor refused, and the client goes on asking."""

    async def handler(request: web.BaseRequest) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    drill = drilled(handler, story_of(Client("a", "127.0.1.1", asking("/")), pace=Pace(20)))
    assert drill.tallies["crowd"].counts() == Counts(asked=10, lost=10)


def test_a_stall_delays_the_patient_and_shows_in_their_times() -> None:
    """Requests that had to wait behind a stalled one are sent late, and their times include the waiting."""
    calls = iter(range(100))

    async def handler(_request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(0.4 if next(calls) == 0 else 0)
        return web.Response()

    drill = drilled(handler, story_of(Client("a", "127.0.1.1", asking("/")), pace=Pace(20)))
    crowd = drill.tallies["crowd"]
    assert crowd.counts() == Counts(asked=10, served=10)
    median = crowd.latencies.quantile_s(0.5)
    assert median is not None
    assert median > 0.1


def test_the_impatient_drop_what_is_overdue() -> None:
    """An attacker behind its schedule does not catch up: its rate stays bounded whatever the server does."""

    async def handler(_request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(0.2)
        return web.Response()

    story = story_of(Client("a", "127.0.1.1", asking("/")), pace=Pace(100), impatient=True)
    counts = drilled(handler, story).tallies["crowd"].counts()
    assert counts.asked <= 5
    assert counts.served == counts.asked


def test_an_address_that_is_not_this_machines_is_missing() -> None:
    """Addresses to send from are tried before the drill begins (192.0.2.0/24 is nobody's, RFC 5737)."""
    assert missing_sources(["127.0.0.1", "192.0.2.1"]) == ["192.0.2.1"]
