"""The promises in a flood, for hand-made counts."""

from __future__ import annotations

import pytest

from shieldmw.demo.flood import Flood, Spell, promises
from shieldmw.rehearsal.load.tally import Allowance, GroupTally, Outcome

SERVED, REFUSED, TURNED_AWAY, LOST = Outcome.SERVED, Outcome.REFUSED, Outcome.TURNED_AWAY, Outcome.LOST


def group(*answers: tuple[Outcome, int, float]) -> GroupTally:
    """Answers: what they were, how many, and how long each took."""
    made = GroupTally("group", Allowance(5, 20))
    for outcome, count, took_s in answers:
        for _ in range(count):
            made.of("one").sending(0.0)
            made.of("one").ended(outcome, took_s, took_s)
            made.latencies.add(took_s)
    return made


def flood(members: GroupTally, bots: GroupTally) -> Flood:
    """Ten seconds before an app that can do ten a second."""
    return Flood((Spell("all the time", 10.0, members, bots),), 10.0)


GOOD_MEMBERS = group((SERVED, 95, 0.2), (SERVED, 5, 1.5))
GOOD_BOTS = group((SERVED, 90, 0.2), (TURNED_AWAY, 210, 0.4))


def test_a_flood_as_promised() -> None:
    """The words hold the figures: how many times, the share, the slowest of a hundred, what bots were told."""
    for_members, for_bots = promises(flood(GOOD_MEMBERS, GOOD_BOTS))
    assert for_members.kept
    assert for_bots.kept
    assert "asked for 3.0 times what the app can do, all the time, 95.00 % of the members'" in for_members.words
    assert "(95 of 100, p99 1" in for_members.words
    assert "210 were told 503 temporary-reduced-capacity" in for_bots.words


@pytest.mark.parametrize(
    ("members", "bots", "kept", "reason"),
    [
        (group((SERVED, 94, 0.2), (SERVED, 6, 1.5)), GOOD_BOTS, (False, True), "served, but too late"),
        (group((SERVED, 94, 0.2), (TURNED_AWAY, 6, 0.1)), GOOD_BOTS, (False, True), "prompt, but no service"),
        (group((SERVED, 94, 0.2), (LOST, 6, 5.0)), GOOD_BOTS, (False, True), "never answered"),
        (group(), GOOD_BOTS, (False, True), "no members, no evidence"),
        (GOOD_MEMBERS, group((SERVED, 100, 0.2), (TURNED_AWAY, 49, 0.4)), (False, True), "no flood, no evidence"),
        (GOOD_MEMBERS, group((SERVED, 300, 0.2)), (True, False), "nobody was turned away: it did not drown the app"),
        (
            GOOD_MEMBERS,
            group((SERVED, 90, 0.2), (TURNED_AWAY, 209, 0.4), (REFUSED, 1, 0.1)),
            (True, False),
            "a bot over a limit is another matter",
        ),
        (
            GOOD_MEMBERS,
            group((SERVED, 90, 0.2), (TURNED_AWAY, 206, 0.4), (LOST, 4, 5.0)),
            (True, False),
            "bots that hear nothing",
        ),
    ],
)
def test_each_promise_can_be_broken(
    members: GroupTally, bots: GroupTally, kept: tuple[bool, bool], reason: str
) -> None:
    """What is promised to members, and what bots are told, each for itself."""
    assert tuple(promise.kept for promise in promises(flood(members, bots))) == kept, reason
