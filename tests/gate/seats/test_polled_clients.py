"""Clients that poll, and several players of one: those that show no ticket, and how many leases they may hold."""

from __future__ import annotations

from gate.doubles import pass_time, run
from gate.seats.test_claims import barred
from gate.seats.test_polled import LEASE_S, POLL_S, G, M, Viewer, fleet
from shieldmw.core.decision import Reason

LONG_S = 600
RULES = f'[{{"name": "r", "path": "/long", "polled": true, "lease_seconds": {LONG_S}}}]'


# --- players that show no ticket ----------------------------------------------------------------------


def test_a_player_that_another_one_of_its_client_is_taken_for_is_counted() -> None:
    """One renews its lease by the ticket, then the other comes without any: while either plays, a seat is counted."""

    async def story() -> None:
        async with fleet(1, 60) as all_of_them:
            first, second = Viewer(G, 1), Viewer(G, 1, keeps_ticket=False)
            all_of_them.polls(first)
            await pass_time(LEASE_S * 0.7)
            all_of_them.polls(first)
            await pass_time(LEASE_S * 0.28)
            while all_of_them.polls(second) and second.polls < 20:
                assert all_of_them.counted >= 1
                await pass_time(POLL_S)
            assert not second.refused

    run(story())


def test_a_player_without_cookies_loses_its_seat_to_no_other_of_its_client() -> None:
    """They count as one, and the ticket of that seat is given to neither: it would leave the other without."""

    async def story() -> None:
        async with fleet(1, 1) as all_of_them:
            player, other = Viewer(G, 1, keeps_ticket=False), Viewer(G, 1)
            await all_of_them.plays([player], LEASE_S / 2)
            await all_of_them.plays([player, other], 5 * LEASE_S)
            assert not player.refused
            assert not other.refused
            assert other.ticket is None
            assert all_of_them.counted == 1

    run(story())


def test_copies_of_the_ticket_of_a_player_without_cookies_are_found_out() -> None:
    """It renews its lease without showing the ticket, which counts as a renewal like those of the copies."""

    async def story() -> None:
        async with fleet(3, 60) as all_of_them:
            player = Viewer(M, 1)
            all_of_them.polls(player, all_of_them.workers[0])
            copies = [Viewer(M, 1, player.ticket, keeps_ticket=False) for _ in range(2)]
            player.ticket, player.keeps_ticket = None, False
            await pass_time(LEASE_S * 0.7)
            for worker, viewer in zip(all_of_them.workers, [player, *copies], strict=True):
                all_of_them.polls(viewer, worker)
            await pass_time(2)
            assert barred(all_of_them) >= 1

    run(story())


# --- caps -------------------------------------------------------------------------------------------


def test_a_short_path_brings_a_client_no_more_long_leases() -> None:
    """Polls of a path with short leases in between change nothing: its leases count until they end."""

    async def story() -> None:
        async with fleet(1, 100, rules=RULES) as all_of_them:
            for _ in range(10):
                for lease_s in (LONG_S, LONG_S, LONG_S, LONG_S, 6):
                    player = Viewer(M, 1, lease_s=lease_s)
                    all_of_them.polls(player)
                    all_of_them.polls(player)
                await pass_time(6.5)
            assert all_of_them.counted == 3

    run(story())


def test_leases_that_are_renewed_count_for_their_client() -> None:
    """While three players of a member go on it gets no fourth seat, however often it asks; then it does."""

    async def story() -> None:
        async with fleet(1, 100) as all_of_them:
            players = [Viewer(M, 1) for _ in range(3)]
            for player in players:
                for _ in range(2):
                    all_of_them.polls(player)
            for _ in range(5):
                await all_of_them.plays(players, LEASE_S)
                fourth = Viewer(M, 1)
                assert all_of_them.polls(fourth).reason is Reason.TOO_MANY_STREAMS
            assert not any(player.refused for player in players)
            await all_of_them.plays(players[:2], LEASE_S)
            assert not all_of_them.polls(fourth).refused
            assert all_of_them.counted == 3

    run(story())


def test_tickets_that_were_saved_up_bring_no_more_leases_than_others() -> None:
    """A client comes back with all the tickets of an hour at once: it holds as many leases as it may."""

    async def story() -> None:
        async with fleet(1, 100) as all_of_them:
            saved = []
            for _ in range(5):
                for player in (some := [Viewer(M, 1) for _ in range(3)]):
                    all_of_them.polls(player)
                    all_of_them.polls(player)
                saved += some
                await pass_time(LEASE_S + 1)
            assert all(player.ticket for player in saved)
            for player in saved:
                all_of_them.polls(player)
            assert all_of_them.counted == 3

    run(story())
