"""Requests with bodies, and slow clients: a request that lost its place in the app comes back through the lane."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest
from starlette.types import Message, Receive, Scope, Send

from doors.asgi.harness import Step, call, http_scope, run
from gate.overload.lanes import gatekeeper
from shieldmw import Settings, ShieldMiddleware
from shieldmw.core.concurrency import Intake
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.lane import Rank
from shieldmw.doors.asgi.passages import Upload
from shieldmw.gate.overload.gatekeeper import Gatekeeper, Passage

PIECES: Sequence[Message] = (
    {"type": "http.request", "body": b"a", "more_body": True},
    {"type": "http.request", "body": b"b", "more_body": False},
)
SHED = Decision(Verdict.REFUSED, Reason.OVERLOAD, None)


def pieces() -> Receive:
    """A client that sends all of them, and is there until the end of time."""
    left = list(PIECES)

    async def receive() -> Message:
        assert left, "nothing more is received"
        return left.pop(0)

    return receive


async def sent(message: Message) -> None:
    """Take a message."""


def slow(keeper: Gatekeeper) -> None:
    """The client takes its time: those who entered until now hold no places any more."""
    keeper.lane.places.young, keeper.lane.places.old = Intake(), Intake()


def told(story: Callable[[Gatekeeper, Passage], Awaitable[None]]) -> None:
    """Tell the story of one request inside the app."""

    async def telling() -> None:
        keeper = gatekeeper()
        passage = keeper.enter_now(Rank.GUEST)
        assert passage is not None
        await story(keeper, passage)
        passage.end()
        assert keeper.lane.places.inside == 0

    run(telling())


async def never() -> Passage | Decision:
    """Nobody comes back who has not gone."""
    raise AssertionError


def test_who_sends_in_time_keeps_the_place() -> None:
    """It is asked for once, however many pieces there are."""

    async def story(keeper: Gatekeeper, passage: Passage) -> None:
        settled: list[Decision | None] = []
        upload = Upload(passage, never, settled.append, pieces(), sent)
        assert [await upload.receive() for _ in PIECES] == list(PIECES)
        assert settled == [None], "once, when it is whole"
        assert keeper.lane.places.inside == 1

    told(story)


def test_who_was_slow_comes_back_through_the_lane() -> None:
    """And holds one place then, whichever piece it was late with."""

    async def story(keeper: Gatekeeper, passage: Passage) -> None:
        async def enter() -> Passage | Decision:
            again = keeper.enter_now(Rank.GUEST)
            assert again is not None
            return again

        settled: list[Decision | None] = []
        upload = Upload(passage, enter, settled.append, pieces(), sent)
        for piece in PIECES:
            slow(keeper)
            assert keeper.lane.places.inside == 0
            assert await upload.receive() == piece
            assert keeper.lane.places.inside == 1

    told(story)


def test_who_was_slow_and_finds_the_lane_full_is_gone_for_the_app() -> None:
    """It receives no more, and sends nothing: the refusal is sent instead."""

    async def story(keeper: Gatekeeper, passage: Passage) -> None:
        async def enter() -> Passage | Decision:
            return SHED

        settled: list[Decision | None] = []
        upload = Upload(passage, enter, settled.append, pieces(), sent)
        slow(keeper)
        for _ in range(3):
            assert await upload.receive() == {"type": "http.disconnect"}
            assert settled == [SHED]
        assert upload.refusal is SHED
        with pytest.raises(OSError, match="turned away"):
            await upload.send({"type": "http.response.start", "status": 200})

    told(story)


def test_who_disconnects_after_a_while_needs_no_place() -> None:
    """The lane is for those who wait for an answer."""

    async def story(keeper: Gatekeeper, passage: Passage) -> None:
        async def receive() -> Message:
            return {"type": "http.disconnect"}

        settled: list[Decision | None] = []
        upload = Upload(passage, never, settled.append, receive, sent)
        slow(keeper)
        assert await upload.receive() == {"type": "http.disconnect"}

    told(story)


def test_who_is_answered_already_needs_no_place() -> None:
    """An app may answer before it has received all."""

    async def story(keeper: Gatekeeper, passage: Passage) -> None:
        settled: list[Decision | None] = []
        upload = Upload(passage, never, settled.append, pieces(), sent)
        passage.begun("page")
        slow(keeper)
        assert [await upload.receive() for _ in PIECES] == list(PIECES)

    told(story)


@pytest.mark.parametrize("is_shed", [True, False])
def test_an_answer_that_begins_while_its_upload_waits_is_the_only_one(is_shed: bool) -> None:
    """Whatever the lane says then: nothing is refused any more, and no place is taken."""

    async def story(keeper: Gatekeeper, passage: Passage) -> None:
        async def enter() -> Passage | Decision:
            passage.end()
            await upload.send({"type": "http.response.start", "status": 200})
            again = keeper.enter_now(Rank.GUEST)
            assert again is not None
            if is_shed:
                again.end()
            return SHED if is_shed else again

        settled: list[Decision | None] = []
        upload = Upload(passage, enter, settled.append, pieces(), sent)
        slow(keeper)
        assert await upload.receive() == PIECES[0]
        assert upload.refusal is None
        assert keeper.lane.places.inside == 0

    told(story)


@pytest.mark.parametrize("raises", [True, False])
def test_a_slow_upload_that_is_turned_away_is_answered_once(raises: bool) -> None:
    """503 in the app's place, which may fail or answer as it likes once its client has gone."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        overload = shield._worker.overload if shield._worker is not None else None
        assert overload is not None
        slow_places = overload.lane.places
        slow_places.young, slow_places.old = Intake(), Intake()
        full = [overload.lane.places.enter() for _ in range(slow_places.limit)]
        for _ in range(5000):
            overload._keeper.queue(Rank.GUEST)
        message = await receive()
        for intake in full:
            intake.count -= 1
        assert message == {"type": "http.disconnect"}
        if raises:
            raise RuntimeError("the client has gone")
        await send({"type": "http.response.start", "status": 400, "headers": []})

    async def story() -> None:
        record = await call(shield, http_scope(method="POST"), [Step(PIECES[1])])
        assert record.status == 503
        assert len(record.of("http.response.start")) == 1
        assert record.raised is None

    shield = ShieldMiddleware(app, Settings(max_in_flight=1, queue_ms=1, hold_ms=0))
    run(story())
