"""Players without cookies, which ask for the same URL again and again: the ticket in it never changes."""

from __future__ import annotations

import pytest

from gate.doubles import run
from gate.seats.test_polled import Fleet, G, Viewer, fleet, viewers
from shieldmw.core.cache import BoundedCache
from shieldmw.core.tickets import TICKET_S


def with_a_ticket_in_its_url(all_of_them: Fleet, number: int) -> Viewer:
    """A player that has the ticket of its first poll, and takes no other."""
    viewer = Viewer(G, number)
    all_of_them.polls(viewer)
    viewer.keeps_ticket = False
    assert viewer.ticket is not None
    return viewer


@pytest.mark.parametrize("for_s", [200, TICKET_S + 200], ids=["several leases", "longer than a ticket lives"])
def test_a_player_keeps_its_seat_by_an_old_copy(for_s: int) -> None:
    """It holds one seat for as long as it polls, in a house that others want to enter; then the seat is free."""

    async def story() -> None:
        async with fleet(1, 3, ticket_in_playlists=True) as all_of_them:
            players = [with_a_ticket_in_its_url(all_of_them, number) for number in range(3)]
            others = viewers(G, 2, first=100)
            await all_of_them.plays(players + others, for_s)
            assert [viewer.number for viewer in players if viewer.refused] == []
            assert not any(viewer.ticket for viewer in others)
            assert all_of_them.counted == 3
            await all_of_them.plays(players[:2] + others, 60)
            assert [viewer.plays for viewer in others].count(True) == 1

    run(story())


def test_players_keep_their_seats_however_many_there_are() -> None:
    """More of them than the worker remembers the newest copies of: it knows what it has renewed, too."""

    async def story() -> None:
        async with fleet(1, 3, ticket_in_playlists=True) as all_of_them:
            all_of_them.workers[0].polls._newest_until_s = BoundedCache(2)
            players = [with_a_ticket_in_its_url(all_of_them, number) for number in range(3)]
            await all_of_them.plays(players, 200)
            assert [viewer.number for viewer in players if viewer.refused] == []
            assert all_of_them.counted == 3

    run(story())


def test_several_players_with_one_ticket_are_one_seat() -> None:
    """What they share counts once: the URL does not say which of them asks."""

    async def story() -> None:
        async with fleet(1, 3, ticket_in_playlists=True) as all_of_them:
            player = with_a_ticket_in_its_url(all_of_them, 1)
            same = [Viewer(G, 1, player.ticket, keeps_ticket=False) for _ in range(5)]
            await all_of_them.plays([player, *same], 200)
            assert not any(viewer.refused for viewer in (player, *same))
            assert all_of_them.counted == 1

    run(story())


def test_without_the_option_an_old_copy_is_found_out() -> None:
    """There each player is expected to take the new ticket."""

    async def story() -> None:
        async with fleet(1, 3) as all_of_them:
            player = with_a_ticket_in_its_url(all_of_them, 1)
            await all_of_them.plays([player], 60)
            assert player.refused

    run(story())


@pytest.mark.parametrize("plays_for_s", [0, 100], ids=["never renewed", "renewed"])
@pytest.mark.parametrize("away_s", [60, TICKET_S + 60])
def test_a_ticket_that_nobody_showed_for_an_hour_has_ended(plays_for_s: int, away_s: int) -> None:
    """Its player comes back as a new client; before that as the one that it was."""

    async def story() -> None:
        async with fleet(1, 3, ticket_in_playlists=True) as all_of_them:
            player = with_a_ticket_in_its_url(all_of_them, 1)
            await all_of_them.plays([player], plays_for_s)
            await all_of_them.plays([], away_s)
            before = next(iter(all_of_them.leases))
            player.keeps_ticket = True
            all_of_them.polls(player)
            after = all_of_them.ticket(player.ticket)
            assert after is not None
            assert (after.id == before) == (away_s < TICKET_S)

    run(story())
