"""A real botnet against the served event: with the lane the promise is kept, without it the promise is broken."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from shieldmw.cli.demo import live_event_folder
from shieldmw.demo.botnet import BOT_PACE, BOTNET, app_can_do_per_s, app_settings, botnet
from shieldmw.demo.emergency import LEARNT_AFTER_S
from shieldmw.demo.flood import Flood, Spell, promises
from shieldmw.demo.live_event import (
    MEMBER_PACE,
    MEMBERS,
    WORKERS,
    groups,
    issuer,
    serve_command,
    shield_settings,
    tally_of,
)
from shieldmw.rehearsal.load.crowd import Phase, Story
from shieldmw.rehearsal.load.drill import Drill, Span
from shieldmw.rehearsal.load.server import environment, free_port, serving

SECRET = "a secret of the issuer, long enough for HS256"
CALM_S, FLOOD_S = 2.0, 5.0


async def flooded(overload: str) -> Flood:
    """Serve the event and let the botnet come, with no operator there."""
    port = free_port("127.0.0.1")
    url = f"http://127.0.0.1:{port}"
    settings = {**shield_settings(SECRET), **app_settings(), "SHIELD_OVERLOAD": overload}
    members = [group for group in groups(issuer(SECRET, int(time.time()))) if group.name == MEMBERS]
    phases = (
        Phase("calm", CALM_S, {MEMBERS: MEMBER_PACE}),
        Phase("flood", FLOOD_S, {MEMBERS: MEMBER_PACE, BOTNET: BOT_PACE}),
    )
    story = Story((*members, botnet()), phases)
    span = Span(CALM_S + LEARNT_AFTER_S, story.seconds, {name: tally_of(name) for name in (MEMBERS, BOTNET)})
    drill = Drill(story, url, {group.name: tally_of(group.name) for group in story.groups}, [span])
    command = serve_command("127.0.0.1", port)
    async with serving(command, live_event_folder(), environment(os.environ, settings)) as server:
        await server.ready(f"{url}/healthz", 30, lambda _: None)
        await drill.run()
    seconds = span.ends_s - span.begins_s
    return Flood(
        (Spell("all the time", seconds, span.tallies[MEMBERS], span.tallies[BOTNET]),), app_can_do_per_s(WORKERS)
    )


@pytest.mark.parametrize(("overload", "kept"), [("on", [True, True]), ("off", [False, False])])
def test_the_lane_is_what_keeps_the_promise(overload: str, kept: list[bool]) -> None:
    """Members are served within a second and bots are told why not; with the lane off neither is so."""
    found = list(promises(asyncio.run(flooded(overload))))
    assert [promise.kept for promise in found] == kept, [promise.words for promise in found]
