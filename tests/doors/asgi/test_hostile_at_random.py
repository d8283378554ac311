"""A short run of ``asgi/hostile.py``, with the same inputs each time."""

from __future__ import annotations

import pytest

from doors.asgi.harness import Record, call, http_scope, run
from doors.asgi.hostile import ADMIN, BASE, app, ask_shields, raised_by_readers
from shieldmw import Settings, ShieldMiddleware


@pytest.mark.parametrize("seed", range(4))
def test_every_reader_bears_what_comes(seed: int) -> None:
    """Nothing is raised but what says that an input is wrong."""
    assert not raised_by_readers(seed, 2_000)


@pytest.mark.parametrize("seed", range(4))
def test_the_shield_bears_what_comes(seed: int) -> None:
    """Nothing is raised, no answer is a 500, no header has a line end, every log line can be written."""
    asking = run(ask_shields(seed, 1_500))
    assert not asking.raised
    assert {200, 401, 404, 429} <= set(asking.statuses)


def test_a_method_that_no_text_can_hold_is_told_which_there_are() -> None:
    """The operator's routes answer 405, whatever a server hands on as a method."""

    async def story() -> Record:
        shield = ShieldMiddleware(app, Settings(**BASE))
        headers = [(b"authorization", b"Bearer " + ADMIN.encode())]
        return await call(shield, http_scope("/-/shield/status", "\ud800", headers=headers))

    record = run(story())
    assert (record.raised, record.status) == (None, 405)
